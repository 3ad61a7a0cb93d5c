"""Networks of the mobile space: MBConv operations, the supernet, and derived networks (paper, Eq. 3-4)."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional, Sequence

import mxnet as mx
from mxnet.gluon import HybridBlock, Parameter, nn

from dso_nas.architecture.mobile import (
    FIRST_OPERATION,
    MOBILE_OPERATIONS,
    MobileLambdas,
    MobileOperation,
    MobileSpec,
    MobileUnit,
)
from dso_nas.architecture.mobile_genotype import MobileGenotype
from dso_nas.networks.blocks import columns, passed_on, total, weighted_total
from dso_nas.networks.network import Network
from dso_nas.networks.operations import batch_norm, convolution, global_average
from dso_nas.training.programs import learns


def relu6(F: Any, x: Any) -> Any:
    """ReLU that ends at 6."""
    return F.clip(x, a_min=0, a_max=6)


class ConvBNReLU6(HybridBlock):
    """Convolution, BatchNorm and, with `activate`, ReLU6: (B, in_channels, H, W) -> (B, channels, H/stride, W/stride).

    `prefix` begins the names of its parameters.
    """

    def __init__(self, channels: int, in_channels: int, kernel: int, prefix: str, stride: int = 1, groups: int = 1,
                 fix_gamma: bool = False, activate: bool = True, bn_prefix: Optional[str] = None) -> None:
        super().__init__(prefix="")
        self._activate = activate
        self.conv = convolution(channels, in_channels, kernel, prefix, stride, groups)
        self.bn = batch_norm(channels, bn_prefix or f"{prefix}_bn", fix_gamma)

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """See the class."""
        x = self.bn(self.conv(x))
        return relu6(F, x) if self._activate else x


class MBConv(HybridBlock):
    """Mobile inverted bottleneck convolution at a unit's place: (B, C, H, W) -> (B, C', H/stride, W/stride).

    1x1 to `expansion` times the channels (not with expansion 1), depthwise kxk, 1x1 to the unit's channels; BatchNorm
    behind each, ReLU6 behind the first two. Parameters are called `{prefix}_expand_...`, `_dw_...`, `_project_...`.
    """

    def __init__(self, unit: MobileUnit, operation: MobileOperation, prefix: str, fix_gamma: bool = False) -> None:
        super().__init__(prefix="")
        hidden = unit.in_channels * operation.expansion
        self.expand = None
        if operation.expansion > 1:
            self.expand = ConvBNReLU6(hidden, unit.in_channels, 1, f"{prefix}_expand", fix_gamma=fix_gamma)
        self.dw = ConvBNReLU6(hidden, hidden, operation.kernel, f"{prefix}_dw", unit.stride, hidden, fix_gamma)
        self.project = ConvBNReLU6(unit.channels, hidden, 1, f"{prefix}_project", fix_gamma=fix_gamma, activate=False)

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """See the class."""
        return self.project(self.dw(x if self.expand is None else self.expand(x)))


class FirstBlock(HybridBlock):
    """The MBConv 3x3 with expansion 1 between stem and groups, which is not searched."""

    def __init__(self, unit: MobileUnit) -> None:
        super().__init__(prefix="")
        self.unit = unit
        self.operation = MBConv(unit, FIRST_OPERATION, unit.name)

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """See MBConv."""
        return self.operation(x)


class MobileBlock(HybridBlock):
    """The sum of the live ones of `operations`, and of the identity where the unit has a shortcut (Eq. 3-4).

    With a parameter `scales` of shape (1, operations) each is multiplied by its lambda (a supernet), without they are
    summed. Without a live operation the block is its shortcut alone. In a supernet BatchNorm scales are fixed at one
    (section 4.1).
    """

    def __init__(self, unit: MobileUnit, operations: Sequence[str], live: Sequence[str],
                 scales: Optional[Parameter] = None) -> None:
        super().__init__(prefix="")
        self.unit = unit
        self._candidates = len(operations)
        self._positions = [position for position, name in enumerate(operations) if name in live]
        self._branches = []
        for position in self._positions:
            name = operations[position]
            branch = MBConv(unit, MOBILE_OPERATIONS[name], f"{unit.name}_{name}", fix_gamma=scales is not None)
            self.register_child(branch, name)
            self._branches.append(branch)
        if scales is not None and self._positions:
            self.scales = scales
            self.params.update({scales.name: scales})

    def hybrid_forward(self, F: Any, x: Any, scales: Optional[Any] = None) -> Any:
        """(B, C, H, W) -> (B, C', H/stride, W/stride), sizes rounded up."""
        if not self._branches:
            return passed_on(F, x)
        branches = [branch(x) for branch in self._branches]
        if scales is None:
            mixed = total(F, branches)
        else:
            row = columns(F, scales.expand_dims(2), self._positions, self._candidates)
            mixed = weighted_total(F, branches, row, learns(self.scales.name))
        return mixed + x if self.unit.shortcut else mixed


class MobileHead(HybridBlock):
    """1x1 feature mix, BatchNorm, ReLU6, global average pool, dropout, fc1: (B, C, H, W) -> logits (B, classes)."""

    def __init__(self, spec: MobileSpec, dropout: float = 0.0) -> None:
        super().__init__(prefix="")
        self._dropout = dropout
        self.mix = ConvBNReLU6(spec.feature_width, spec.widths[-1], 1, "feature_mix")
        self.fc1 = nn.Dense(spec.classes, in_units=spec.feature_width, prefix="fc1_")

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """See the class."""
        x = global_average(F, self.mix(x))
        if self._dropout:
            x = F.Dropout(x, p=self._dropout)
        return self.fc1(x)


class _MobileChain(Network):
    """First convolution, first block, searched blocks, head; `scales` are the lambdas by name, if there are any."""

    def __init__(self, spec: MobileSpec, genotype: MobileGenotype, scales: Mapping[str, Parameter],
                 dropout: float = 0.0) -> None:
        genotype.check_fits(spec)
        blocks = [MobileBlock(unit, spec.operations, genotype.block(unit), scales.get(MobileLambdas.name_of(unit)))
                  for unit in spec.units()]
        stem = ConvBNReLU6(spec.stem_width, spec.image_shape[0], 3, "conv0", stride=2, bn_prefix="bn0")
        super().__init__(spec, [FirstBlock(spec.first_unit), *blocks], MobileHead(spec, dropout), stem=stem)
        self.genotype = genotype


class MobileSuperNet(_MobileChain):
    """All operations that `genotype` keeps (default: all) of `layout.spec`, each scaled by its lambda.

    Lambdas keep the full shapes of `layout.shapes()` whatever is pruned; pruned entries get no gradient. `lambdas`
    holds the parameters by name, without those of blocks that are their shortcut alone.

    Raises:
        GenotypeError: the genotype does not fit the network.
    """

    def __init__(self, layout: MobileLambdas, genotype: Optional[MobileGenotype] = None) -> None:
        pool = {name: Parameter(name, shape=shape, init=mx.init.One()) for name, shape in layout.shapes().items()}
        super().__init__(layout.spec, genotype or MobileGenotype.full(layout.spec), pool)
        self.layout = layout
        read = self.collect_params()
        self.lambdas: Dict[str, Parameter] = {name: pool[name] for name in pool if name in read}


class MobileNetwork(_MobileChain):
    """The architecture `genotype` of macro-structure `spec`, trained from scratch; lambdas are not multiplied.

    `dropout` is the probability of dropping a feature before fc1.

    Raises:
        GenotypeError: the genotype does not fit the macro-structure.
    """

    def __init__(self, spec: MobileSpec, genotype: MobileGenotype, dropout: float = 0.0) -> None:
        super().__init__(spec, genotype, {}, dropout)
