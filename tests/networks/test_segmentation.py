"""Segmentation networks: output stride, head, loading, pruning and mirroring."""

from __future__ import annotations

import dataclasses
import json
import re

import dso_nas  # noqa: F401  (before MXNet)

# isort: split
import mxnet as mx
import numpy as np
import pytest
from gluoncv.model_zoo.deeplabv3 import _ASPP
from gluoncv.model_zoo.fcn import _FCNHead

from dso_nas.architecture.genotype import Genotype
from dso_nas.architecture.lambdas import LambdaLayout
from dso_nas.architecture.memory_plan import block_groups, network_segments
from dso_nas.architecture.pruning import prune
from dso_nas.architecture.topology import BlockTopology, NetworkSpec
from dso_nas.errors import UserError
from dso_nas.networks.derived import DerivedNetwork
from dso_nas.networks.network import PublishedInitializer
from dso_nas.networks.operations import BATCH_NORM
from dso_nas.networks.segmentation import (
    DeepLabHead,
    DerivedSegmentationNetwork,
    FCNHead,
    PixelClassifier,
    SegmentationSuperNet,
    load_backbone,
)
from dso_nas.networks.supernet import SuperNet
from dso_nas.training.losses import SegmentationLoss
from tests.passes import assert_alike, compiled, recorded, trained

FOUR = ("sep_conv_3x3", "sep_conv_5x5", "max_pool_3x3", "avg_pool_3x3")
SPEC = NetworkSpec(BlockTopology(2, FOUR), "imagenet", (1, 1, 2, 1), (4, 5, 6, 8), 3, (3, 65, 49), output_stride=16)
SEPARABLE = dataclasses.replace(SPEC, topology=BlockTopology(2, FOUR[:2]))


def full(spec=SPEC):
    return Genotype.full(spec, "share")


def supernet(spec=SPEC, genotype=None, **options):
    return started(SegmentationSuperNet(LambdaLayout(spec, "share"), genotype, head_channels=8, **options))


def derived(spec=SPEC, genotype=None, **options):
    return started(DerivedSegmentationNetwork(spec, genotype or full(spec), head_channels=8, **options))


def started(network):
    mx.random.seed(3)
    network.initialize(PublishedInitializer())
    return network


def randomised(network, seed=0):
    """Every parameter drawn, statistics and scales too, but for lambdas."""
    random = np.random.default_rng(seed)
    for name, parameter in network.collect_params().items():
        if not name.startswith("lambda"):
            low = 0.5 if "var" in name or "gamma" in name else -0.7
            parameter.set_data(mx.nd.array(random.uniform(low, 1.3, parameter.shape)))
    return network


def pictures(spec=SPEC, images=2, seed=0):
    return mx.nd.array(np.random.default_rng(seed).standard_normal((images, *spec.image_shape)))


def arrays_of(network):
    return {f"parameter/{name}": parameter.data().asnumpy() for name, parameter in network.collect_params().items()}


def features(network, x):
    for segment in network.segments[:-1]:
        x = segment(x)
    return x


def assert_close(found, expected, relative=1e-5):
    expected = np.asarray(expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=relative * np.abs(expected).max())


# Output stride -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [4, 8, 16, 32, None])
@pytest.mark.parametrize("make", [supernet, derived])
def test_the_traced_network_has_these_sizes_and_dilations(make, stride):
    spec = dataclasses.replace(SPEC, output_stride=stride)
    network = make(spec)
    x = mx.sym.var("data")
    for index, segment in enumerate(network.segments[:-1]):
        x = segment(x)
        stage = 1 if index == 0 else network.units[index - 1].unit.stage
        stage += index > 0 and network.units[index - 1].unit.kind == "reduction"
        assert x.infer_shape(data=(1, *spec.image_shape))[1][0][2:] == spec.stage_size(stage)
    found = {node["inputs"][1][0]: node["attrs"] for node in json.loads(x.tojson())["nodes"]
             if node["op"] == "Convolution"}
    names = [node["name"] for node in json.loads(x.tojson())["nodes"]]
    spread = {names[weight]: attrs for weight, attrs in found.items()
              if re.fullmatch(r"stage\d_unit\d+_(\d_conv\dx\d_sep|conv3x3)_weight", names[weight])}
    assert len(spread) == 5 * 2 * 2 + 3
    for name, attrs in spread.items():
        assert attrs["dilate"] == str((spec.stage_dilation(int(name[len("stage")])),) * 2), name


@pytest.mark.parametrize("stride, every", [(16, 2), (8, 4), (4, 8)])
@pytest.mark.parametrize("kind", ["supernet", "derived"])
def test_dilation_computes_the_classifiers_map_and_what_lies_between(kind, stride, every):
    """Atrous convolution: with a classification network's weights every second value is that network's."""
    classification = dataclasses.replace(SEPARABLE, output_stride=None, classes=7)
    spec = dataclasses.replace(SEPARABLE, output_stride=stride)
    if kind == "supernet":
        plain, spread = SuperNet(LambdaLayout(classification, "share")), supernet(spec)
    else:
        plain, spread = DerivedNetwork(classification, full(classification), auxiliary=True), derived(spec)
    randomised(started(plain))
    load_backbone(spread, arrays_of(plain))
    dense, coarse = features(spread, pictures()).asnumpy(), features(plain, pictures()).asnumpy()
    assert dense.shape[2:] == spec.stage_size(4) != coarse.shape[2:]
    assert_close(dense[:, :, ::every, ::every], coarse)


# Head ----------------------------------------------------------------------------------------------------------------


def copied(source, target):
    """The values of one block for another whose parameters are in the same order."""
    ours, theirs = (list(block.collect_params().values()) for block in (source, target))
    assert len(ours) == len(theirs)
    for value, parameter in zip(ours, theirs):
        parameter.set_data(value.data())


def test_the_pyramid_is_gluoncvs():
    spec = dataclasses.replace(SPEC, image_shape=(3, 97, 65))
    head = DeepLabHead(spec, 256)
    oracle = _ASPP(8, [6, 12, 18], mx.gluon.nn.BatchNorm, BATCH_NORM, *spec.stage_size(4))
    ours = mx.gluon.nn.HybridSequential(prefix="")
    ours.add(head.aspp, head.project)
    copied(randomised(started(ours)), started(oracle))
    x = pictures(dataclasses.replace(spec, image_shape=(8, *spec.stage_size(4))))
    assert_close(ours(x).asnumpy(), oracle(x).asnumpy())


def test_the_auxiliary_head_is_gluoncvs_behind_a_batch_norm():
    head, oracle = randomised(started(FCNHead(SPEC))), started(_FCNHead(6, 3, norm_kwargs=BATCH_NORM))
    copied(head.classifier, oracle)
    x = pictures(dataclasses.replace(SPEC, image_shape=(6, 5, 4)))
    resized = mx.nd.contrib.BilinearResize2D(oracle(mx.nd.relu(head.bn(x))), height=65, width=49)
    assert_close(head(x).asnumpy(), resized.asnumpy())


def test_rates_double_at_output_stride_eight():
    def rates(stride):
        head = DeepLabHead(dataclasses.replace(SPEC, output_stride=stride))
        return [branch[0]._kwargs["dilate"][0] for branch in list(head.aspp)[1:4]]

    assert rates(16) == rates(None) == [6, 12, 18] and rates(8) == [12, 24, 36]


def bilinear(rows, length):
    """The matrix (length, rows) that resizes so that the first and last of both lie on one another."""
    matrix, places = np.zeros((length, rows)), np.arange(length) * (rows - 1) / max(length - 1, 1)
    for target, place in enumerate(places):
        low = min(int(place), rows - 1)
        matrix[target, low] += 1 - (place - low)
        matrix[target, min(low + 1, rows - 1)] += place - low
    return matrix


def test_upsampling_and_its_gradient():
    classifier = started(PixelClassifier(4, 4, 2, (17, 13), "head"))
    small = classifier.fc(classifier.conv(pictures(dataclasses.replace(SPEC, image_shape=(4, 5, 4))))).asnumpy()
    by_rows, by_columns = bilinear(5, 17), bilinear(4, 13)
    x = pictures(dataclasses.replace(SPEC, image_shape=(4, 5, 4)))
    assert_close(classifier(x).asnumpy(), np.einsum("hi,bcij,wj->bchw", by_rows, small, by_columns))
    weights = np.random.default_rng(1).standard_normal((2, 2, 17, 13))
    with mx.autograd.record(train_mode=False):
        loss = (classifier(x) * mx.nd.array(weights)).sum()
    loss.backward()
    assert_close(classifier.fc.bias.grad().asnumpy(), np.einsum("hi,bchw,wj->c", by_rows, weights, by_columns), 1e-4)


@pytest.mark.parametrize("make", [supernet, derived])
@pytest.mark.parametrize("size", [(33, 33), (32, 47)])
def test_logits_are_of_the_pictures_size_whatever_it_is(make, size):
    spec = dataclasses.replace(SPEC, image_shape=(3, *size))
    network = make(spec)
    before = network(pictures(spec)).asnumpy()
    network.hybridize_segments()
    assert before.shape == (2, 3, *size)
    assert_close(network(pictures(spec)).asnumpy(), before)


@pytest.mark.parametrize("run", [recorded, compiled])
def test_a_step_lowers_the_loss_of_every_kind_of_network(run):
    masks = mx.nd.array(np.random.default_rng(5).integers(0, 3, (2, 65, 49)))
    loss = SegmentationLoss(auxiliary_weight=0.4)
    for network in (supernet(), derived(auxiliary=True, drop_path=True, dropout=0.0)):
        losses = []
        for _ in range(3):
            losses.append(run(network, [pictures()], masks, loss)["losses"].mean())
            for name in trained(network):
                parameter = network.collect_params()[name]
                parameter.set_data(parameter.data() - 0.01 / 2 * parameter.grad())
        assert losses[2] < losses[1] < losses[0]


@pytest.mark.parametrize("run", [recorded, compiled])
def test_the_gradient_is_the_losss_slope(run):
    """Central differences along the gradient, of the head's own and of the feature extractor's weights."""
    network, masks = derived(SEPARABLE), mx.nd.array(np.random.default_rng(5).integers(0, 3, (2, 65, 49)))
    loss = SegmentationLoss()

    def at(value):
        parameter.set_data(value)
        with mx.autograd.train_mode():
            return loss(network(pictures()), masks).sum().asscalar()

    run(network, [pictures()], masks, loss)
    for name in ("deeplab_conv_weight", "stage4_unit1_1_conv3x3_sep_weight", "stage3_unit3_conv3x3_weight"):
        parameter = network.collect_params()[name]
        middle, gradient = parameter.data().copy(), parameter.grad()
        step = 0.01 * gradient / gradient.norm()
        found = (at(middle + step) - at(middle - step)) / 2
        at(middle)
        assert found == pytest.approx(0.01 * gradient.norm().asscalar(), rel=0.05), name


def test_the_auxiliary_head_reads_the_third_stages_blocks():
    network = derived(auxiliary=True)
    logits, auxiliary = network(pictures())
    assert logits.shape == auxiliary.shape == (2, 3, 65, 49)
    third = pictures()
    for segment in network.segments[:7]:
        third = segment(third)
    assert network.units[5].unit.name == "stage3_unit2" and network.units[6].unit.kind == "reduction"
    assert_close(auxiliary.asnumpy(), network.auxiliary(third).asnumpy())
    three = dataclasses.replace(SPEC, blocks=(1, 1, 1), widths=(4, 4, 8))
    logits, auxiliary = derived(three, auxiliary=True)(pictures())
    assert logits.shape == auxiliary.shape == (2, 3, 65, 49)


@pytest.mark.parametrize("change, message", [
    ({"blocks": (1, 1), "widths": (4, 4), "output_stride": 8}, "needs 3 stages, network.blocks has 2"),
    ({"widths": (4, 4, 3, 8)}, "needs a width of 4 in stage 3, not 3")])
def test_an_auxiliary_head_without_room_is_refused(change, message):
    spec = dataclasses.replace(SPEC, **change)
    with pytest.raises(UserError, match=message):
        derived(spec, auxiliary=True)


def test_dropout_acts_in_training_only_and_paths_of_one_change_nothing():
    network = derived(drop_path=True, dropout=0.5, auxiliary=True)
    ones = mx.nd.ones((2, network.num_paths))
    assert network.num_paths > 0
    assert_close(network(pictures(), ones)[0].asnumpy(), network(pictures())[0].asnumpy())
    with mx.autograd.train_mode():
        first, second = network(pictures())[0].asnumpy(), network(pictures())[0].asnumpy()
    assert not np.array_equal(first, second)


# Loading -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["supernet", "derived"])
def test_a_classification_networks_weights_load_by_name(kind):
    classification = dataclasses.replace(SPEC, output_stride=None, classes=7, image_shape=(3, 64, 64))
    if kind == "supernet":
        plain, network = SuperNet(LambdaLayout(classification, "share")), supernet()
        assert set(network.lambdas) == set(LambdaLayout(SPEC, "share").shapes())
    else:
        plain, network = DerivedNetwork(classification, full(classification), auxiliary=True), derived(auxiliary=True)
    arrays, before = arrays_of(randomised(started(plain))), arrays_of(network)
    load_backbone(network, arrays)
    after = arrays_of(network)
    shared = {name for name in arrays if "fc1_" not in name and "parameter/aux_" not in name}
    assert all(np.array_equal(after[name], arrays[name]) for name in shared)
    own = set(after) - shared
    assert {name.split("/")[1].split("_")[0] for name in own} <= {"deeplab", "fcn"}
    assert all(np.array_equal(after[name], before[name]) for name in own)
    # Names are the same in every network of a process, or a checkpoint would load in none but the one it is of.
    assert set(arrays_of(supernet() if kind == "supernet" else derived(auxiliary=True))) == set(after)


@pytest.mark.parametrize("name", ["final_bn_running_mean", "conv1_weight", "stage4_unit1_bn_gamma", "lambda_after"])
def test_a_checkpoint_that_lacks_a_parameter_is_refused(name):
    network = supernet()
    arrays = arrays_of(network)
    short = {key: value for key, value in arrays.items() if key != f"parameter/{name}"}
    with pytest.raises(UserError, match=f"checkpoint: has no parameter {name}"):
        load_backbone(network, short)
    wide = {**arrays, f"parameter/{name}": np.zeros((1, 99))}
    with pytest.raises(UserError, match=f"checkpoint: {name} has shape"):
        load_backbone(network, wide)


# Pruning and mirroring -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_the_pruned_supernet_equals_the_full_one(seed):
    random = np.random.default_rng(seed)
    layout = LambdaLayout(SPEC, "share")
    values = {name: (random.random(shape) < 0.7) * random.uniform(0.1, 1.5, shape).astype(np.float32)
              for name, shape in layout.shapes().items()}
    for name, value in values.items():
        value[0, -1] = 1.0 if value.shape == (1, 2) or name == "lambda_after" else value[0, -1]
    pruned = prune(layout, values)
    whole, small = randomised(supernet()), supernet(genotype=pruned.genotype)
    left = small.collect_params()
    for name, parameter in whole.collect_params().items():
        if name in whole.lambdas:
            parameter.set_data(mx.nd.array(pruned.values[name]))
        if name in left:
            left[name].set_data(parameter.data())
    assert_close(small(pictures()).asnumpy(), whole(pictures()).asnumpy())


@pytest.mark.parametrize("make", [supernet, derived])
def test_mirrored_gradients_equal_the_unmirrored_ones(make):
    # Of two images image pooling's BatchNorm has gradients that are rounding alone.
    masks = np.random.default_rng(5).integers(0, 3, (4, 65, 49))
    masks[0, :20] = 255

    def everything(run, *groups):
        return run(make(), [pictures(images=4)], mx.nd.array(masks), SegmentationLoss(), *groups)

    segments = len(network_segments(SPEC))
    expected = everything(recorded)
    assert all(np.abs(expected[name]).max() > 0 for name in expected if "bias" not in name and "gamma" not in name)
    single = [(index, index + 1) for index in range(segments - 1)]
    for groups in (None, block_groups(segments), [(0, 3), (3, segments - 1)], single):
        assert_alike(everything(compiled, groups), expected)
