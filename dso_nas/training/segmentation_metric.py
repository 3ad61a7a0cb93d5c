"""How well masks are predicted: mIoU and pixel accuracy; and predictions averaged over scales and mirror images."""

from __future__ import annotations

from typing import Callable, Iterator, List, Optional, Protocol, Sequence, Tuple, TypedDict

import numpy as np

from dso_nas.errors import UserError

NetworkCall = Callable[[np.ndarray], np.ndarray]
IGNORED = 255


class Masks(Protocol):
    """What has a mask for each index, as the sets of dso_nas.data.segmentation do."""

    def __len__(self) -> int:
        """The number of masks."""

    def mask(self, index: int) -> np.ndarray:
        """Labels or 255, (height, width)."""


class SegmentationValues(TypedDict):
    """What `SegmentationMetric.values` gives: fractions; a class that occurs nowhere has no IoU."""

    miou: float
    pixel_accuracy: float
    class_iou: List[Optional[float]]


class SegmentationMetric:
    """Intersection over union, and the share of right pixels, over all pictures seen.

    A class's IoU is the pixels that are its own in truth and prediction, over those that are in either, summed over
    all pictures first. Pixels of label 255 count nowhere. A class that occurs in neither is left out of the mean
    (GluonCV's metric would count it as 0).
    """

    def __init__(self, classes: int) -> None:
        """Nothing is seen yet; `classes` counts the background."""
        self._classes = classes
        self._confusion = np.zeros((classes, classes), np.int64)

    @property
    def confusion(self) -> np.ndarray:
        """int64 (classes, classes): pixels by true label (row) and predicted label (column)."""
        return self._confusion

    def update(self, predictions: np.ndarray, masks: np.ndarray) -> None:
        """Count a batch.

        Args:
            predictions: labels below `classes`, whole numbers of any type, (batch, height, width).
            masks: labels below `classes` or 255, likewise.

        Raises:
            ValueError: another shape, or a label out of range.
        """
        if predictions.shape != masks.shape:
            raise ValueError(f"predictions are {predictions.shape}, masks {masks.shape}")
        truths, counted = masks.astype(np.int64), masks != IGNORED
        places = truths[counted], predictions.astype(np.int64)[counted]
        for name, labels in zip(("mask", "prediction"), places):
            if labels.size and not 0 <= labels.min() <= labels.max() < self._classes:
                raise ValueError(f"a {name} holds {labels.min()} to {labels.max()}, not 0 to {self._classes - 1}")
        flat = np.bincount(places[0] * self._classes + places[1], minlength=self._classes**2)
        self._confusion += flat.reshape(self._confusion.shape)

    def class_iou(self) -> np.ndarray:
        """float64 (classes,): IoU of each class, NaN for one that occurs in neither truth nor prediction."""
        right = np.diag(self._confusion)
        either = self._confusion.sum(axis=0) + self._confusion.sum(axis=1) - right
        return np.divide(right, either, out=np.full(self._classes, np.nan), where=either > 0)

    def values(self) -> SegmentationValues:
        """The mean IoU, the pixel accuracy, and the IoU of each class (None for one that occurs nowhere).

        Raises:
            UserError: no pixel was counted.
        """
        total = int(self._confusion.sum())
        if not total:
            raise UserError("the pictures to evaluate have no labelled pixel: every mask is 255; put the original "
                            "masks back")
        iou = self.class_iou()
        return {"miou": float(np.nanmean(iou)), "pixel_accuracy": float(np.trace(self._confusion) / total),
                "class_iou": [None if np.isnan(value) else float(value) for value in iou]}


def background_only(pictures: Masks, classes: int) -> float:
    """The mIoU of predicting the background everywhere.

    Raises:
        UserError: a mask is damaged, or no pixel has a label.
    """
    metric = SegmentationMetric(classes)
    for index in range(len(pictures)):
        mask = pictures.mask(index)
        metric.update(np.zeros_like(mask), mask)
    return metric.values()["miou"]


def multi_scale_probabilities(network_call: NetworkCall, data: np.ndarray, scales: Sequence[float], flip: bool,
                              crop: Optional[int]) -> np.ndarray:
    """Class probabilities averaged over scales and mirror images, as DeepLab v3 and GluonCV evaluate.

    The pictures are scaled bilinearly, and the probabilities back. What is larger than the crop is covered by windows a
    third of which overlap, and their mean is taken; what is smaller is padded with 0.

    Args:
        network_call: gives probabilities, (batch, classes, h, w), of an input, float32 (batch, 3, h, w).
        data: normalised pictures, float32 (batch, 3, height, width).
        scales: factors for both sides.
        flip: average with the mirrored picture's probabilities, mirrored back.
        crop: side of what the network takes; None if it takes any size.

    Returns:
        float32 (batch, classes, height, width).
    """
    height, width = data.shape[2:]
    total: Optional[np.ndarray] = None
    for scale in scales:
        sized = resize_bilinear(data, max(1, round(height * scale)), max(1, round(width * scale)))
        probabilities = resize_bilinear(_both_ways(network_call, sized, flip, crop), height, width)
        total = probabilities if total is None else total + probabilities
    if total is None:
        raise ValueError("no scale to evaluate at")
    return total / np.float32(len(scales))


def _both_ways(network_call: NetworkCall, data: np.ndarray, flip: bool, crop: Optional[int]) -> np.ndarray:
    probabilities = _windowed(network_call, data, crop)
    if not flip:
        return probabilities
    mirrored = _windowed(network_call, np.ascontiguousarray(data[..., ::-1]), crop)
    return (probabilities + mirrored[..., ::-1]) / 2


def _windowed(network_call: NetworkCall, data: np.ndarray, crop: Optional[int]) -> np.ndarray:
    """The network over the whole of data, window by window where that is larger than the crop."""
    if crop is None:
        return network_call(data)
    height, width = data.shape[2:]
    below, right = max(crop - height, 0), max(crop - width, 0)
    padded = np.pad(data, ((0, 0), (0, 0), (0, below), (0, right)))
    total, seen = np.zeros(1, np.float32), np.zeros(padded.shape[2:], np.float32)
    for rows, columns in _windows(padded.shape[2], padded.shape[3], crop):
        probabilities = network_call(np.ascontiguousarray(padded[:, :, rows, columns]))
        if total.ndim == 1:
            total = np.zeros((*probabilities.shape[:2], *padded.shape[2:]), np.float32)
        total[:, :, rows, columns] += probabilities
        seen[rows, columns] += 1
    return (total / seen)[:, :, :height, :width]


def _windows(height: int, width: int, crop: int) -> Iterator[Tuple[slice, slice]]:
    for top in _starts(height, crop):
        for left in _starts(width, crop):
            yield slice(top, top + crop), slice(left, left + crop)


def _starts(length: int, crop: int) -> List[int]:
    """Where windows begin: every two thirds of the crop, the last at the end."""
    stride = max(1, -(-2 * crop // 3))
    count = -(-(length - crop) // stride) + 1
    return [min(number * stride, length - crop) for number in range(count)]


def resize_bilinear(data: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear between pixel centres, without smoothing when made smaller: (..., h, w) to (..., height, width)."""
    if data.shape[-2:] == (height, width):
        return data
    return _interpolated(_interpolated(data, height, -2), width, -1)


def _interpolated(data: np.ndarray, length: int, axis: int) -> np.ndarray:
    before = data.shape[axis]
    centres = np.clip((np.arange(length) + 0.5) * before / length - 0.5, 0, before - 1)
    first = np.floor(centres).astype(np.int64)
    share = (centres - first).astype(np.float32)
    if axis == -2:
        share = share[:, None]
    last = np.minimum(first + 1, before - 1)
    return data.take(first, axis) * (1 - share) + data.take(last, axis) * share
