"""Blocks that reach back one level only, against blocks of every connection with the others at zero."""

from __future__ import annotations

import dataclasses

import mxnet as mx
import numpy as np
import pytest

from dso_nas.architecture.genotype import Genotype
from dso_nas.architecture.lambdas import LambdaLayout
from dso_nas.architecture.topology import BlockTopology, NetworkSpec
from dso_nas.networks.derived import DerivedNetwork
from dso_nas.networks.supernet import SuperNet

OPERATIONS = ("sep_conv_3x3", "max_pool_3x3", "avg_pool_3x3")
NEAR = NetworkSpec(BlockTopology(3, OPERATIONS, "previous"), "imagenet", (1, 2), (2, 4), 5, (3, 16, 16))
FAR = dataclasses.replace(NEAR, topology=BlockTopology(3, OPERATIONS))


def widened(vector):
    """A packed vector of the near topology in the far one, zero at the connections it has not."""
    vectors = FAR.topology.unpack(np.zeros(FAR.topology.num_connections, np.float32))
    for key, part in NEAR.topology.unpack(vector).items():
        vectors[key][-part.size :] = part
    return FAR.topology.pack(vectors)


def values(network, rng):
    return {
        name: rng.uniform(0.2, 1.2, parameter.shape).astype(np.float32)
        for name, parameter in network.collect_params().items()
    }


def gradients(network, arrays, data):
    """The output (B, classes) and every gradient by name."""
    for name, parameter in network.collect_params().items():
        parameter.set_data(mx.nd.array(arrays[name]))
    network.hybridize()
    with mx.autograd.record():
        output = network(mx.nd.array(data))
        output = output[0] if isinstance(output, (list, tuple)) else output
        loss = (output * mx.nd.arange(output.shape[1])).sum()
    loss.backward()
    trained = {name: p for name, p in network.collect_params().items() if p.grad_req != "null"}
    return output.asnumpy(), {name: parameter.grad().asnumpy() for name, parameter in trained.items()}


@pytest.mark.parametrize("scope,packed", [("share", False), ("full", False), ("full", True)])
def test_equals_all_connections_with_the_farther_at_zero(scope, packed):
    near, far = (LambdaLayout(spec, scope, packed) for spec in (NEAR, FAR))
    networks = [SuperNet(layout) for layout in (near, far)]
    for network in networks:
        network.initialize()
    rng = np.random.default_rng(5)
    data = rng.normal(size=(4, 3, 16, 16)).astype(np.float32)
    for network in networks:
        network(mx.nd.array(data))
    arrays = values(networks[0], rng)
    units = near.to_units(arrays)
    blocks = {unit.name for unit in NEAR.block_units()}
    wide = {name: widened(vector) if name in blocks else vector for name, vector in units.items()}
    output, found = gradients(networks[0], arrays, data)
    expected, reference = gradients(networks[1], {**arrays, **far.from_units(wide)}, data)
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-4)
    for name in set(found) - set(near.shapes()):
        scale = np.abs(reference[name]).max()
        np.testing.assert_allclose(found[name], reference[name], rtol=1e-3, atol=1e-3 * scale, err_msg=name)
    ours, theirs = near.to_units(found), far.to_units(reference)
    for unit in NEAR.block_units():
        wide_parts = FAR.topology.unpack(theirs[unit.name])
        for key, part in NEAR.topology.unpack(ours[unit.name]).items():
            expected = wide_parts[key][-part.size :]
            np.testing.assert_allclose(part, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
        assert np.abs(ours[unit.name]).max() > 0


def test_a_derived_network_is_built_from_what_it_reaches():
    genotype = Genotype.full(NEAR, "share")
    block = genotype.blocks["shared"]
    assert block.connections[(3, 1)] == ((2, 1), (2, 2), (2, 3)) and block.num_connections == 2 * 9 + 9
    network = DerivedNetwork(NEAR, genotype)
    network.initialize()
    assert network(mx.nd.ones((2, 3, 16, 16))).shape == (2, 5)
