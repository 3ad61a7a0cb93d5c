"""The mobile search space's shape (paper, section 3.1, mobile setting): blocks, operations, macro-structures, lambdas.

A block has one level: up to six mobile inverted bottleneck convolutions (MBConv) side by side, each scaled by its
lambda and summed, and the identity where the block keeps its input's shape (Eq. 3-4). The macro-structures are those
of ProxylessNAS, which the paper follows.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, Dict, Sequence, Tuple

from dso_nas.architecture.lambdas import PACKED, LambdaLayout
from dso_nas.architecture.topology import Key, halved
from dso_nas.errors import UserError

Group = Tuple[int, int, int]
Size = Tuple[int, int]

# Widths are rounded to multiples of it, as ProxylessNAS does.
DIVISOR = 8


@dataclasses.dataclass(frozen=True)
class MobileOperation:
    """An MBConv: its depthwise kernel's side in pixels, and how many times wider than its input it is inside."""

    kernel: int
    expansion: int

    @property
    def name(self) -> str:
        """mbE_KxK."""
        return f"mb{self.expansion}_{self.kernel}x{self.kernel}"


MOBILE_OPERATIONS: Dict[str, MobileOperation] = {
    operation.name: operation
    for operation in (MobileOperation(kernel, expansion) for kernel in (3, 5, 7) for expansion in (3, 6))
}
FIRST_OPERATION = MobileOperation(3, 1)

_BLOCKS = (4, 4, 4, 4, 4, 1)
_STRIDES = (2, 2, 2, 1, 2, 1)
# First convolution, first block, the six groups, feature mix.
_NAMED = {
    "gpu": (40, 24, (32, 56, 112, 128, 256, 432), 1728),
    "cpu": (40, 24, (32, 48, 88, 104, 216, 360), 1432),
    "mobile": (32, 16, (32, 40, 80, 96, 192, 320), 1280),
}
MACROS = tuple(_NAMED)
NAMED_GROUPS = len(_BLOCKS)


@dataclasses.dataclass(frozen=True)
class MobileUnit:
    """A block at its place: group and number count from 1, `in_size` and `size` are (height, width) in pixels.

    `shortcut` says whether the identity stands beside the operations, so that all of them may go.
    """

    stage: int
    unit: int
    in_channels: int
    channels: int
    stride: int
    in_size: Size
    size: Size
    shortcut: bool
    kind: str = "block"

    @property
    def name(self) -> str:
        """Prefix of the unit's parameters: stageS_unitU, or 'first' for the block before the groups."""
        return f"stage{self.stage}_unit{self.unit}" if self.stage else "first"


@dataclasses.dataclass(frozen=True)
class MobileSpec:
    """Macro-structure of a mobile network.

    A 3x3 convolution of stride 2 to `stem_width` channels; one MBConv 3x3 with expansion 1 to `first_width`, which is
    not searched; `groups` of (width, blocks, stride of the first block); a 1x1 convolution to `feature_width`; global
    pool and classifier. `operations` are the candidates of every block, `image_shape` is (channels, height, width).

    Raises:
        UserError: numbers below one, a stride that is not 1 or 2, no group, operations unknown or named twice.
    """

    stem_width: int
    first_width: int
    groups: Tuple[Group, ...]
    feature_width: int
    operations: Tuple[str, ...]
    classes: int
    image_shape: Tuple[int, int, int]

    def __post_init__(self) -> None:
        for field in ("operations", "image_shape"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        object.__setattr__(self, "groups", tuple(tuple(group) for group in self.groups))
        for name, numbers in (("stem_width", (self.stem_width,)), ("first_width", (self.first_width,)),
                              ("feature_width", (self.feature_width,)), ("classes", (self.classes,)),
                              ("image_shape", self.image_shape), *(("groups", group) for group in self.groups)):
            if not all(isinstance(number, int) and not isinstance(number, bool) and number >= 1 for number in numbers):
                raise UserError(f"{name}: {getattr(self, name)!r} must be whole numbers of at least 1")
        if len(self.image_shape) != 3:
            raise UserError(f"image_shape: {self.image_shape} must be (channels, height, width)")
        if not self.groups or any(len(group) != 3 or group[2] > 2 for group in self.groups):
            raise UserError(f"groups: {self.groups} must be one or more of (width, blocks, stride 1 or 2)")
        unknown = [name for name in self.operations if name not in MOBILE_OPERATIONS]
        if unknown or not self.operations or len(set(self.operations)) != len(self.operations):
            raise UserError(f"operations: {', '.join(self.operations)!r} must be some of "
                            f"{', '.join(MOBILE_OPERATIONS)}, none of them twice")

    @classmethod
    def named(cls, name: str, classes: int = 1000, image_shape: Tuple[int, int, int] = (3, 224, 224)) -> MobileSpec:
        """ProxylessNAS's macro-structure 'gpu', 'cpu' or 'mobile' with all six operations.

        Raises:
            UserError: another name.
        """
        if name not in _NAMED:
            raise UserError(f"macro: unknown {name!r}, allowed are {', '.join(MACROS)}")
        stem, first, widths, feature = _NAMED[name]
        return cls(stem, first, tuple(zip(widths, _BLOCKS, _STRIDES)), feature, tuple(MOBILE_OPERATIONS), classes,
                   image_shape)

    @classmethod
    def of(cls, settings: Any, classes: int, image_shape: Tuple[int, int, int]) -> MobileSpec:
        """The macro-structure that a recipe's `network` section (`settings`) describes, for such images and classes."""
        if settings.macro != "custom":
            named = cls.named(settings.macro, classes, image_shape)
            return dataclasses.replace(named, operations=settings.operations)
        groups = tuple(zip(settings.widths, settings.blocks, settings.strides))
        return cls(settings.stem_width, settings.first_width, groups, settings.feature_width, settings.operations,
                   classes, image_shape)

    @property
    def widths(self) -> Tuple[int, ...]:
        """Output channels of each group."""
        return tuple(width for width, _, _ in self.groups)

    @property
    def stem_size(self) -> Size:
        """Height and width behind the first convolution."""
        return halved(self.image_shape[1:])

    @property
    def first_unit(self) -> MobileUnit:
        """The MBConv 3x3 with expansion 1 before the groups; it has no shortcut, whatever the widths."""
        size = self.stem_size
        return MobileUnit(0, 1, self.stem_width, self.first_width, 1, size, size, shortcut=False)

    def units(self) -> Tuple[MobileUnit, ...]:
        """Every searched block in forward order."""
        found = []
        before = self.first_unit
        for stage, (width, blocks, stride) in enumerate(self.groups, start=1):
            for unit in range(1, blocks + 1):
                own = stride if unit == 1 else 1
                size = halved(before.size) if own == 2 else before.size
                before = MobileUnit(stage, unit, before.channels, width, own, before.size, size,
                                    shortcut=own == 1 and before.channels == width)
                found.append(before)
        return tuple(found)

    def block_units(self) -> Tuple[MobileUnit, ...]:
        """The same as `units`: this space has no reduction blocks."""
        return self.units()

    def scaled(self, multiplier: float) -> MobileSpec:
        """The same network with every width times `multiplier` (paper, section 4.1), to multiples of 8.

        As ProxylessNAS does it: the nearest multiple, at least one, and the next if that lost more than a tenth. Where
        the widths themselves are not multiples of 8, to those of the largest power of two that divides them all.
        """
        every = (self.stem_width, self.first_width, *self.widths, self.feature_width)
        divisor = functools.reduce(math.gcd, every, DIVISOR)
        stem, first, *widths, feature = (make_divisible(width * multiplier, divisor) for width in every)
        return dataclasses.replace(self.with_widths(widths), stem_width=stem, first_width=first, feature_width=feature)

    def with_widths(self, widths: Sequence[int]) -> MobileSpec:
        """The same network with other widths of its groups, one each."""
        groups = tuple((width, *group[1:]) for width, group in zip(widths, self.groups))
        return dataclasses.replace(self, groups=groups)


def make_divisible(width: float, divisor: int) -> int:
    """The multiple of `divisor` nearest to `width`, at least one of them, not more than a tenth below `width`."""
    nearest = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * width else nearest


class MobileLambdas(LambdaLayout):
    """One lambda parameter for each block, `lambda_stageS_unitU` of shape (1, operations)."""

    spec: MobileSpec  # type: ignore[assignment]

    def __init__(self, spec: MobileSpec) -> None:
        super().__init__(spec, "full", packed=True)  # type: ignore[arg-type]

    def names_of(self, unit: MobileUnit) -> Dict[Key, str]:  # type: ignore[override]
        """The name of a unit's lambda parameter, under 'packed'."""
        return {PACKED: self.name_of(unit)}

    @staticmethod
    def name_of(unit: MobileUnit) -> str:
        """The name of a unit's lambda parameter."""
        return f"lambda_{unit.name}"

    def _size(self, key: Key) -> int:
        return len(self.spec.operations)
