"""Mirroring: the same numbers as keeping everything, and planned memory against MXNet's own plan."""

from __future__ import annotations

import dataclasses
import functools
import re

import mxnet as mx
import numpy as np
import pytest

from dso_nas.architecture.genotype import Genotype
from dso_nas.architecture.lambdas import LambdaLayout
from dso_nas.architecture.memory_plan import MB, Segment, _bytes, network_segments
from dso_nas.architecture.topology import BlockTopology, NetworkSpec
from dso_nas.networks.network import PublishedInitializer
from dso_nas.networks.supernet import SuperNet
from dso_nas.training.losses import ClassificationLoss
from dso_nas.training.memory import Chain, block_groups
from dso_nas.training.programs import trace
from tests.passes import assert_alike, compiled, recorded, stepped, trained

FOUR = ("sep_conv_3x3", "sep_conv_5x5", "max_pool_3x3", "avg_pool_3x3")
SPEC = NetworkSpec(BlockTopology(2, FOUR), "cifar", (2, 1), (4, 8), 10, (3, 8, 8))
SEGMENTS = len(network_segments(SPEC))


def network():
    made = SuperNet(LambdaLayout(SPEC, "share"))
    mx.random.seed(3)
    made.initialize(PublishedInitializer())
    made.hybridize_segments()
    return made


def batch():
    random = np.random.default_rng(0)
    return [mx.nd.array(random.standard_normal((4, 3, 8, 8)))], mx.nd.array([1, 2, 3, 4]), ClassificationLoss()


@pytest.mark.parametrize("groups", [
    block_groups(SEGMENTS), [(0, 2), (2, SEGMENTS - 1)], [(0, SEGMENTS - 1)],
    [(i, i + 1) for i in range(SEGMENTS - 1)], block_groups(SEGMENTS)[:2], []])
def test_mirrored_equals_unmirrored(groups):
    assert_alike(compiled(network(), *batch(), groups), recorded(network(), *batch()))


def deep_network(different):
    """Four blocks of their own lambdas; `different` lack one connection each, not all the same."""
    spec = dataclasses.replace(SPEC, blocks=(4,), widths=(4,))
    genotype = Genotype.full(spec, "full")
    blocks = dict(genotype.blocks)
    for name, source in zip(blocks if different else (), [(0, 0), (1, 1), (1, 2), (1, 3)]):
        sources = tuple(node for node in blocks[name].connections[2, 2] if node != source)
        blocks[name] = dataclasses.replace(blocks[name], connections={**blocks[name].connections, (2, 2): sources})
    genotype = dataclasses.replace(genotype, blocks=blocks)
    made = SuperNet(LambdaLayout(spec, "full"), genotype)
    mx.random.seed(3)
    made.initialize(PublishedInitializer())
    for name, parameter in made.lambdas.items():
        parameter.set_data(mx.nd.array(np.random.default_rng(list(name.encode())).uniform(0.5, 1, parameter.shape)))
    return made


@pytest.mark.parametrize("different", [False, True])
def test_first_runs_by_one_program_have_each_parts_values(different):
    made = deep_network(different)
    chain = Chain(made, batch()[0], block_groups(len(made.segments)))
    chain.add_group("wanted", trained(made))
    programs = [run.program for run in chain._first_runs]
    # The stem, the first block, and two more, whose masks are constants.
    assert len(programs) == 4 and len(set(programs)) == (4 if different else 3)
    plain = deep_network(different)
    for _ in range(2):
        assert_alike(stepped(made, chain, "wanted", *batch()), recorded(plain, *batch()))
        for each in (made, plain):
            for name in trained(each):
                parameter = each.collect_params()[name]
                parameter.set_data(1.5 * parameter.data())


def test_groups_before_the_first_wanted_segment_are_not_run_again():
    made = network()
    stem = made.segments[0].collect_params(".*weight")["conv0_weight"]
    later = {name for segment in made.segments[3:] for name in segment.collect_params()} - set(made.lambdas)
    names = later.intersection(trained(made))
    # Statistics move in the backward pass.
    untouched = {name: np.zeros(p.shape) if p.grad_req != "null" else p.data().asnumpy()
                 for name, p in made.collect_params().items()}
    found, wanted = compiled(made, *batch(), block_groups(SEGMENTS), names), recorded(network(), *batch())
    assert not stem.grad().asnumpy().any()
    assert all(p.grad().asnumpy().any() for p in made.segments[3].collect_params(".*weight").values())
    for name, before in untouched.items():
        expected = wanted[name] if name in later else before
        np.testing.assert_allclose(found[name], expected, atol=1e-5 * np.abs(wanted[name]).max(), err_msg=name)


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("widths", [(4, 8), (8, 8)])
def test_planned_maps_are_those_between_a_chains_parts(widths, merged):
    """What is kept beside insides: what goes into each part, and for the gradient of that an array of each shape."""
    spec = dataclasses.replace(SPEC, blocks=(3, 2), widths=widths)
    made = SuperNet(LambdaLayout(spec, "share"))
    made.initialize(PublishedInitializer())
    images, *_ = batch()
    segments = network_segments(spec)
    groups = [(0, 1), (1, 3), (3, 6)] if merged else block_groups(len(segments))
    chain = Chain(made, images, groups)
    gradients = {id(array): array for array in chain._gradients[1:]}.values()
    kept = sum(array.size for array in (*chain._maps, *gradients))
    assert _bytes([Segment(segment.input, 0, 0) for segment in segments], groups, len(images[0])) == kept


def planned_by_mxnet(made, units, tuned):
    """MB of the first units' training step on 64 maps."""
    def run(x):
        return mx.sym.sum(functools.reduce(lambda value, unit: unit(value), made.units[:units], x))

    symbol, constants = trace(run, ["data"], trained(made), mx.cpu()) if tuned else (run(mx.sym.var("data")), {})
    requests = {name: "null" if name in constants else "write" for name in symbol.list_arguments()}
    executor = symbol.simple_bind(mx.cpu(), data=(64, 16, 32, 32), grad_req=requests)
    return int(re.search(r"Total (\d+) MB", executor.debug_str()).group(1))


@pytest.mark.parametrize("tuned", [False, True])
def test_planned_memory_is_what_mxnet_plans_for_a_blocks_insides(tuned):
    """Within a tenth: a block in the executor's plan and a block more, against ours."""
    spec = NetworkSpec(BlockTopology(4, FOUR), "cifar", (4,), (16,), 10, (3, 32, 32))
    made = SuperNet(LambdaLayout(spec, "share"))
    totals = [planned_by_mxnet(made, units, tuned) for units in range(1, 5)]
    first, following = (network_segments(spec, tuned=tuned)[index] for index in (1, 2))
    assert totals[3] - totals[2] == pytest.approx(following.kept * 64 * 4 / MB, rel=0.1)
    assert totals[0] == pytest.approx((first.kept + first.gradients) * 64 * 4 / MB, rel=0.1)
