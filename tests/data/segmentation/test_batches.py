from __future__ import annotations

from typing import Any, List

import numpy as np
import pytest

from dso_nas.data.segmentation import SegmentationAugmentation, SegmentationBatches, SegmentationSet
from dso_nas.data.segmentation.sets import ArrayPictures
from dso_nas.errors import UserError

PLAIN = SegmentationAugmentation(np.zeros(3, np.float32), np.ones(3, np.float32))
RANDOM = SegmentationAugmentation(np.zeros(3, np.float32), np.ones(3, np.float32), 6, (0.5, 2.0), True, 0.1)


def _numbered(count: int) -> ArrayPictures:
    numbers = np.arange(count, dtype=np.uint8)[:, None, None]
    masks = np.broadcast_to(numbers, (count, 8, 8)).copy()
    return ArrayPictures(np.repeat(masks[..., None], 3, axis=3), masks)



def _batches(pictures: SegmentationSet, augmentation: SegmentationAugmentation = PLAIN, **options: Any) -> Any:
    return SegmentationBatches(pictures, 4, augmentation, **{"seed": 7, "stream": "weights", **options})


def _assert_same(first: List[Any], second: List[Any]) -> None:
    assert len(first) == len(second) > 0
    for (data, masks), (other_data, other_masks) in zip(first, second):
        np.testing.assert_array_equal(data, other_data)
        np.testing.assert_array_equal(masks, other_masks)


def test_every_picture_comes_once_with_its_mask() -> None:
    batches = list(_batches(_numbered(18), last="keep").epoch(0))
    assert [len(data) for data, _ in batches] == [4, 4, 4, 4, 2]
    seen = []
    for data, masks in batches:
        assert data.dtype == masks.dtype == np.float32 and data.shape[1:] == (3, 8, 8) and masks.shape[1:] == (8, 8)
        assert (data == masks[:, None]).all()
        seen += masks[:, 0, 0].tolist()
    assert sorted(seen) == list(range(18)) != seen


def test_stored_order_and_whole_batches() -> None:
    batches = _batches(_numbered(18), shuffle=False)
    assert len(batches) == 4
    assert [mask[0, 0] for _, masks in batches.epoch(3) for mask in masks] == list(range(16))


def test_a_batch_depends_on_seed_stream_epoch_and_place_alone() -> None:
    pictures = _numbered(24)
    whole = list(_batches(pictures, RANDOM).epoch(2))
    _assert_same(whole, list(_batches(pictures, RANDOM).epoch(2)))
    _assert_same(whole[3:], list(_batches(pictures, RANDOM).epoch(2, start=3)))
    for other in (_batches(pictures, RANDOM).epoch(1), _batches(pictures, RANDOM, seed=8).epoch(2),
                  _batches(pictures, RANDOM, stream="lambdas").epoch(2)):
        assert not np.array_equal(np.concatenate([data for data, _ in other]),
                                  np.concatenate([data for data, _ in whole]))


def test_several_threads_make_the_same() -> None:
    pictures = _numbered(60)
    one, several = _batches(pictures, RANDOM), _batches(pictures, RANDOM)
    several.threads = 4
    assert one.threads == 1
    _assert_same(list(one.epoch(0)), list(several.epoch(0)))


def test_what_fails_in_a_thread_is_raised_in_its_place() -> None:
    class Damaged(ArrayPictures):
        def read(self, index: int) -> Any:
            if index == 9:
                raise UserError("9.png: cannot be read")
            return super().read(index)

    pictures = _numbered(20)
    epoch = _batches(Damaged(pictures.images, pictures.masks), shuffle=False).epoch(0)
    assert [len(next(epoch)[0]) for _ in range(2)] == [4, 4]
    with pytest.raises(UserError, match="9.png"):
        next(epoch)


def test_pictures_in_memory_divide_by_their_largest_class() -> None:
    masks = np.zeros((3, 4, 4), np.uint8)
    masks[0, 0], masks[0, 1, :2], masks[1, :3], masks[1, 3] = 5, 7, 255, 2
    pictures = ArrayPictures(np.zeros((3, 4, 4, 3), np.uint8), masks)
    assert pictures.labels.tolist() == [5, 2, 0] and pictures.labels.dtype == np.int32
    assert len(pictures.subset(np.array([2, 0]))) == 2
    np.testing.assert_array_equal(pictures.subset(np.array([2, 0])).mask(1), masks[0])


def test_arrays_that_do_not_fit_together() -> None:
    with pytest.raises(ValueError, match="images are uint8"):
        ArrayPictures(np.zeros((3, 4, 4, 3), np.uint8), np.zeros((3, 4, 5), np.uint8))


def test_too_few_pictures() -> None:
    with pytest.raises(UserError, match="--batch-size 4: only 3 images for 'weights'"):
        _batches(_numbered(3))
