"""Generated scenes: real Fashion-MNIST images, coloured and scaled, on generated textures, covering each other.

They are for trying things out where PASCAL VOC is not at hand. The garments are photographs (the embedded sample); all
else, where they lie, their colours and what is behind them, is made up, so that the masks are exact. An mIoU on them
says nothing of one on PASCAL VOC.
"""

from __future__ import annotations

import colorsys
from typing import Callable, Tuple

import numpy as np
from PIL import Image

from dso_nas.data.arrays import ImageArrays, channel_statistics
from dso_nas.data.sample import CLASSES as GARMENTS
from dso_nas.data.sample import load_sample
from dso_nas.data.segmentation.sets import ArrayPictures, SegmentationDataset

NAME = "fashion-scenes"
CLASSES = ("background", *GARMENTS)
SIZE, TRAIN_COUNT, TEST_COUNT, SEED = 64, 1000, 200, 20200523
# Of 0 to 255: what is darker in the photograph is not the garment.
THRESHOLD = 24
_TRAIN, _TEST = 0, 1
_GARMENTS_IN_A_SCENE = (2, 5)
# Of the scene's side.
_GARMENT_SIDES = (0.4, 0.75)


def load_scenes(size: int = SIZE, count: int = TRAIN_COUNT, test_count: int = TEST_COUNT,
                seed: int = SEED) -> SegmentationDataset:
    """'fashion-scenes': training scenes of the sample's training images, test scenes of its test images.

    Args:
        size: side of a scene in pixels.
        count: training scenes.
        test_count: test scenes.
        seed: with a scene's number, decides all that is random in it.
    """
    sample = load_sample()
    train = make_scenes(sample.train, count, size, (seed, _TRAIN))
    test = make_scenes(sample.test, test_count, size, (seed, _TEST))
    mean, std = channel_statistics(train.images)
    title = f"generated {size}x{size} scenes of Fashion-MNIST garments"
    return SegmentationDataset(NAME, title, train, test, CLASSES, mean, std)


def make_scenes(garments: ImageArrays, count: int, size: int, seed: Tuple[int, ...]) -> ArrayPictures:
    """Scenes 0 to count - 1; scene i is the same whatever `count` is."""
    images = np.empty((count, size, size, 3), np.uint8)
    masks = np.empty((count, size, size), np.uint8)
    places = [np.flatnonzero(garments.labels == label) for label in range(len(GARMENTS))]
    for index in range(count):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
        canvas, mask = texture(size, rng), np.zeros((size, size), np.uint8)
        for _ in range(rng.integers(*_GARMENTS_IN_A_SCENE)):
            label = int(rng.integers(len(GARMENTS)))
            grey = garments.images[rng.choice(places[label]), ..., 0]
            _put_on(canvas, mask, grey, label + 1, rng)
        canvas += rng.normal(0, 4, canvas.shape)
        images[index], masks[index] = np.clip(canvas, 0, 255).round(), mask
    return ArrayPictures(images, masks)


def _put_on(canvas: np.ndarray, mask: np.ndarray, grey: np.ndarray, label: int, rng: np.random.Generator) -> None:
    """Lay a garment over what is there, most of it inside the scene."""
    size = len(canvas)
    side = round(size * rng.uniform(*_GARMENT_SIDES))
    scaled = np.asarray(Image.fromarray(grey).resize((side, side), Image.Resampling.BILINEAR))
    if rng.random() < 0.5:
        scaled = scaled[:, ::-1]
    top, left = rng.integers(-side // 5, size - side + side // 5 + 1, 2)
    rows, columns = (slice(max(start, 0), min(start + side, size)) for start in (top, left))
    seen = scaled[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    covered = seen > THRESHOLD
    shade = 0.25 + 0.75 * (seen[covered, None] / 255.0)
    canvas[rows, columns][covered] = shade * _color(rng, saturation=(0.15, 0.9), value=(0.7, 1.0))
    mask[rows, columns][covered] = label


def _color(rng: np.random.Generator, saturation: Tuple[float, float], value: Tuple[float, float]) -> np.ndarray:
    return 255 * np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value)))


def texture(size: int, rng: np.random.Generator) -> np.ndarray:
    """A background, float64 (size, size, 3) from 0 to 255: two muted colours mixed by a random pattern."""
    first, second = (_color(rng, saturation=(0.0, 0.6), value=(0.15, 0.85)) for _ in range(2))
    pattern = _PATTERNS[rng.integers(len(_PATTERNS))](size, rng)[..., None]
    return first * pattern + second * (1 - pattern)


def _axis(size: int, rng: np.random.Generator) -> np.ndarray:
    """Distance along a random direction, (size, size), in scene sides."""
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[:size, :size] / size
    return rows * np.sin(angle) + columns * np.cos(angle)


def _stripes(size: int, rng: np.random.Generator) -> np.ndarray:
    return 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(2, 8) * _axis(size, rng))


def _checks(size: int, rng: np.random.Generator) -> np.ndarray:
    first, second = (_stripes(size, rng) > 0.5 for _ in range(2))
    return (first != second).astype(np.float64)


def _slope(size: int, rng: np.random.Generator) -> np.ndarray:
    axis = _axis(size, rng)
    return (axis - axis.min()) / np.ptp(axis)


def _clouds(size: int, rng: np.random.Generator) -> np.ndarray:
    noise = rng.integers(0, 256, (int(rng.integers(3, 12)),) * 2, dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC)) / 255.0


_PATTERNS: Tuple[Callable[[int, np.random.Generator], np.ndarray], ...] = (_stripes, _checks, _slope, _clouds)
