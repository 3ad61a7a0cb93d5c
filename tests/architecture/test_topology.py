"""Wiring and macro-structure, against the paper's numbers and sizes worked out by hand."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from dso_nas.architecture.topology import INPUT, OPERATIONS, BlockTopology, NetworkSpec, halved
from dso_nas.errors import UserError

SIXES = list(itertools.product(range(1, 7), repeat=2))


def make_topology(levels, count):
    names = itertools.islice(itertools.cycle(OPERATIONS), count)
    return BlockTopology(levels, tuple(names))


@pytest.mark.parametrize("levels,count", SIXES)
def test_connections_follow_the_papers_formula(levels, count):
    """Inputs of levels 2..M from the block's input and every earlier operation, plus one output each."""
    formula = count * sum(1 + count * (m - 1) for m in range(2, levels + 1)) + levels * count
    assert make_topology(levels, count).num_connections == formula


def test_the_papers_block_has_124_connections(topology):
    assert topology.num_connections == 124
    assert [topology.size(key) for key in topology.keys()] == [5] * 4 + [9] * 4 + [13] * 4 + [16]
    assert topology.keys()[0] == (2, 1) and topology.keys()[-1] == "after"


@pytest.mark.parametrize("levels,count", SIXES)
def test_slices_tile_the_packed_vector(levels, count):
    topology = make_topology(levels, count)
    positions = list(range(topology.num_connections))
    assert sum((positions[topology.slice(key)] for key in topology.keys()), []) == positions


def test_every_vector_has_one_entry_per_predecessor(topology):
    for node in topology.nodes():
        predecessors = topology.predecessors(node[0])
        assert predecessors[0] == INPUT
        if node[0] > 1:
            assert len(predecessors) == topology.size(node)
            assert all(source[0] < node[0] for source in predecessors)
    assert topology.predecessors(1) == (INPUT,)
    assert topology.predecessors(3)[1:6] == ((1, 1), (1, 2), (1, 3), (1, 4), (2, 1))


@pytest.mark.parametrize("levels,count", SIXES)
def test_a_block_may_reach_back_one_level_only(levels, count):
    every = make_topology(levels, count)
    topology = BlockTopology(levels, every.operations, "previous")
    assert topology.num_connections == (levels - 1) * count**2 + levels * count
    assert topology.predecessors(1) == (INPUT,)
    for level in range(2, levels + 1):
        before = tuple((level - 1, n) for n in range(1, count + 1))
        assert topology.predecessors(level) == every.predecessors(level)[-count:] == before
    positions = list(range(topology.num_connections))
    assert sum((positions[topology.slice(key)] for key in topology.keys()), []) == positions
    assert topology.keys() == every.keys() and topology != every


def test_an_unknown_reach_is_refused():
    with pytest.raises(UserError, match="reach: unknown 'next', allowed are all, previous"):
        BlockTopology(2, ("sep_conv_3x3",), "next")


def test_outputs_are_counted_in_level_order(topology):
    assert [topology.output_index(node) for node in topology.nodes()] == list(range(16))
    assert topology.output_index((3, 2)) == 9


def test_pack_and_unpack_are_inverse(topology):
    vector = np.arange(124, dtype=np.float32)
    vectors = topology.unpack(vector)
    packed = topology.pack({key: part.reshape(1, -1) for key, part in vectors.items()})
    assert packed.dtype == np.float32 and packed.tolist() == vector.tolist()
    assert vectors[(2, 2)].tolist() == [5, 6, 7, 8, 9]
    assert vectors["after"].tolist() == list(range(108, 124))


def test_pack_and_unpack_refuse_wrong_lengths(topology):
    vectors = topology.unpack(np.ones(124))
    with pytest.raises(ValueError, match=r"\(3, 1\) has 8 entries, not 9"):
        topology.pack({**vectors, (3, 1): np.ones(8)})
    with pytest.raises(ValueError, match="123 entries, not 124"):
        topology.unpack(np.ones(123))


@pytest.mark.parametrize(
    "levels,operations,key",
    [
        (0, ("sep_conv_3x3",), "levels"),
        (True, ("sep_conv_3x3",), "levels"),
        (2.0, ("sep_conv_3x3",), "levels"),
        (2, (), "operations"),
        (2, ("sep_conv_9x9",), "sep_conv_9x9"),
    ],
)
def test_impossible_blocks_are_refused(levels, operations, key):
    with pytest.raises(UserError, match=key):
        BlockTopology(levels, operations)


def test_units_are_named_and_sized_as_published(topology):
    spec = NetworkSpec(topology, "imagenet", (2, 2, 13, 6), (28, 56, 112, 224), 1000, (3, 224, 224))
    units = spec.units()
    assert [unit.name for unit in units[1:4]] == ["stage1_unit2", "stage1_unit3", "stage2_unit1"]
    assert [unit.name for unit in spec.reduction_units()] == ["stage1_unit3", "stage2_unit3", "stage3_unit14"]
    assert len(spec.block_units()) == 23 and len(units) == 26
    reduction = units[2]
    assert (reduction.in_channels, reduction.channels, reduction.first) == (28, 56, False)
    assert [unit.first for unit in units[:5]] == [True, False, False, True, False]
    for unit in spec.block_units():
        assert unit.in_channels == unit.channels == spec.widths[unit.stage - 1]


def test_spatial_sizes(topology):
    imagenet = NetworkSpec(topology, "imagenet", (1, 1, 1, 1), (27, 56, 112, 224), 1000, (3, 224, 225))
    assert imagenet.stem_widths == (14, 27)
    assert imagenet.stem_size == (56, 57)
    assert [imagenet.stage_size(stage) for stage in (1, 2, 3, 4)] == [(56, 57), (28, 29), (14, 15), (7, 8)]
    cifar = NetworkSpec(topology, "cifar", (1, 1, 1), (4, 8, 16), 10, (3, 32, 32))
    assert cifar.stem_widths == (4,) and cifar.stage_size(3) == (8, 8)
    assert halved((5, 8)) == (3, 4)


def test_scaled_changes_widths_alone(spec):
    assert spec.scaled(1.5).widths == (12, 24, 48)
    assert spec.scaled(0.01).widths == (1, 1, 1)
    assert spec.scaled(1.0) == spec


@pytest.mark.parametrize(
    "change,key",
    [
        ({"stem": "mnist"}, "stem"),
        ({"blocks": (2, 2)}, "blocks"),
        ({"blocks": (), "widths": ()}, "blocks"),
        ({"blocks": (2, 0, 2)}, "blocks"),
        ({"widths": (8, 16, 0)}, "widths"),
        ({"widths": (8, 16, 3.5)}, "widths"),
        ({"classes": 0}, "classes"),
        ({"image_shape": (32, 32)}, "image_shape"),
        ({"image_shape": (3, 0, 32)}, "image_shape"),
        ({"topology": BlockTopology(2, ("max_pool_3x3", "max_pool_3x3"))}, "operations"),
    ],
)
def test_impossible_networks_are_refused(spec, change, key):
    fields = {**{name: getattr(spec, name) for name in spec.__dataclass_fields__}, **change}
    with pytest.raises(UserError, match=key):
        NetworkSpec(**fields)


def test_the_output_stride_decides_sizes_strides_and_dilations(topology):
    plain = NetworkSpec(topology, "imagenet", (1, 1, 2, 1), (4, 5, 6, 8), 3, (3, 513, 513))
    expected = {4: ((129, 129, 129, 129), (1, 1, 1), (1, 2, 4, 8)), 8: ((129, 65, 65, 65), (2, 1, 1), (1, 1, 2, 4)),
                16: ((129, 65, 33, 33), (2, 2, 1), (1, 1, 1, 2)), 32: ((129, 65, 33, 17), (2, 2, 2), (1, 1, 1, 1))}
    expected[None] = expected[32]
    for stride, (sizes, strides, dilations) in expected.items():
        spec = dataclasses.replace(plain, output_stride=stride)
        assert tuple(spec.stage_size(stage) for stage in (1, 2, 3, 4)) == tuple((size, size) for size in sizes)
        assert tuple(spec.reduction_stride(stage) for stage in (1, 2, 3)) == strides
        assert tuple(spec.stage_dilation(stage) for stage in (1, 2, 3, 4)) == dilations


@pytest.mark.parametrize("stem, stride, choices", [
    ("imagenet", 12, "4, 8, 16, 32"), ("imagenet", 2, "4, 8, 16, 32"), ("imagenet", 64, "4, 8, 16, 32"),
    ("cifar", 16, "1, 2, 4, 8"), ("cifar", True, "1, 2, 4, 8"), ("cifar", 8.0, "1, 2, 4, 8")])
def test_impossible_output_strides_are_refused(topology, stem, stride, choices):
    with pytest.raises(UserError, match=f"output_stride: {stride} cannot be had, choose one of {choices}"):
        NetworkSpec(topology, stem, (1, 1, 2, 1), (4, 5, 6, 8), 3, (3, 64, 64), stride)
