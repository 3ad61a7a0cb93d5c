"""Certificate: what pruning removes carried nothing, so the pruned supernet computes what the full one does."""

import functools

import mxnet as mx
import numpy as np
import pytest

from dso_nas.architecture.lambdas import LambdaLayout
from dso_nas.architecture.pruning import prune
from dso_nas.architecture.topology import BlockTopology, NetworkSpec
from dso_nas.networks.network import PublishedInitializer
from dso_nas.networks.supernet import SuperNet

OPERATIONS = ("sep_conv_3x3", "sep_conv_5x5", "max_pool_3x3", "avg_pool_3x3")
LAYOUTS = [("share", False), ("full", False), ("full", True)]


def layout_of(levels, operations, scope, packed):
    topology = BlockTopology(levels, OPERATIONS[:operations])
    return LambdaLayout(NetworkSpec(topology, "cifar", (2, 1), (2, 3), 5, (3, 6, 6)), scope, packed)


def randomised(network, rng, shifts):
    """Random parameters; without `shifts` an operation maps zero to zero, so that no input means no output."""
    for name, parameter in network.collect_params().items():
        low = 0.5 if "var" in name or "gamma" in name else -0.7
        value = rng.uniform(low, 1.3, parameter.shape)
        if not shifts and ("mean" in name or "beta" in name):
            value[:] = 0
        parameter.set_data(mx.nd.array(value))


def set_lambdas(network, values):
    for name, parameter in network.lambdas.items():
        parameter.set_data(mx.nd.array(values[name]))


def sparse_lambdas(layout, rng):
    keep = rng.uniform(0.1, 0.9)
    values = {}
    for name, shape in layout.shapes().items():
        values[name] = (rng.random(shape) < keep) * rng.uniform(0.01, 1.5, shape).astype(np.float32)
        if shape == (1, 2) and not values[name].any():
            values[name][0, rng.integers(2)] = 1.0
    return values


@functools.lru_cache(maxsize=None)
def full_network(levels, operations, scope, packed):
    layout = layout_of(levels, operations, scope, packed)
    network = SuperNet(layout)
    network.initialize()
    return layout, network


def without_shift(network, pruned):
    """A block with no output left is its shortcut; the full network adds the shift of the block's BatchNorm."""
    for unit in network.spec.block_units():
        if pruned.genotype.block(unit).is_empty:
            for name in ("bn_beta", "bn_running_mean"):
                network.collect_params()[f"{unit.name}_{name}"].set_data(mx.nd.zeros(unit.channels))


CASES = [(seed, False) for seed in range(200)] + [(seed, True) for seed in range(40)]


@pytest.mark.parametrize("seed, shifts", CASES)
def test_the_pruned_supernet_equals_the_full_one(seed, shifts):
    """With any BatchNorm shifts the full network has the pruned lambdas: an operation whose inputs are all zero still
    gives a constant, its shift, which is what pruning takes away. Without shifts it has the raw ones.
    """
    rng = np.random.default_rng(seed)
    layout, full = full_network(int(rng.integers(1, 5)), int(rng.integers(1, 5)), *LAYOUTS[seed % 3])
    values = sparse_lambdas(layout, rng)
    pruned = prune(layout, values)
    randomised(full, rng, shifts)
    without_shift(full, pruned)
    set_lambdas(full, pruned.values if shifts else values)
    small = SuperNet(layout, pruned.genotype)
    small.initialize()
    whole = full.collect_params()
    for name, parameter in small.collect_params().items():
        parameter.set_data(whole[name].data())
    set_lambdas(small, pruned.values)
    x = mx.nd.array(rng.normal(size=(2, 3, 6, 6)))
    expected, got = full(x).asnumpy(), small(x).asnumpy()
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_a_block_without_outputs_is_its_shortcut():
    layout = layout_of(2, 2, "full", False)
    values = {name: np.ones(shape, np.float32) for name, shape in layout.shapes().items()}
    for name in values:
        if name in ("lambda_after_stage1_unit1", "lambda_after_stage1_unit2"):
            values[name][:] = 0
    pruned = prune(layout, values)
    network = SuperNet(layout, pruned.genotype)
    network.initialize(PublishedInitializer())
    x = mx.nd.random.normal(shape=(2, 3, 6, 6))
    first, second = network.units[0], network.units[1]
    stem = network.stem(x)
    assert (first(stem) == first.id_conv(stem)).asnumpy().all()
    assert (second(stem) == stem).asnumpy().all()
    names = set(network.collect_params())
    assert not any(name.startswith("stage1_unit2_") for name in names)
    assert "stage1_unit1_bn_gamma" not in names and "stage1_unit1_id_conv_weight" in names


def test_pruned_lambdas_get_no_gradient():
    layout = layout_of(3, 3, "share", False)
    rng = np.random.default_rng(5)
    pruned = prune(layout, sparse_lambdas(layout, rng))
    network = SuperNet(layout, pruned.genotype)
    network.initialize()
    randomised(network, rng, shifts=True)
    set_lambdas(network, pruned.values)
    with mx.autograd.record():
        loss = (network(mx.nd.random.normal(shape=(2, 3, 6, 6))) ** 2).sum()
    loss.backward()
    live_gradients = 0
    for name, parameter in network.lambdas.items():
        gradient = parameter.grad().asnumpy()
        assert (gradient[pruned.values[name] == 0] == 0).all(), name
        live_gradients += np.count_nonzero(gradient[pruned.values[name] > 0])
    assert live_gradients > 0
