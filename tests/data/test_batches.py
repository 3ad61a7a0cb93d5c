from __future__ import annotations

import gc
import threading
from typing import Any, List

import numpy as np
import pytest

from dso_nas.data.arrays import ImageArrays
from dso_nas.data.augmentation import Augmentation
from dso_nas.data.batches import Batches, made_ahead
from dso_nas.errors import UserError
from tests.data.builders import random_images

PLAIN = Augmentation(np.zeros(3, np.float32), np.ones(3, np.float32))
RANDOM = Augmentation(np.zeros(3, np.float32), np.ones(3, np.float32), pad=2, flip=True, cutout=3)


def _numbered(count: int) -> ImageArrays:
    """Images that show their own number."""
    numbers = np.arange(count, dtype=np.int32)
    return ImageArrays(
        np.broadcast_to(numbers[:, None, None, None], (count, 8, 8, 3)).astype(np.uint8), numbers
    )


def _batches(count: int = 25, size: int = 4, augmentation: Augmentation = PLAIN, **options: Any) -> Batches:
    options = {"seed": 7, "stream": "weights", **options}
    return Batches(_numbered(count), size, augmentation, **options)


def _labels(batches: Batches, epoch: int) -> List[float]:
    return [label for _, labels in batches.epoch(epoch) for label in labels.tolist()]


def _assert_same(first: Any, second: Any) -> None:
    first, second = list(first), list(second)
    assert len(first) == len(second)
    for (data, labels), (other_data, other_labels) in zip(first, second):
        np.testing.assert_array_equal(data, other_data)
        np.testing.assert_array_equal(labels, other_labels)


def test_a_batch_is_a_networks_input() -> None:
    data, labels = next(_batches(augmentation=RANDOM).epoch(0))
    assert data.dtype == labels.dtype == np.float32 and data.shape == (4, 3, 8, 8) and labels.shape == (4,)


def test_every_image_comes_once_with_its_label() -> None:
    batches = _batches(last="keep")
    pairs = [(data, label) for datas, labels in batches.epoch(0) for data, label in zip(datas, labels)]
    assert sorted(label for _, label in pairs) == list(range(25))
    assert all((data == label).all() for data, label in pairs)


def test_an_incomplete_last_batch_is_kept_or_not() -> None:
    kept, discarded = _batches(last="keep"), _batches()
    assert [len(labels) for _, labels in kept.epoch(0)] == [4] * 6 + [1] and len(kept) == 7
    assert [len(labels) for _, labels in discarded.epoch(0)] == [4] * 6 and len(discarded) == 6
    assert len(_batches(count=24, last="keep")) == 6


def test_order_changes_with_epoch_seed_and_stream_and_nothing_else() -> None:
    order = _labels(_batches(), 0)
    assert order == _labels(_batches(), 0) != sorted(order)
    for other in (
        _labels(_batches(), 1),
        _labels(_batches(seed=8), 0),
        _labels(_batches(stream="lambdas"), 0),
    ):
        assert other != order


def test_epochs_do_not_depend_on_those_before() -> None:
    used = _batches(augmentation=RANDOM)
    for epoch in range(3):
        list(used.epoch(epoch))
    _assert_same(used.epoch(3), _batches(augmentation=RANDOM).epoch(3))


@pytest.mark.parametrize("start", range(8))
def test_an_epoch_resumes_at_any_batch(start: int) -> None:
    batches = _batches(augmentation=RANDOM, last="keep")
    _assert_same(list(batches.epoch(2))[start:], batches.epoch(2, start))


def test_augmentation_differs_from_batch_to_batch_and_epoch_to_epoch() -> None:
    arrays = ImageArrays(np.repeat(random_images(1, size=8).images, 8, axis=0), np.zeros(8, np.int32))
    batches = Batches(arrays, 4, RANDOM, seed=0, stream="s", shuffle=False)
    seen = [data for epoch in (0, 1) for data, _ in batches.epoch(epoch)]
    for number, data in enumerate(seen):
        assert all((data != other).any() for other in seen[number + 1 :])


def test_without_shuffle_the_stored_order_is_kept() -> None:
    assert _labels(_batches(shuffle=False), 3) == list(range(24))


def test_too_few_images_are_named() -> None:
    with pytest.raises(UserError, match="--batch-size 26.*25 images for 'weights'"):
        _batches(size=26)
    assert len(_batches(size=26, last="keep")) == 1
    with pytest.raises(UserError):
        _batches(count=0, last="keep")
    with pytest.raises(ValueError, match="last"):
        _batches(last="drop")


@pytest.fixture
def no_new_threads() -> Any:
    before = set(threading.enumerate())
    yield
    gc.collect()
    assert set(threading.enumerate()) == before


@pytest.mark.parametrize("taken", [0, 1, 3, 100])
@pytest.mark.parametrize("leave", ["close", "forget"])
def test_no_thread_stays_behind(no_new_threads: None, taken: int, leave: str) -> None:
    epoch = _batches(count=500).epoch(0)
    for _ in range(taken):
        next(epoch)
    if leave == "close":
        epoch.close()
    del epoch


def test_a_fault_in_the_thread_reaches_the_consumer_in_its_place(no_new_threads: None) -> None:
    def make(item: int) -> int:
        return 10 // (item - 5)

    made = made_ahead(make, range(20))
    assert [next(made) for _ in range(5)] == [10 // (item - 5) for item in range(5)]
    with pytest.raises(ZeroDivisionError):
        next(made)


def test_only_a_few_items_are_made_ahead(no_new_threads: None) -> None:
    made: List[int] = []
    source = made_ahead(lambda item: made.append(item) or item, range(1000))
    assert [next(source), next(source)] == [0, 1]
    source.close()
    assert made == list(range(len(made))) and len(made) < 8


def test_a_consumer_that_leaves_waits_for_one_item_at_most(no_new_threads: None) -> None:
    made: List[int] = []
    reached, gate = threading.Event(), threading.Event()

    def make(item: int) -> int:
        if item == 2:
            reached.set()
            gate.wait()
        made.append(item)
        return item

    source = made_ahead(make, range(1000))
    assert [next(source), next(source)] == [0, 1] and reached.wait(10)
    opener = threading.Timer(0.3, gate.set)
    opener.start()
    source.close()
    opener.join()
    assert made == [0, 1, 2]


def test_batches_are_made_in_another_thread() -> None:
    threads = set(made_ahead(lambda item: threading.get_ident(), range(3)))
    assert len(threads) == 1 and threading.get_ident() not in threads
