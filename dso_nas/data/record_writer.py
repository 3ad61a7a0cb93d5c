"""Writing record files as MXNet's im2rec does, such that a write that was cut off goes on where it stopped."""

from __future__ import annotations

import os
import struct
from array import array
from pathlib import Path
from types import TracebackType
from typing import Iterator, Optional, Tuple, Type

from dso_nas.data.record_files import MAGIC, whole_records
from dso_nas.errors import UserError

_HEADER = struct.Struct("<IfQQ")
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)


class RecordWriter:
    """Writes a record file, and with `finish` the index beside it.

    Until then the records stand in a hidden file; a new writer keeps those that are whole and goes on behind them.
    """

    def __init__(self, path: Path, resume: bool = False) -> None:
        """Open the hidden file.

        Args:
            path: the .rec file; the index has its name with .idx.
            resume: keep what an earlier writer left.

        Raises:
            UserError: the folder cannot be written.
        """
        self._path = path
        self._partial = path.with_name(f".{path.name}.partial")
        self._offsets, end = array("q"), 0
        try:
            if resume and self._partial.exists():
                self._offsets, end = whole_records(self._partial)
            self._stream = open(self._partial, "r+b" if end else "wb")
            self._stream.seek(end)
            self._stream.truncate()
        except OSError as error:
            raise self._cannot(error) from error

    def __len__(self) -> int:
        """The number of records written, by earlier writers too."""
        return len(self._offsets)

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self._stream.close()

    def write(self, label: int, encoded: bytes) -> None:
        """Add an image; its identity is its number in the file.

        Raises:
            UserError: the disk is full.
        """
        content = _HEADER.pack(0, float(label), len(self), 0) + encoded
        self.write_framed(b"".join(_framed(flag, part) for flag, part in _parts(content)))

    def write_framed(self, record: bytes) -> None:
        """Add a record as it stands in another file.

        Raises:
            UserError: the disk is full.
        """
        offset = self._stream.tell()
        try:
            self._stream.write(record)
        except OSError as error:
            raise self._cannot(error) from error
        self._offsets.append(offset)

    def finish(self) -> None:
        """Write the index and give the file its name.

        Raises:
            UserError: the disk is full.
        """
        index = self._path.with_suffix(".idx")
        try:
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._stream.close()
            write_index(index, self._offsets)
            os.replace(self._partial, self._path)
        except OSError as error:
            raise self._cannot(error) from error

    def _cannot(self, error: OSError) -> UserError:
        return UserError(f"{self._path}: {error.strerror}; choose a folder that can be written and has room")


def write_index(path: Path, offsets: array) -> None:
    """Write the index of records that begin at these offsets; OSError if it cannot be written."""
    with open(path, "w", encoding="ascii") as stream:
        stream.writelines(f"{number}\t{offset}\n" for number, offset in enumerate(offsets))


def _parts(content: bytes) -> Iterator[Tuple[int, bytes]]:
    """Cut a record where the magic word stands on a word's boundary, which the format does not allow inside a part."""
    begin = 0
    place = _aligned_magic(content, 0)
    while place >= 0:
        yield (_MIDDLE if begin else _FIRST), content[begin:place]
        begin = place + len(MAGIC)
        place = _aligned_magic(content, begin)
    yield (_LAST if begin else _WHOLE), content[begin:]


def _aligned_magic(content: bytes, start: int) -> int:
    place = content.find(MAGIC, start)
    while place % 4 and place >= 0:
        place = content.find(MAGIC, place + 1)
    return place


def _framed(flag: int, part: bytes) -> bytes:
    return MAGIC + struct.pack("<I", flag << 29 | len(part)) + part + bytes(-len(part) % 4)
