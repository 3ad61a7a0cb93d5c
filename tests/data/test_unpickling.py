from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dso_nas.data.unpickling import read_dictionary
from tests.data.builders import python2_pickle

# What Python 2.7.18 with NumPy 1.16.6 wrote for a batch of two "images" of three bytes.
FROM_PYTHON_2 = (
    b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87"
    b"Rq\x05(K\x01K\x02K\x03\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff"
    b"\xff\xffK\x00tb\x89U\x06\x00\x01\x02\x03\x04\x05tbU\x06labelsq\x08]q\t(K\x03M,\x01K\x00eU\x0bbatch_labelq\nU\x15"
    b"training batch 1 of 5q\x0bU\tfilenamesq\x0c]q\r(U\x05a.pngq\x0eU\x05b.pngq\x0feu."
)


def test_reads_what_python_2_wrote() -> None:
    content = read_dictionary(FROM_PYTHON_2)
    assert content["labels"] == [3, 300, 0]
    assert content["filenames"] == [b"a.png", b"b.png"]
    assert content["batch_label"] == b"training batch 1 of 5"
    np.testing.assert_array_equal(content["data"], [[0, 1, 2], [3, 4, 5]])
    assert content["data"].dtype == np.uint8


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("order", ["C", "F"])
def test_reads_what_python_3_writes(protocol: int, order: str) -> None:
    array = np.asarray(np.arange(600, dtype=np.uint8).reshape(2, 300), order=order)
    value = {
        "data": array,
        "labels": [0, 1, 256, 70000, -1, 10**12],
        "flags": [None, True, False],
        "empty": (),
    }
    content = read_dictionary(pickle.dumps(value, protocol))
    np.testing.assert_array_equal(content.pop("data"), array)
    value.pop("data")
    assert content == value


def test_the_tests_own_python_2_pickles_are_pickles() -> None:
    value = {"data": np.arange(12, dtype=np.uint8).reshape(3, 4), "labels": [1, 2, 300], "x": "text"}
    loaded = pickle.loads(python2_pickle(value), encoding="latin-1")
    np.testing.assert_array_equal(loaded.pop("data"), value.pop("data"))
    assert loaded == value


class _Evil:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("key", ["data", "other"])
def test_a_pickle_that_calls_is_refused_and_not_run(tmp_path: Path, protocol: int, key: str) -> None:
    mark = tmp_path / "mark"
    with pytest.raises(ValueError, match="asks for '(posix|nt)'.'mkdir'.*not run"):
        read_dictionary(pickle.dumps({key: _Evil(os.mkdir, str(mark))}, protocol))
    assert not mark.exists()


@pytest.mark.parametrize(
    "function, arguments",
    [
        (np.ndarray, (1 << 40,)),
        (eval, ("1",)),
        (np.load, ("x",)),
        (getattr, ("x", "upper")),
        (bytearray, (1 << 40,)),
    ],
)
def test_even_known_names_are_not_called(function: Any, arguments: Any) -> None:
    with pytest.raises(ValueError):
        read_dictionary(pickle.dumps({"data": _Evil(function, *arguments)}, 2))


def _array_pickle(shape: bytes, dtype: bytes = b"u1", content: bytes = b"\x00") -> bytes:
    return (
        b"\x80\x02}U\x04datacnumpy.core.multiarray\n_reconstruct\n)\x85R(K\x01"
        + shape
        + b"cnumpy\ndtype\nU"
        + bytes([len(dtype)])
        + dtype
        + b"\x85R\x89U"
        + bytes([len(content)])
        + content
        + b"tbs."
    )


def test_an_array_must_fill_its_shape() -> None:
    assert read_dictionary(_array_pickle(b"K\x01K\x01\x86"))["data"].shape == (1, 1)
    huge = b"\x8a\x05\x00\x00\x00\x00\x01"
    for shape, content in (
        (huge + b"\x85", b"\x00"),
        (b"K\x02\x85", b"\x00"),
        (b"K\x00" + huge + b"\x86", b""),
    ):
        with pytest.raises(ValueError, match="fill its shape"):
            read_dictionary(_array_pickle(shape, content=content))


@pytest.mark.parametrize("dtype", [b"O", b"f8", b"V1"])
def test_an_array_must_be_of_bytes(dtype: bytes) -> None:
    with pytest.raises(ValueError, match="unsigned bytes"):
        read_dictionary(_array_pickle(b"K\x01\x85", dtype))


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "cut short"),
        (FROM_PYTHON_2[:-1], "cut short"),
        (FROM_PYTHON_2[:100], "cut short"),
        (b"not a pickle", "no pickle"),
        (python2_pickle([1]), "no dictionary"),
        # These two make Python's own reader take gigabytes or for ever.
        (b"\x80\x02}r\xff\xff\xff\xffU\x01xB\xff\xff\xff\xff", "cut short"),
        (b"\x80\x02})q\x01" + b"h\x01\x86q\x01" * 200 + b"K\x01s.", "key"),
        (b"\x80\x02}h\x05.", "never stored"),
        (b"\x80\x02}u.", "mark"),
        (b"\x80\x02\x87.", "empty"),
        (b"\x80\x02K\x01K\x02a.", "takes none"),
        (b"\x80\x02}K\x01)Rs.", "without arguments"),
    ],
)
def test_a_damaged_pickle_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_dictionary(content)


def test_deep_nesting_is_no_danger() -> None:
    deep = b"\x80\x02}U\x01x]" + b"\x85" * 200_000 + b"s."
    assert set(read_dictionary(deep)) == {"x"}


ALPHABET = [
    bytes([code]) for code in b"\x80\x95(})]N\x88\x89KMJ\x8aUTCBX\x8cqr\x94hjaesut\x85\x86\x87c\x93Rb."
]


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.lists(st.one_of(st.sampled_from(ALPHABET), st.binary(max_size=3)), max_size=60).map(b"".join),
        st.tuples(st.integers(0, len(FROM_PYTHON_2) - 1), st.binary(min_size=1, max_size=4)).map(
            lambda change: (
                FROM_PYTHON_2[: change[0]] + change[1] + FROM_PYTHON_2[change[0] + len(change[1]) :]
            )
        ),
    )
)
def test_nothing_but_a_value_error_comes_out(content: bytes) -> None:
    try:
        read_dictionary(content)
    except ValueError as error:
        assert str(error)


def test_lengths_are_believed_only_within_the_file() -> None:
    for opcode, size in ((b"T", "<I"), (b"B", "<I"), (b"X", "<I")):
        with pytest.raises(ValueError, match="cut short"):
            read_dictionary(b"\x80\x02" + opcode + struct.pack(size, 1 << 31) + b"abc")
