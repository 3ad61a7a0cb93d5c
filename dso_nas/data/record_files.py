"""The RecordIO format, as MXNet and im2rec write it, read with every length checked before it is believed.

A file is a sequence of parts. A part is a magic word, a word with a 3-bit flag and a 29-bit length, the
content, and zeros up to a multiple of four. A record is one part (flag 0), or, because the magic word may not
stand inside a part, a first part (1), middle ones (2) and a last one (3), which the magic word joins. An
image's record begins with a header: flag, label, two identity numbers; then, if the flag is not zero, as many
labels instead of the first.
"""

from __future__ import annotations

import os
import struct
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Iterator, NamedTuple, Tuple

import numpy as np

from dso_nas.errors import UserError

MAGIC = struct.pack("<I", 0xCED7230A)
_HEADER = struct.Struct("<IfQQ")
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
# ImageNet with all its classes has 21,841.
_MOST_CLASSES = 1 << 16
# A part's head, an image's header, its one label, and the first bytes of the image.
_HEAD = 8 + _HEADER.size + 4 + 8
_IMAGE_STARTS = (b"\xff\xd8", b"\x89PNG")
_LONGEST_INDEX_LINE = 64


class ImageRecord(NamedTuple):
    """One record: its place in the file from 0, its label and the encoded image."""

    number: int
    label: int
    encoded: bytes


def read_image_records(path: Path) -> Iterator[ImageRecord]:
    """The records of a file, one after another.

    Raises:
        UserError: the file cannot be read, is none, is cut short, or a record's label is no class.
    """
    for number, content in enumerate(_read_contents(path)):
        try:
            yield ImageRecord(number, *_split_header(content))
        except ValueError as error:
            raise bad_record(path, number, error) from error


def bad_record(path: Path, number: int, reason: object) -> UserError:
    """The error that names a file and one of its records."""
    return UserError(
        f"{path}: record {number} (from 0) {' '.join(str(reason).split())[:160]}; make the file again"
    )


def _read_contents(path: Path) -> Iterator[bytes]:
    number = 0
    try:
        with open(path, "rb") as stream:
            parts = _Parts(stream)
            while parts.left:
                yield parts.read_record()
                number += 1
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; make it with MXNet's im2rec") from error
    except ValueError as error:
        raise bad_record(path, number, error) from error


@dataclass(frozen=True, eq=False)
class RecordScan:
    """What the heads of a file's records say, read without their images.

    Attributes:
        path: the .rec file.
        labels: int32, (n,).
        offsets: int64, (n + 1,): where each record begins, and the end of the last.
    """

    path: Path
    labels: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        """The number of records."""
        return len(self.labels)


def scan_records(path: Path) -> RecordScan:
    """Walk over a file from head to head: a few microseconds a record, however large it is.

    Raises:
        UserError: the file cannot be read, is none, is empty or cut short, a label is no class, or a record holds no
            JPEG or PNG image.
    """
    labels, offsets = array("i"), array("q")
    try:
        for offset, label in _heads(path):
            labels.append(label)
            offsets.append(offset)
    except ValueError as error:
        raise bad_record(path, len(labels), error) from error
    if not labels:
        raise UserError(f"{path} holds no record; make the file again")
    return RecordScan(path, np.array(labels, np.int32), np.array([*offsets, path.stat().st_size], np.int64))


def whole_records(path: Path) -> Tuple[array, int]:
    """Where the records of an unfinished file begin, and where the last whole one ends.

    Raises:
        UserError: the file cannot be read.
    """
    offsets, end = array("q"), path.stat().st_size
    try:
        for offset, _ in _heads(path):
            offsets.append(offset)
    except ValueError:
        # The walk stops at the record that is not whole; it has appended those before.
        end = _end_of_last(path, offsets)
    return offsets, end


def _end_of_last(path: Path, offsets: array) -> int:
    if not offsets:
        return 0
    with open(path, "rb") as stream:
        stream.seek(offsets[-1])
        _Parts(stream).read_record()
        return stream.tell()


def _heads(path: Path) -> Iterator[Tuple[int, int]]:
    """Offset and label of every record; ValueError where one is bad."""
    try:
        with open(path, "rb") as stream:
            size, position = os.fstat(stream.fileno()).st_size, 0
            while position < size:
                label, end = _read_head(stream, position, size)
                yield position, label
                position = end
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; make it with python -m dso_nas prepare, or im2rec") from error


def _read_head(stream: BinaryIO, position: int, size: int) -> Tuple[int, int]:
    """The label of the record at `position`, and where it ends."""
    head = os.pread(stream.fileno(), _HEAD, position)
    word = int.from_bytes(head[4:8], "little")
    flag, length = word >> 29, word & ((1 << 29) - 1)
    end = position + 8 + length + -length % 4
    content = head[8 : 8 + length]
    if head[:4] != MAGIC or flag != _WHOLE or end > size:
        # The rare record in several parts, or a bad one, for which this has the words.
        stream.seek(position)
        content, end = _Parts(stream).read_record(), stream.tell()
    label, image = _split_header(content)
    if not image.startswith(_IMAGE_STARTS):
        raise ValueError("holds no JPEG or PNG image")
    return label, end


def check_index(path: Path, scan: RecordScan) -> None:
    """Make sure that an index is of the file scanned.

    Args:
        path: the .idx file: a line for each record, its number, a tab and its offset.
        scan: of the record file.

    Raises:
        UserError: it cannot be read, is no index, or has other offsets than the records.
    """
    remedy = "delete it (a run makes its own), or make both again"
    try:
        if path.stat().st_size > _LONGEST_INDEX_LINE * len(scan):
            raise UserError(f"{path}: is longer than an index of the {len(scan)} records of {scan.path.name}; {remedy}")
        offsets = np.sort([_index_offset(line) for line in path.read_bytes().splitlines()])
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {remedy}") from error
    except (ValueError, OverflowError) as error:
        raise UserError(f"{path}: is no index of a record file; {remedy}") from error
    if not np.array_equal(offsets, scan.offsets[:-1]):
        raise UserError(f"{path}: lists {len(offsets)} records and does not match the {len(scan)} of {scan.path.name}; "
                        f"{remedy}")


def _index_offset(line: bytes) -> int:
    number, offset = line.split(b"\t")
    int(number)
    return int(offset)


class _Parts:
    """The parts of a file from where its stream stands, and how many bytes are left of it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.left = os.fstat(stream.fileno()).st_size - stream.tell()

    def read_record(self) -> bytes:
        flag, content = self._read_part()
        if flag == _WHOLE:
            return content
        if flag != _FIRST:
            raise ValueError("begins in the middle of a record")
        parts = [content]
        while flag != _LAST:
            flag, content = self._read_part()
            if flag not in (_MIDDLE, _LAST):
                raise ValueError("has no end")
            parts.append(content)
        return MAGIC.join(parts)

    def _read_part(self) -> Tuple[int, bytes]:
        if self._take(4) != MAGIC:
            raise ValueError("is none of MXNet's RecordIO format")
        word = int.from_bytes(self._take(4), "little")
        length = word & ((1 << 29) - 1)
        content = self._take(length)
        self._take(-length % 4)
        return word >> 29, content

    def _take(self, size: int) -> bytes:
        content = self._stream.read(size) if size <= self.left else b""
        if len(content) != size:
            raise ValueError("is cut short")
        self.left -= size
        return content


def _split_header(content: bytes) -> Tuple[int, bytes]:
    if len(content) < _HEADER.size:
        raise ValueError("is too short for an image's header")
    labels, label, _, _ = _HEADER.unpack_from(content)
    if labels > 1:
        raise ValueError(f"has {labels} labels, and classification needs one")
    if labels == 1:
        if len(content) < _HEADER.size + 4:
            raise ValueError("is too short for its label")
        (label,) = struct.unpack_from("<f", content, _HEADER.size)
    if not 0 <= label < _MOST_CLASSES or label != int(label):
        raise ValueError(f"has the label {label:g}, which is no class")
    return int(label), content[_HEADER.size + 4 * labels :]
