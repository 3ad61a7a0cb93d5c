"""Record files laid out as the published code has them.

A folder holds train1.rec (D_w), train2.rec (D_lambda), train.rec (both) and val.rec, made by MXNet's im2rec.
Files that fit in memory are decoded whole.
"""

from __future__ import annotations

import io
from itertools import islice
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import numpy as np
from PIL import Image

from dso_nas.data.arrays import ImageArrays, ImageDataset
from dso_nas.data.pictures import open_picture
from dso_nas.data.record_files import ImageRecord, bad_record, read_image_records
from dso_nas.data.record_writer import RecordWriter
from dso_nas.errors import UserError

MAX_GIGABYTES = 2.0
_LARGEST_CLASSES = 16 << 20
_MODES = frozenset(("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"))
_ENCODINGS: Dict[str, str] = {"png": "PNG", "jpeg": "JPEG"}


def load_record_folder(root: Path, max_gigabytes: float = MAX_GIGABYTES) -> ImageDataset:
    """The set in a folder of record files, decoded.

    With train1.rec and train2.rec these two are the training set, in this order, and say which image is in
    D_w (`weights_first`); a train.rec beside them must hold the same images. With train.rec alone a seed will
    split it. val.rec is the test set.

    Args:
        root: the folder.
        max_gigabytes: what each file's images may take in memory, decoded.

    Returns:
        The set; its classes have the names in classes.txt, or the numbers up to the largest training label.

    Raises:
        UserError: a file is missing, bad or too large, sizes differ, or a label of val.rec does not occur in
            training.
    """
    sources, test_path = _training_files(Path(root)), Path(root) / "val.rec"
    whole = Path(root) / "train.rec"
    for path in (*sources, test_path):
        _check_size(path, _size_of(path), max_gigabytes)
    if whole not in sources and whole.is_file():
        _check_same_labels(whole, sources)
    *parts, test = (load_records(path, max_gigabytes) for path in (*sources, test_path))
    for path, part in zip((*sources, test_path), (*parts, test)):
        _check_shape(path, part, parts[0])
    train = ImageArrays.joined(parts)
    _check_labels(test_path, test, train)
    classes = class_names(Path(root), int(train.labels.max()))
    title = f"record files of {Path(root).resolve().name}"
    return ImageDataset.of("records", title, train, test, classes, len(parts[0]) if len(parts) > 1 else None)


def class_names(root: Path, largest: int) -> Tuple[str, ...]:
    """The lines of a folder's classes.txt, or without it the numbers from 0 to the largest label.

    Raises:
        UserError: the file cannot be read, or has no line for a label.
    """
    path = root / "classes.txt"
    if not path.exists():
        return tuple(str(label) for label in range(largest + 1))
    try:
        if path.stat().st_size > _LARGEST_CLASSES:
            raise UserError(f"{path}: is too large for a list of classes; write one name a line")
        names = tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text; write one class a line") from error
    if len(names) <= largest:
        raise UserError(f"{path}: names {len(names)} classes, but the record files beside it have the label {largest}; "
                        "make them from one list of classes")
    return names


def image_size_of(path: Path, record: ImageRecord) -> Tuple[int, int]:
    """Width and height in pixels of a record's image; UserError if it is none."""
    return _open_image(path, record.number, record.encoded).size


def _training_files(root: Path) -> List[Path]:
    halves = [root / "train1.rec", root / "train2.rec"]
    return halves if any(path.is_file() for path in halves) else [root / "train.rec"]


def load_records(path: Path, max_gigabytes: float = MAX_GIGABYTES) -> ImageArrays:
    """All images of a record file.

    Args:
        path: the .rec file; an index beside it is not needed.
        max_gigabytes: what the decoded images may take in memory.

    Returns:
        RGB images of one size and their labels, in the file's order.

    Raises:
        UserError: the file cannot be read, is none, is cut short or empty, holds images that are broken or
            not all of one size, labels that are no classes, or more than fits.
    """
    _check_size(path, _size_of(path), max_gigabytes)
    labels = np.array([record.label for record in read_image_records(path)], np.int32)
    images: Optional[np.ndarray] = None
    for number, _, encoded in read_image_records(path):
        picture = _open_image(path, number, encoded)
        if images is None:
            shape = (len(labels), picture.height, picture.width, 3)
            _check_size(path, _product(shape), max_gigabytes)
            images = np.empty(shape, np.uint8)
        if (picture.height, picture.width) != images.shape[1:3]:
            size, first = f"{picture.width}x{picture.height}", f"{images.shape[2]}x{images.shape[1]}"
            raise bad_record(path, number, f"is {size} pixels and the first one {first}")
        images[number] = _pixels(path, number, picture)
    if images is None:
        raise UserError(f"{path} holds no record; make the file again")
    return ImageArrays(images, labels)


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}; im2rec makes train1.rec and train2.rec, or train.rec, and val.rec"
        ) from error


def _product(shape: Tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.float64))


def _check_size(path: Path, size: int, max_gigabytes: float) -> None:
    if size > max_gigabytes * 1e9:
        raise UserError(
            f"{path}: its images take {size / 1e9:.3g} GB, and {max_gigabytes:g} GB at most are held in "
            "memory; set data.streaming=true: a set of this size needs streaming"
        )


def _open_image(path: Path, number: int, encoded: bytes) -> Image.Image:
    """The image with its size known and its pixels not yet decoded."""
    try:
        picture = open_picture(io.BytesIO(encoded), ("JPEG", "PNG"))
    except Exception as error:  # Damaged files bring nearly every exception out of a decoder.
        raise bad_record(path, number, "is no readable JPEG or PNG image") from error
    if picture.mode not in _MODES:
        raise bad_record(path, number, f"has pixels of kind {picture.mode}, not 8 bits a channel")
    return picture


def _pixels(path: Path, number: int, picture: Image.Image) -> np.ndarray:
    try:
        return np.asarray(picture.convert("RGB"))
    except Exception as error:  # As above.
        raise bad_record(path, number, f"has a damaged image ({error})") from error


def _check_same_labels(whole: Path, halves: List[Path]) -> None:
    """An early and cheap sign that the search's files and retraining's file are not of the same set."""
    expected = sorted(record.label for path in halves for record in read_image_records(path))
    # One more than expected is enough to know, and train.rec may be of any size.
    found = sorted(record.label for record in islice(read_image_records(whole), len(expected) + 1))
    if found != expected:
        raise UserError(
            f"{whole} does not hold the images of train1.rec and train2.rec (it has another number "
            "of them or other labels); make all three from one list, or move it away"
        )


def _check_shape(path: Path, part: ImageArrays, first: ImageArrays) -> None:
    if part.images.shape[1:] != first.images.shape[1:]:
        raise UserError(
            f"{path}: images of {_dimensions(part)}, in training {_dimensions(first)}; make all of one size"
        )


def _dimensions(arrays: ImageArrays) -> str:
    return f"{arrays.images.shape[2]}x{arrays.images.shape[1]}"


def _check_labels(path: Path, test: ImageArrays, train: ImageArrays) -> None:
    unknown = np.setdiff1d(test.labels, train.labels)
    if len(unknown):
        raise UserError(
            f"{path}: label {unknown[0]} occurs in no training image; make both from one set of classes"
        )


def write_records(path: Path, arrays: ImageArrays, encoding: str = "png", quality: int = 95) -> None:
    """Write images as im2rec does: a record file and the index beside it.

    Args:
        path: the .rec file; the index has its name with .idx.
        arrays: what to write, in its order; a record's number is its identity.
        encoding: 'png' (exact) or 'jpeg'.
        quality: of JPEG, 1 to 95.

    Raises:
        UserError: the file cannot be written.
    """
    with RecordWriter(path) as writer:
        for image, label in zip(arrays.images, arrays.labels):
            writer.write(label, encode_image(Image.fromarray(image), encoding, quality))
        writer.finish()


def encode_image(image: Image.Image, encoding: str, quality: int = 95) -> bytes:
    """An image as a PNG ('png') or JPEG ('jpeg') file of the quality given."""
    content = io.BytesIO()
    image.save(content, _ENCODINGS[encoding], quality=quality)
    return content.getvalue()
