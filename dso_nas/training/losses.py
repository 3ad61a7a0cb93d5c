"""Losses as functions of (outputs, labels) that give one number per image."""

from __future__ import annotations

from typing import Any

import mxnet as mx

IGNORED = 255


def softmax_cross_entropy(logits: Any, labels: Any, smoothing: float = 0.0) -> Any:
    """Cross entropy (B,) of logits (B, classes) with labels (B,), `smoothing` of the label going to the other classes.

    The gradient equals that of MXNet's SoftmaxOutput with smooth_alpha: the label keeps 1 - smoothing, every other
    class gets smoothing / (classes - 1).
    """
    log_probabilities = mx.nd.log_softmax(logits)
    picked = mx.nd.pick(log_probabilities, labels)
    if not smoothing:
        return -picked
    others = log_probabilities.sum(axis=1) - picked
    return -(1 - smoothing) * picked - smoothing / (logits.shape[1] - 1) * others


class ClassificationLoss:
    """Softmax cross entropy, plus `auxiliary_weight` times that of the auxiliary head where outputs are a pair."""

    def __init__(self, smoothing: float = 0.0, auxiliary_weight: float = 0.0) -> None:
        self._smoothing = smoothing
        self._auxiliary_weight = auxiliary_weight

    def __call__(self, outputs: Any, labels: Any) -> Any:
        """Loss per image, (B,)."""
        if not isinstance(outputs, (list, tuple)):
            return softmax_cross_entropy(outputs, labels, self._smoothing)
        main, auxiliary = (softmax_cross_entropy(logits, labels, self._smoothing) for logits in outputs)
        return main + self._auxiliary_weight * auxiliary


class SegmentationLoss:
    """Softmax cross entropy of every pixel, a picture's mean over those that are not ignored (label 255).

    Outputs are logits (B, classes, H, W), or a pair with the auxiliary head's, and labels (B, H, W).
    """

    def __init__(self, auxiliary_weight: float = 0.0) -> None:
        self._auxiliary_weight = auxiliary_weight

    def __call__(self, outputs: Any, labels: Any) -> Any:
        """Loss per picture, (B,); 0 for one whose pixels are all ignored."""
        if not isinstance(outputs, (list, tuple)):
            return _pixel_cross_entropy(outputs, labels)
        main, auxiliary = (_pixel_cross_entropy(logits, labels) for logits in outputs)
        return main + self._auxiliary_weight * auxiliary

    @staticmethod
    def errors(outputs: Any, labels: Any) -> Any:
        """The sum over pictures of the share of their pixels, without the ignored ones, that are wrong."""
        logits = outputs[0] if isinstance(outputs, (list, tuple)) else outputs
        known = labels != IGNORED
        wrong = (logits.argmax(axis=1) != labels) * known
        return (wrong.sum(axis=(1, 2)) / mx.nd.maximum(known.sum(axis=(1, 2)), 1)).sum()


def _pixel_cross_entropy(logits: Any, labels: Any) -> Any:
    known = labels != IGNORED
    picked = mx.nd.pick(mx.nd.log_softmax(logits, axis=1), labels * known, axis=1)
    return -(picked * known).sum(axis=(1, 2)) / mx.nd.maximum(known.sum(axis=(1, 2)), 1)
