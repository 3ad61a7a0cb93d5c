from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dso_nas.errors import UserError
from dso_nas.training import checkpoint as module
from dso_nas.training.checkpoint import CheckpointError, CheckpointFolder, read_checkpoint, write_checkpoint

ROOT = Path(__file__).resolve().parents[2]
META = {
    "epoch": 3,
    "state": 2**127 + 1,
    "loss": 0.1 + 0.2,
    "best": math.inf,
    "names": ["ä", "b"],
    "none": None,
}


def small():
    rng = np.random.default_rng(0)
    return {
        "weight": rng.standard_normal((3, 4)).astype(np.float32),
        "empty": np.zeros((0, 5), np.int64),
        "scalar": np.array(7.25),
        "flags": np.array([True, False, True]),
        "half": np.array([1.5, np.nan, -np.inf], np.float16),
    }


def assert_equal(arrays, expected):
    assert list(arrays) == list(expected)
    for name, array in expected.items():
        assert arrays[name].shape == array.shape and arrays[name].dtype == array.dtype
        assert arrays[name].tobytes() == array.tobytes()


def refusal(path):
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def run(script, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


# ---- one file


def test_everything_comes_back_bit_for_bit(tmp_path):
    write_checkpoint(tmp_path / "c", small(), META)
    back = read_checkpoint(tmp_path / "c")
    assert_equal(back.arrays, small())
    assert back.meta == META
    assert back.path == tmp_path / "c"
    back.arrays["weight"] += 1  # its own memory, and writable
    assert os.listdir(tmp_path) == ["c"]


def test_layout_in_memory_does_not_matter(tmp_path):
    array = np.arange(24, dtype=">f4").reshape(2, 3, 4)
    write_checkpoint(tmp_path / "c", {"big": array, "turned": array.T, "part": array[:, ::2]}, {})
    back = read_checkpoint(tmp_path / "c").arrays
    assert back["big"].dtype == "<f4"
    for name, expected in (("big", array), ("turned", array.T), ("part", array[:, ::2])):
        assert np.array_equal(back[name], expected)


@pytest.mark.parametrize("array", [np.array([{}]), np.array(["text"]), np.array([1j]), np.zeros(2, "f4,i4")])
def test_other_dtypes_are_not_written(tmp_path, array):
    with pytest.raises(TypeError, match="'odd'"):
        write_checkpoint(tmp_path / "c", {"good": np.zeros(3), "odd": array}, {})
    assert os.listdir(tmp_path) == []


def test_meta_must_be_json_and_readable(tmp_path):
    with pytest.raises(TypeError):
        write_checkpoint(tmp_path / "c", {}, {"value": object()})
    with pytest.raises(TypeError, match="put it into arrays"):
        write_checkpoint(tmp_path / "c", {}, {"order": "x" * module.MAX_HEADER})
    assert os.listdir(tmp_path) == []


def test_a_flipped_bit_is_found_wherever_it_is(tmp_path):
    path = tmp_path / "c"
    write_checkpoint(path, small(), META)
    good = path.read_bytes()
    rng = np.random.default_rng(1)
    for place in rng.choice(8 * len(good), size=1000, replace=False):
        bad = bytearray(good)
        bad[place // 8] ^= 1 << (place % 8)
        path.write_bytes(bad)
        refusal(path)


def test_a_file_cut_short_anywhere_or_too_long_is_refused(tmp_path):
    path = tmp_path / "c"
    write_checkpoint(path, small(), META)
    good = path.read_bytes()
    for length in range(len(good)):
        path.write_bytes(good[:length])
        refusal(path)
    path.write_bytes(good + b"\0")
    refusal(path)
    path.write_bytes(good)
    read_checkpoint(path)


def test_bytes_swapped_between_arrays_are_found(tmp_path):
    path = tmp_path / "c"
    write_checkpoint(path, {"a": np.zeros(4, np.uint8), "b": np.ones(4, np.uint8)}, {})
    good = path.read_bytes()
    path.write_bytes(good.replace(bytes(4) + b"\1" * 4, b"\1" * 4 + bytes(4)))
    assert path.read_bytes() != good
    assert "checksum" in refusal(path)


def forged(path, header, data=b"", version=module.VERSION, length=None):
    """A file whose checksum is right, whatever else is wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    content = (
        struct.pack("<19sIQ", module.MAGIC, version, len(text) if length is None else length) + text + data
    )
    path.write_bytes(content + hashlib.sha256(content).digest())


def array_entry(**changes):
    return {"name": "a", "dtype": "<f4", "shape": [2], "offset": 0, **changes}


def test_the_forger_can_make_a_good_file(tmp_path):
    forged(tmp_path / "c", {"arrays": [array_entry()], "meta": {"x": 1}}, bytes(8))
    assert read_checkpoint(tmp_path / "c").meta == {"x": 1}


@pytest.mark.parametrize(
    "entry",
    [
        array_entry(dtype="|O"),
        array_entry(dtype="O"),
        array_entry(dtype=["<f4"]),
        array_entry(dtype=">f4"),
        array_entry(shape=[-2]),
        array_entry(shape=[True]),
        array_entry(shape=[2.0]),
        array_entry(shape=2),
        array_entry(shape=[2**40]),
        array_entry(shape=[2**64]),
        array_entry(shape=[0, 2**62, 2**62]),
        array_entry(shape=[1] * 40 + [2]),
        array_entry(offset=4),
        array_entry(offset=-8),
        array_entry(offset=False),
        array_entry(name=5),
        {"name": "a"},
        "a",
        None,
    ],
    ids=repr,
)
def test_impossible_arrays_are_refused(tmp_path, entry):
    forged(tmp_path / "c", {"arrays": [entry], "meta": {}}, bytes(8))
    refusal(tmp_path / "c")


def test_impossible_headers_are_refused(tmp_path):
    path = tmp_path / "c"
    for header in (
        [],
        {},
        {"arrays": []},
        {"arrays": {}, "meta": {}},
        {"arrays": [], "meta": []},
        {"arrays": [], "meta": {}, "more": 1},
        {"arrays": [array_entry(shape=[1]), array_entry(shape=[1], offset=4)], "meta": {}},
        b"not JSON",
        b"\xff",
        b"[" * 100_000,
        b'{"arrays": [], "meta": {"x": ' + b"1" * 5_000_000 + b"}}",
    ):
        forged(path, header, bytes(8) if isinstance(header, dict) and header.get("arrays") else b"")
        refusal(path)
    for length in (0, 2**20, 2**63, 2**64 - 1):
        forged(path, {"arrays": [], "meta": {}}, length=length)
        refusal(path)
    forged(path, {"arrays": [], "meta": {}}, version=2)
    assert "version 2" in refusal(path)


def test_a_size_beyond_the_file_takes_no_memory(tmp_path):
    forged(tmp_path / "c", {"arrays": [array_entry(shape=[2**38])], "meta": {}}, bytes(8))
    script = """
import resource, sys
from dso_nas.training.checkpoint import CheckpointError, read_checkpoint
resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
try:
    read_checkpoint(sys.argv[1])
except CheckpointError as error:
    print(error)
"""
    answer = run(script, tmp_path / "c")
    assert "bytes long" in answer.stdout, answer.stderr


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
entries = st.fixed_dictionaries(
    {
        "name": st.text(max_size=3) | json_values,
        "dtype": st.sampled_from(module.DTYPES) | json_values,
        "shape": st.lists(st.integers(-1, 4), max_size=3) | json_values,
        "offset": st.just(0) | st.integers(0, 20) | json_values,
    }
)
headers = st.fixed_dictionaries({"arrays": st.lists(entries | json_values, max_size=3), "meta": json_values})


@settings(max_examples=300)
@given(header=headers | json_values, data=st.binary(max_size=40))
def test_no_header_gets_through_as_anything_but_a_checkpoint(tmp_path_factory, header, data):
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    forged(path, header, data)
    try:
        assert isinstance(read_checkpoint(path).meta, dict)
    except CheckpointError as error:
        assert str(path) in str(error)
        str(error).encode()


@settings(max_examples=300)
@given(content=st.binary(max_size=200))
def test_no_bytes_end_in_a_traceback(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    for prefix in (b"", module.MAGIC, struct.pack("<19sIQ", module.MAGIC, 1, 10)):
        path.write_bytes(prefix + content)
        refusal(path)


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "not a file" in refusal(tmp_path / "pipe")
    assert "not a file" in refusal(tmp_path)
    assert "No such file" in refusal(tmp_path / "missing")


# ---- writing it


@pytest.fixture
def calls(monkeypatch):
    """The system calls that make a write durable, in their order; the call numbered `calls.fail_at` fails."""

    class Calls(list):
        fail_at = None

        def note(self, name):
            self.append(name)
            if len(self) == self.fail_at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    noted = Calls()
    fsync, replace, unlink = os.fsync, os.replace, Path.unlink

    def noting_fsync(descriptor):
        noted.note("fsync " + ("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file"))
        fsync(descriptor)

    def noting_replace(source, target):
        noted.note("replace")
        replace(source, target)

    def noting_unlink(path, **options):
        noted.append(f"unlink {path.name}")
        unlink(path, **options)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "replace", noting_replace)
    monkeypatch.setattr(Path, "unlink", noting_unlink)
    return noted


def test_old_checkpoints_go_only_when_the_new_one_is_durable(tmp_path, calls):
    folder = CheckpointFolder(tmp_path, keep=2)
    for position in (1, 2, 3):
        calls.clear()
        folder.save(position, small(), {})
    assert calls == ["fsync file", "replace", "fsync folder", "unlink checkpoint-000000000001.dso"]
    assert folder.positions() == (2, 3)


@pytest.mark.parametrize("fail_at", [1, 2, 3])
def test_a_disk_that_fills_up_at_any_call_costs_nothing(tmp_path, calls, fail_at):
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.save(1, small(), {"position": 1})
    calls.clear()
    calls.fail_at = fail_at
    with pytest.raises(UserError, match="No space left on device") as caught:
        folder.save(2, small(), {"position": 2})
    assert "\n" not in str(caught.value) and "checkpoint-000000000002" in str(caught.value)
    assert not list(tmp_path.glob(".*"))
    assert 1 in folder.positions()
    assert folder.latest().meta["position"] == (2 if fail_at == 3 else 1)


def test_a_file_size_limit_leaves_nothing_behind(tmp_path):
    script = """
import resource, sys
import numpy as np
from dso_nas.errors import UserError
from dso_nas.training.checkpoint import CheckpointFolder
folder = CheckpointFolder(sys.argv[1])
folder.save(1, {"a": np.zeros(10)}, {})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    folder.save(2, {"a": np.zeros(1_000_000)}, {})
except UserError as error:
    print(error)
"""
    answer = run(script, tmp_path)
    assert "File too large" in answer.stdout and answer.stdout.count("\n") == 1, answer.stderr
    assert os.listdir(tmp_path) == ["checkpoint-000000000001.dso"]


def test_an_interruption_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    write_checkpoint(tmp_path / "c", {}, {"old": True})
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(tmp_path / "c", {}, {"old": False})
    assert os.listdir(tmp_path) == ["c"]
    assert read_checkpoint(tmp_path / "c").meta == {"old": True}


KILLS = """
import os, random, signal, sys, time
import numpy as np
from dso_nas.training.checkpoint import CheckpointFolder

def save_for_ever(place, start, pipe):
    folder = CheckpointFolder(place)
    for position in range(start, start + 10**6):
        arrays = {"a": np.full(100_000, position, np.int64), "b": np.full(7, position % 100, np.uint8)}
        folder.save(position, arrays, {"position": position})
        os.write(pipe, b"%d " % position)

rng = random.Random(5)
position = torn = 0
for kill in range(40):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        save_for_ever(sys.argv[1], position + 1, writer)
    os.close(writer)
    time.sleep(rng.uniform(0.002, 0.03))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    told = [int(word) for word in os.read(reader, 10**6).split()]
    os.close(reader)
    torn += any(name.endswith(".partial") for name in os.listdir(sys.argv[1]))
    latest = CheckpointFolder(sys.argv[1], warn=sys.exit).latest()
    if latest is None:
        assert not told and position == 0
        continue
    found = latest.meta["position"]
    assert found in ((told or [position])[-1], (told or [position])[-1] + 1), (found, told, position)
    assert (latest.arrays["a"] == found).all() and (latest.arrays["b"] == found % 100).all()
    position = found
CheckpointFolder(sys.argv[1]).save(position + 1, {}, {})
assert len(os.listdir(sys.argv[1])) == 2, os.listdir(sys.argv[1])
print("killed", position > 0, torn > 0)
"""


def test_killed_at_random_moments_the_last_durable_checkpoint_is_there(tmp_path):
    answer = run(KILLS, tmp_path)
    assert answer.stdout == "killed True True\n", answer.stderr


# ---- the folder


@pytest.fixture
def warned():
    return []


@pytest.fixture
def folder(tmp_path, warned):
    return CheckpointFolder(tmp_path / "pretrain", warn=warned.append)


def damage(path):
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)


def test_no_checkpoint_is_none(folder):
    assert folder.latest() is None
    assert folder.positions() == ()


def test_the_newest_is_known_without_a_clock(folder):
    for position in (9, 10, 10**11):
        path = folder.save(position, {}, {"position": position})
        os.utime(path, (10**9 - position % 1000, 10**9 - position % 1000))
    assert folder.latest().meta == {"position": 10**11}
    assert folder.positions() == (10, 10**11)


def test_the_same_position_again_replaces(folder):
    folder.save(1, {}, {"try": 1})
    folder.save(1, {}, {"try": 2})
    assert folder.positions() == (1,)
    assert folder.latest().meta == {"try": 2}


def test_a_damaged_one_is_passed_over_and_stays_until_a_new_one_is_saved(folder, warned):
    folder.save(1, {}, {"position": 1})
    damage(folder.save(3, {}, {"position": 3}))
    assert folder.latest().meta == {"position": 1}
    assert folder.positions() == (1, 3)
    assert len(warned) == 1 and "checkpoint-000000000003.dso" in warned[0] and "\n" not in warned[0]
    folder.save(2, {}, {"position": 2})
    assert folder.positions() == (1, 2)
    assert len(warned) == 2 and "000000000003" in warned[1] and "removed" in warned[1]
    assert folder.latest().meta == {"position": 2}
    assert len(warned) == 2


def test_a_damaged_one_is_replaced_where_the_run_gets_there_again(folder, warned):
    folder.save(1, {}, {})
    damage(folder.save(2, {}, {}))
    folder.latest()
    folder.save(2, {}, {"again": True})
    assert folder.latest().meta == {"again": True}
    assert "replaced" in warned[1]


def test_a_damaged_one_does_not_count_as_kept(folder):
    folder.save(1, {}, {})
    damage(folder.save(2, {}, {}))
    folder.latest()
    folder.save(3, {}, {})
    assert folder.positions() == (1, 3)


def test_warnings_are_pythons_own_unless_a_callback_is_given(tmp_path):
    folder = CheckpointFolder(tmp_path)
    folder.save(1, {}, {})
    damage(folder.save(2, {}, {}))
    with pytest.warns(UserWarning, match="damaged.*is taken instead"):
        folder.latest()


def test_all_damaged_is_an_error_that_names_them(folder):
    damage(folder.save(1, {}, {}))
    damage(folder.save(2, {}, {}))
    with pytest.raises(CheckpointError) as caught:
        folder.latest()
    assert "checkpoint-000000000001" in str(caught.value) and "checkpoint-000000000002" in str(caught.value)
    assert folder.positions() == (1, 2)


def test_a_run_does_not_hide_behind_a_later_one(folder):
    folder.save(5, {}, {"old": True})
    with pytest.raises(UserError, match="--resume"):
        folder.save(1, {}, {})
    assert folder.latest().meta == {"old": True}
    folder.clear()
    folder.save(1, {}, {})
    assert folder.positions() == (1,)


def test_leftovers_and_strangers_are_ignored_and_leftovers_cleaned(folder):
    folder.save(1, {}, {"position": 1})
    leftover = folder.folder / ".checkpoint-000000000009.dso.partial"
    leftover.write_bytes(b"half")
    stranger = folder.folder / "checkpoint-backup.dso"
    stranger.write_bytes(b"the user's")
    assert folder.latest().meta == {"position": 1}
    folder.save(2, {}, {})
    assert not leftover.exists() and stranger.exists()


def test_impossible_positions(folder):
    for position in (-1, 10**18):
        with pytest.raises(ValueError):
            folder.save(position, {}, {})


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made"):
        CheckpointFolder(tmp_path / "file" / "search").save(1, {}, {})
