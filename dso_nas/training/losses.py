"""Losses as functions of (outputs, labels) that give one number per image."""

from __future__ import annotations

from typing import Any, List, Optional, Sequence, Tuple

import mxnet as mx
import numpy as np

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


class Loss:
    """A loss for each image of a batch, and what counts as an error in it.

    Outputs are logits, or a pair with the auxiliary head's, whose loss counts `auxiliary_weight` times. All is computed
    in float32, of float16 logits too.
    """

    def __init__(self, auxiliary_weight: float = 0.0) -> None:
        self._auxiliary_weight = auxiliary_weight

    def __call__(self, outputs: Any, labels: Any) -> Any:
        """Loss per image, (B,)."""
        if not isinstance(outputs, (list, tuple)):
            return self.of(_single(outputs), labels)
        main, auxiliary = (self.of(_single(logits), labels) for logits in outputs)
        return main + self._auxiliary_weight * auxiliary

    def gradients(self, outputs: Sequence[Any], labels: Any, scale: Optional[float] = None) -> Tuple[Any, List[Any]]:
        """Loss per image, (B,), and the gradient of the sum of them, times `scale`, for each of a network's outputs."""
        heads = [output.detach() for output in outputs]
        for head in heads:
            head.attach_grad()
        with mx.autograd.record():
            losses = self(heads if len(heads) > 1 else heads[0], labels)
        losses.backward(None if scale is None else mx.nd.full(losses.shape, scale, losses.context, losses.dtype))
        return losses, [head.grad for head in heads]

    def of(self, logits: Any, labels: Any) -> Any:
        """Loss per image, (B,), of one head's logits."""
        raise NotImplementedError

    def errors(self, outputs: Any, labels: Any) -> Any:
        """The sum over images of how wrong each is, from 0 to 1; auxiliary outputs are ignored."""
        raise NotImplementedError


class ClassificationLoss(Loss):
    """Softmax cross entropy; an image is wrong whose largest logit is not its label's."""

    def __init__(self, smoothing: float = 0.0, auxiliary_weight: float = 0.0) -> None:
        super().__init__(auxiliary_weight)
        self._smoothing = smoothing

    def of(self, logits: Any, labels: Any) -> Any:
        """See Loss."""
        return softmax_cross_entropy(logits, labels, self._smoothing)

    def errors(self, outputs: Any, labels: Any) -> Any:
        """See Loss."""
        return (_single(main_output(outputs)).argmax(axis=1) != labels).sum()


class SegmentationLoss(Loss):
    """Softmax cross entropy of every pixel, a picture's mean over those that are not ignored (label 255).

    Logits are (B, classes, H, W), labels (B, H, W). The loss is 0, and nothing wrong, where all pixels are ignored;
    a picture is as wrong as the share of its other pixels that are.
    """

    def of(self, logits: Any, labels: Any) -> Any:
        """See Loss."""
        known = labels != IGNORED
        picked = mx.nd.pick(mx.nd.log_softmax(logits, axis=1), labels * known, axis=1)
        return -_pixel_means(picked, known)

    def errors(self, outputs: Any, labels: Any) -> Any:
        """See Loss."""
        return _pixel_means(_single(main_output(outputs)).argmax(axis=1) != labels, labels != IGNORED).sum()


def main_output(outputs: Any) -> Any:
    """A network's own logits, without the auxiliary head's."""
    return outputs[0] if isinstance(outputs, (list, tuple)) else outputs


def _single(logits: Any) -> Any:
    """Logits of float16 in float32; the same array if they are of another type."""
    return mx.nd.cast(logits, "float32") if logits.dtype == np.float16 else logits


def _pixel_means(values: Any, known: Any) -> Any:
    """Each picture's mean (B,) of values (B, H, W) over its known pixels."""
    return (values * known).sum(axis=(1, 2)) / mx.nd.maximum(known.sum(axis=(1, 2)), 1)
