"""What training has to know of a segmentation set, and the two kinds of picture lists: arrays and files."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from pathlib import PurePath
from typing import NamedTuple, Optional, Sequence, Tuple

import numpy as np

from dso_nas.data.segmentation.decoding import IGNORED, read_mask, read_pair
from dso_nas.data.segmentation.sbd import read_sbd_mask

__all__ = ["IGNORED", "ArrayPictures", "FilePictures", "Pair", "SegmentationDataset", "SegmentationSet"]


class SegmentationSet(abc.ABC):
    """Pictures and their masks, by index."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """The number of pictures."""

    @abc.abstractmethod
    def read(self, index: int) -> Tuple[np.ndarray, np.ndarray]:
        """Picture, uint8 (height, width, 3), and mask, uint8 (height, width): labels, or 255 to be ignored.

        Raises:
            UserError: a file is damaged, its labels are out of range, or the two are not of one size.
        """

    @abc.abstractmethod
    def mask(self, index: int) -> np.ndarray:
        """The mask alone, as `read` gives it."""

    @abc.abstractmethod
    def subset(self, indices: np.ndarray) -> SegmentationSet:
        """The pictures at these positions, in their order."""

    @property
    @abc.abstractmethod
    def labels(self) -> np.ndarray:
        """int32 (n,): the kinds of picture that a split has to share out evenly."""

    @property
    @abc.abstractmethod
    def identity(self) -> bytes:
        """What tells these pictures from others, for a split's checksum."""


@dataclass(frozen=True, eq=False)
class ArrayPictures(SegmentationSet):
    """Pictures of one size, in memory.

    Attributes:
        images: uint8 (n, height, width, 3).
        masks: uint8 (n, height, width).
    """

    images: np.ndarray
    masks: np.ndarray

    def __post_init__(self) -> None:
        """Refuse arrays of another shape or type with a ValueError."""
        images, masks = self.images, self.masks
        if images.dtype != np.uint8 or masks.dtype != np.uint8 or images.shape != (*masks.shape, 3):
            raise ValueError(f"images are {images.dtype}{images.shape} and masks {masks.dtype}{masks.shape}")

    def __len__(self) -> int:
        """See SegmentationSet."""
        return len(self.images)

    def read(self, index: int) -> Tuple[np.ndarray, np.ndarray]:
        """See SegmentationSet."""
        return self.images[index], self.masks[index]

    def mask(self, index: int) -> np.ndarray:
        """See SegmentationSet."""
        return self.masks[index]

    def subset(self, indices: np.ndarray) -> ArrayPictures:
        """See SegmentationSet; a copy."""
        return ArrayPictures(self.images[indices], self.masks[indices])

    @property
    def labels(self) -> np.ndarray:
        """The class that covers most of each picture, the background aside."""
        return np.array([_largest_class(mask) for mask in self.masks], np.int32)

    @property
    def identity(self) -> bytes:
        """The masks themselves."""
        return self.masks.tobytes()


def _largest_class(mask: np.ndarray) -> int:
    counts = np.bincount(mask.ravel(), minlength=256)
    counts[[0, IGNORED]] = 0
    return int(counts.argmax())


class Pair(NamedTuple):
    """The files of a picture (.jpg) and of its mask (.png, or SBD's .mat)."""

    picture: str
    mask: str


@dataclass(frozen=True, eq=False)
class FilePictures(SegmentationSet):
    """Pictures in files, decoded each time they are read.

    Attributes:
        pairs: the files.
        classes: how many labels there are, the background among them.
    """

    pairs: Sequence[Pair]
    classes: int

    def __len__(self) -> int:
        """See SegmentationSet."""
        return len(self.pairs)

    def read(self, index: int) -> Tuple[np.ndarray, np.ndarray]:
        """See SegmentationSet."""
        picture, mask = self.pairs[index]
        return read_pair(picture, mask, self.mask(index))

    def mask(self, index: int) -> np.ndarray:
        """See SegmentationSet."""
        path = self.pairs[index].mask
        return (read_sbd_mask if path.endswith(".mat") else read_mask)(path, self.classes)

    def subset(self, indices: np.ndarray) -> FilePictures:
        """See SegmentationSet; nothing is read."""
        return FilePictures([self.pairs[index] for index in indices.tolist()], self.classes)

    @property
    def labels(self) -> np.ndarray:
        """All of one kind: nobody reads a hundred thousand masks in order to split them."""
        return np.zeros(len(self), np.int32)

    @property
    def identity(self) -> bytes:
        """The pictures' names without their folders, which may move."""
        return "\n".join(PurePath(pair.picture).name for pair in self.pairs).encode("utf-8")


@dataclass(frozen=True, eq=False)
class SegmentationDataset:
    """A segmentation set.

    Attributes:
        name: what recipes and split files call it.
        title: what a report calls it.
        train: the pictures that the search splits and retraining takes whole.
        test: the pictures that mIoU is measured on.
        classes: a name for each label, the background first.
        mean: float32 (3,), subtracted from pictures on the 0..255 scale.
        std: float32 (3,), divided by after that.
        ignore: the label of pixels that neither loss nor metric counts.
        weights_first: always None here: a seed decides what is in D_w.
    """

    name: str
    title: str
    train: SegmentationSet
    test: SegmentationSet
    classes: Tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray
    ignore: int = IGNORED
    weights_first: Optional[int] = None
