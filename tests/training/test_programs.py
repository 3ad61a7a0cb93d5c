"""Static graphs: the numbers of recorded passes, in every kind of network, and the operators that each graph needs."""

from __future__ import annotations

import dataclasses
import functools
import json
import zlib

import mxnet as mx
import numpy as np
import pytest

from dso_nas.architecture.genotype import BlockGenotype, Genotype
from dso_nas.architecture.lambdas import LambdaLayout
from dso_nas.architecture.memory_plan import network_segments
from dso_nas.architecture.mobile import MobileLambdas
from dso_nas.architecture.mobile_genotype import random_mobile
from dso_nas.architecture.sampling import random_genotype
from dso_nas.architecture.topology import BlockTopology, NetworkSpec
from dso_nas.networks.derived import DerivedNetwork
from dso_nas.networks.drop_path import draw_paths, path_probabilities
from dso_nas.networks.mobile import MobileNetwork, MobileSuperNet
from dso_nas.networks.network import PublishedInitializer
from dso_nas.networks.segmentation import DerivedSegmentationNetwork, SegmentationSuperNet
from dso_nas.networks.supernet import SuperNet
from dso_nas.training.losses import ClassificationLoss, SegmentationLoss
from dso_nas.training.memory import Chain, block_groups
from dso_nas.training.programs import learns, trace, tracing, trains_on_cpu
from tests.architecture.mobile_networks import TINY
from tests.passes import assert_alike, compiled, recorded, stepped, trained

FOUR = ("sep_conv_3x3", "sep_conv_5x5", "max_pool_3x3", "avg_pool_3x3")
WIDTHS = [(8, 16, 32), (16, 32, 64), (12, 20, 40)]
CLASSES, IMAGES = 5, 4
RANGES = {"gamma": (0.5, 1.5), "beta": (-0.3, 0.3), "running_mean": (-0.3, 0.3), "running_var": (0.5, 1.5)}


def made(network):
    """Values that depend on a parameter's name alone."""
    network.initialize(PublishedInitializer())
    for name, parameter in network.collect_params().items():
        random = np.random.default_rng(zlib.crc32(name.encode()))
        ends = next((RANGES[kind] for kind in RANGES if name.endswith(kind)), (0.3, 1.2))
        spread = np.sqrt(2 / max(np.prod(parameter.shape[1:]), 1))
        value = random.normal(0, spread, parameter.shape) if name.endswith("weight") else random.uniform(
            *ends, parameter.shape)
        parameter.set_data(mx.nd.array(value))
    return network


def batch(shape, images=IMAGES, seed=0):
    random = np.random.default_rng(seed)
    return mx.nd.array(random.standard_normal((images, *shape))), mx.nd.array(random.integers(0, CLASSES, images))


def assert_same(make, inputs, labels, loss, groups=None):
    """A compiled pass against a recorded one: outputs, the gradient as one vector, statistics."""
    expected = recorded(make(), inputs, labels, loss)
    names = trained(make())
    found = compiled(make(), inputs, labels, loss, groups)
    assert found.keys() == expected.keys()
    ours, theirs = (np.concatenate([arrays[name].ravel() for name in names]) for arrays in (found, expected))
    assert np.linalg.norm(ours - theirs) <= 1e-4 * np.linalg.norm(theirs) != 0
    for name in expected.keys() - names:
        relative = 1e-4 if "running" in name else 1e-5
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=relative * np.abs(expected[name]).max(),
                                   err_msg=name)


# The same numbers ----------------------------------------------------------------------------------------------------


def supernet(spec, scope="share", density=None, seed=0):
    genotype = None if density is None else random_genotype(spec, scope, density, np.random.default_rng(seed))
    return made(SuperNet(LambdaLayout(spec, scope), genotype))


def classification(widths, size=8, blocks=(1, 2, 1)):
    return NetworkSpec(BlockTopology(2, FOUR), "cifar", blocks, widths, CLASSES, (3, size, size))


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("density", [None, 0.3, 0.6])
@pytest.mark.parametrize("scope", ["share", "full"])
@pytest.mark.parametrize("widths", WIDTHS)
def test_supernets(widths, scope, density, mirrored):
    spec = classification(widths)
    images, labels = batch(spec.image_shape)
    groups = block_groups(len(network_segments(spec))) if mirrored else None
    assert_same(lambda: supernet(spec, scope, density), [images], labels, ClassificationLoss(), groups)


@pytest.mark.parametrize("levels", [3, 4])
@pytest.mark.parametrize("density", [None, 0.4])
def test_deeper_blocks_of_larger_maps(levels, density):
    spec = dataclasses.replace(classification((16,), 16, (2,)), topology=BlockTopology(levels, FOUR))
    images, labels = batch(spec.image_shape)
    assert_same(lambda: supernet(spec, "share", density), [images], labels, ClassificationLoss())


@pytest.mark.parametrize("density", [0.4, 1.0])
@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("widths", WIDTHS)
def test_derived_networks_with_an_auxiliary_head(widths, drops, density):
    spec = classification(widths, 32, (1, 1, 1))
    genotype = random_genotype(spec, "share", density, np.random.default_rng(0))

    def make():
        return made(DerivedNetwork(spec, genotype, drop_path=drops, auxiliary=True))

    images, labels = batch(spec.image_shape)
    probabilities = path_probabilities(make(), 0.3, "uniform")
    paths = [mx.nd.array(draw_paths(probabilities, 1.0, IMAGES, np.random.default_rng(1)))] * drops
    assert not drops or paths[0].asnumpy().min() == 0
    assert_same(make, [images, *paths], labels, ClassificationLoss(auxiliary_weight=0.4))


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_derived_network_alone(mirrored):
    spec = classification((8, 16, 32))
    genotype = random_genotype(spec, "full", 0.5, np.random.default_rng(0))
    images, labels = batch(spec.image_shape)
    groups = block_groups(len(network_segments(spec))) if mirrored else None
    assert_same(lambda: made(DerivedNetwork(spec, genotype)), [images], labels, ClassificationLoss(), groups)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("density", [None, 0.4])
@pytest.mark.parametrize("kind", ["supernet", "derived"])
@pytest.mark.parametrize("widths", [(6, 8, 8), (8, 16, 16)])
def test_mobile_networks(widths, kind, density, mirrored):
    spec = dataclasses.replace(TINY, groups=tuple((width, *rest) for width, (_, *rest) in zip(widths, TINY.groups)))
    genotype = random_mobile(spec, density or 1.0, np.random.default_rng(0))

    def make():
        return made(MobileSuperNet(MobileLambdas(spec), genotype) if kind == "supernet"
                    else MobileNetwork(spec, genotype))

    images, labels = batch(spec.image_shape)
    groups = block_groups(len(make().segments)) if mirrored else None
    assert_same(make, [images], labels, ClassificationLoss(), groups)


@pytest.mark.parametrize("kind", ["supernet", "mirrored", "derived"])
@pytest.mark.parametrize("density", [0.5, 1.0])
def test_segmentation_networks(kind, density):
    spec = NetworkSpec(BlockTopology(2, FOUR), "imagenet", (1, 1, 2, 1), (8, 12, 16, 16), CLASSES, (3, 33, 33),
                       output_stride=16)
    genotype = random_genotype(spec, "share", density, np.random.default_rng(0))

    def make():
        if kind == "derived":
            return made(DerivedSegmentationNetwork(spec, genotype, drop_path=True, head_channels=8, auxiliary=True))
        return made(SegmentationSuperNet(LambdaLayout(spec, "share"), genotype, head_channels=8))

    images, random = batch(spec.image_shape)[0], np.random.default_rng(2)
    masks = mx.nd.array(np.where(random.random((IMAGES, 33, 33)) < 0.2, 255, random.integers(0, 5, (IMAGES, 33, 33))))
    paths = [mx.nd.array(random.integers(0, 2, (IMAGES, make().num_paths)))] * (kind == "derived")
    groups = block_groups(len(make().segments)) if kind == "mirrored" else None
    assert_same(make, [images, *paths], masks, SegmentationLoss(auxiliary_weight=0.4), groups)


def of_one_kind(spec, scope, density, kind, groups):
    """Recorded arrays of everything, compiled ones of one kind of parameters, and the names of both kinds."""
    images, labels = batch(spec.image_shape)
    network, loss = supernet(spec, scope, density), ClassificationLoss()
    lambdas = set(network.lambdas)
    names = lambdas if kind == "lambdas" else set(trained(network)) - lambdas
    expected = recorded(supernet(spec, scope, density), [images], labels, loss)
    return expected, compiled(network, [images], labels, loss, groups, names), names, set(trained(network)) - names


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("kind", ["weights", "lambdas"])
@pytest.mark.parametrize("scope, density", [("share", None), ("share", 0.4), ("full", 0.4)])
@pytest.mark.parametrize("widths", WIDTHS)
def test_gradients_of_one_kind_alone(widths, scope, density, kind, mirrored):
    spec = classification(widths)
    groups = block_groups(len(network_segments(spec))) if mirrored else None
    expected, found, names, others = of_one_kind(spec, scope, density, kind, groups)
    np.testing.assert_allclose(found["outputs 0"], expected["outputs 0"], rtol=0,
                               atol=1e-5 * np.abs(expected["outputs 0"]).max())
    ours, theirs = (np.concatenate([arrays[name].ravel() for name in sorted(names)]) for arrays in (found, expected))
    assert np.linalg.norm(ours - theirs) <= 1e-4 * np.linalg.norm(theirs) != 0
    assert not any(found[name].any() for name in others)


# Mirrored parts ------------------------------------------------------------------------------------------------------


def repeated(spec):
    """A genotype of scope 'full': some blocks are alike, one is of another kind, one its shortcut alone."""
    first, second = (random_genotype(spec, "share", 0.5, np.random.default_rng(seed)).blocks["shared"]
                     for seed in (0, 1))
    blocks = {unit.name: second if index == 2 else first for index, unit in enumerate(spec.block_units())}
    empty = BlockGenotype.from_mask(spec.topology, np.zeros(spec.topology.num_connections, bool))
    blocks[spec.block_units()[4].name] = empty
    return Genotype(spec.topology, "full", blocks, Genotype.full(spec, "full").reductions)


@pytest.mark.parametrize("kind", ["share", "full", "pruned share", "pruned full", "alike and empty"])
@pytest.mark.parametrize("single", [False, True])
def test_mirrored_equal_blocks_keep_apart(kind, single):
    """Blocks of the same structure and maps of the same size share memory, but no number."""
    spec, scope = classification((8, 16), 8, (5, 2)), "share" if "share" in kind else "full"
    genotype = None
    if "pruned" in kind:
        genotype = random_genotype(spec, scope, 0.5, np.random.default_rng(0))
    elif kind == "alike and empty":
        genotype = repeated(spec)
    segments = len(network_segments(spec))
    groups = [(index, index + 1) for index in range(segments - 1)] if single else block_groups(segments)
    images, labels = batch(spec.image_shape)

    def make():
        return made(SuperNet(LambdaLayout(spec, scope), genotype))

    plain, mirrored = (compiled(make(), [images], labels, ClassificationLoss(), each) for each in (None, groups))
    largest = max(np.abs(plain[name]).max() for name in trained(make()))
    for name, value in plain.items():
        # The gradient of a lambda that alone scales what is normalised is rounding.
        atol = 1e-4 * np.abs(value).max() + 1e-6 * largest
        np.testing.assert_allclose(mirrored[name], value, rtol=0, atol=atol, err_msg=name)
    assert_same(make, [images], labels, ClassificationLoss(), groups)
    started = {name: parameter.data().asnumpy() for name, parameter in make().collect_params(".*running.*").items()}
    assert all((mirrored[name] != value).any() for name, value in started.items())


@pytest.mark.parametrize("first", [1, 3])
def test_what_learns_nothing_normalises_by_the_batch(first):
    """Parts before the first wanted parameter run without gradients, but in training mode."""
    spec = classification((8, 16), 8, (2, 2))
    network, loss = supernet(spec, "full"), ClassificationLoss()
    segments = network.segments
    names = {name for segment in segments[first:] for name in segment.collect_params() if name in network.lambdas}
    images, labels = batch(spec.image_shape)
    expected = recorded(supernet(spec, "full"), [images], labels, loss)
    found = compiled(network, [images], labels, loss, block_groups(len(segments)), names)
    for name in ("outputs 0", "losses", *names):
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-5 * np.abs(expected[name]).max(),
                                   err_msg=name)


# Memory that is used in turn -----------------------------------------------------------------------------------------


def states(network):
    return {name: parameter.data().copy() for name, parameter in network.collect_params().items()}


def restored(network, values):
    for name, parameter in network.collect_params().items():
        parameter.set_data(values[name])
        if parameter.grad_req != "null":
            parameter.zero_grad()


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("density", [None, 0.5])
def test_chains_and_groups_that_share_memory_run_in_turn(density, mirrored):
    """Two groups of a chain, and of another of larger batches, against each in memory of its own."""
    spec = classification((8, 16), 8, (2, 1))
    network, loss = supernet(spec, "share", density), ClassificationLoss()
    groups = block_groups(len(network.segments)) if mirrored else None
    kinds = {"lambdas": set(network.lambdas), "weights": set(trained(network)) - set(network.lambdas)}
    few, many = (batch(spec.image_shape, images, images) for images in (3, 6))
    chains = [Chain(network, [few[0]], groups)]
    chains[0].add_group("lambdas", kinds["lambdas"])
    chains.append(Chain(network, [many[0]], groups, chains[0].root))
    for chain, kind in ((chains[1], "weights"), (chains[0], "weights"), (chains[1], "lambdas")):
        chain.add_group(kind, kinds[kind])
    values = states(network)
    for kind, which in [("lambdas", 0), ("weights", 1), ("weights", 0), ("lambdas", 1), ("lambdas", 0)] * 2:
        images, labels = (few, many)[which]
        restored(network, values)
        found = stepped(network, chains[which], kind, [images], labels, loss)
        restored(network, values)
        assert_alike(found, compiled(network, [images], labels, loss, groups, kinds[kind]), 0)


def test_dropout_draws_anew_in_every_pass():
    spec = classification((8, 16, 32), 8, (1, 1, 1))
    network = made(DerivedNetwork(spec, Genotype.full(spec, "share"), dropout=0.5))
    images, _ = batch(spec.image_shape)
    chain = Chain(network, [images])
    chain.add_group("weights", trained(network))
    first, second = (chain.forward("weights", images)[0].asnumpy() for _ in range(2))
    assert np.abs(first - second).max() > 1e-3


# Which operators -----------------------------------------------------------------------------------------------------


def convolutions(network, learned, context):
    nodes = json.loads(trace(network, ["data"], learned, context).symbol.tojson())["nodes"]
    return sum(node["op"] == "Convolution" for node in nodes)


@pytest.mark.parametrize("width, split", [(8, True), (12, False)])
@pytest.mark.parametrize("kind", ["supernet", "derived"])
def test_wide_kernels_are_split_in_graphs_that_learn_them(kind, width, split):
    """A 5x5 kernel becomes five convolutions: of three columns, and of two more that are moved by one each."""
    spec = classification((width,), 8, (2,))
    network = supernet(spec) if kind == "supernet" else made(DerivedNetwork(spec, Genotype.full(spec, "share")))
    names, lambdas = set(trained(network)), set(getattr(network, "lambdas", ()))
    wide = [name for name in names if name.endswith("conv5x5_sep_weight")]
    assert len(wide) == 4
    whole = convolutions(network, lambdas, mx.cpu())
    count = functools.partial(convolutions, network)
    assert count((), mx.cpu()) == count(names - set(wide), mx.cpu()) == whole
    assert count(names, mx.gpu()) == count((), mx.gpu())
    assert count(names, mx.cpu()) == count(names - lambdas, mx.cpu()) == whole + 4 * len(wide) * split
    assert count(wide[:1], mx.cpu()) == whole + 4 * split


def test_tracing_ends_with_its_block():
    with pytest.raises(ZeroDivisionError), tracing({"weight"}, on_cpu=True):
        assert learns("weight") and not learns("other") and trains_on_cpu()
        with tracing((), on_cpu=False):
            assert not learns("weight") and not trains_on_cpu()
        assert learns("weight") and trains_on_cpu()
        raise ZeroDivisionError
    assert not learns("weight") and not trains_on_cpu()


@pytest.mark.parametrize("mirrored", [False, True])
def test_nothing_is_said(capfd, mirrored):
    spec = classification((8, 16), 8, (1, 1))
    network = supernet(spec)
    images, labels = batch(spec.image_shape)
    capfd.readouterr()
    compiled(network, [images], labels, ClassificationLoss(), block_groups(5)[: 3 * mirrored])
    assert capfd.readouterr() == ("", "")
