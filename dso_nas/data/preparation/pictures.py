"""Images where they are, before any of them is read: in files, inside archives, in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
from PIL import Image

from dso_nas.data.records import encode_image
from dso_nas.errors import UserError

LARGEST_FILE = 64 << 20


class FilePicture(NamedTuple):
    """An image file, or a stretch of an archive that holds one.

    Attributes:
        label: its class.
        path: the file or archive.
        name: inside the archive; empty for a file.
        offset: where the image begins.
        size: its bytes.
    """

    label: int
    path: Path
    name: str
    offset: int
    size: int

    def read(self) -> bytes:
        """The encoded image.

        Raises:
            UserError: it cannot be read whole.
        """
        try:
            with open(self.path, "rb") as stream:
                stream.seek(self.offset)
                content = stream.read(self.size)
        except OSError as error:
            raise UserError(f"{self.where}: {error.strerror}; make it readable, or take it away") from error
        if len(content) != self.size:
            raise UserError(f"{self.where}: is cut short; get {self.path.name} again")
        return content

    @property
    def where(self) -> str:
        """What an error calls it."""
        return f"{self.path}: {self.name}" if self.name else str(self.path)


class PixelPicture(NamedTuple):
    """An image in memory, uint8 (height, width, 3)."""

    label: int
    where: str
    pixels: np.ndarray

    def read(self) -> bytes:
        """The image as PNG, which loses nothing."""
        return encode_image(Image.fromarray(self.pixels), "png")


Picture = Union[FilePicture, PixelPicture]


@dataclass(frozen=True)
class Collection:
    """All images of a set.

    Attributes:
        classes: a name for each label.
        train: training images.
        val: those of the test error; None where the set has none of its own.
    """

    classes: Tuple[str, ...]
    train: Sequence[Picture]
    val: Optional[Sequence[Picture]]


def file_picture(path: Path, label: int, size: int) -> FilePicture:
    """An image file of `size` bytes.

    Raises:
        UserError: it is empty or larger than any image here may be.
    """
    if not 0 < size <= LARGEST_FILE:
        raise UserError(f"{path}: has {size:,} bytes, where 1 to {LARGEST_FILE:,} are allowed; take it away")
    return FilePicture(label, path, "", 0, size)


def labels_of(pictures: Sequence[Picture]) -> np.ndarray:
    """int32, (n,)."""
    labels: List[int] = [picture.label for picture in pictures]
    return np.array(labels, np.int32)
