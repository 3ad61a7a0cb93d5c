"""Costs against what the traced networks themselves say: every operation, stem and head, and random architectures."""

from __future__ import annotations

from collections import Counter

import dso_nas  # noqa: F401  (before MXNet)

# isort: split
import mxnet as mx
import numpy as np
import pytest

from dso_nas.architecture.cost import Conventions, network_cost, operation_cost
from dso_nas.architecture.cost import Layer as CostLayer
from dso_nas.architecture.genotype import Genotype
from dso_nas.architecture.lambdas import LambdaLayout
from dso_nas.architecture.sampling import random_genotype
from dso_nas.architecture.topology import OPERATIONS, BlockTopology, NetworkSpec
from dso_nas.networks.derived import DerivedNetwork
from dso_nas.networks.operations import make_operation
from dso_nas.networks.supernet import SuperNet
from tests.symbol_counts import count, total

FOUR = ("sep_conv_3x3", "sep_conv_5x5", "max_pool_3x3", "avg_pool_3x3")
CIFAR = NetworkSpec(BlockTopology(3, FOUR), "cifar", (2, 1, 1), (6, 10, 14), 10, (3, 32, 32))
IMAGENET = NetworkSpec(BlockTopology(2, tuple(OPERATIONS)), "imagenet", (1, 2, 1, 1), (5, 6, 7, 9), 11, (3, 119, 125))
EVERYTHING = Conventions(batch_norm=True, bias=True, aux_head=True)


def traced(network, shape):
    outputs = network(mx.sym.var("data"))
    return mx.sym.Group(list(outputs)) if isinstance(outputs, (list, tuple)) else outputs, (1, *shape)


def counted(spec, genotype, **conventions):
    symbol, shape = traced(DerivedNetwork(spec, genotype, auxiliary=True), spec.image_shape)
    return count(symbol, data=shape, **conventions)


def ours(spec, genotype):
    """Costs by layer; the two convolutions of a separable one are told apart by neither, and added on both sides."""
    rows = network_cost(spec, genotype, Conventions(aux_head=True)).rows
    return {row.layer.name: (row.cost.parameters, row.cost.multiply_adds, row.cost.mac)
            for row in rows if row.layer.kind != "batch_norm"}


def joined(counts):
    """Counts with every depthwise half added to its pointwise half."""
    whole = Counter()
    for name, values in counts.items():
        stem = name[: -len("_sep")] if name.endswith("_sep") else name
        whole[stem] = tuple(np.add(whole[stem] or (0, 0, 0), values))
    return dict(whole)


def assert_same(spec, genotype):
    expected, found = joined(counted(spec, genotype)), ours(spec, genotype)
    same = set(expected) & set(found)
    assert {name: expected[name] for name in same} == {name: found[name] for name in same}
    # Pools that no BatchNorm follows have names of MXNet's own: the two global ones, and the auxiliary head's first.
    assert len(found) - len(same) == len(expected) - len(same) == 3
    rest = [Counter(values for name, values in each.items() if name not in same) for each in (expected, found)]
    assert rest[0] == rest[1]
    everything = network_cost(spec, genotype, EVERYTHING).total
    theirs = total(counted(spec, genotype, batch_norm=True, bias=True))
    assert theirs == (everything.parameters, everything.multiply_adds, everything.mac)


@pytest.mark.parametrize("spec", [CIFAR, IMAGENET], ids=["cifar", "imagenet"])
def test_the_full_network(spec):
    assert_same(spec, Genotype.full(spec, "share"))


@pytest.mark.parametrize("scope", ["share", "full"])
@pytest.mark.parametrize("spec", [CIFAR, IMAGENET], ids=["cifar", "imagenet"])
@pytest.mark.parametrize("seed", range(4))
def test_random_architectures(spec, scope, seed):
    rng = np.random.default_rng(seed)
    assert_same(spec, random_genotype(spec, scope, rng.uniform(0.1, 0.7), rng))


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 1)])
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=list(OPERATIONS))
def test_an_operation_alone(operation, size):
    block = make_operation(operation, 6, "unit_1")
    counts = count(block(mx.sym.var("data")), batch_norm=True, data=(1, 6, *size))
    layer = CostLayer("unit", "unit_1", operation.kind, 6, 6, operation.kernel, size, size)
    cost = operation_cost(layer, Conventions(batch_norm=True))
    assert total(counts) == (cost.parameters, cost.multiply_adds, cost.mac)


@pytest.mark.parametrize("spec", [CIFAR, IMAGENET], ids=["cifar", "imagenet"])
@pytest.mark.parametrize("scope", ["share", "full"])
def test_the_supernet_has_the_full_networks_weights(spec, scope):
    """Its graph computes them in a faster form: only its parameters can be counted on it."""
    network = SuperNet(LambdaLayout(spec, scope))
    weights = {name: np.prod(parameter.shape) for name, parameter in network.collect_params().items()
               if name.endswith("_weight")}
    assert sum(weights.values()) == network_cost(spec, Genotype.full(spec, scope)).total.parameters
