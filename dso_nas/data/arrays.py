"""Image sets held wholly in memory, and what training has to know of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Sequence, Tuple

import numpy as np

_BLOCK = 2048


@dataclass(frozen=True, eq=False)
class ImageArrays:
    """Labelled RGB images.

    Attributes:
        images: uint8, (n, height, width, 3).
        labels: int32, (n,), counted from 0.
    """

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        """Refuse arrays of another shape or type with a ValueError."""
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[3] != 3:
            raise ValueError(
                f"images are {self.images.dtype}{self.images.shape}, not uint8(n, height, width, 3)"
            )
        if self.labels.dtype != np.int32 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"labels are {self.labels.dtype}{self.labels.shape}, not int32({len(self.images)},)"
            )

    def __len__(self) -> int:
        """The number of images."""
        return len(self.labels)

    def subset(self, indices: np.ndarray) -> ImageArrays:
        """A copy of the images at these positions, in their order."""
        return ImageArrays(self.images[indices], self.labels[indices])

    @classmethod
    def joined(cls, parts: Sequence[ImageArrays]) -> ImageArrays:
        """The images of several parts, all of one size, in one copy (of one part: itself)."""
        if len(parts) == 1:
            return parts[0]
        images = np.concatenate([part.images for part in parts])
        return cls(images, np.concatenate([part.labels for part in parts]))


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """A classification set.

    Attributes:
        name: what recipes and split files call it.
        title: what a report calls it.
        train: the images that the search splits and retraining takes whole.
        test: the images of the test error.
        classes: a name for each label.
        mean: float32 (3,), channel means of `train` on the 0..255 scale.
        std: float32 (3,), channel standard deviations of `train` on the same scale; 1 for a constant channel.
        weights_first: how many leading images of `train` the set itself gives to D_w, the rest being
            D_lambda; None when a seed is to decide.
    """

    name: str
    title: str
    train: ImageArrays
    test: ImageArrays
    classes: Tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray
    weights_first: Optional[int] = None

    @classmethod
    def of(
        cls,
        name: str,
        title: str,
        train: ImageArrays,
        test: ImageArrays,
        classes: Tuple[str, ...],
        weights_first: Optional[int] = None,
    ) -> ImageDataset:
        """The set with its channel statistics taken from the training images (paper, section 4.1)."""
        mean, std = channel_statistics(train.images)
        return cls(name, title, train, test, classes, mean, std, weights_first)

    @property
    def image_shape(self) -> Tuple[int, int, int]:
        """Channels, height and width of one image as the network takes it."""
        height, width, channels = self.train.images.shape[1:]
        return channels, height, width


def channel_statistics(images: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel over all pixels.

    Args:
        images: uint8 (n, height, width, 3), at least one pixel.

    Returns:
        Two float32 arrays (3,) on the 0..255 scale. The deviation of a constant channel is given as 1, so
        that dividing by it is harmless.
    """
    counts = np.zeros((3, 256), np.int64)
    for start in range(0, len(images), _BLOCK):
        block = images[start : start + _BLOCK]
        for channel in range(3):
            counts[channel] += np.bincount(block[..., channel].ravel(), minlength=256)
    levels = np.arange(256, dtype=np.float64)
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ levels
    std = np.sqrt(np.sum(shares * (levels - mean[:, None]) ** 2, axis=1))
    return mean.astype(np.float32), np.where(std > 0, std, 1).astype(np.float32)
