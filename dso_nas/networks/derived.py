"""The network a genotype stands for, with what retraining adds to it (paper, sections 4.1 to 4.3)."""

from __future__ import annotations

from typing import Any, List, Optional

from mxnet.gluon import HybridBlock, nn

from dso_nas.architecture.cost import AUX_CHANNELS, AUX_POOL, AUX_STRIDE
from dso_nas.architecture.genotype import Genotype
from dso_nas.architecture.topology import NetworkSpec
from dso_nas.networks.blocks import DerivedBlock, ReductionBlock
from dso_nas.networks.network import Head, Network
from dso_nas.networks.operations import ConvBNReLU, batch_norm, global_average, relu

AUXILIARY_STAGE = 2


class AuxiliaryHead(HybridBlock):
    """aux_bn, ReLU, average pool 5 (stride 3 on CIFAR, 2 on ImageNet), conv1x1, conv2x2, pool, aux_fc: -> (B, classes).

    Stands behind the second reduction (paper, section 4.2; sizes as published).
    """

    def __init__(self, channels: int, classes: int, stride: int) -> None:
        super().__init__(prefix="")
        self._stride = stride
        first, second = AUX_CHANNELS
        self.bn = batch_norm(channels, "aux_bn")
        self.conv1 = ConvBNReLU(first, channels, 1, "aux_conv1")
        self.conv2 = nn.Conv2D(second, 2, in_channels=first, use_bias=False, prefix="aux_conv2_")
        self.conv2_bn = batch_norm(second, "aux_conv2_bn")
        self.fc = nn.Dense(classes, in_units=second, prefix="aux_fc_")

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """See the class."""
        x = F.Pooling(relu(F, self.bn(x)), kernel=(AUX_POOL,) * 2, stride=(self._stride,) * 2, pool_type="avg")
        x = relu(F, self.conv2_bn(self.conv2(self.conv1(x))))
        return self.fc(global_average(F, x))


class DerivedNetwork(Network):
    """The architecture `genotype` of macro-structure `spec`, trained from scratch; lambdas are not multiplied.

    `drop_path` makes the network take path multipliers, `dropout` is the probability before fc1, `auxiliary` adds the
    auxiliary head, which needs at least three stages. `fix_gamma` holds the scales of all BatchNorms at one but for
    those of stem, block outputs and head, as in the supernet (the published baseline).

    Raises:
        UserError: the genotype does not fit the macro-structure.
    """

    def __init__(self, spec: NetworkSpec, genotype: Genotype, drop_path: bool = False, dropout: float = 0.0,
                 auxiliary: bool = False, fix_gamma: bool = False) -> None:
        units = derived_units(spec, genotype, drop_path, fix_gamma)
        beside: Optional[HybridBlock] = None
        if auxiliary:
            beside = AuxiliaryHead(spec.widths[AUXILIARY_STAGE], spec.classes, AUX_STRIDE[spec.stem])
        head = Head(spec.widths[-1], spec.classes, dropout)
        super().__init__(spec, units, head, beside, auxiliary_position(spec))
        self.genotype = genotype


def derived_units(spec: NetworkSpec, genotype: Genotype, drop_path: bool = False,
                  fix_gamma: bool = False) -> List[HybridBlock]:
    """The blocks and reductions of `genotype` in forward order; the options are DerivedNetwork's.

    Raises:
        UserError: the genotype does not fit the macro-structure.
    """
    genotype.check_fits(spec)
    units: List[HybridBlock] = []
    for unit in spec.units():
        dilation = spec.stage_dilation(unit.stage)
        if unit.kind == "reduction":
            units.append(ReductionBlock(unit, genotype.reduction(unit), stride=spec.reduction_stride(unit.stage),
                                        fix_gamma=fix_gamma, dilation=dilation))
        else:
            units.append(DerivedBlock(unit, spec.topology, genotype.block(unit), drop_path, dilation, fix_gamma))
    return units


def auxiliary_position(spec: NetworkSpec) -> int:
    """Index among the units before which the auxiliary head stands: behind the second stage's reduction."""
    return sum(spec.blocks[:AUXILIARY_STAGE]) + AUXILIARY_STAGE
