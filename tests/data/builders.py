"""File trees for the data tests: CIFAR in its official forms, record files, small image sets."""

from __future__ import annotations

import io
import struct
import tarfile
from pathlib import Path
from typing import Any, Dict, Tuple

import numpy as np

from dso_nas.data.arrays import ImageArrays, ImageDataset

MAGIC = struct.pack("<I", 0xCED7230A)
NAMES = {"cifar10": [f"kind{n}" for n in range(10)], "cifar100": [f"sort_{n}" for n in range(100)]}
# archive, folder
FORMS = {
    ("cifar10", "python"): ("cifar-10-python.tar.gz", "cifar-10-batches-py"),
    ("cifar10", "binary"): ("cifar-10-binary.tar.gz", "cifar-10-batches-bin"),
    ("cifar100", "python"): ("cifar-100-python.tar.gz", "cifar-100-python"),
    ("cifar100", "binary"): ("cifar-100-binary.tar.gz", "cifar-100-binary"),
}


def random_images(count: int, seed: int = 0, classes: int = 10, size: int = 32) -> ImageArrays:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return ImageArrays(images, (np.arange(count) % classes).astype(np.int32))


def small_dataset(count: int = 40, classes: int = 4, name: str = "small") -> ImageDataset:
    train = random_images(count, 1, classes, size=8)
    return ImageDataset.of(
        name, "a small set", train, random_images(8, 2, classes, size=8), tuple("abcd")[:classes]
    )


def python2_pickle(value: Any) -> bytes:
    """Protocol 2 as Python 2's cPickle writes it, without its memo."""
    return b"\x80\x02" + _opcodes(value) + b"."


def _opcodes(value: Any) -> bytes:
    if isinstance(value, dict):
        return b"}(" + b"".join(_opcodes(part) for item in value.items() for part in item) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(_opcodes, value)) + b"e"
    if isinstance(value, str):
        return b"U" + bytes([len(value)]) + value.encode()
    if isinstance(value, int):
        return b"K" + bytes([value]) if value < 256 else b"M" + struct.pack("<H", value)
    return _array_opcodes(value)


def _array_opcodes(array: np.ndarray) -> bytes:
    content = array.tobytes()
    rows, columns = array.shape
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
        + _opcodes(rows)
        + _opcodes(columns)
        + b"\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN"
        + b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + struct.pack("<I", len(content))
        + content
        + b"tb"
    )


def cifar_parts(name: str, train: ImageArrays, test: ImageArrays) -> Dict[str, ImageArrays]:
    """The images under the python version's file names; CIFAR-10's in five files of different length."""
    if name == "cifar100":
        return {"train": train, "test": test}
    places = np.array_split(np.arange(len(train)), 5)
    return {
        **{f"data_batch_{n + 1}": train.subset(place) for n, place in enumerate(places)},
        "test_batch": test,
    }


def cifar_files(name: str, form: str, train: ImageArrays, test: ImageArrays) -> Dict[str, bytes]:
    """Every file of an official folder, by name."""
    parts = cifar_parts(name, train, test)
    if form == "python":
        files = {part: _python_batch(name, arrays) for part, arrays in parts.items()}
        key, names_file = (
            ("label_names", "batches.meta") if name == "cifar10" else ("fine_label_names", "meta")
        )
        files[names_file] = python2_pickle({key: NAMES[name]})
        return files
    files = {f"{part}.bin": _binary_batch(name, arrays) for part, arrays in parts.items()}
    names_file = "batches.meta.txt" if name == "cifar10" else "fine_label_names.txt"
    files[names_file] = "\n".join([*NAMES[name], ""]).encode()
    return files


def _planes(arrays: ImageArrays) -> np.ndarray:
    return arrays.images.transpose(0, 3, 1, 2).reshape(len(arrays), -1)


def _python_batch(name: str, arrays: ImageArrays) -> bytes:
    labels = arrays.labels.tolist()
    content: Dict[str, Any] = {
        "batch_label": "a batch",
        "filenames": [f"{n}.png" for n in range(len(labels))],
    }
    if name == "cifar10":
        content["labels"] = labels
    else:
        content.update(coarse_labels=[label // 5 for label in labels], fine_labels=labels)
    return python2_pickle({**content, "data": _planes(arrays)})


def _binary_batch(name: str, arrays: ImageArrays) -> bytes:
    labels = arrays.labels.astype(np.uint8)[:, None]
    columns = [labels] if name == "cifar10" else [labels // 5, labels]
    return np.concatenate([*columns, _planes(arrays)], axis=1).tobytes()


def write_folder(root: Path, folder: str, files: Dict[str, bytes]) -> Path:
    (root / folder).mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (root / folder / name).write_bytes(content)
    return root / folder


def write_archive(path: Path, folder: str, files: Dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        entry = tarfile.TarInfo(folder)
        entry.type = tarfile.DIRTYPE
        archive.addfile(entry)
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def write_cifar(root: Path, name: str, form: str, packed: bool) -> Tuple[ImageArrays, ImageArrays, Path]:
    """An official tree under `root`; gives back the training and test images and the archive or folder."""
    classes = len(NAMES[name])
    train, test = random_images(classes + 3, 3, classes), random_images(classes, 4, classes)
    archive, folder = FORMS[name, form]
    files = cifar_files(name, form, train, test)
    written = write_archive(root / archive, folder, files) if packed else write_folder(root, folder, files)
    return train, test, written


def record(content: bytes, flag: int = 0) -> bytes:
    """One part of a record file."""
    return MAGIC + struct.pack("<I", flag << 29 | len(content)) + content + bytes(-len(content) % 4)


def image_record(label: float, encoded: bytes, labels: int = 0) -> bytes:
    return record(struct.pack("<IfQQ", labels, label, 0, 0) + encoded)
