"""Losses as functions of (outputs, labels) that give one number per image."""

from __future__ import annotations

from typing import Any

import mxnet as mx


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
