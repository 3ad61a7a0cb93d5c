from __future__ import annotations

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

from dso_nas.training import checkpoint as module
from dso_nas.training.checkpoint import CheckpointError, read_checkpoint, write_checkpoint

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
        b'{"arrays": [], "meta": {"x": ' + b"1" * 2_000 + b"}}",
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
