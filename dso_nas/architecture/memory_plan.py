"""How much memory a training step of a supernet takes on one device, and which activations to keep within a limit.

Sizes are counted from shapes: 4 bytes a number, activations in float16 2; 1 MB = 2**20 bytes. Memory mirroring (paper,
section 4.1) runs a group of segments without keeping what is inside, and again in the backward pass; what is in no
group is kept and runs once. MXNet's workspaces and its own 150 MB or so are not counted.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import List, Optional, Sequence, Tuple

from dso_nas.architecture.cost import network_cost
from dso_nas.architecture.cpu_kernels import fits_blocks, is_wide
from dso_nas.architecture.genotype import BlockGenotype, Genotype
from dso_nas.architecture.segmentation_cost import segmentation_cost
from dso_nas.architecture.topology import NetworkSpec, Node, Unit
from dso_nas.errors import UserError

Group = Tuple[int, int]
MB = 2**20
_BYTES = {"float32": 4, "float16": 2}
# Value, gradient and momentum in float32; or the first two in float16, momentum and a copy of the value in float32.
_PARAMETER_BYTES = 12
# Gradients of the block's input, of an operation's input and output.
_IN_FLIGHT = 3


@dataclasses.dataclass(frozen=True)
class Segment:
    """Numbers for one image: a segment's input, all it keeps for its backward pass, gradients in flight there.

    And those in most of its arrays, 0 for as many as in its input.
    """

    input: int
    kept: int
    gradients: int
    array: int = 0


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """What is mirrored and what it takes.

    `groups` are ranges over the network's segments (stem, units, head), None where nothing is mirrored; `activations`
    and `parameters` (values, gradients and what optimizers keep) are bytes.
    """

    groups: Optional[Tuple[Group, ...]]
    activations: int
    parameters: int

    @property
    def total_mb(self) -> float:
        """Activations and parameters in MB."""
        return (self.activations + self.parameters) / MB


def block_groups(segments: int) -> List[Group]:
    """Every segment a group of its own, but for the head and the one before, which would run again at once."""
    return [(i, i + 1) for i in range(segments - 2)]


def plan_memory(spec: NetworkSpec, genotype: Optional[Genotype], batch: int, mirroring: str = "block",
                limit_mb: Optional[float] = None, head_channels: Optional[int] = None,
                dtype: str = "float32", tuned: bool = False) -> MemoryPlan:
    """The plan for `batch` images on a device (`mirroring` as in a recipe: 'none', 'block' or 'auto'; `dtype` too).

    'auto' mirrors as few segments as `limit_mb` allows, the first ones, where maps are largest: the rest runs once.
    `head_channels` are those of the DeepLab v3 head, None with the classifier. `tuned` as in `network_segments`.

    Raises:
        UserError: 'auto', and mirroring everything still takes more than `limit_mb`.
    """
    segments = network_segments(spec, genotype, head_channels, tuned)
    costs = segmentation_cost(spec, genotype, head_channels) if head_channels else network_cost(spec, genotype)
    return plan_segments(segments, costs.total.parameters, batch, mirroring, limit_mb, dtype)


def plan_segments(segments: Sequence[Segment], parameters: int, batch: int, mirroring: str,
                  limit_mb: Optional[float], dtype: str = "float32") -> MemoryPlan:
    """As `plan_memory`, of any network's segments; `parameters` is how many numbers it learns.

    Raises:
        UserError: 'auto', and mirroring everything still takes more than `limit_mb`.
    """
    parameters *= _PARAMETER_BYTES
    size = _BYTES[dtype] * batch
    if mirroring == "none":
        return MemoryPlan(None, _bytes(segments, [], size), parameters)
    everything = block_groups(len(segments))
    plans = [MemoryPlan(tuple(groups), _bytes(segments, groups, size), parameters)
             for groups in (everything[:mirrored] for mirrored in range(len(everything) + 1))]
    if mirroring == "block":
        return plans[-1]
    for plan in plans:
        if plan.total_mb <= (limit_mb or 0):
            return plan
    least = min(plans, key=lambda plan: plan.activations)
    raise UserError(f"memory.limit_mb: {limit_mb} is too little, {batch} images on a device take at least "
                    f"{least.total_mb:.0f} MB; raise it or lower the batch size")


def network_segments(spec: NetworkSpec, genotype: Optional[Genotype] = None,
                     head_channels: Optional[int] = None, tuned: bool = False) -> List[Segment]:
    """Stem, units and head in forward order; the completely connected network without a genotype.

    The head is the DeepLab v3 one with `head_channels`, else the classifier. `tuned` counts what training weights on
    the CPU adds.

    Raises:
        GenotypeError: the genotype does not fit the network.
    """
    genotype = genotype or Genotype.full(spec, "share")
    genotype.check_fits(spec)
    segments = [_stem(spec)]
    for unit in spec.units():
        if unit.kind == "block":
            segments.append(_block(spec, unit, genotype.block(unit), tuned))
        else:
            segments.append(_reduction(spec, unit, len(genotype.reduction(unit))))
    last = _map(spec, spec.stages, spec.widths[-1])
    head = _segmentation_head(spec, last, head_channels) if head_channels else Segment(last, 2 * last, 2 * last)
    return segments + [head]


def _segmentation_head(spec: NetworkSpec, last: int, channels: int) -> Segment:
    """The head's maps, and the loss's: logits of every pixel and their logarithms, and the gradients of both."""
    size = _map(spec, spec.stages, channels)
    pixels = spec.classes * spec.image_shape[1] * spec.image_shape[2]
    # Four convolutions before and after BatchNorm, five maps side by side, two more convolutions, dropout and its mask.
    maps = 4 * 2 + 5 + 2 * 2 + 2
    kept = 2 * last + maps * size + _map(spec, spec.stages, spec.classes) + 2 * pixels
    return Segment(last, kept, max(2 * pixels, 10 * size), max(size, pixels))


def _map(spec: NetworkSpec, stage: int, channels: int) -> int:
    height, width = spec.stage_size(stage)
    return channels * height * width


def _stem(spec: NetworkSpec) -> Segment:
    channels, height, width = spec.image_shape
    first = spec.stem_widths[0] * -(-height // spec.stem_stride) * -(-width // spec.stem_stride)
    kept = 2 * first + (2 * _map(spec, 1, spec.stem_widths[-1]) if len(spec.stem_widths) > 1 else 0)
    return Segment(channels * height * width, kept, 2 * first)


def _block(spec: NetworkSpec, unit: Unit, block: BlockGenotype, tuned: bool) -> Segment:
    """Every operation keeps the input and the output of its BatchNorm and ReLU, from level 2 on its own input too."""
    size = _map(spec, unit.stage, unit.channels)
    shortcut = 2 if unit.first else 0
    if block.is_empty:
        return Segment(size, shortcut * size, size)
    own = {"sep_conv": 1, "max_pool": 1, "avg_pool": 0}
    maps = sum(2 + own[spec.topology.operation(node).kind] + (node[0] > 1) for node in block.live_nodes)
    if tuned:
        maps += sum(_tuned_maps(spec, unit, node) for node in block.live_nodes)
    # Of the results of the levels before the last, and of the last level's inputs.
    gradients = len(block.live_nodes) + _IN_FLIGHT
    return Segment(size, (maps + 2 + shortcut) * size, gradients * size)


def _tuned_maps(spec: NetworkSpec, unit: Unit, node: Node) -> int:
    """The columns of a kernel but the middle ones; a max pool's input in another layout."""
    operation = spec.topology.operation(node)
    if not fits_blocks(unit.channels):
        return 0
    if operation.kind == "sep_conv" and is_wide(operation.kernel, spec.stage_dilation(unit.stage)):
        return operation.kernel - 3
    return int(operation.kind == "max_pool")


def _reduction(spec: NetworkSpec, unit: Unit, branches: int) -> Segment:
    """A branch keeps what goes into and comes out of its BatchNorm and ReLU, and its place in the stack, twice."""
    size = _map(spec, unit.stage + 1, unit.channels)
    return Segment(_map(spec, unit.stage, unit.in_channels), (4 * branches + 1) * size, 3 * size)


def _bytes(segments: Sequence[Segment], groups: Sequence[Group], size: int) -> int:
    """Peak of a step: what goes into each part, one gradient of each size of that, the memory that all parts share.

    Parts are the groups and all that is behind the last one; `size` is what one number takes for all images.
    """
    parts = [segments[start:stop] for start, stop in [*groups, (groups[-1][1] if groups else 0, len(segments))]]
    inputs = [part[0].input for part in parts]
    return size * (sum(inputs) + sum(set(inputs[1:])) + _shared(parts))


def _shared(parts: Sequence[Sequence[Segment]]) -> int:
    """Numbers in the memory that parts share: MXNet gives each array whole to one of a later graph that is no larger.

    So of many small ones only as many find a place as there were large ones before.
    """
    pool: List[int] = []
    for part in parts:
        fullest = max(part, key=lambda segment: segment.gradients)
        arrays = []
        for segment in part:
            size = max(1, segment.array or segment.input)
            left = segment.kept + (segment.gradients if segment is fullest else 0)
            arrays += [min(size, rest) for rest in range(left, 0, -size)]
        pool = [max(both) for both in itertools.zip_longest(pool, sorted(arrays, reverse=True), fillvalue=0)]
    return sum(pool)
