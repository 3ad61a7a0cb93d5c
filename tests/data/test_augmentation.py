from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dso_nas.data.augmentation import Augmentation
from tests.data.builders import random_images

MEAN = np.array([120, 110, 100], np.float32)
STD = np.array([60, 55, 50], np.float32)
IMAGES = random_images(200).images


def _augment(seed: int = 0, images: np.ndarray = IMAGES, **options: Any) -> np.ndarray:
    return Augmentation(MEAN, STD, **options)(images, np.random.default_rng(seed))


def _normalised(images: np.ndarray = IMAGES) -> np.ndarray:
    return ((images.astype(np.float64) - MEAN) / STD).transpose(0, 3, 1, 2)


def test_without_options_it_normalises_and_needs_no_generator() -> None:
    data = Augmentation(MEAN, STD)(IMAGES)
    assert data.dtype == np.float32 and data.shape == (200, 3, 32, 32) and data.flags.c_contiguous
    np.testing.assert_allclose(data, _normalised(), atol=1e-5)


@pytest.mark.parametrize("height, width", [(32, 32), (12, 20)])
def test_a_crop_is_a_window_of_the_padded_image(height: int, width: int) -> None:
    images = IMAGES[:, :height, :width]
    data = _augment(images=images, pad=4)
    padded = np.pad(_normalised(images), ((0, 0), (0, 0), (4, 4), (4, 4)))
    seen = set()
    for image, whole in zip(data, padded):
        windows = np.lib.stride_tricks.sliding_window_view(whole, (3, height, width))[0]
        (place,) = np.argwhere(np.abs(windows - image).max(axis=(2, 3, 4)) < 1e-5)
        seen.add(tuple(place))
    rows, columns = zip(*seen)
    assert set(rows) == set(columns) == set(range(9))
    assert len(seen) > 60, "rows and columns move together"


def test_a_flip_mirrors_half_of_the_images() -> None:
    data, whole = _augment(flip=True), _normalised()
    kept = np.abs(data - whole).max(axis=(1, 2, 3)) < 1e-5
    mirrored = np.abs(data - whole[..., ::-1]).max(axis=(1, 2, 3)) < 1e-5
    assert (kept ^ mirrored).all() and 70 < mirrored.sum() < 130


def test_crop_and_flip_together_are_a_window_of_the_image_or_its_mirror() -> None:
    data = _augment(images=IMAGES[:30], pad=2, flip=True)
    padded = np.pad(_normalised(IMAGES[:30]), ((0, 0), (0, 0), (2, 2), (2, 2)))
    for image, whole in zip(data, padded):
        both = np.stack([whole, whole[..., ::-1]])
        windows = np.lib.stride_tricks.sliding_window_view(both, (3, 32, 32), axis=(1, 2, 3))
        assert (np.abs(windows - image).max(axis=(-3, -2, -1)) < 1e-5).sum() == 1


@pytest.mark.parametrize("size", [16, 5])
def test_cutout_covers_a_square_clipped_at_the_border(size: int) -> None:
    data, whole = _augment(cutout=size), _normalised()
    holes = (data == 0).all(axis=1)
    np.testing.assert_allclose(np.where(holes[:, None], whole, data), whole, atol=1e-5)
    corners = set()
    clipped_low = clipped_high = 0
    for hole in holes:
        rows, columns = (np.flatnonzero(hole.any(axis=axis)) for axis in (1, 0))
        assert hole.sum() == len(rows) * len(columns) and max(len(rows), len(columns)) <= size
        for side in (rows, columns):
            assert len(side) == size or side[0] == 0 or side[-1] == 31
            clipped_low += len(side) < size and side[0] == 0
            clipped_high += len(side) < size and side[-1] == 31
        corners.add((rows[0], columns[0]))
    assert (holes.sum(axis=(1, 2)) == size * size).any() and len(corners) > 100
    # A centre anywhere in the image: both borders cut the square, equally often.
    assert min(clipped_low, clipped_high) > 0.5 * 400 * (size // 2) / 32


def test_the_generator_alone_decides() -> None:
    options = dict(pad=4, flip=True, cutout=8)
    np.testing.assert_array_equal(_augment(1, **options), _augment(1, **options))
    assert (_augment(1, **options) != _augment(2, **options)).any()


def test_chance_needs_a_generator() -> None:
    with pytest.raises(ValueError, match="generator"):
        Augmentation(MEAN, STD, flip=True)(IMAGES)


def test_the_stored_images_stay_as_they_are() -> None:
    before = IMAGES.copy()
    _augment(pad=4, flip=True, cutout=16)
    np.testing.assert_array_equal(IMAGES, before)
