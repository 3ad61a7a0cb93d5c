from __future__ import annotations

import numpy as np
import pytest

from dso_nas.data.arrays import ImageArrays, channel_statistics
from tests.data.builders import random_images, small_dataset


def test_statistics_are_those_of_all_pixels() -> None:
    images = random_images(3000, size=4).images
    images[..., 1] //= 3
    mean, std = channel_statistics(images)
    pixels = images.reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(mean, pixels.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(std, pixels.std(axis=0), rtol=1e-6)
    assert mean.dtype == std.dtype == np.float32


def test_a_constant_channel_can_be_divided_by() -> None:
    mean, std = channel_statistics(np.full((2, 4, 4, 3), 7, np.uint8))
    assert mean.tolist() == [7, 7, 7] and std.tolist() == [1, 1, 1]


def test_subset_keeps_the_order_asked_for() -> None:
    arrays = random_images(10)
    part = arrays.subset(np.array([7, 2]))
    assert part.labels.tolist() == [7, 2]
    np.testing.assert_array_equal(part.images, arrays.images[[7, 2]])


def test_joined_puts_parts_one_after_another() -> None:
    first, second = random_images(3), random_images(2, seed=9)
    both = ImageArrays.joined([first, second])
    assert len(both) == 5
    np.testing.assert_array_equal(both.images[3:], second.images)
    assert ImageArrays.joined([first]) is first


def test_image_shape_is_the_networks() -> None:
    assert small_dataset().image_shape == (3, 8, 8)


@pytest.mark.parametrize(
    "images, labels",
    [
        (np.zeros((2, 4, 4, 3), np.float32), np.zeros(2, np.int32)),
        (np.zeros((2, 3, 4, 4), np.uint8), np.zeros(2, np.int32)),
        (np.zeros((2, 4, 4, 3), np.uint8), np.zeros(3, np.int32)),
        (np.zeros((2, 4, 4, 3), np.uint8), np.zeros(2, np.int64)),
    ],
)
def test_other_arrays_are_refused(images: np.ndarray, labels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="not"):
        ImageArrays(images, labels)
