"""Reading picture and mask files that may be damaged, with one line that names the file."""

from __future__ import annotations

from typing import Tuple

import numpy as np

from dso_nas.data.pictures import open_picture
from dso_nas.errors import UserError

IGNORED = 255
LARGEST_PICTURE = 1 << 26
_RESTORE = "put the original file back"


def read_picture(path: str) -> np.ndarray:
    """A JPEG or PNG as uint8 (height, width, 3).

    Raises:
        UserError: it is missing, damaged, or has more than `LARGEST_PICTURE` pixels.
    """
    return _decoded(path, ("JPEG", "PNG"), ("L", "P", "RGB", "RGBA", "CMYK", "1"), "RGB")


def read_mask(path: str, classes: int) -> np.ndarray:
    """A PNG whose values (or palette indices) are labels, as uint8 (height, width).

    Raises:
        UserError: it is missing, damaged, in colour, or has a label that is neither below `classes` nor 255.
    """
    return checked_labels(path, _decoded(path, ("PNG",), ("L", "P")), classes)


def checked_labels(path: str, mask: np.ndarray, classes: int) -> np.ndarray:
    """The mask (uint8), if all its labels are below `classes` or 255; else a UserError that names the file."""
    counts = np.bincount(mask.ravel(), minlength=IGNORED + 1)
    wrong = np.flatnonzero(counts[classes:IGNORED])
    if len(wrong):
        raise UserError(f"{path}: has the label {classes + wrong[0]}, but labels are 0 to {classes - 1}, or 255 for "
                        f"ignored pixels; {_RESTORE}")
    return mask


def read_pair(picture: str, mask: str, labels: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """The picture of a mask that is read already; a UserError if they differ in size, or as of `read_picture`."""
    image = read_picture(picture)
    if image.shape[:2] != labels.shape:
        sizes = "{1}x{0} pixels, its picture {2} {4}x{3}".format(*labels.shape, picture, *image.shape[:2])
        raise UserError(f"{mask}: has {sizes}; {_RESTORE}")
    return image, labels


def picture_size(path: str) -> Tuple[int, int]:
    """Height and width that a PNG's header gives, its checksums being right; ValueError or OSError if not."""
    try:
        with open_picture(path, ("PNG",)) as image:
            image.verify()
            return image.height, image.width
    # Pillow raises what it likes.
    except Exception as error:
        raise ValueError(str(error)) from error


def _decoded(path: str, formats: Tuple[str, ...], modes: Tuple[str, ...], convert: str = "") -> np.ndarray:
    try:
        with open_picture(path, formats) as image:
            if image.width * image.height > LARGEST_PICTURE:
                raise ValueError(f"{image.width}x{image.height} pixels are too many")
            if image.mode not in modes:
                raise ValueError(f"its pixels are of the kind {image.mode}, not {', '.join(modes)}")
            return np.array(image.convert(convert) if convert else image, np.uint8)
    except FileNotFoundError as error:
        raise UserError(f"{path}: missing; {_RESTORE}") from error
    # A damaged file makes Pillow raise almost anything.
    except Exception as error:
        raise UserError(f"{path}: cannot be read as {' or '.join(formats)} ({_reason(error, path)}); "
                        f"{_RESTORE}") from error


def _reason(error: Exception, path: str) -> str:
    """The first line of what Pillow says, without the name once more."""
    text = str(error).replace(repr(path), "the file").strip()
    return text.splitlines()[0][:120] if text else type(error).__name__
