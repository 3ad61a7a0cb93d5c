"""Mirroring: the same numbers as keeping everything, and planned memory against MXNet's own plan."""

from __future__ import annotations

import re

import mxnet as mx
import numpy as np
import pytest

from dso_nas.architecture.lambdas import LambdaLayout
from dso_nas.architecture.memory_plan import MB, network_segments
from dso_nas.architecture.topology import BlockTopology, NetworkSpec
from dso_nas.networks.blocks import tune_for_cpu
from dso_nas.networks.network import PublishedInitializer
from dso_nas.networks.supernet import SuperNet
from dso_nas.training.losses import ClassificationLoss
from dso_nas.training.memory import block_groups, forward_backward, mirrored_forward_backward

FOUR = ("sep_conv_3x3", "sep_conv_5x5", "max_pool_3x3", "avg_pool_3x3")
SPEC = NetworkSpec(BlockTopology(2, FOUR), "cifar", (2, 1), (4, 8), 10, (3, 8, 8))
SEGMENTS = len(network_segments(SPEC))


def network():
    made = SuperNet(LambdaLayout(SPEC, "share"))
    mx.random.seed(3)
    made.initialize(PublishedInitializer())
    for parameter in made.lambdas.values():
        parameter.grad_req = "add"
    tune_for_cpu(made)
    made.hybridize_segments()
    return made


def batch():
    random = np.random.default_rng(0)
    return mx.nd.array(random.standard_normal((4, 3, 8, 8))), mx.nd.array([1, 2, 3, 4])


def everything(made, run):
    """Outputs, gradients and running statistics after one step."""
    outputs, losses = run(made)
    arrays = {"outputs": outputs.asnumpy(), "losses": losses.asnumpy()}
    for name, parameter in made.collect_params().items():
        arrays[name] = (parameter.data() if parameter.grad_req == "null" else parameter.grad()).asnumpy()
    return arrays


def plain(made):
    return forward_backward(made, *batch(), ClassificationLoss())


@pytest.mark.parametrize("groups", [
    block_groups(SEGMENTS), [(0, 2), (2, SEGMENTS - 1)], [(0, SEGMENTS - 1)], block_groups(SEGMENTS)[:2], []])
def test_mirrored_equals_unmirrored(groups):
    wanted = everything(network(), plain)
    ours = everything(network(), lambda made: mirrored_forward_backward(
        made, *batch(), ClassificationLoss(), groups, [True] * SEGMENTS))
    for name, array in wanted.items():
        np.testing.assert_allclose(ours[name], array, atol=1e-5 * np.abs(array).max(), err_msg=name)


def test_groups_before_the_first_wanted_segment_are_not_run_again():
    made = network()
    wanted = [False] * 3 + [True] * (SEGMENTS - 3)
    stem = made.segments[0].collect_params(".*weight")["conv0_weight"]
    mirrored_forward_backward(made, *batch(), ClassificationLoss(), block_groups(SEGMENTS), wanted)
    assert not stem.grad().asnumpy().any()
    assert all(p.grad().asnumpy().any() for p in made.segments[3].collect_params(".*weight").values())


@pytest.mark.parametrize("tuned", [False, True])
def test_planned_memory_is_what_mxnet_plans_for_a_blocks_insides(tuned):
    """Within a tenth: a block more in the executor's plan against a block more in ours."""
    spec = NetworkSpec(BlockTopology(4, FOUR), "cifar", (4,), (16,), 10, (3, 32, 32))
    made = SuperNet(LambdaLayout(spec, "share"))
    if tuned:
        tune_for_cpu(made)
    totals, x = [], mx.sym.var("data")
    for unit in made.units:
        x = unit(x)
        executor = mx.sym.sum(x).simple_bind(mx.cpu(), data=(64, 16, 32, 32), grad_req="write")
        totals.append(int(re.search(r"Total (\d+) MB", executor.debug_str()).group(1)))
    planned = network_segments(spec, tuned=tuned)[2].kept * 64 * 4 / MB
    assert totals[3] - totals[2] == pytest.approx(planned, rel=0.1)
