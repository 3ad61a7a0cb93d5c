"""Checkpoints: arrays and JSON values in one file, whole or not there, and believed only if undamaged.

The file: a prefix (magic, version, length of the header), the header (JSON: each array's name, dtype, shape
and offset, and the caller's `meta`), the arrays' bytes in C order, and the SHA-256 of all before. Nothing in
it is ever executed. What a checkpoint holds does not belong here: the loop and the stages decide.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import warnings
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    NoReturn,
    Optional,
    Set,
    Tuple,
    Union,
)

import numpy as np

from dso_nas.errors import UserError
from dso_nas.files import PARTIAL, write_durably

MAGIC = b"dso-nas checkpoint\n"
VERSION = 1
MAX_HEADER = 16 * 2**20
DTYPES = ("|b1", "|i1", "<i2", "<i4", "<i8", "|u1", "<u2", "<u4", "<u8", "<f2", "<f4", "<f8")
_PREFIX = struct.Struct(f"<{len(MAGIC)}sIQ")
_DIGEST_SIZE = hashlib.sha256().digest_size
_MAX_DIGITS = 1000
_MAX_DIMENSIONS = 32
_NAME = re.compile(r"checkpoint-([0-9]{12,18})\.dso")


class CheckpointError(UserError):
    """A file is not the checkpoint that was written; the line names the file and what is wrong with it."""


@dataclass(frozen=True)
class Checkpoint:
    """What `write_checkpoint` was given, and the file it was read from."""

    arrays: Dict[str, np.ndarray]
    meta: Dict[str, Any]
    path: Path


class _Entry(NamedTuple):
    name: str
    dtype: np.dtype
    shape: Tuple[int, ...]

    @property
    def size(self) -> int:
        size = self.dtype.itemsize
        for length in self.shape:
            size *= length
        return size


def write_checkpoint(
    path: Union[str, Path], arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]
) -> None:
    """Write a checkpoint to `path`; on return it is on the disk, and until then `path` is what it was.

    Args:
        path: the file; its folder exists.
        arrays: booleans, integers and floats of any shape.
        meta: JSON values; floats (NaN and infinities too) and integers come back exactly, tuples as lists.

    Raises:
        UserError: the disk is full or cannot be written; nothing is left of the new file.
        TypeError: an array of another dtype, or a value in `meta` that JSON does not have.
    """
    prepared = {name: _prepare(name, array) for name, array in arrays.items()}
    write_durably(Path(path), _signed([_head(prepared, meta), *map(_bytes_of, prepared.values())]))


def _prepare(name: str, array: np.ndarray) -> np.ndarray:
    dtype = array.dtype.newbyteorder("<")
    if dtype.str not in DTYPES:
        raise TypeError(f"array {name!r} has dtype {array.dtype}, which no checkpoint holds")
    return np.asarray(array, dtype=dtype)


def _head(arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> bytes:
    entries, offset = [], 0
    for name, array in arrays.items():
        entries.append({"name": name, "dtype": array.dtype.str, "shape": array.shape, "offset": offset})
        offset += array.nbytes
    header = json.dumps({"arrays": entries, "meta": dict(meta)}).encode("ascii")
    if len(header) > MAX_HEADER:
        raise TypeError(f"meta takes {len(header)} bytes, at most {MAX_HEADER} are read: put it into arrays")
    return _PREFIX.pack(MAGIC, VERSION, len(header)) + header


def _bytes_of(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _signed(chunks: Iterable[Any]) -> Iterator[Any]:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
        yield chunk
    yield digest.digest()


def read_checkpoint(path: Union[str, Path]) -> Checkpoint:
    """Read a checkpoint; all sizes are checked against the file's before memory is taken.

    Raises:
        CheckpointError: there is no such file, it is damaged, of another version, or none at all.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{path}: is not a file")
        with open(path, "rb") as stream:
            return _Reader(path, stream).checkpoint()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error


class _Reader:
    def __init__(self, path: Path, stream: BufferedReader) -> None:
        self.path = path
        self.stream = stream
        self.size = os.fstat(stream.fileno()).st_size
        self.digest = hashlib.sha256()

    def checkpoint(self) -> Checkpoint:
        header = self.header()
        entries = self.entries(header["arrays"])
        expected = self.stream.tell() + sum(entry.size for entry in entries) + _DIGEST_SIZE
        if expected != self.size:
            self.refuse(f"damaged: it is {self.size} bytes long, its header says {expected}")
        arrays = {entry.name: self.array(entry) for entry in entries}
        if self.stream.read(_DIGEST_SIZE) != self.digest.digest():
            self.refuse("damaged: its checksum does not fit")
        return Checkpoint(arrays, header["meta"], self.path)

    def header(self) -> Dict[str, Any]:
        magic, version, length = _PREFIX.unpack(self.take(_PREFIX.size))
        if magic != MAGIC:
            self.refuse("is not a checkpoint of this program")
        if version != VERSION:
            self.refuse(f"is of version {version}, this program reads version {VERSION}")
        if length > min(MAX_HEADER, self.size):
            self.refuse(f"damaged: a header of {length} bytes cannot be")
        try:
            header = json.loads(self.take(length).decode("ascii"), parse_int=_bounded_int)
        except (ValueError, RecursionError):
            self.refuse("damaged: its header cannot be read")
        if (
            not isinstance(header, dict)
            or set(header) != {"arrays", "meta"}
            or not isinstance(header["meta"], dict)
        ):
            self.refuse("damaged: its header must hold arrays and meta")
        return header

    def entries(self, content: Any) -> List[_Entry]:
        if not isinstance(content, list):
            self.refuse("damaged: its arrays are not a list")
        entries: List[_Entry] = []
        offset = 0
        for item in content:
            entries.append(self.entry(item, offset))
            offset += entries[-1].size
        if len({entry.name for entry in entries}) < len(entries):
            self.refuse("damaged: two of its arrays have the same name")
        return entries

    def entry(self, item: Any, offset: int) -> _Entry:
        if not isinstance(item, dict) or set(item) != {"name", "dtype", "shape", "offset"}:
            self.refuse("damaged: an array needs name, dtype, shape and offset")
        name, dtype, shape = item["name"], item["dtype"], item["shape"]
        if not isinstance(name, str) or dtype not in DTYPES:
            self.refuse("damaged: an array without a name, or of a dtype that no checkpoint holds")
        if not isinstance(shape, list) or len(shape) > _MAX_DIMENSIONS or not all(map(_is_length, shape)):
            self.refuse(f"damaged: array {name!r} has no possible shape")
        if type(item["offset"]) is not int or item["offset"] != offset:
            self.refuse(f"damaged: array {name!r} is not where the one before it ends")
        return _Entry(name, np.dtype(dtype), tuple(shape))

    def array(self, entry: _Entry) -> np.ndarray:
        try:
            array = np.empty(entry.shape, entry.dtype)
        except (ValueError, MemoryError):
            self.refuse(f"array {entry.name!r} of shape {entry.shape} does not fit into memory")
        view = _bytes_of(array)
        if self.stream.readinto(view) != len(view):
            self.refuse("cut short")
        self.digest.update(view)
        return array

    def take(self, count: int) -> bytes:
        data = self.stream.read(count)
        if len(data) < count:
            self.refuse("cut short")
        self.digest.update(data)
        return data

    def refuse(self, reason: str) -> NoReturn:
        raise CheckpointError(f"{self.path}: {reason}")


def _bounded_int(text: str) -> int:
    """Generators have states of a few hundred digits at most; reading millions would take hours."""
    if len(text) > _MAX_DIGITS:
        raise ValueError("a number of too many digits")
    return int(text)


def _is_length(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=4)


class CheckpointFolder:
    """The last `keep` checkpoints of one stage. Their order is in their names: no clock is asked.

    Args:
        folder: made at the first save.
        keep: how many stay, at least 1.
        warn: takes one line whenever a checkpoint turns out damaged or one such is removed.
    """

    def __init__(self, folder: Union[str, Path], keep: int = 2, warn: Callable[[str], None] = _warn) -> None:
        self.folder = Path(folder)
        self.keep = keep
        self._warn = warn
        self._passed_over: Set[Path] = set()

    def positions(self) -> Tuple[int, ...]:
        """Positions of the checkpoints that are there, readable or not, ascending."""
        names = [entry.name for entry in self.folder.iterdir()] if self.folder.is_dir() else []
        return tuple(sorted(int(match[1]) for match in map(_NAME.fullmatch, names) if match))

    def save(self, position: int, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> Path:
        """Write the checkpoint of `position`, then remove those that are no longer kept.

        Args:
            position: grows as training goes on, below 10**18; an equal one replaces its file.
            arrays: as `write_checkpoint` takes them.
            meta: as `write_checkpoint` takes it.

        Returns:
            The file, which is on the disk.

        Raises:
            UserError: it cannot be written, or the folder holds a later position that `latest` did not pass
                over, so that the new checkpoint would never be the latest; the older checkpoints stay.
        """
        if not 0 <= position < 10**18:
            raise ValueError(f"position {position} is not in a file name's range")
        self._refuse_to_go_back(position)
        path = self._path(position)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"{self.folder}: cannot be made: {reason}; choose another --work-dir") from error
        _remove(self.folder.glob(f".checkpoint-*{PARTIAL}"))
        write_checkpoint(path, arrays, meta)
        self._clean_up(path)
        return path

    def _refuse_to_go_back(self, position: int) -> None:
        later = [self._path(other) for other in self.positions() if other > position]
        if not self._passed_over.issuperset(later):
            raise UserError(
                f"{later[-1]}: is of a later position than this run; go on with --resume, or choose another "
                "--work-dir"
            )

    def _clean_up(self, saved: Path) -> None:
        for path in sorted(self._passed_over):
            end = "replaced" if path == saved else "removed"
            self._warn(f"{path}: damaged, and {end} now that the run has gone on")
        _remove(self._passed_over - {saved})
        self._passed_over.clear()
        _remove(self._path(position) for position in self.positions()[: -self.keep])

    def latest(self) -> Optional[Checkpoint]:
        """The newest checkpoint that reads well, None if there is none at all; warns of those passed over.

        Raises:
            CheckpointError: there are checkpoints, all of them damaged.
        """
        reasons: List[str] = []
        for position in reversed(self.positions()):
            try:
                checkpoint = read_checkpoint(self._path(position))
            except CheckpointError as error:
                self._passed_over.add(self._path(position))
                reasons.append(str(error))
                continue
            for reason in reasons:
                self._warn(f"{reason}; {checkpoint.path.name} is taken instead")
            return checkpoint
        if reasons:
            raise CheckpointError(f"no checkpoint can be read, begin without --resume: {'; '.join(reasons)}")
        return None

    def clear(self) -> None:
        """Remove every checkpoint, for a stage that starts anew."""
        _remove(self._path(position) for position in self.positions())

    def _path(self, position: int) -> Path:
        return self.folder / f"checkpoint-{position:012d}.dso"


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink()
