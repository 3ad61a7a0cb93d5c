from __future__ import annotations

from typing import Any, Tuple

import numpy as np
import pytest

from dso_nas.data.segmentation import SegmentationAugmentation

MEAN, STD = np.array([100, 110, 120], np.float32), np.array([50, 60, 70], np.float32)


def _augmentation(**options: Any) -> SegmentationAugmentation:
    return SegmentationAugmentation(MEAN, STD, **options)


def _pair(height: int, width: int) -> Tuple[np.ndarray, np.ndarray]:
    """A picture of blocks whose red value is ten times the label."""
    labels = np.arange(15).reshape(3, 5)
    mask = labels.repeat(-(-height // 3), 0).repeat(-(-width // 5), 1)[:height, :width].astype(np.uint8)
    return np.stack([10 * mask, 200 - 5 * mask, np.full_like(mask, 77)], axis=2), mask


def _pixels(data: np.ndarray) -> np.ndarray:
    return data.transpose(1, 2, 0) * STD + MEAN


def test_a_whole_picture_is_only_normalised() -> None:
    image, mask = _pair(23, 31)
    data, labels = _augmentation()(image, mask)
    assert data.dtype == labels.dtype == np.float32 and data.flags.c_contiguous and labels.flags.c_contiguous
    np.testing.assert_allclose(data, ((image.astype(np.float64) - MEAN) / STD).transpose(2, 0, 1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(labels, mask)


def test_evaluation_pads_a_small_picture_below_and_to_the_right() -> None:
    image, mask = _pair(23, 31)
    data, labels = _augmentation(crop=40)(image, mask)
    assert data.shape == (3, 40, 40) and labels.shape == (40, 40)
    np.testing.assert_array_equal(labels[:23, :31], mask)
    np.testing.assert_allclose(_pixels(data)[:23, :31], image, atol=1e-4)
    assert (labels[23:] == 255).all() and (labels[:, 31:] == 255).all()
    assert not data[:, 23:].any() and not data[:, :, 31:].any()


def test_evaluation_makes_a_large_picture_fit() -> None:
    image, mask = _pair(60, 100)
    data, labels = _augmentation(crop=50)(image, mask)
    assert set(np.unique(labels[:30])) == set(range(15)) and (labels[30:] == 255).all()
    np.testing.assert_array_equal(labels[:30], mask[::2, ::2])
    inside = (labels[:30] == mask[1::2, 1::2])
    assert np.abs(_pixels(data)[:30][inside][:, 0] / 10 - labels[:30][inside]).mean() < 0.5


@pytest.mark.parametrize("scales", [(0.5, 0.6), (1.0, 1.0), (1.5, 2.0)])
@pytest.mark.parametrize("flip", [False, True])
def test_picture_and_mask_stay_together(scales: Tuple[float, float], flip: bool) -> None:
    image, mask = _pair(60, 100)
    seen = set()
    for seed in range(20):
        data, labels = _augmentation(crop=64, scales=scales, flip=flip)(image, mask, np.random.default_rng(seed))
        assert data.shape == (3, 64, 64) and labels.shape == (64, 64)
        assert set(np.unique(labels)) <= {*range(15), 255}
        inside = labels != 255
        difference = np.abs(_pixels(data)[..., 0] / 10 - labels)[inside]
        # Blocks agree but at their borders, where the picture is smoothed and the mask is not.
        assert np.median(difference) < 1e-4 and (difference < 0.5).mean() > 0.75
        assert not data[:, ~inside].any()
        seen.add(labels.tobytes())
    assert len(seen) > 10 or scales == (1.0, 1.0)


def test_the_scale_is_in_the_range_given() -> None:
    image, mask = np.zeros((50, 50, 3), np.uint8), np.zeros((50, 50), np.uint8)
    augment = _augmentation(crop=120, scales=(0.5, 2.0))
    sides = [int((augment(image, mask, np.random.default_rng(seed))[1][0] == 0).sum()) for seed in range(200)]
    assert 25 <= min(sides) < 30 and 95 < max(sides) <= 100 and abs(np.mean(sides) - 62.5) < 5


def test_the_crop_is_anywhere() -> None:
    image, mask = _pair(60, 100)
    augment = _augmentation(crop=10, scales=(1.0, 1.0))
    seen = [augment(image, mask, np.random.default_rng(seed))[1] for seed in range(300)]
    assert {int(labels[0, 0]) for labels in seen} == set(range(15))
    assert {int(labels[-1, -1]) for labels in seen} == set(range(15))


def test_half_of_the_pictures_are_mirrored() -> None:
    image, mask = _pair(12, 20)
    augment = _augmentation(crop=20, flip=True)
    mirrored = 0
    for seed in range(100):
        data, labels = augment(image, mask, np.random.default_rng(seed))
        wanted = mask[:, ::-1] if labels[0, 0] == mask[0, -1] else mask
        mirrored += wanted is not mask
        np.testing.assert_array_equal(labels[:12], wanted)
        np.testing.assert_allclose(_pixels(data)[:12, :, 0], 10 * wanted, atol=1e-4)
    assert 30 < mirrored < 70


def test_jitter_changes_colours_within_its_bounds_and_no_label() -> None:
    image, mask = np.full((8, 8, 3), 100, np.uint8), _pair(8, 8)[1]
    greys = []
    for seed in range(100):
        data, labels = _augmentation(jitter=0.2)(image, mask, np.random.default_rng(seed))
        np.testing.assert_array_equal(labels, mask)
        # Of a grey picture contrast and saturation leave all as it is.
        pixels = _pixels(data)
        assert np.ptp(pixels) < 1e-3
        greys.append(pixels.mean())
    assert 79.9 < min(greys) < 85 and 115 < max(greys) < 120.1
    coloured = _pixels(_augmentation(jitter=0.9)(*_pair(20, 20), np.random.default_rng(3))[0])
    assert coloured.min() >= -1e-3 and coloured.max() <= 255.001


def test_saturation_and_contrast_of_a_pixel() -> None:
    from dso_nas.data.segmentation.augmentation import _jittered

    pixels = np.array([[[200.0, 0, 0], [0, 100, 50]]], np.float32)
    grey = np.array([0.299 * 200, 0.587 * 100 + 0.114 * 50])
    without = _jittered(pixels, np.array([1, 1, 0], np.float32))
    np.testing.assert_allclose(without[0], np.stack([grey] * 3, 1), rtol=1e-5)
    np.testing.assert_allclose(_jittered(pixels, np.array([1, 0, 1], np.float32)), grey.mean(), rtol=1e-5)
    np.testing.assert_allclose(_jittered(pixels, np.array([0.5, 1, 1], np.float32)), pixels / 2, rtol=1e-4, atol=1e-4)


def test_randomness_comes_from_the_generator_alone() -> None:
    augment, pair = _augmentation(crop=16, scales=(0.5, 2.0), flip=True, jitter=0.3), _pair(30, 30)
    first, again, other = (augment(*pair, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[0], again[0])
    assert not np.array_equal(first[0], other[0])
    with pytest.raises(ValueError, match="needs a generator"):
        augment(*pair)
