"""The networks that are measured, and the ways in which they are run."""

from __future__ import annotations

import os
from typing import Dict, NamedTuple, Tuple

from dso_nas.architecture.lambdas import LambdaLayout
from dso_nas.architecture.topology import BlockTopology, NetworkSpec
from dso_nas.environment import THREADS_VARIABLE, inherited

FOUR = ("sep_conv_3x3", "sep_conv_5x5", "max_pool_3x3", "avg_pool_3x3")
LIVE = (100, 50, 25, 10)
DEPTHS = (3, 6, 12)


class Case(NamedTuple):
    """A supernet and the batch it is measured with."""

    title: str
    levels: int
    stem: str
    blocks: Tuple[int, ...]
    widths: Tuple[int, ...]
    classes: int
    side: int
    batch: int

    def layout(self) -> LambdaLayout:
        """The supernet's lambdas and shape, scope 'share'."""
        topology = BlockTopology(self.levels, FOUR)
        shape = (3, self.side, self.side)
        return LambdaLayout(NetworkSpec(topology, self.stem, self.blocks, self.widths, self.classes, shape), "share")


def depth_case(blocks: int) -> Case:
    """A chain of equal blocks, 32 wide on 16x16 maps."""
    return Case(f"{blocks} blocks", 4, "cifar", (blocks,), (32,), 10, 16, 32)


CASES: Dict[str, Case] = {
    "block": Case("one block, width 16, 32x32", 4, "cifar", (1,), (16,), 10, 32, 64),
    "demo": Case("the demo's", 2, "cifar", (1, 1, 1), (8, 16, 32), 10, 32, 64),
    "cifar": Case("the paper's, CIFAR", 4, "cifar", (8, 8, 8), (48, 96, 192), 10, 32, 16),
    "imagenet": Case("the paper's, ImageNet", 4, "imagenet", (2, 2, 13, 6), (28, 56, 112, 224), 1000, 224, 2),
    **{f"depth{blocks}": depth_case(blocks) for blocks in DEPTHS},
}

# How a network is run, and the allocator it is run with: the literal graph as it was published, ours as we train.
WAYS = ("literal", "plain", "mirrored")
SIZES = ("block", "demo", "cifar", "imagenet")


def environment(published: bool, exact: bool) -> Dict[str, str]:
    """Variables of a measuring process: `published` leaves allocator, planner and threads as MXNet finds them.

    `exact` makes memory go back to the system at once, so that what is resident is what is in use.
    """
    variables = inherited()
    variables.update(DSO_NAS_MALLOC="default" if published or exact else "keep",
                     NNVM_EXEC_MATCH_RANGE="16" if published else "1")
    if published:
        variables.setdefault(THREADS_VARIABLE, str(max(1, len(os.sched_getaffinity(0)) // 2)))
    if exact:
        variables.update(MALLOC_ARENA_MAX="1", MALLOC_MMAP_THRESHOLD_="65536")
    return variables


# Steps that do not count: in the first ones the process touches its memory for the first time.
WARM_UP = 3


class Timing(NamedTuple):
    """How a way is timed: in so many processes, in turn with the other ways; steps of each kind in each of them."""

    processes: int
    warm_up: int
    repetitions: int


def timing(case: str, way: str, quick: bool) -> Timing:
    """Fewer steps where one takes long; several processes, because the machine has slow minutes."""
    slow = case in ("cifar", "imagenet")
    if way == "literal" and slow:
        return Timing(1, 1, 1)
    if quick:
        return Timing(1, WARM_UP, 1)
    return Timing(2, WARM_UP, 2 if slow else 7)
