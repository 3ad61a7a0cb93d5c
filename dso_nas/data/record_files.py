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
from pathlib import Path
from typing import BinaryIO, Iterator, NamedTuple, Tuple

from dso_nas.errors import UserError

_MAGIC = struct.pack("<I", 0xCED7230A)
_HEADER = struct.Struct("<IfQQ")
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
# ImageNet with all its classes has 21,841.
_MOST_CLASSES = 1 << 16


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


class _Parts:
    """The parts of a file, and how many bytes are left of it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.left = os.fstat(stream.fileno()).st_size

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
        return _MAGIC.join(parts)

    def _read_part(self) -> Tuple[int, bytes]:
        if self._take(4) != _MAGIC:
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
