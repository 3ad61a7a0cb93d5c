"""Blocks: right gradients, the same numbers as the sum written out, and nothing left of what is pruned."""

from __future__ import annotations

import json

import mxnet as mx
import numpy as np
import pytest

from dso_nas.architecture.genotype import BlockGenotype
from dso_nas.architecture.pruning import prune_block
from dso_nas.architecture.topology import AFTER, INPUT, BlockTopology, Unit
from dso_nas.networks.blocks import DerivedBlock, ReductionBlock, SearchBlock
from dso_nas.networks.operations import ConvBNReLU
from dso_nas.training.programs import tracing
from tests.passes import OfLearned, compiled, recorded, trained

FOUR = ("sep_conv_3x3", "sep_conv_5x5", "max_pool_3x3", "avg_pool_3x3")
UNIT = Unit(1, 2, "block", 4, 4, False)


def mask_of(topology, dead):
    """All connections but a few: (node, position in its lambda vector)."""
    vectors = {key: np.ones(topology.size(key), bool) for key in topology.keys()}
    for key, position in dead:
        vectors[key][position] = False
    return topology.pack(vectors)


def search_block(topology, mask=None, seed=0, dtype="float32", unit=UNIT):
    full = np.ones(topology.num_connections, bool) if mask is None else mask
    lambdas = {key: mx.gluon.Parameter(f"lambda_{key}", shape=(1, topology.size(key))) for key in topology.keys()}
    block = SearchBlock(unit, topology, BlockGenotype.from_mask(topology, full), lambdas)
    block.initialize()
    block.cast(dtype)
    random = np.random.default_rng(seed)
    for name, parameter in sorted(block.collect_params().items()):
        if "running" not in name and not name.endswith(("gamma", "beta")):
            parameter.set_data(mx.nd.array(random.uniform(0.2, 0.8, parameter.shape), dtype=dtype))
    return block


def images(dtype="float32", channels=4):
    return mx.nd.array(np.random.default_rng(1).standard_normal((2, channels, 5, 5)), dtype=dtype)


def value(block, x, weights):
    with mx.autograd.train_mode():
        return float((block(x) * weights).sum().asscalar())


@pytest.mark.parametrize("operations", [FOUR[:2], FOUR[1:3]])
def test_gradients_equal_float64_central_differences(operations):
    """In float64 throughout, so that the difference quotient's own error stays small."""
    topology = BlockTopology(3, operations)
    block, x = search_block(topology, dtype="float64"), images("float64")
    weights = mx.nd.array(np.random.default_rng(2).standard_normal(x.shape), dtype="float64")
    x.attach_grad()
    with mx.autograd.record():
        loss = (block(x) * weights).sum()
    loss.backward()
    arrays = {"x": (x, x.grad.asnumpy())}
    for name, parameter in block.collect_params().items():
        if parameter.grad_req != "null":
            arrays[name] = (parameter.data(), parameter.grad().asnumpy())
    random, step = np.random.default_rng(3), 1e-5
    for name, (array, gradient) in arrays.items():
        start = array.asnumpy()
        for index in random.integers(0, start.size, 3):
            ends = []
            for sign in (1, -1):
                moved = start.copy()
                moved.flat[index] += sign * step
                array[:] = mx.nd.array(moved, dtype="float64")
                ends.append(value(block, x, weights))
            array[:] = mx.nd.array(start, dtype="float64")
            slope = (ends[0] - ends[1]) / (2 * step)
            assert gradient.flat[index] == pytest.approx(slope, rel=1e-4, abs=1e-6), name


def written_out(block, x):
    """Eq. 8 word by word: a multiplication for every live connection."""
    topology, live = block.topology, block.genotype
    parameters = {name: p.data() for name, p in block.collect_params().items()}
    hidden = {INPUT: x}
    for node in live.live_nodes:
        total = x if node[0] == 1 else sum(
            parameters[f"lambda_{node}"][0, topology.predecessors(node[0]).index(source)] * hidden[source]
            for source in live.connections[node])
        hidden[node] = mx.nd.relu(block._operations[node](total))
    outputs = sum(
        parameters["lambda_after"][0, topology.output_index(node)] * mx.nd.Convolution(
            hidden[node], parameters[f"stage1_unit2_output_conv_{topology.output_index(node) + 1}_weight"],
            kernel=(1, 1), num_filter=block.unit.channels, no_bias=True)
        for node in live.outputs)
    return mx.nd.relu(block.bn(outputs)) + x


@pytest.mark.parametrize("dead", [
    [],
    [((2, 1), 0), ((3, 2), 3), (AFTER, 0)],
    [(AFTER, 2), (AFTER, 3)],
    [((3, 1), i) for i in range(1, 5)] + [((3, 2), 0), (AFTER, 1), (AFTER, 4)] + [((3, 2), 4)],
])
@pytest.mark.parametrize("way", ["plain", "hybridized", "tuned"])
def test_a_block_is_the_sum_over_its_live_connections(dead, way):
    topology = BlockTopology(3, FOUR[1:3])
    mask = prune_block(topology, mask_of(topology, dead).astype(np.float32)) > 0
    # A width that is tuned.
    block, x = search_block(topology, mask, unit=Unit(1, 2, "block", 8, 8, False)), images(channels=8)
    # What is tuned normalises by the batch.
    with mx.autograd.train_mode() if way == "tuned" else mx.autograd.predict_mode():
        wanted = written_out(block, x).asnumpy()
    if way == "hybridized":
        block.hybridize()
    if way == "tuned":
        found = compiled(block, [x], mx.nd.zeros(x.shape), squares)["outputs 0"]
    else:
        found = block(x).asnumpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def squares(outputs, labels):
    return mx.nd.square(outputs - labels)


@pytest.mark.parametrize("density", [0.15, 0.3, 0.6])
@pytest.mark.parametrize("seed", range(3))
def test_a_static_executor_has_the_same_gradients(density, seed):
    """With channels enough for oneDNN's layout, in which MXNet changes shapes in place, wrongly."""
    topology, unit = BlockTopology(4, FOUR), Unit(1, 2, "block", 16, 16, False)
    draws = np.random.default_rng(seed)
    mask = prune_block(topology, (draws.random(topology.num_connections) < density).astype(np.float32)) > 0
    block = search_block(topology, mask, unit=unit)
    # As behind another unit, whose sum comes in that layout.
    x, before = images(channels=16), ConvBNReLU(16, 16, 1, "before")
    before.initialize(mx.init.Xavier())
    before(x)
    parameters = {**block.collect_params(), **before.collect_params()}
    with mx.autograd.record():
        loss = mx.nd.square(block(before(x))).sum()
    loss.backward()
    trained = {name: p for name, p in parameters.items() if p.grad_req != "null"}
    executor = mx.sym.sum(mx.sym.square(block(before(mx.sym.var("data"))))).simple_bind(mx.cpu(), data=x.shape)
    for name, p in parameters.items():
        if name in executor.arg_dict:
            executor.arg_dict[name][:] = p.data()
    executor.forward(is_train=True, data=x)
    executor.backward([mx.nd.ones((1,))])
    for name, p in trained.items():
        wanted = p.grad().asnumpy()
        np.testing.assert_allclose(executor.grad_dict[name].asnumpy(), wanted, atol=1e-3 * np.abs(wanted).max() + 1e-4,
                                   err_msg=name)


@pytest.mark.parametrize("density", [0.15, 0.3, 0.6, 1])
@pytest.mark.parametrize("seed", range(3))
def test_a_tuned_block_has_the_same_gradients(density, seed):
    """As behind another unit, of lambdas and weights together and of each alone."""
    topology, unit = BlockTopology(4, FOUR), Unit(1, 2, "block", 16, 16, False)
    draws = np.random.default_rng(seed)
    mask = prune_block(topology, (draws.random(topology.num_connections) < density).astype(np.float32)) > 0
    network = mx.gluon.nn.HybridSequential(prefix="")
    network.add(ConvBNReLU(16, 16, 1, "before"), search_block(topology, mask, unit=unit))
    network[0].initialize(mx.init.Xavier())
    network, x = OfLearned(network, images(channels=16)), images(channels=16)
    labels = mx.nd.array(draws.standard_normal(x.shape))
    wanted = recorded(network, [x], labels, squares)
    names = trained(network)
    lambdas = [name for name in names if "lambda" in name]
    for learned in (names, lambdas, [name for name in names if name not in lambdas]):
        found = compiled(network, [x], labels, squares, names=learned)
        for name in ["outputs 0", *learned]:
            np.testing.assert_allclose(found[name], wanted[name], atol=1e-3 * np.abs(wanted[name]).max() + 1e-4,
                                       err_msg=name)


@pytest.mark.parametrize("run", [recorded, compiled])
def test_pruned_lambdas_get_no_gradient(run):
    topology = BlockTopology(2, FOUR[:2])
    block, x = search_block(topology, mask_of(topology, [((2, 1), 1), (AFTER, 0)])), images()
    gradients = run(block, [x], mx.nd.zeros(x.shape), squares)
    layer, after = (gradients[name][0] for name in ("lambda_(2, 1)", "lambda_after"))
    assert layer[1] == after[0] == 0
    assert layer[[0, 2]].all() and after[1:].all()


def test_an_empty_block_is_its_shortcut():
    topology = BlockTopology(2, FOUR[:2])
    empty = BlockGenotype({}, ())
    block = SearchBlock(UNIT, topology, empty, {})
    block.initialize()
    assert (block(images()) == images()).asnumpy().all()
    assert not block.collect_params().keys()
    derived = DerivedBlock(UNIT, topology, empty)
    derived.initialize()
    assert (derived(images()) == images()).asnumpy().all()


def test_a_stages_first_block_has_a_convolution_as_shortcut():
    block = search_block(BlockTopology(1, FOUR[:1]), unit=Unit(1, 1, "block", 4, 4, True))
    assert {name for name in block.collect_params() if "id_conv" in name and name.endswith("weight")} == {
        "stage1_unit1_id_conv_weight"}
    assert block(images()).shape == (2, 4, 5, 5)


@pytest.mark.parametrize("kept", [("conv1x1", "conv3x3"), ("conv3x3",)])
def test_a_reduction_scales_what_it_keeps(kept):
    unit = Unit(1, 2, "reduction", 4, 6, False)
    scales = mx.gluon.Parameter("lambda_r", shape=(1, 2))
    block = ReductionBlock(unit, kept, scales)
    block.initialize(mx.init.Uniform(0.5))
    scales.set_data(mx.nd.array([[2.0, 3.0]]))
    factors = {"conv1x1": 2.0, "conv3x3": 3.0}
    wanted = sum(factors[name] * branch(images()) for name, branch in zip(kept, block._branches))
    assert block(images()).shape == (2, 6, 3, 3)
    np.testing.assert_allclose(block(images()).asnumpy(), wanted.asnumpy(), rtol=1e-5, atol=1e-6)


def traced(block):
    """Which separable convolutions are split, level by level, and which max pools read what was brought into blocks."""
    separable = [block._operations[(level, operation)] for level in (1, 2) for operation in (1, 2)]
    nodes = json.loads(block(mx.sym.var("data")).tojson())["nodes"]
    pools = [node for node in nodes if node["op"] == "Pooling"]
    return ([operation.depthwise.is_split for operation in separable],
            [nodes[pool["inputs"][0][0]]["op"] == "Convolution" for pool in pools])


@pytest.mark.parametrize("channels, tuned", [(8, True), (12, False)])
def test_only_widths_that_onednn_is_fast_at_are_tuned(channels, tuned):
    block = search_block(BlockTopology(2, FOUR), unit=Unit(1, 2, "block", channels, channels, False))
    names = set(block.collect_params())
    untuned = [False] * 4, [False] * 2
    assert traced(block) == untuned
    with tracing(names, on_cpu=True):
        assert traced(block) == ([False, tuned, False, tuned], [tuned, tuned])
    with tracing(names, on_cpu=False):
        assert traced(block) == untuned
    second = block._operations[(2, 2)].depthwise.weight.name
    for learned, split in (({second}, [False] * 3 + [tuned]), (names - {second}, [False, tuned, False, False]),
                           ({name for name in names if name.startswith("lambda")}, [False] * 4), ((), [False] * 4)):
        with tracing(learned, on_cpu=True):
            assert traced(block) == (split, [tuned, tuned])
    assert traced(block) == untuned
