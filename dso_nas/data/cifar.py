"""CIFAR-10 and CIFAR-100 from the official archives, python or binary version, packed or extracted."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import numpy as np

from dso_nas.data.arrays import ImageArrays, ImageDataset
from dso_nas.data.unpickling import read_dictionary
from dso_nas.errors import UserError

_PIXELS = 3 * 32 * 32
# The largest official member has 155 MB and the largest archive 187 MB unpacked.
_LARGEST_MEMBER = 256 << 20
_LARGEST_ARCHIVE = 512 << 20


@dataclass(frozen=True)
class _Version:
    """One of the two forms in which a set is published."""

    archive: str
    folder: str
    train: Tuple[str, ...]
    test: str
    names: str
    read_images: Callable[[bytes], ImageArrays]
    read_names: Callable[[bytes], List[str]]

    @property
    def members(self) -> Tuple[str, ...]:
        return (*self.train, self.test, self.names)


def _read_pickled_images(content: bytes, key: str) -> ImageArrays:
    entries = read_dictionary(content)
    data, labels = entries.get("data"), entries.get(key)
    if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != _PIXELS:
        raise ValueError(f"has no images of {_PIXELS} bytes under 'data'")
    if not isinstance(labels, list) or not all(type(label) is int and 0 <= label < 256 for label in labels):
        raise ValueError(f"has no labels under '{key}'")
    if len(labels) != len(data):
        raise ValueError(f"has {len(data)} images and {len(labels)} labels")
    return ImageArrays(_interleaved(data), np.array(labels, np.int32))


def _read_binary_images(content: bytes, label_bytes: int) -> ImageArrays:
    if len(content) % (label_bytes + _PIXELS):
        raise ValueError(f"is cut short: {len(content)} bytes are no multiple of {label_bytes + _PIXELS}")
    rows = np.frombuffer(content, np.uint8).reshape(-1, label_bytes + _PIXELS)
    return ImageArrays(_interleaved(rows[:, label_bytes:]), rows[:, label_bytes - 1].astype(np.int32))


def _interleaved(planes: np.ndarray) -> np.ndarray:
    """(n, 3072) with the red plane first to (n, 32, 32, 3)."""
    return np.ascontiguousarray(planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _read_pickled_names(content: bytes, key: str) -> List[str]:
    names = read_dictionary(content).get(key)
    if not isinstance(names, list) or not all(isinstance(name, (str, bytes)) for name in names):
        raise ValueError(f"has no class names under '{key}'")
    return [name if isinstance(name, str) else name.decode("utf-8") for name in names]


def _read_name_lines(content: bytes) -> List[str]:
    return content.decode("utf-8").split()


_FIVE = tuple(f"data_batch_{number}" for number in range(1, 6))
_VERSIONS: Dict[str, Tuple[_Version, ...]] = {
    "cifar10": (
        _Version(
            archive="cifar-10-python.tar.gz",
            folder="cifar-10-batches-py",
            train=_FIVE,
            test="test_batch",
            names="batches.meta",
            read_images=partial(_read_pickled_images, key="labels"),
            read_names=partial(_read_pickled_names, key="label_names"),
        ),
        _Version(
            archive="cifar-10-binary.tar.gz",
            folder="cifar-10-batches-bin",
            train=tuple(f"{name}.bin" for name in _FIVE),
            test="test_batch.bin",
            names="batches.meta.txt",
            read_images=partial(_read_binary_images, label_bytes=1),
            read_names=_read_name_lines,
        ),
    ),
    "cifar100": (
        _Version(
            archive="cifar-100-python.tar.gz",
            folder="cifar-100-python",
            train=("train",),
            test="test",
            names="meta",
            read_images=partial(_read_pickled_images, key="fine_labels"),
            read_names=partial(_read_pickled_names, key="fine_label_names"),
        ),
        _Version(
            archive="cifar-100-binary.tar.gz",
            folder="cifar-100-binary",
            train=("train.bin",),
            test="test.bin",
            names="fine_label_names.txt",
            read_images=partial(_read_binary_images, label_bytes=2),
            read_names=_read_name_lines,
        ),
    ),
}
_TITLES = {"cifar10": ("CIFAR-10", 10), "cifar100": ("CIFAR-100", 100)}


def load_cifar(name: str, root: Path) -> ImageDataset:
    """A CIFAR set; of CIFAR-100 the fine labels.

    The number of images is what the files hold, so that a cut-down copy works as well.

    Args:
        name: 'cifar10' or 'cifar100'.
        root: an official archive, the folder it unpacks to, or a folder that holds either. Nothing is
            unpacked to disk, and no pickle is run.

    Returns:
        The set, images (n, 32, 32, 3).

    Raises:
        UserError: nothing is there, or it is cut short, damaged or something else.
    """
    version, source = _find(_VERSIONS[name], root)
    contents = _read_folder(source, version) if source.is_dir() else _read_archive(source, version)
    parsed = {member: _parse(version, f"{source}: {member}", member, content) for member, content in contents}
    missing = [member for member in version.members if member not in parsed]
    if missing:
        raise UserError(
            f"{source} holds no {version.folder}/{missing[0]}: it is cut short or not the official one"
        )
    train = ImageArrays.joined([parsed[member] for member in version.train])
    title, classes = _TITLES[name]
    names = _checked_names(f"{source}: {version.names}", parsed[version.names], classes)
    for part, arrays in (("training", train), ("test", parsed[version.test])):
        _check_labels(f"{source}: the {part} set", arrays, classes)
    return ImageDataset.of(name, title, train, parsed[version.test], names)


def _find(versions: Tuple[_Version, ...], root: Path) -> Tuple[_Version, Path]:
    if not root.exists():
        raise UserError(f"{root}: no such file or folder; put {versions[0].archive} there")
    for version in versions:
        if root.is_file() and root.name == version.archive:
            return version, root
        for folder in (root / version.folder, root):
            if (folder / version.train[0]).is_file():
                return version, folder
        if (root / version.archive).is_file():
            return version, root / version.archive
    wanted = " or ".join(f"{version.archive} or {version.folder}/" for version in versions)
    raise UserError(f"{root}: found no {wanted} there")


def _read_folder(folder: Path, version: _Version) -> Iterator[Tuple[str, bytes]]:
    for member in version.members:
        path = folder / member
        if not path.is_file() or path.stat().st_size > _LARGEST_MEMBER:
            raise UserError(f"{path} is missing or too large; unpack {version.archive} again")
        try:
            yield member, path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; unpack {version.archive} again") from error


class _Bounded:
    """A stream that ends in an error where an archive unpacks to more than a set can have."""

    def __init__(self, stream: gzip.GzipFile) -> None:
        self.stream = stream
        self.left = _LARGEST_ARCHIVE

    def read(self, size: int) -> bytes:
        content = self.stream.read(size)
        self.left -= len(content)
        if self.left < 0:
            raise tarfile.ReadError("unpacks to more than the official set")
        return content


def _read_archive(path: Path, version: _Version) -> Iterator[Tuple[str, bytes]]:
    wanted = {f"{version.folder}/{member}": member for member in version.members}
    try:
        with gzip.open(path) as unpacked:
            stream: Any = _Bounded(unpacked)
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for entry in archive:
                    if entry.name in wanted:
                        yield wanted.pop(entry.name), _read_member(archive, entry)
            # To the end, where gzip's checksum stands.
            while stream.read(1 << 20):
                pass
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: cut short or damaged ({reason}); download it again") from error


def _read_member(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(entry) if entry.size <= _LARGEST_MEMBER else None
    if stream is None:
        raise tarfile.ReadError(f"{entry.name[:80]} is no plain file or too large")
    return stream.read()


def _parse(version: _Version, where: str, member: str, content: bytes) -> Any:
    try:
        return version.read_names(content) if member == version.names else version.read_images(content)
    except ValueError as error:
        raise UserError(f"{where} {' '.join(str(error).split())[:160]}; download it again") from error


def _checked_names(where: str, names: List[str], classes: int) -> Tuple[str, ...]:
    if len(names) != classes or len(set(names)) != classes or not all(map(_is_name, names)):
        raise UserError(
            f"{where} names {len(names)} classes, not {classes} different ones; download it again"
        )
    return tuple(names)


def _is_name(name: str) -> bool:
    return 0 < len(name) < 80 and name.isprintable()


def _check_labels(where: str, arrays: ImageArrays, classes: int) -> None:
    if not len(arrays):
        raise UserError(f"{where} is empty; download it again")
    if arrays.labels.max() >= classes:
        raise UserError(
            f"{where} has the label {arrays.labels.max()}, but {classes} classes; download it again"
        )
