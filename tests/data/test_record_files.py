from __future__ import annotations

import struct
from pathlib import Path

import pytest
from mxnet import recordio

from dso_nas.data.record_files import ImageRecord, read_image_records
from dso_nas.errors import UserError
from tests.data.builders import MAGIC, image_record, record


def test_reads_what_mxnet_writes(tmp_path: Path) -> None:
    # The magic word inside a content, aligned, makes MXNet cut the record into parts.
    contents = [b"", b"abc", b"abcd" + MAGIC + b"xyz", MAGIC + MAGIC, b"a" + MAGIC, b"tail" + MAGIC]
    writer = recordio.MXRecordIO(str(tmp_path / "a.rec"), "w")
    for number, content in enumerate(contents):
        writer.write(recordio.pack(recordio.IRHeader(0, float(number), number, 0), content))
    writer.write(recordio.pack(recordio.IRHeader(0, [9.0], 7, 0), b"listed"))
    writer.close()
    expected = [ImageRecord(number, number, content) for number, content in enumerate(contents)]
    assert list(read_image_records(tmp_path / "a.rec")) == [*expected, ImageRecord(6, 9, b"listed")]


def _refused(path: Path, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        list(read_image_records(path))
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and all(word in message for word in words), message


GOOD = image_record(1, b"image")


@pytest.mark.parametrize(
    "content, word",
    [
        (b"this is a text file, not a record file", "none of MXNet's"),
        (b"abc", "cut short"),
        (MAGIC, "cut short"),
        (MAGIC + b"\xff\xff\xff\x1f", "cut short"),
        (record(bytes(24), flag=2), "begins in the middle"),
        (record(bytes(24), flag=1), "cut short"),
        (record(bytes(24), flag=1) + GOOD, "has no end"),
        (record(bytes(23)), "too short for an image"),
        (record(struct.pack("<IfQQ", 1, 0, 0, 0)), "too short for its label"),
        (image_record(0, bytes(16), labels=4), "has 4 labels"),
        (image_record(-1, b"x"), "label -1"),
        (image_record(1.5, b"x"), "label 1.5"),
        (image_record(1e9, b"x"), "label 1e+09"),
        (image_record(float("nan"), b"x"), "label nan"),
        (image_record(float("inf"), b"x"), "label inf"),
    ],
)
def test_a_bad_record_is_named_with_its_number(tmp_path: Path, content: bytes, word: str) -> None:
    path = tmp_path / "bad.rec"
    path.write_bytes(content)
    _refused(path, "record 0", word)
    path.write_bytes(GOOD + GOOD + content)
    _refused(path, "record 2", word)


@pytest.mark.parametrize("missing", range(1, len(GOOD)))
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, missing: int) -> None:
    path = tmp_path / "cut.rec"
    path.write_bytes((GOOD + GOOD)[:-missing])
    _refused(path, "record 1", "cut short")


def test_a_missing_file_or_a_folder_is_named(tmp_path: Path) -> None:
    _refused(tmp_path / "none.rec", "No such file", "im2rec")
    _refused(tmp_path, "im2rec")
