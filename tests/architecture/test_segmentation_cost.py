"""Costs and planned memory of segmentation networks, against what the traced network and MXNet's own plan say."""

from __future__ import annotations

import dataclasses
import re

import dso_nas  # noqa: F401  (before MXNet)

# isort: split
import mxnet as mx
import numpy as np
import pytest

from dso_nas.architecture.cost import Conventions, network_cost
from dso_nas.architecture.genotype import Genotype
from dso_nas.architecture.lambdas import LambdaLayout
from dso_nas.architecture.memory_plan import MB, network_segments, plan_memory
from dso_nas.architecture.sampling import random_genotype
from dso_nas.architecture.segmentation_cost import segmentation_cost
from dso_nas.architecture.topology import BlockTopology, NetworkSpec
from dso_nas.errors import UserError
from dso_nas.networks.segmentation import DeepLabHead, DerivedSegmentationNetwork, SegmentationSuperNet
from tests.symbol_counts import count, nodes_of, total

FOUR = ("sep_conv_3x3", "sep_conv_5x5", "max_pool_3x3", "avg_pool_3x3")
SPEC = NetworkSpec(BlockTopology(2, FOUR), "imagenet", (1, 1, 2, 1), (4, 5, 6, 8), 3, (3, 65, 49), output_stride=16)
EVERYTHING = Conventions(batch_norm=True, bias=True, aux_head=True)


def traced(spec, genotype):
    network = DerivedSegmentationNetwork(spec, genotype, head_channels=7, auxiliary=True)
    return mx.sym.Group(list(network(mx.sym.var("data"))))


def resized(symbol, spec):
    """Elements that bilinear resizing reads and writes."""
    nodes = nodes_of(symbol, data=(1, *spec.image_shape))
    return sum(int(np.prod(node.shape)) + int(np.prod(nodes[node.inputs[0]].shape))
               for node in nodes if node.op == "_contrib_BilinearResize2D")


@pytest.mark.parametrize("stride", [8, 16, None])
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_costs_are_what_the_traced_network_says(stride, seed):
    spec = dataclasses.replace(SPEC, output_stride=stride)
    random = np.random.default_rng(seed)
    genotype = Genotype.full(spec, "share") if seed is None else random_genotype(spec, "full", 0.4, random)
    symbol = traced(spec, genotype)
    counts = count(symbol, batch_norm=True, bias=True, data=(1, *spec.image_shape))
    found = segmentation_cost(spec, genotype, 7, EVERYTHING)
    parameters, multiply_adds, access = total(counts)
    assert resized(symbol, spec) > 0
    assert dataclasses.astuple(found.total) == (parameters, multiply_adds, access + resized(symbol, spec))
    weights = count(symbol, data=(1, *spec.image_shape))
    for row in found.rows:
        if row.layer.unit in ("head", "aux") and row.layer.kind == "conv":
            extra = row.layer.channels if row.layer.bias else 0
            assert weights[row.layer.name][0] == row.cost.parameters - extra - 2 * row.layer.channels * (
                row.layer.batch_norm), row.layer.name


def test_the_supernet_has_the_full_networks_weights():
    network = SegmentationSuperNet(LambdaLayout(SPEC, "share"), head_channels=8)
    sizes = [np.prod(parameter.shape) for name, parameter in network.collect_params().items()
             if name.endswith("_weight")]
    assert sum(sizes) == segmentation_cost(SPEC, None, 8).total.parameters


def test_the_feature_extractor_costs_more_at_a_finer_stride_and_has_the_same_weights():
    coarse = network_cost(dataclasses.replace(SPEC, output_stride=None)).by_unit()
    fine = segmentation_cost(SPEC).by_unit()
    for name in coarse:
        if name != "head":
            assert fine[name].parameters == coarse[name].parameters
            finer = name.startswith("stage4") or name == "stage3_unit3"
            assert (fine[name].multiply_adds > coarse[name].multiply_adds) == finer, name


@pytest.mark.parametrize("channels, classes, in_place", [(128, 2, 0), (32, 21, 1)])
def test_planned_memory_of_the_head_is_what_mxnet_plans(channels, classes, in_place):
    """Within an eighth of one executor's plan for head and loss, where the head's maps weigh most and where pixels do.

    The executor can make the logits' gradient of that of their logarithms in place. Gluon does not: its memory grows by
    24.3 MB an image in the second case, ours by 22.
    """
    spec = dataclasses.replace(SPEC, image_shape=(3, 257, 257), widths=(4, 5, 6, 64), classes=classes)
    logits = DeepLabHead(spec, channels, 0.1)(mx.sym.var("data"))
    loss = mx.sym.mean(-mx.sym.pick(mx.sym.log_softmax(logits, axis=1), mx.sym.var("labels"), axis=1))

    def planned(images):
        executor = mx.sym.Group([loss, mx.sym.BlockGrad(logits)]).simple_bind(
            mx.cpu(), data=(images, 64, *spec.stage_size(4)), labels=(images, 257, 257), grad_req="write")
        return int(re.search(r"Total (\d+) MB", executor.debug_str()).group(1))

    segment = network_segments(spec, None, channels)[-1]
    assert segment.input == 64 * 17 * 17
    ours = segment.kept + segment.gradients - in_place * classes * 257 * 257
    assert planned(24) - planned(8) == pytest.approx(ours * 4 * 16 / MB, rel=0.125)


def test_the_plan_counts_the_head_and_the_finer_maps():
    coarse = dataclasses.replace(SPEC, output_stride=None)
    assert plan_memory(SPEC, None, 2, "none").activations > plan_memory(coarse, None, 2, "none").activations
    for mirroring in ("none", "block"):
        plan = plan_memory(SPEC, None, 2, mirroring, head_channels=8)
        plain = plan_memory(SPEC, None, 2, mirroring)
        assert (plan.groups and plan.groups[-1][1]) == (plain.groups and plain.groups[-1][1])
        assert plan.parameters == 12 * segmentation_cost(SPEC, None, 8).total.parameters > plain.parameters
        assert plan.activations >= plain.activations
    limited = plan_memory(SPEC, None, 2, "auto", plan_memory(SPEC, None, 2, "block", head_channels=8).total_mb + 0.1, 8)
    assert limited.groups


@pytest.mark.parametrize("change, message", [
    ({"blocks": (1, 1), "widths": (4, 4), "output_stride": 8}, "needs 3 stages, network.blocks has 2"),
    ({"widths": (4, 4, 3, 8)}, "needs a width of 4 in stage 3, not 3")])
def test_an_auxiliary_head_without_room_is_not_counted(change, message):
    spec = dataclasses.replace(SPEC, **change)
    with pytest.raises(UserError, match=message):
        segmentation_cost(spec, conventions=EVERYTHING)
