"""Planned memory: the paper's size, the limit, and the trade that 'auto' makes."""

from __future__ import annotations

import dataclasses
from typing import Tuple

import pytest

from dso_nas.architecture.genotype import Genotype
from dso_nas.architecture.memory_plan import MB, Segment, plan_memory, plan_segments
from dso_nas.architecture.topology import BlockTopology, NetworkSpec
from dso_nas.errors import UserError

FOUR = ("sep_conv_3x3", "sep_conv_5x5", "max_pool_3x3", "avg_pool_3x3")
PAPER = NetworkSpec(BlockTopology(4, FOUR), "cifar", (8, 8, 8), (48, 96, 192), 10, (3, 32, 32))


def plan_groups(spec, genotype, batch, limit):
    plan = plan_memory(spec, genotype, batch, "auto", limit)
    return list(plan.groups), plan.activations + plan.parameters


@pytest.mark.parametrize("tuned, most", [(False, 1300), (True, 1420)])
def test_the_papers_supernet_at_batch_64_takes_at_most_1300_mb_on_a_gpu(tuned: bool, most: float) -> None:
    assert plan_memory(PAPER, None, 64, "block", tuned=tuned).total_mb <= most


@pytest.mark.parametrize("kept, head, pool", [
    ((10, 20), 4, 20 + 6),    # of ten arrays of one number four find a place in those of five
    ((20, 10), 4, 10 + 18),
    ((10, 20), 40, 20 + 36)])
def test_arrays_of_a_part_find_a_place_in_no_smaller_ones(kept: Tuple[int, int], head: int, pool: int) -> None:
    segments = [Segment(1, kept[0], 0), Segment(5, kept[1], 0), Segment(5, 0, 0), Segment(1, head, 0)]
    plan = plan_segments(segments, 0, 3, "block", None)
    inputs, gradients = 1 + 5 + 5, 5
    assert (plan.groups, plan.activations) == (((0, 1), (1, 2)), 3 * 4 * (inputs + gradients + pool))


def test_mirroring_takes_a_quarter_at_most_and_grows_by_a_map_a_block() -> None:
    def planned(blocks: int, mirroring: str) -> float:
        spec = NetworkSpec(BlockTopology(4, FOUR), "cifar", (blocks,), (32,), 10, (3, 16, 16))
        return plan_memory(spec, None, 32, mirroring).activations / MB

    assert planned(12, "block") <= planned(12, "none") / 4
    assert planned(12, "block") - planned(6, "block") == 6 * 32 * 32 * 16 * 16 * 4 / MB


@pytest.mark.parametrize("limit", [1500, 2000, 5000])
def test_auto_keeps_within_its_limit_and_mirrors_no_more_than_it_must(limit: int) -> None:
    groups, planned = plan_groups(PAPER, None, 64, limit)
    assert planned <= limit * MB
    assert [start for start, _ in groups] == [0, *(stop for _, stop in groups[:-1])]
    tighter = plan_groups(PAPER, None, 64, planned / MB - 1)[0]
    assert tighter[-1][1] > groups[-1][1]


def test_with_room_enough_nothing_is_mirrored() -> None:
    groups, planned = plan_groups(PAPER, None, 1, 1e6)
    assert groups == []
    plain = plan_memory(PAPER, None, 1, "none")
    assert planned == plain.activations + plain.parameters
    assert plain.groups is None


def test_a_limit_that_nothing_keeps_is_refused() -> None:
    with pytest.raises(UserError, match=r"memory\.limit_mb: 100 is too little, 64 images .* at least \d+ MB"):
        plan_memory(PAPER, None, 64, "auto", 100)


def test_a_pruned_network_takes_less() -> None:
    spec = dataclasses.replace(PAPER, blocks=(1, 1, 1))
    full = Genotype.full(spec, "share")
    shared = full.blocks["shared"]
    level1 = tuple(node for node in shared.outputs if node[0] == 1)
    pruned = dataclasses.replace(full, blocks={"shared": dataclasses.replace(shared, connections={}, outputs=level1)})
    empty = dataclasses.replace(full, blocks={"shared": dataclasses.replace(shared, connections={}, outputs=())})
    sizes = [plan_memory(spec, genotype, 8, "none").activations for genotype in (full, pruned, empty)]
    assert sizes[0] > 3 * sizes[1] > 3 * sizes[2] > 0


def test_float16_halves_activations_alone():
    single, half = (plan_memory(PAPER, None, 8, "none", dtype=dtype) for dtype in ("float32", "float16"))
    assert single.activations == 2 * half.activations and single.parameters == half.parameters
    limit = plan_memory(PAPER, None, 8, "none").total_mb - 1
    assert plan_memory(PAPER, None, 8, "auto", limit).groups != ()
    assert plan_memory(PAPER, None, 8, "auto", limit, dtype="float16").groups == ()
