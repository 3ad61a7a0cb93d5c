"""Random crop, flip, cutout and normalisation of a whole batch at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np


@dataclass(frozen=True, eq=False)
class Augmentation:
    """Turns stored images into a network's input.

    Without pad, flip and cutout it only normalises: the form for evaluation. What lies outside the image
    after a shift and what cutout covers is zero *after* normalisation, which is the channel's mean.

    Attributes:
        mean: float32 (3,) on the 0..255 scale, subtracted.
        std: float32 (3,), divided by.
        pad: pixels added on every side before a random crop back to the image's size; 4 in the paper (section
            4.1).
        flip: mirror each image, left to right, with probability one half.
        cutout: side in pixels of the square that is covered at a random centre; 16 in the paper's retraining.
            The square may reach over the border.
    """

    mean: np.ndarray
    std: np.ndarray
    pad: int = 0
    flip: bool = False
    cutout: int = 0

    def __call__(self, images: np.ndarray, rng: Optional[np.random.Generator] = None) -> np.ndarray:
        """Augment a batch.

        Args:
            images: uint8 (batch, height, width, 3).
            rng: where every random choice comes from; not needed for normalisation alone.

        Returns:
            float32 (batch, 3, height, width), contiguous.
        """
        if not (self.pad or self.flip or self.cutout):
            return self._normalised(images)
        if rng is None:
            raise ValueError("random augmentation needs a generator")
        batch, height, width = images.shape[:3]
        rows = self._shifts(batch, rng) + np.arange(height)
        columns = self._mirrored(np.arange(width), batch, rng) + self._shifts(batch, rng)
        visible = _crossed(_within(rows, height), _within(columns, width))
        if self.cutout:
            visible &= ~_crossed(self._covered(batch, height, rng), self._covered(batch, width, rng))
        data = self._normalised(_picked(images, rows, columns))
        data *= visible[:, None]
        return data

    def _shifts(self, batch: int, rng: np.random.Generator) -> np.ndarray:
        return rng.integers(-self.pad, self.pad + 1, (batch, 1))

    def _mirrored(self, columns: np.ndarray, batch: int, rng: np.random.Generator) -> np.ndarray:
        mirrored = rng.random((batch, 1)) < 0.5 if self.flip else np.zeros((batch, 1), bool)
        return np.where(mirrored, columns[::-1], columns)

    def _covered(self, batch: int, length: int, rng: np.random.Generator) -> np.ndarray:
        """(batch, length), true along the covered stretch of one axis."""
        start = rng.integers(0, length, (batch, 1)) - self.cutout // 2
        return _within(np.arange(length) - start, self.cutout)

    def _normalised(self, images: np.ndarray) -> np.ndarray:
        data = np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32)
        data -= self.mean[:, None, None]
        data /= self.std[:, None, None]
        return data


def _within(positions: np.ndarray, length: int) -> np.ndarray:
    return (positions >= 0) & (positions < length)


def _crossed(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return rows[:, :, None] & columns[:, None, :]


def _picked(images: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Each image's pixels at its own rows and columns, those outside taken from the border."""
    batch, height, width = images.shape[:3]
    rows = rows.clip(0, height - 1) + np.arange(0, batch * height, height)[:, None]
    # One flat index for a whole pixel: twice as fast as an index for each axis.
    places = (rows * width)[:, :, None] + columns.clip(0, width - 1)[:, None, :]
    return images.reshape(-1, 3).take(places, axis=0)
