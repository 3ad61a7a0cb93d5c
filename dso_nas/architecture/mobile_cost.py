"""What a mobile network costs: its layers, and the memory of a training step of its supernet.

Formulas and conventions are `dso_nas.architecture.cost`'s, the plan's rules `dso_nas.architecture.memory_plan`'s.
"""

from __future__ import annotations

from typing import List, Optional

from dso_nas.architecture.cost import Conventions, Cost, CostTable, Layer, Size, cost_table
from dso_nas.architecture.memory_plan import MemoryPlan, Segment, plan_segments
from dso_nas.architecture.mobile import FIRST_OPERATION, MOBILE_OPERATIONS, MobileOperation, MobileSpec, MobileUnit
from dso_nas.architecture.mobile_genotype import MobileGenotype
from dso_nas.errors import UserError

# What goes into BatchNorm, comes out of it, and comes out of ReLU6: each is read again in the backward pass.
_ACTIVATED = 3
# Gradients on both sides of BatchNorm, of the larger of an operation's insides.
_IN_FLIGHT = 2


def mobile_cost(spec: MobileSpec, genotype: Optional[MobileGenotype] = None,
                conventions: Optional[Conventions] = None) -> CostTable:
    """Costs of every layer of a genotype's network, or of the one with every operation.

    Raises:
        GenotypeError: the genotype does not fit the network.
        UserError: an auxiliary head is asked for, which this space does not have.
    """
    conventions = conventions or Conventions()
    if conventions.aux_head:
        raise UserError("aux_head: a network of the mobile space has no auxiliary head, leave it out")
    return cost_table(mobile_layers(spec, genotype), conventions)


def mobile_layers(spec: MobileSpec, genotype: Optional[MobileGenotype] = None) -> List[Layer]:
    """Every layer in forward order; see `mobile_cost`."""
    genotype = genotype or MobileGenotype.full(spec)
    genotype.check_fits(spec)
    layers = [Layer("stem", "conv0", "conv", spec.image_shape[0], spec.stem_width, 3, spec.image_shape[1:],
                    spec.stem_size), *_mbconv_layers(spec.first_unit, FIRST_OPERATION)]
    for unit in spec.units():
        for name in genotype.block(unit):
            layers += _mbconv_layers(unit, MOBILE_OPERATIONS[name])
    return layers + _head_layers(spec)


def mobile_operation_cost(unit: MobileUnit, name: str) -> Cost:
    """What one operation costs at a unit's place: the weights of its convolutions, their multiply-adds and MAC."""
    return cost_table(_mbconv_layers(unit, MOBILE_OPERATIONS[name]), Conventions()).total


def plan_mobile_memory(spec: MobileSpec, genotype: Optional[MobileGenotype], batch: int, mirroring: str = "block",
                       limit_mb: Optional[float] = None, dtype: str = "float32") -> MemoryPlan:
    """The plan of a supernet's step with `batch` images on a device; see `memory_plan.plan_memory`.

    Raises:
        UserError: mirroring is 'auto', and mirroring everything still takes more than `limit_mb`.
    """
    parameters = mobile_cost(spec, genotype).total.parameters
    return plan_segments(mobile_segments(spec, genotype), parameters, batch, mirroring, limit_mb, dtype)


def mobile_segments(spec: MobileSpec, genotype: Optional[MobileGenotype] = None) -> List[Segment]:
    """Stem, the first block, the searched ones and the head in forward order.

    Raises:
        GenotypeError: the genotype does not fit the network.
    """
    genotype = genotype or MobileGenotype.full(spec)
    genotype.check_fits(spec)
    channels, height, width = spec.image_shape
    stem = spec.stem_width * _area(spec.stem_size)
    last = spec.units()[-1]
    features = spec.feature_width * _area(last.size)
    return [
        Segment(channels * height * width, _ACTIVATED * stem, 2 * stem),
        _block_segment(spec.first_unit, [FIRST_OPERATION]),
        *(_block_segment(unit, [MOBILE_OPERATIONS[name] for name in genotype.block(unit)]) for unit in spec.units()),
        Segment(last.channels * _area(last.size), _ACTIVATED * features, 2 * features),
    ]


def _mbconv_layers(unit: MobileUnit, operation: MobileOperation) -> List[Layer]:
    prefix = unit.name if operation is FIRST_OPERATION else f"{unit.name}_{operation.name}"
    hidden = unit.in_channels * operation.expansion
    expand = Layer(unit.name, f"{prefix}_expand", "conv", unit.in_channels, hidden, 1, unit.in_size, unit.in_size)
    return [
        *([expand] if operation.expansion > 1 else []),
        Layer(unit.name, f"{prefix}_dw", "dw_conv", hidden, hidden, operation.kernel, unit.in_size, unit.size),
        Layer(unit.name, f"{prefix}_project", "conv", hidden, unit.channels, 1, unit.size, unit.size),
    ]


def _head_layers(spec: MobileSpec) -> List[Layer]:
    last, features = spec.units()[-1], spec.feature_width
    size = last.size
    return [
        Layer("head", "feature_mix", "conv", last.channels, features, 1, size, size),
        Layer("head", "global_pool", "avg_pool", features, features, size[0], size, (1, 1), batch_norm=False),
        Layer("head", "fc1", "dense", features, spec.classes, 1, (1, 1), (1, 1), batch_norm=False, bias=True),
    ]


def _block_segment(unit: MobileUnit, operations: List[MobileOperation]) -> Segment:
    """Every operation keeps what its insides are activated from, its projection and that one's place in the stack."""
    before, after = unit.in_channels * _area(unit.in_size), unit.channels * _area(unit.size)
    kept, largest = 0, 0
    for operation in operations:
        inside = operation.expansion * before if operation.expansion > 1 else 0
        strided = operation.expansion * unit.in_channels * _area(unit.size)
        kept += _ACTIVATED * (inside + strided) + 2 * after
        largest = max(largest, inside, strided)
    return Segment(before, kept, _IN_FLIGHT * largest + len(operations) * after + before)


def _area(size: Size) -> int:
    return size[0] * size[1]
