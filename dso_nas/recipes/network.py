"""The keys of a recipe's `network` section, of the search space that its key `space` names (Section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, Optional, Tuple

from dso_nas.architecture.mobile import MACROS, MOBILE_OPERATIONS, NAMED_GROUPS
from dso_nas.architecture.topology import OPERATIONS
from dso_nas.recipes.rules import Section, boolean, choice, integer, key, listing, optional

Conflicts = Iterator[Tuple[str, str]]

_WIDTH = integer(1, 65_536)
WIDTHS = listing(_WIDTH, 1, 16)
_CLASSES = optional(integer(2, 1_000_000))
_IMAGE_SIZE = optional(integer(8, 4096))


@dataclass(frozen=True)
class Network(Section):
    """The supernet (Section 3.1, normal setting)."""

    stem: str = key(choice("cifar", "imagenet"), "first layers: one convolution, or two of stride 2")
    blocks: Tuple[int, ...] = key(listing(integer(1, 1000), 1, 16), "convolution blocks of each stage")
    widths: Tuple[int, ...] = key(WIDTHS, "channels of each stage")
    levels: int = key(integer(1, 32), "levels of a block, M", 4)
    operations: Tuple[str, ...] = key(
        listing(choice(*OPERATIONS), 1, len(OPERATIONS), distinct=True),
        "operations of a level, in their order",
        ("sep_conv_3x3", "sep_conv_5x5", "max_pool_3x3", "avg_pool_3x3"),
    )
    reach: str = key(
        choice("all", "previous"), "what a level takes: all earlier ones and the input, or the last", "all"
    )
    scope: str = key(choice("share", "full"), "one structure for all blocks, or one each", "share")
    packed: bool = key(boolean(), "keep a block's lambdas in one vector (full scope only)", False)
    classes: Optional[int] = key(_CLASSES, "classes; null: as the data has", None)
    image_size: Optional[int] = key(_IMAGE_SIZE, "side of an image; null: as the data has", None)
    space: str = key(choice("normal"), "the search space", "normal")

    @property
    def stages(self) -> int:
        """How many widths a network has."""
        return len(self.widths)

    def conflicts(self) -> Conflicts:
        """Stages that do not match, and the packed share scope that does not exist."""
        if len(self.blocks) != len(self.widths):
            yield "widths", f"must have one entry for each of the {len(self.blocks)} stages of network.blocks"
        if self.packed and self.scope != "full":
            yield "packed", "must be false where network.scope is share"


@dataclass(frozen=True)
class MobileNetwork(Section):
    """The supernet (Section 3.1, mobile setting)."""

    space: str = key(choice("mobile"), "the search space")
    macro: str = key(choice(*MACROS, "custom"), "ProxylessNAS's widths, blocks and strides, or your own")
    stem_width: Optional[int] = key(optional(_WIDTH), "channels of the first convolution (custom only)", None)
    first_width: Optional[int] = key(optional(_WIDTH), "channels of the first block (custom only)", None)
    widths: Optional[Tuple[int, ...]] = key(optional(WIDTHS), "channels of each group (custom only)", None)
    blocks: Optional[Tuple[int, ...]] = key(
        optional(listing(integer(1, 1000), 1, 16)), "blocks of each group (custom only)", None
    )
    strides: Optional[Tuple[int, ...]] = key(
        optional(listing(integer(1, 2), 1, 16)), "stride of each group's first block (custom only)", None
    )
    feature_width: Optional[int] = key(
        optional(_WIDTH), "channels of the 1x1 convolution before the classifier (custom only)", None
    )
    operations: Tuple[str, ...] = key(
        listing(choice(*MOBILE_OPERATIONS), 1, len(MOBILE_OPERATIONS), distinct=True),
        "operations of a block, in their order: expansion and kernel", tuple(MOBILE_OPERATIONS)
    )
    classes: Optional[int] = key(_CLASSES, "classes; null: as the data has", None)
    image_size: Optional[int] = key(_IMAGE_SIZE, "side of an image; null: as the data has", None)

    @property
    def stages(self) -> int:
        """How many widths a network has: one for each group."""
        return len(self.widths) if self.widths is not None else NAMED_GROUPS

    def conflicts(self) -> Conflicts:
        """Keys of one's own macro-structure beside a named one, or missing, or of groups that do not match."""
        custom = self.macro == "custom"
        for name in ("stem_width", "first_width", "widths", "blocks", "strides", "feature_width"):
            if (getattr(self, name) is not None) != custom:
                yield name, "must be given where network.macro is custom, and only there"
        for name, entries in (("blocks", self.blocks), ("strides", self.strides)) if custom else ():
            if entries is not None and len(entries) != self.stages:
                yield name, f"must have one entry for each of the {self.stages} groups of network.widths"


SPACES = {"normal": Network, "mobile": MobileNetwork}
