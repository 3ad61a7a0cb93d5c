"""Random scale, crop, flip and colour of a picture with its mask, as DeepLab v3 has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple

import numpy as np
from PIL import Image

from dso_nas.data.segmentation.decoding import IGNORED

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True, eq=False)
class SegmentationAugmentation:
    """Turns a picture and its mask into a network's input and labels.

    Without scales it is the form for evaluation: with a crop, a picture that is larger is made smaller until it fits,
    and then padded below and to the right; without, it stays as it is. Padding is 0 *after* normalisation, which is
    the mean, and 255 in the mask. Pictures are scaled bilinearly, masks to the nearest pixel.

    Attributes:
        mean: float32 (3,) on the 0..255 scale, subtracted.
        std: float32 (3,), divided by.
        crop: side of the square input in pixels; None for the whole picture.
        scales: smallest and largest factor, drawn uniformly, before a random crop; 0.5 to 2 in DeepLab v3.
        flip: mirror left to right with probability one half.
        jitter: brightness, contrast and saturation are each multiplied by 1 - jitter to 1 + jitter.
    """

    mean: np.ndarray
    std: np.ndarray
    crop: Optional[int] = None
    scales: Optional[Tuple[float, float]] = None
    flip: bool = False
    jitter: float = 0.0

    def __call__(self, image: np.ndarray, mask: np.ndarray,
                 rng: Optional[np.random.Generator] = None) -> Tuple[np.ndarray, np.ndarray]:
        """Augment one picture.

        Args:
            image: uint8 (height, width, 3).
            mask: uint8 (height, width).
            rng: where every random choice comes from; not needed for evaluation.

        Returns:
            float32 (3, h, w) and float32 (h, w), contiguous; h = w = crop if there is one.
        """
        if rng is None and (self.scales or self.flip or self.jitter):
            raise ValueError("random augmentation needs a generator")
        image, mask = self._sized(image, mask, rng)
        if self.flip and rng is not None and rng.random() < 0.5:
            image, mask = image[:, ::-1], mask[:, ::-1]
        pixels = image.astype(np.float32)
        if self.jitter and rng is not None:
            pixels = _jittered(pixels, rng.uniform(1 - self.jitter, 1 + self.jitter, 3).astype(np.float32))
        return self._padded(((pixels - self.mean) / self.std).transpose(2, 0, 1), mask.astype(np.float32))

    def _sized(self, image: np.ndarray, mask: np.ndarray,
               rng: Optional[np.random.Generator]) -> Tuple[np.ndarray, np.ndarray]:
        """Scaled, and cut where the crop is smaller."""
        if self.scales is None or rng is None:
            factor = 1.0 if self.crop is None else min(1.0, self.crop / max(mask.shape))
            return _scaled(image, mask, factor)
        image, mask = _scaled(image, mask, rng.uniform(*self.scales))
        if self.crop is None:
            return image, mask
        top, left = (int(rng.integers(0, max(length - self.crop, 0) + 1)) for length in mask.shape)
        window = slice(top, top + self.crop), slice(left, left + self.crop)
        return image[window], mask[window]

    def _padded(self, data: np.ndarray, mask: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        if self.crop is None:
            return np.ascontiguousarray(data), np.ascontiguousarray(mask)
        height, width = mask.shape
        whole = np.zeros((3, self.crop, self.crop), np.float32)
        labels = np.full((self.crop, self.crop), IGNORED, np.float32)
        whole[:, :height, :width] = data
        labels[:height, :width] = mask
        return whole, labels


def _scaled(image: np.ndarray, mask: np.ndarray, factor: float) -> Tuple[np.ndarray, np.ndarray]:
    height, width = (max(1, round(length * factor)) for length in mask.shape)
    if (height, width) == mask.shape:
        return image, mask
    size = (width, height)
    return (np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)),
            np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)))


def _jittered(pixels: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Brightness, contrast around the mean grey and saturation around each pixel's grey, each times its factor."""
    brightness, contrast, saturation = factors
    pixels = pixels * brightness
    middle = (pixels @ _LUMA).mean()
    pixels = (pixels - middle) * contrast + middle
    grey = (pixels @ _LUMA)[..., None]
    return np.clip((pixels - grey) * saturation + grey, 0, 255)
