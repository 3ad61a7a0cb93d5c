"""The search space's shape: operations, the wiring of one block, and the macro-structure of a network.

`BlockTopology` is the one source of the lambda layout; whoever needs an edge's position asks it. Nothing here
knows about weights, lambdas' values or MXNet.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from dso_nas.errors import UserError

Node = Tuple[int, int]
Key = Union[Node, str]

INPUT: Node = (0, 0)
AFTER = "after"
REDUCTION_OPERATIONS = ("conv1x1", "conv3x3")
STEMS = ("cifar", "imagenet")
REACHES = ("all", "previous")


@dataclasses.dataclass(frozen=True)
class Operation:
    """One candidate operation.

    `name` is this project's name, `token` the one inside published parameter names, `kind` one of 'sep_conv',
    'max_pool', 'avg_pool', and `kernel` the window's side in pixels.
    """

    name: str
    token: str
    kind: str
    kernel: int


OPERATIONS: Dict[str, Operation] = {
    operation.name: operation
    for operation in (
        Operation("sep_conv_3x3", "conv3x3", "sep_conv", 3),
        Operation("sep_conv_5x5", "conv5x5", "sep_conv", 5),
        Operation("sep_conv_7x7", "conv7x7", "sep_conv", 7),
        Operation("max_pool_3x3", "max_pool", "max_pool", 3),
        Operation("avg_pool_3x3", "avg_pool", "avg_pool", 3),
    )
}


@dataclasses.dataclass(frozen=True)
class BlockTopology:
    """The completely connected block of M levels with the same N operations each (paper, section 3.1).

    Nodes are (level, operation) counted from 1; (0, 0) is the block's input. Level 1 takes the input
    unscaled, every later node has one lambda per predecessor, and `after` one per node on its way to the
    block's output. `reach` says what precedes a node of level 2 on: 'all', the input and every earlier level,
    or 'previous', the level before alone, as in the published code's full scope on ImageNet.

    Raises:
        UserError: fewer than one level, no operation, an operation that does not exist, or an unknown reach.
    """

    levels: int
    operations: Tuple[str, ...]
    reach: str = "all"

    def __post_init__(self) -> None:
        object.__setattr__(self, "operations", tuple(self.operations))
        if not _is_count(self.levels):
            raise UserError(f"levels: {self.levels!r} is not a whole number of at least 1")
        if not self.operations:
            raise UserError(f"operations: the list is empty, name some of {', '.join(OPERATIONS)}")
        for name in self.operations:
            if name not in OPERATIONS:
                raise UserError(f"operations: unknown {name!r}, allowed are {', '.join(OPERATIONS)}")
        if self.reach not in REACHES:
            raise UserError(f"reach: unknown {self.reach!r}, allowed are {', '.join(REACHES)}")

    @property
    def num_operations(self) -> int:
        """Operations in a level: the paper's N."""
        return len(self.operations)

    @property
    def num_nodes(self) -> int:
        """Operations in the block, M * N: the length of `after`."""
        return self.levels * self.num_operations

    @property
    def num_connections(self) -> int:
        """Lambdas of one block (124 for M = N = 4)."""
        return _positions(self)[1]

    def nodes(self) -> Tuple[Node, ...]:
        """Every operation's node in level order."""
        return tuple((m, n) for m in range(1, self.levels + 1) for n in range(1, self.num_operations + 1))

    def predecessors(self, level: int) -> Tuple[Node, ...]:
        """What a node of `level` can take as input, in the order of its lambda vector."""
        if level == 1:
            return (INPUT,)
        end = (level - 1) * self.num_operations
        if self.reach == "previous":
            return self.nodes()[end - self.num_operations : end]
        return (INPUT,) + self.nodes()[:end]

    def operation(self, node: Node) -> Operation:
        """The operation standing at `node`."""
        return OPERATIONS[self.operations[node[1] - 1]]

    def output_index(self, node: Node) -> int:
        """Position of `node` in `after`, from 0."""
        return (node[0] - 1) * self.num_operations + node[1] - 1

    def keys(self) -> Tuple[Key, ...]:
        """The lambda vectors' keys in packed order: nodes of level 2 on, then 'after'."""
        return tuple(_positions(self)[0])

    def size(self, key: Key) -> int:
        """Length of the lambda vector of `key`."""
        span = self.slice(key)
        return span.stop - span.start

    def slice(self, key: Key) -> slice:
        """Where the lambda vector of `key` lies in the packed vector."""
        return _positions(self)[0][key]

    def pack(self, vectors: Mapping[Key, np.ndarray]) -> np.ndarray:
        """Join the vectors of every key into one of shape (num_connections,); their type is kept."""
        parts = [np.asarray(vectors[key]).reshape(-1) for key in self.keys()]
        for key, part in zip(self.keys(), parts):
            if part.size != self.size(key):
                raise ValueError(f"lambda vector {key} has {part.size} entries, not {self.size(key)}")
        return np.concatenate(parts)

    def unpack(self, vector: np.ndarray) -> Dict[Key, np.ndarray]:
        """Split a packed vector of num_connections entries: the inverse of `pack`."""
        flat = np.asarray(vector).reshape(-1)
        if flat.size != self.num_connections:
            raise ValueError(f"packed vector has {flat.size} entries, not {self.num_connections}")
        return {key: flat[self.slice(key)] for key in self.keys()}


@functools.lru_cache(maxsize=None)
def _positions(topology: BlockTopology) -> Tuple[Dict[Key, slice], int]:
    sizes: Dict[Key, int] = {
        node: len(topology.predecessors(node[0])) for node in topology.nodes() if node[0] > 1
    }
    sizes[AFTER] = topology.num_nodes
    spans: Dict[Key, slice] = {}
    start = 0
    for key, size in sizes.items():
        spans[key] = slice(start, start + size)
        start += size
    return spans, start


@dataclasses.dataclass(frozen=True)
class Unit:
    """A convolution block ('block') or a 'reduction' block at its place.

    `stage` and `unit` count from 1 as in parameter names; `first` marks the block of a stage whose shortcut
    is conv1x1-BN-ReLU (`_id_conv`) instead of the identity.
    """

    stage: int
    unit: int
    kind: str
    in_channels: int
    channels: int
    first: bool

    @property
    def name(self) -> str:
        """Prefix of the unit's parameters: stageS_unitU."""
        return f"stage{self.stage}_unit{self.unit}"


@dataclasses.dataclass(frozen=True)
class NetworkSpec:
    """Macro-structure of a network.

    `blocks` and `widths` (channels) are per stage, `image_shape` is (channels, height, width).
    Every stage but the last ends in a reduction block of stride 2 that also widens to the next stage's width.

    `output_stride` is the side of an image over that of the last map, where it is kept from growing (DeepLab v3, atrous
    convolution): the reductions that would exceed it have stride 1, and behind each the dilation of the stages'
    separable convolutions doubles. None leaves every stride.

    Raises:
        UserError: lists that do not match, numbers below one, an unknown stem, an operation listed twice (its
            parameters would share names), an output stride that no stage has.
    """

    topology: BlockTopology
    stem: str
    blocks: Tuple[int, ...]
    widths: Tuple[int, ...]
    classes: int
    image_shape: Tuple[int, int, int]
    output_stride: Optional[int] = None

    def __post_init__(self) -> None:
        for field in ("blocks", "widths", "image_shape"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
            if not all(_is_count(number) for number in getattr(self, field)):
                raise UserError(f"{field}: {getattr(self, field)!r} must be whole numbers of at least 1")
        if self.stem not in STEMS:
            raise UserError(f"stem: unknown {self.stem!r}, allowed are {', '.join(STEMS)}")
        if not self.blocks or len(self.blocks) != len(self.widths):
            raise UserError(f"blocks: {self.blocks} and widths {self.widths} must be as many, at least one")
        if len(self.image_shape) != 3:
            raise UserError(f"image_shape: {self.image_shape} must be (channels, height, width)")
        if not _is_count(self.classes):
            raise UserError(f"classes: {self.classes!r} is not a whole number of at least 1")
        if len(set(self.topology.operations)) != self.topology.num_operations:
            raise UserError(f"operations: {', '.join(self.topology.operations)} names one twice")
        stride, strides = self.output_stride, self._strides
        if stride is not None and not (_is_count(stride) and stride in strides):
            raise UserError(f"output_stride: {stride!r} cannot be had, choose one of {', '.join(map(str, strides))}")

    @classmethod
    def of(cls, settings: Any, classes: int, image_shape: Tuple[int, int, int]) -> NetworkSpec:
        """The macro-structure that a recipe's `network` section (`settings`) describes, for such images and classes."""
        topology = BlockTopology(settings.levels, settings.operations, settings.reach)
        return cls(topology, settings.stem, settings.blocks, settings.widths, classes, image_shape)

    @property
    def stages(self) -> int:
        """Number of stages."""
        return len(self.blocks)

    def units(self) -> Tuple[Unit, ...]:
        """Every block and reduction in forward order."""
        units = []
        for stage, (count, width) in enumerate(zip(self.blocks, self.widths), start=1):
            units += [Unit(stage, u, "block", width, width, u == 1) for u in range(1, count + 1)]
            if stage < self.stages:
                units.append(Unit(stage, count + 1, "reduction", width, self.widths[stage], False))
        return tuple(units)

    def block_units(self) -> Tuple[Unit, ...]:
        """The convolution blocks in forward order."""
        return tuple(unit for unit in self.units() if unit.kind == "block")

    def reduction_units(self) -> Tuple[Unit, ...]:
        """The reduction blocks in forward order."""
        return tuple(unit for unit in self.units() if unit.kind == "reduction")

    def scaled(self, multiplier: float) -> NetworkSpec:
        """The same network with every width times `multiplier`, rounded, at least 1 (paper, section 4.1)."""
        widths = tuple(max(1, round(width * multiplier)) for width in self.widths)
        return dataclasses.replace(self, widths=widths)

    def with_widths(self, widths: Sequence[int]) -> NetworkSpec:
        """The same network with other widths, one per stage."""
        return dataclasses.replace(self, widths=tuple(widths))

    @property
    def stem_widths(self) -> Tuple[int, ...]:
        """Output channels of the stem's convolutions: conv0, and conv1 on ImageNet."""
        if self.stem == "cifar":
            return (self.widths[0],)
        return ((self.widths[0] + 1) // 2, self.widths[0])

    @property
    def stem_stride(self) -> int:
        """Stride of each of the stem's convolutions."""
        return 1 if self.stem == "cifar" else 2

    @property
    def stem_size(self) -> Tuple[int, int]:
        """Height and width after the stem."""
        size = self.image_shape[1:]
        return size if self.stem == "cifar" else halved(halved(size))

    @property
    def _strides(self) -> Tuple[int, ...]:
        """Side of an image over that of each stage's map if every reduction has stride 2."""
        first = self.stem_stride ** len(self.stem_widths)
        return tuple(first * 2**reductions for reductions in range(self.stages))

    def reduction_stride(self, stage: int) -> int:
        """Stride of the reduction at the end of a stage, counted from 1: 2, or 1 where the output stride is reached."""
        return 2 if self.output_stride is None or self._strides[stage] <= self.output_stride else 1

    def stage_dilation(self, stage: int) -> int:
        """Dilation of a stage's separable convolutions and of its reduction's: the product of the strides left out."""
        return 1 if self.output_stride is None else max(1, self._strides[stage - 1] // self.output_stride)

    def stage_size(self, stage: int) -> Tuple[int, int]:
        """Height and width inside a stage, counted from 1 (its reduction halves them on the way out, if it strides)."""
        size = self.stem_size
        for before in range(1, stage):
            size = halved(size) if self.reduction_stride(before) == 2 else size
        return size


def halved(size: Tuple[int, int]) -> Tuple[int, int]:
    """Height and width after a stride of 2: up, as a 3x3 with padding 1 and a 1x1 without both round."""
    return (size[0] + 1) // 2, (size[1] + 1) // 2


def _is_count(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 1
