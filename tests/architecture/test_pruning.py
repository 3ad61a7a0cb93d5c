"""Pruning, against the published code's results, a path enumeration, and the rule for dead reductions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dso_nas.architecture.genotype import Genotype
from dso_nas.architecture.lambdas import LambdaLayout
from dso_nas.architecture.pruning import live_connections, prune, prune_block
from dso_nas.architecture.topology import AFTER, INPUT, REACHES, BlockTopology, NetworkSpec
from dso_nas.errors import UserError

TOKENS = {
    "sep_conv_3x3": "conv3x3",
    "sep_conv_5x5": "conv5x5",
    "max_pool_3x3": "max_pool",
    "avg_pool_3x3": "avg_pool",
}


def batch_norm(name, channels):
    return {f"{name}_gamma": (channels,), f"{name}_beta": (channels,)}


def convolution(name, channels, in_channels, kernel):
    return {f"{name}_weight": (channels, in_channels, kernel, kernel)}


def block_arguments(spec, unit, block):
    name, width = unit.name, unit.channels
    arguments = {}
    if unit.first:
        arguments.update(convolution(f"{name}_id_conv", width, width, 1))
        arguments.update(batch_norm(f"{name}_id_conv_bn", width))
    for level, operation in block.live_nodes:
        kind = spec.topology.operations[operation - 1]
        prefix = f"{name}_{level}_{TOKENS[kind]}"
        if kind.startswith("sep"):
            arguments.update(convolution(f"{prefix}_sep", width, 1, int(kind[-1])))
            arguments.update(convolution(prefix, width, width, 1))
        arguments.update(batch_norm(f"{prefix}_bn", width))
    for level, operation in block.outputs:
        arguments.update(convolution(f"{name}_output_conv_{(level - 1) * 4 + operation}", width, width, 1))
    if block.outputs:
        arguments.update(batch_norm(f"{name}_bn", width))
    return arguments


def network_arguments(spec, genotype):
    """What the naming facts say a genotype's network has, without lambdas and auxiliary head."""
    width, last = spec.widths[0], spec.widths[-1]
    stem = [width] if spec.stem == "cifar" else [width // 2, width]
    arguments = {}
    for index, (before, after) in enumerate(zip([3] + stem, stem)):
        arguments.update(convolution(f"conv{index}", after, before, 3))
        arguments.update(batch_norm(f"bn{index}", after))
    for unit in spec.block_units():
        arguments.update(block_arguments(spec, unit, genotype.block(unit)))
    for unit in spec.reduction_units():
        for name in genotype.reduction(unit):
            prefix = f"{unit.name}_{name}"
            arguments.update(convolution(prefix, unit.channels, unit.in_channels, int(name[-1])))
            arguments.update(batch_norm(f"{prefix}_bn", unit.channels))
    arguments.update(batch_norm("final_bn", last))
    arguments.update({"fc1_weight": (spec.classes, last), "fc1_bias": (spec.classes,)})
    return arguments


def test_lambdas_equal_the_published_pruning(case):
    published = case.packed("search_prune")
    result = prune(case.layout, case.packed("in"))
    reductions = {f"lambda_{unit.name}" for unit in case.spec.reduction_units()}
    for name, expected in published.items():
        if name in reductions and not expected.any():
            assert case.dead_reductions
            assert result.values[name].tolist() == [[0, 1]]
        else:
            assert np.array_equal(result.values[name], expected), name
    assert result.values.keys() == published.keys()
    assert len(result.warnings) == sum(not published[name].any() for name in reductions)
    assert bool(result.warnings) == case.dead_reductions


def test_genotype_has_the_published_networks_parameters(built_case):
    genotype = prune(built_case.layout, built_case.packed("in")).genotype
    derived, searched = built_case.shapes("eval_symbol"), built_case.shapes("search_prune_symbol")
    assert derived
    for published in (derived, searched) if searched else (derived,):
        own = {name: shape for name, shape in published.items() if not name.startswith(("aux_", "lambda"))}
        assert network_arguments(built_case.spec, genotype) == own


def usable_by_enumeration(topology, vector):
    """Every connection on some path from the block's input to its output, paths enumerated one by one."""
    vectors = topology.unpack(vector)
    used = np.zeros(topology.num_connections, bool)

    def position(key, index):
        return topology.slice(key).start + index

    def walk(node, path):
        out = topology.output_index(node)
        if vectors[AFTER][out] > 0:
            used[path + [position(AFTER, out)]] = True
        for later in topology.nodes():
            if later[0] > node[0]:
                follow(node, later, path)

    def follow(node, later, path):
        sources = topology.predecessors(later[0])
        if node in sources and vectors[later][sources.index(node)] > 0:
            walk(later, path + [position(later, sources.index(node))])

    for node in topology.nodes():
        if node[0] == 1:
            walk(node, [])
        else:
            follow(INPUT, node, [])
    return used


@st.composite
def blocks(draw):
    reach = draw(st.sampled_from(REACHES))
    topology = BlockTopology(draw(st.integers(1, 4)), ("max_pool_3x3",) * draw(st.integers(1, 3)), reach)
    sparse = st.sampled_from([0.0, 0.0, 0.0, -0.5, 1e-8, 1.0])
    return topology, draw(hnp.arrays(np.float32, topology.num_connections, elements=sparse.map(np.float32)))


@settings(deadline=None, max_examples=150)
@given(blocks())
def test_pruning_keeps_exactly_the_paths(block):
    topology, vector = block
    pruned = prune_block(topology, vector)
    assert np.array_equal(pruned, np.where(usable_by_enumeration(topology, vector), vector, 0))
    assert np.array_equal(prune_block(topology, pruned), pruned)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), density=st.floats(0.02, 0.9), packed=st.booleans())
def test_pruning_a_network_is_idempotent(seed, density, packed):
    layout = LambdaLayout(small_network(), "full", packed)
    rng = np.random.default_rng(seed)
    shapes = layout.shapes()
    values = {name: rng.random(shape) * (rng.random(shape) < density) for name, shape in shapes.items()}
    once = prune(layout, values)
    twice = prune(layout, once.values)
    assert not twice.warnings and twice.genotype == once.genotype
    assert all(np.array_equal(once.values[name], twice.values[name]) for name in values)


def small_network():
    topology = BlockTopology(3, ("sep_conv_3x3", "avg_pool_3x3"))
    return NetworkSpec(topology, "cifar", (1, 2, 1), (4, 8, 16), 10, (3, 32, 32))


def with_reduction(spec, pair):
    layout = LambdaLayout(spec, "share")
    values = {name: np.ones(shape) for name, shape in layout.shapes().items()}
    return layout, {**values, "lambda_stage1_unit3": np.array([pair])}


@pytest.mark.parametrize(
    "pair,earlier,kept,value",
    [
        ([-0.1, -0.2], None, 0, 1.0),
        ([-0.2, -0.1], [0.5, 0.25], 1, 0.25),
        ([0.0, 0.0], [0.5, 0.25], 0, 0.5),
        ([0.0, 0.0], [0.0, 0.125], 1, 0.125),
        ([0.0, 0.0], [0.5, 0.5], 1, 0.5),
        ([0.0, 0.0], None, 1, 1.0),
        ([0.0, -0.3], [0.0, 0.5], 0, 1.0),
    ],
)
def test_a_dead_reduction_keeps_the_larger_and_warns(spec, pair, earlier, kept, value):
    layout, values = with_reduction(spec, pair)
    previous = None if earlier is None else with_reduction(spec, earlier)[1]
    result = prune(layout, values, previous)
    operation = ("conv1x1", "conv3x3")[kept]
    assert result.values["lambda_stage1_unit3"].tolist() == [[value if i == kept else 0 for i in (0, 1)]]
    assert result.genotype.reductions == ((operation,), ("conv1x1", "conv3x3"))
    assert len(result.warnings) == 1
    assert all(part in result.warnings[0] for part in ("lambda_stage1_unit3", operation, f"{value:g}"))


def test_a_live_reduction_is_only_clamped(spec):
    layout, values = with_reduction(spec, [-0.5, 0.25])
    result = prune(layout, values)
    assert result.values["lambda_stage1_unit3"].tolist() == [[0, 0.25]] and not result.warnings


def test_nothing_to_prune_leaves_the_full_network(spec):
    for scope, packed in (("share", False), ("full", False), ("full", True)):
        layout = LambdaLayout(spec, scope, packed)
        result = prune(layout, {name: np.ones(shape) for name, shape in layout.shapes().items()})
        assert result.genotype == Genotype.full(spec, scope)
        assert all((value == 1).all() for value in result.values.values())
        assert live_connections(result.genotype, spec) == 6 * 124


def test_an_empty_block_is_its_shortcut(spec):
    layout = LambdaLayout(spec, "full", packed=True)
    values = {name: np.ones(shape) for name, shape in layout.shapes().items()}
    values["lambda_stage2_unit2"][0, -16:] = 0
    result = prune(layout, values)
    assert not result.values["lambda_stage2_unit2"].any()
    assert result.genotype.blocks["stage2_unit2"].is_empty
    assert live_connections(result.genotype, spec) == 5 * 124


def test_a_diverged_search_is_refused(spec):
    layout, values = with_reduction(spec, [np.nan, 1.0])
    with pytest.raises(UserError, match="stage1_unit3: a lambda is not finite"):
        prune(layout, values)
