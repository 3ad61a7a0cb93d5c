"""The frame every network stands in: stem, units, head, as a chain of segments.

A segment is a HybridBlock from one feature map to the next. Training walks the chain itself, so that it can throw a
segment's insides away and compute them again (`dso_nas.training.memory`); calling the network walks it in one go, and
tracing it with a Symbol gives the whole graph.
"""

from __future__ import annotations

from typing import Any, List, Optional, Sequence, Tuple

import mxnet as mx
from mxnet.gluon import HybridBlock, nn

from dso_nas.architecture.topology import NetworkSpec
from dso_nas.networks.operations import batch_norm, convolution, global_average, relu


class Stem(HybridBlock):
    """(B, 3, H, W) -> first stage's input.

    CIFAR: conv0 3x3, bn0, ReLU. ImageNet: conv0 3x3/2 of half the width, bn0, ReLU, conv1 3x3/2, bn1, ReLU.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__(prefix="")
        self._layers: List[Tuple[HybridBlock, HybridBlock]] = []
        channels = spec.image_shape[0]
        for index, width in enumerate(spec.stem_widths):
            conv = convolution(width, channels, 3, f"conv{index}", spec.stem_stride)
            bn = batch_norm(width, f"bn{index}")
            self.register_child(conv, f"conv{index}")
            self.register_child(bn, f"bn{index}")
            self._layers.append((conv, bn))
            channels = width

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """See the class."""
        for conv, bn in self._layers:
            x = relu(F, bn(conv(x)))
        return x


class Head(HybridBlock):
    """final_bn, ReLU, global average pool, dropout, fc1: (B, C, H, W) -> logits (B, classes)."""

    def __init__(self, channels: int, classes: int, dropout: float = 0.0) -> None:
        super().__init__(prefix="")
        self._dropout = dropout
        self.bn = batch_norm(channels, "final_bn")
        self.fc1 = nn.Dense(classes, in_units=channels, prefix="fc1_")

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """See the class."""
        x = global_average(F, relu(F, self.bn(x)))
        if self._dropout:
            x = F.Dropout(x, p=self._dropout)
        return self.fc1(x)


class Network(HybridBlock):
    """Stem, `units` and `head` of `spec` in a chain: (B, channels, H, W) -> logits.

    Without `stem` and `head` they are the normal space's stem and classifier, and logits are (B, classes).
    `auxiliary` is a head on the input of the unit at `auxiliary_at` (behind the last: of the head); a call then returns
    (logits, auxiliary logits). `units` that take drop-path multipliers say how many in `num_paths`.
    """

    def __init__(self, spec: Any, units: Sequence[HybridBlock], head: Optional[HybridBlock] = None,
                 auxiliary: Optional[HybridBlock] = None, auxiliary_at: int = 0,
                 stem: Optional[HybridBlock] = None) -> None:
        super().__init__(prefix="")
        self.spec = spec
        self.stem = Stem(spec) if stem is None else stem
        self.units = list(units)
        for unit in self.units:
            self.register_child(unit, unit.unit.name)
        self.head = Head(spec.widths[-1], spec.classes) if head is None else head
        self.auxiliary = auxiliary
        self.auxiliary_at = auxiliary_at

    @property
    def segments(self) -> Tuple[HybridBlock, ...]:
        """The chain without the auxiliary head: stem, units, head."""
        return (self.stem, *self.units, self.head)

    @property
    def num_paths(self) -> int:
        """Columns of the drop-path multipliers the network takes."""
        return sum(getattr(unit, "num_paths", 0) for unit in self.units)

    def hybrid_forward(self, F: Any, x: Any, paths: Optional[Any] = None) -> Any:
        """See the class; `paths` is (B, num_paths), without it no path is dropped."""
        auxiliary, start = None, 0
        if paths is None and self.num_paths and isinstance(x, mx.nd.NDArray):
            # A compiled unit takes the same inputs at every call; a traced one goes without the multiplications.
            paths = F.ones((x.shape[0], self.num_paths), ctx=x.context, dtype=x.dtype)
        x = self.stem(x)
        for index, unit in enumerate(self.segments[1:]):
            if self.auxiliary is not None and index == self.auxiliary_at:
                auxiliary = self.auxiliary(x)
            width = 0 if paths is None else getattr(unit, "num_paths", 0)
            if width:
                x = unit(x, F.slice_axis(paths, axis=1, begin=start, end=start + width))
                start += width
            else:
                x = unit(x)
        return x if auxiliary is None else (x, auxiliary)

    def hybridize_segments(self) -> None:
        """Compile every segment by itself (dynamic: static allocation would give each a memory pool of its own)."""
        for segment in self.segments + ((self.auxiliary,) if self.auxiliary is not None else ()):
            segment.hybridize()


class PublishedInitializer(mx.init.Initializer):
    """Convolutions Xavier(gaussian, out, 2), dense weights Normal(0.01), lambdas and scales one, the rest zero."""

    def __init__(self) -> None:
        super().__init__()
        self._conv = mx.init.Xavier(rnd_type="gaussian", factor_type="out", magnitude=2)
        self._dense = mx.init.Normal(0.01)

    def _init_weight(self, name: str, array: Any) -> None:
        (self._dense if array.ndim == 2 else self._conv)._init_weight(name, array)
