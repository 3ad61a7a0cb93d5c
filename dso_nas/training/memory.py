"""Forward and backward through a chain of segments, with or without keeping what is inside them.

Memory mirroring (the paper's "GPU memory-saving technique", section 4.1): a group of segments runs once without being
recorded, only its input is kept, and in the backward pass it runs again, recorded, from the last group to the first.
Which groups there are is planned in `dso_nas.architecture.memory_plan`.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import mxnet as mx
from mxnet import autograd
from mxnet.gluon import HybridBlock

from dso_nas.architecture.memory_plan import Group, block_groups

__all__ = ["Group", "block_groups", "forward_backward", "mirrored_forward_backward"]

Loss = Callable[[Any, Any], Any]


def forward_backward(network: Any, data: Any, labels: Any, loss: Loss, paths: Optional[Any] = None,
                     scale: Optional[float] = None) -> Tuple[Any, Any]:
    """Keep everything: (outputs, loss per image); gradients are written or added as each parameter asks.

    They are the gradients of the sum of the losses, `scale` times.
    """
    with autograd.record():
        outputs = network(data) if paths is None else network(data, paths)
        losses = loss(outputs, labels)
    losses.backward(_head(losses, scale))
    return outputs, losses


def mirrored_forward_backward(network: Any, data: Any, labels: Any, loss: Loss, groups: Sequence[Group],
                              wanted: Sequence[bool], scale: Optional[float] = None) -> Tuple[Any, Any]:
    """Keep each group's input only; the same numbers as `forward_backward`.

    `groups` are ranges over the segments from the first on, in order; what is behind the last one (the head at least)
    is kept and runs once. `wanted` says of each segment whether any parameter of it gets a gradient: groups before the
    first such one are not run again. A parameter that several groups read must add its gradients up
    (`grad_req='add'`). Segments must not draw random numbers.
    """
    if not groups:
        return forward_backward(network, data, labels, loss, scale=scale)
    segments, mirrored = network.segments, groups[-1][1]
    inputs: List[Any] = []
    x = data
    saved = _gpu_statistics(segments[:mirrored], data.context)
    with autograd.train_mode():
        for start, stop in groups:
            inputs.append(x)
            x = _run(segments[start:stop], x)
    for array, value in saved:
        array[:] = value
    x = x.detach()
    x.attach_grad()
    with autograd.record():
        outputs = _run(segments[mirrored:], x)
        losses = loss(outputs, labels)
    losses.backward(_head(losses, scale))
    _backward_through(segments, groups, inputs, x.grad, list(wanted).index(True))
    return outputs, losses


def _head(losses: Any, scale: Optional[float]) -> Optional[Any]:
    """The gradient that the backward pass begins with; None stands for ones."""
    return None if scale is None else mx.nd.full(losses.shape, scale, ctx=losses.context, dtype=losses.dtype)


def _backward_through(segments: Sequence[HybridBlock], groups: Sequence[Group], inputs: List[Any], gradient: Any,
                      first: int) -> None:
    """Run the groups again from the last to the one that holds segment `first`, passing the gradient down."""
    for start, stop in reversed(groups):
        x = inputs.pop().detach()
        if stop <= first:
            return
        if start > first:
            x.attach_grad()
        with autograd.record():
            outputs = _run(segments[start:stop], x)
        outputs.backward(gradient)
        gradient = x.grad


def _run(segments: Sequence[HybridBlock], x: Any) -> Any:
    for segment in segments:
        x = segment(x)
    return x


def _gpu_statistics(segments: Sequence[HybridBlock], context: mx.Context) -> List[Tuple[Any, Any]]:
    """Copies of the running statistics, on a GPU: cuDNN updates them in forward, so running twice would count twice."""
    if context.device_type != "gpu":
        return []
    found: Dict[str, Any] = {}
    for segment in segments:
        for name, parameter in segment.collect_params(".*running_(mean|var)").items():
            found[name] = parameter.data(context)
    return [(array, array.copy()) for array in found.values()]
