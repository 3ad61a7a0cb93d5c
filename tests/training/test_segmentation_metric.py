from __future__ import annotations

from typing import Any, Dict, List, Optional, Tuple

import mxnet as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dso_nas.errors import UserError
from dso_nas.training.segmentation_metric import (
    SegmentationMetric,
    background_only,
    multi_scale_probabilities,
    resize_bilinear,
)


def _naive(predictions: np.ndarray, masks: np.ndarray, classes: int) -> Tuple[float, float, List[Optional[float]]]:
    """Pixel by pixel, with sets."""
    places: Dict[str, List[set]] = {"truth": [set() for _ in range(classes)], "said": [set() for _ in range(classes)]}
    right = counted = 0
    for place, (said, truth) in enumerate(zip(predictions.ravel().tolist(), masks.ravel().tolist())):
        if truth == 255:
            continue
        places["truth"][int(truth)].add(place)
        places["said"][int(said)].add(place)
        right += said == truth
        counted += 1
    ious = [len(truth & said) / len(truth | said) if truth | said else None
            for truth, said in zip(places["truth"], places["said"])]
    present = [iou for iou in ious if iou is not None]
    return sum(present) / len(present), right / counted, ious


def _random(seed: int, classes: int, shape: Tuple[int, ...] = (3, 9, 11)) -> Tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    masks = rng.integers(0, classes, shape)
    predictions = np.where(rng.random(shape) < 0.6, masks, rng.integers(0, classes, shape))
    return predictions, np.where(rng.random(shape) < 0.1, 255, masks)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(2, 21), st.sampled_from(["int64", "float32", "uint8"]))
def test_it_equals_counting_pixel_by_pixel(seed: int, classes: int, kind: str) -> None:
    predictions, masks = _random(seed, classes)
    metric = SegmentationMetric(classes)
    for part in range(3):
        metric.update(predictions[part : part + 1].astype(kind), masks[part : part + 1].astype(kind))
    miou, accuracy, ious = _naive(predictions, masks, classes)
    values = metric.values()
    assert values["miou"] == pytest.approx(miou, rel=1e-12)
    assert values["pixel_accuracy"] == pytest.approx(accuracy, rel=1e-12)
    assert values["class_iou"] == pytest.approx(ious, rel=1e-12)
    assert metric.confusion.dtype == np.int64 and metric.confusion.sum() == (masks != 255).sum()


def test_it_equals_gluoncvs_where_every_class_occurs() -> None:
    from gluoncv.utils.metrics.segmentation import SegmentationMetric as Theirs

    predictions, masks = _random(4, 6)
    ours, theirs = SegmentationMetric(6), Theirs(6)
    for part in range(3):
        ours.update(predictions[part : part + 1], masks[part : part + 1])
        logits = np.eye(6, dtype=np.float32)[predictions[part : part + 1]].transpose(0, 3, 1, 2)
        theirs.update(mx.nd.array(np.where(masks == 255, -1, masks)[part : part + 1]), mx.nd.array(logits))
    accuracy, miou = theirs.get()
    assert ours.values()["miou"] == pytest.approx(miou, rel=1e-9)
    assert ours.values()["pixel_accuracy"] == pytest.approx(accuracy, rel=1e-9)


def test_by_hand() -> None:
    metric = SegmentationMetric(4)
    metric.update(np.array([[[0, 0, 1], [1, 2, 0]]]), np.array([[[0, 1, 1], [1, 255, 0]]]))
    # Background: 2 of 3. Class 1: 2 of 3. What is said of an ignored pixel is nothing; classes 2 and 3 occur nowhere.
    assert metric.values() == {"miou": pytest.approx(2 / 3), "pixel_accuracy": pytest.approx(4 / 5),
                               "class_iou": [pytest.approx(2 / 3), pytest.approx(2 / 3), None, None]}


@pytest.mark.parametrize("predictions, masks", [
    (np.zeros((1, 2, 2)), np.zeros((1, 2, 3))), (np.full((1, 2, 2), 3), np.zeros((1, 2, 2))),
    (np.zeros((1, 2, 2)), np.full((1, 2, 2), 3)), (np.full((1, 2, 2), -1), np.zeros((1, 2, 2))),
    (np.zeros((1, 2, 2)), np.full((1, 2, 2), -1)),
])
def test_what_cannot_be_counted(predictions: np.ndarray, masks: np.ndarray) -> None:
    with pytest.raises(ValueError):
        SegmentationMetric(3).update(predictions, masks)


def test_nothing_to_count() -> None:
    metric = SegmentationMetric(3)
    metric.update(np.zeros((1, 2, 2)), np.full((1, 2, 2), 255))
    with pytest.raises(UserError, match="no labelled pixel"):
        metric.values()


class _Masks:
    def __init__(self, masks: List[np.ndarray]) -> None:
        self._masks = masks

    def __len__(self) -> int:
        return len(self._masks)

    def mask(self, index: int) -> np.ndarray:
        return self._masks[index]


def test_background_only_has_the_backgrounds_share_over_the_classes() -> None:
    first, second = np.zeros((4, 5), np.uint8), np.zeros((6, 3), np.uint8)
    first[0], second[:, 0], second[0, 1] = 1, 2, 255
    background = (15 + 11) / (20 + 17)
    assert background_only(_Masks([first, second]), 21) == pytest.approx(background / 3)


def _colours(data: np.ndarray) -> np.ndarray:
    """A network that sees each pixel alone."""
    exponents = np.exp(np.stack([data[:, 0], data[:, 1], data.sum(axis=1)], axis=1))
    return (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32)


def _smooth(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    return np.stack([np.sin(rows / 9), np.cos(columns / 11), np.sin((rows + columns) / 13)])[None].repeat(2, 0)


@pytest.mark.parametrize("crop", [None, 20, 33, 64])
@pytest.mark.parametrize("flip", [False, True])
def test_a_network_that_sees_pixels_alone_gives_the_same_in_windows(crop: Optional[int], flip: bool) -> None:
    data = _smooth(33, 47)
    once = multi_scale_probabilities(_colours, data, [1.0], flip, crop)
    assert once.dtype == np.float32 and once.shape == (2, 3, 33, 47)
    np.testing.assert_allclose(once, _colours(data), atol=1e-5)
    several = multi_scale_probabilities(_colours, data, [0.75, 1.0, 1.5], flip, crop)
    np.testing.assert_allclose(several, _colours(data), atol=0.02)
    np.testing.assert_allclose(several.sum(axis=1), 1, atol=1e-5)


def test_mirror_images_are_mirrored_back_and_scales_averaged() -> None:
    seen: List[Any] = []

    def ramp(data: np.ndarray) -> np.ndarray:
        """Probability by column, whatever the picture."""
        seen.append(data)
        columns = np.broadcast_to(np.linspace(0, 1, data.shape[3], dtype=np.float32), (1, *data.shape[2:]))
        return np.stack([columns, 1 - columns], axis=1)

    data = _smooth(8, 10)[:1]
    np.testing.assert_allclose(multi_scale_probabilities(ramp, data, [1.0, 2.0], True, None), 0.5, atol=1e-6)
    assert [call.shape for call in seen] == [(1, 3, 8, 10)] * 2 + [(1, 3, 16, 20)] * 2
    np.testing.assert_array_equal(seen[1], seen[0][..., ::-1])
    plain = multi_scale_probabilities(ramp, data, [1.0], False, None)
    np.testing.assert_allclose(plain[0, 0], np.broadcast_to(np.linspace(0, 1, 10), (8, 10)), atol=1e-6)


def test_windows_have_the_crops_size_and_cover_all() -> None:
    shapes: List[Tuple[int, ...]] = []

    def ones(data: np.ndarray) -> np.ndarray:
        shapes.append(data.shape)
        return np.ones((len(data), 2, *data.shape[2:]), np.float32)

    result = multi_scale_probabilities(ones, _smooth(50, 31), [1.0], False, 30)
    np.testing.assert_allclose(result, 1)
    # Rows begin at 0 and 20, columns at 0 and 1.
    assert shapes == [(2, 3, 30, 30)] * 4


def test_no_scale() -> None:
    with pytest.raises(ValueError, match="no scale"):
        multi_scale_probabilities(_colours, _smooth(8, 8), [], True, None)


@pytest.mark.parametrize("size", [(33, 47), (66, 94), (40, 50), (99, 141)])
def test_bilinear_enlargement_is_pillows(size: Tuple[int, int]) -> None:
    data = np.random.default_rng(0).random((33, 47)).astype(np.float32)
    wanted = np.array(Image.fromarray(data).resize(size[::-1], Image.Resampling.BILINEAR))
    np.testing.assert_allclose(resize_bilinear(data[None], *size)[0], wanted, atol=1e-5)


def test_bilinear_reduction_by_two_is_the_mean_of_four() -> None:
    data = np.random.default_rng(0).random((2, 8, 10)).astype(np.float32)
    np.testing.assert_allclose(resize_bilinear(data, 4, 5), data.reshape(2, 4, 2, 5, 2).mean(axis=(2, 4)), atol=1e-6)
