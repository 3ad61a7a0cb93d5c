"""Planned memory: the paper's size, the limit, and the trade that 'auto' makes."""

from __future__ import annotations

import dataclasses
from typing import Tuple

import pytest

from dso_nas.architecture.genotype import Genotype
from dso_nas.architecture.memory_plan import MB, Group, Segment, network_segments, plan_memory, plan_segments
from dso_nas.architecture.topology import BlockTopology, NetworkSpec
from dso_nas.errors import UserError

FOUR = ("sep_conv_3x3", "sep_conv_5x5", "max_pool_3x3", "avg_pool_3x3")
PAPER = NetworkSpec(BlockTopology(4, FOUR), "cifar", (8, 8, 8), (48, 96, 192), 10, (3, 32, 32))


def plan_groups(spec, genotype, batch, limit):
    plan = plan_memory(spec, genotype, batch, "auto", limit)
    return list(plan.groups), plan.activations + plan.parameters


@pytest.mark.parametrize("tuned, most", [(False, 1.3e9), (True, 1.45e9)])
def test_the_papers_supernet_at_batch_64_takes_at_most_1300_mb_on_a_gpu(tuned: bool, most: float) -> None:
    plan = plan_memory(PAPER, None, 64, "block", tuned=tuned)
    assert plan.activations + plan.parameters <= most


@pytest.mark.parametrize("kept, head, groups, peak", [
    ((50, 20, 20), 9, ((0, 1),), 1 + 5 + 5 + 50),
    ((50, 50, 20), 9, ((0, 1), (1, 2)), 1 + 5 + 5 + 5 + 50),
    ((20, 20, 20), 90, ((0, 3),), 1 + 4 + 4 + 90),
    ((5, 5, 5), 9, (), 1 + 24)])
def test_insides_stand_beside_what_goes_into_each_part(kept: Tuple[int, ...], head: int, groups: Tuple[Group, ...],
                                                       peak: int) -> None:
    segments = [Segment(*sizes, 0) for sizes in zip((1, 5, 5, 4, 4), (*kept, 0, head))]
    plan = plan_segments(segments, 0, 3, "block", None)
    assert (plan.groups, plan.activations) == (groups, 3 * 4 * peak)


def test_mirroring_takes_a_quarter_at_most_and_grows_by_a_map_a_block() -> None:
    def planned(blocks: int, mirroring: str) -> float:
        spec = NetworkSpec(BlockTopology(4, FOUR), "cifar", (blocks,), (32,), 10, (3, 16, 16))
        return plan_memory(spec, None, 32, mirroring).activations / MB

    assert planned(12, "block") <= planned(12, "none") / 4
    assert planned(12, "block") - planned(6, "block") == 6 * 32 * 32 * 16 * 16 * 4 / MB


def test_small_segments_are_mirrored_together_or_kept() -> None:
    groups, segments = plan_memory(PAPER, None, 64, "block").groups, network_segments(PAPER)
    assert groups is not None and [start for start, _ in groups] == [0, *(stop for _, stop in groups[:-1])]
    largest = max(segment.kept + segment.gradients for segment in segments)
    for start, stop in [*groups, (groups[-1][1], len(segments))]:
        inside = segments[start:stop]
        assert sum(s.kept for s in inside) + max(s.gradients for s in inside) <= largest
    assert all(stop - start == 1 for start, stop in groups[:9]) and len(segments) - groups[-1][1] > 2


def test_block_mirrors_the_fewest_of_what_takes_the_least() -> None:
    plan = plan_memory(PAPER, None, 64, "block")
    assert plan == plan_memory(PAPER, None, 64, "auto", plan.total_mb + 1e-6)
    with pytest.raises(UserError, match="is too little"):
        plan_memory(PAPER, None, 64, "auto", plan.total_mb - 1e-6)


@pytest.mark.parametrize("limit", [1800, 3000, 5000])
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
