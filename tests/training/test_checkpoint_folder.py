from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dso_nas.errors import UserError
from dso_nas.training.checkpoint import CheckpointError, CheckpointFolder, read_checkpoint, write_checkpoint

ROOT = Path(__file__).resolve().parents[2]


def small():
    return {"weight": np.arange(12, dtype=np.float32).reshape(3, 4), "scalar": np.array(7.25)}


def run(script, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


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
