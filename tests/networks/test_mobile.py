"""Mobile networks: known parameters, Eq. 3-4 by hand, the pruning certificate, mirroring, the derived network."""

from __future__ import annotations

import dso_nas  # noqa: F401  (before MXNet)

# isort: split
import mxnet as mx
import numpy as np
import pytest

from dso_nas.architecture.block_genotype import GenotypeError
from dso_nas.architecture.mobile import MobileLambdas
from dso_nas.architecture.mobile_cost import mobile_segments
from dso_nas.architecture.mobile_genotype import MobileGenotype, prune_mobile, random_mobile
from dso_nas.networks.mobile import MobileBlock, MobileNetwork, MobileSuperNet
from dso_nas.networks.network import PublishedInitializer
from dso_nas.training.losses import ClassificationLoss
from dso_nas.training.memory import block_groups
from tests.architecture.mobile_networks import KNOWN, TINY, known_network
from tests.passes import assert_alike, compiled, recorded

LAYOUT = MobileLambdas(TINY)
SEGMENTS = len(mobile_segments(TINY))


def images(count=3):
    return mx.nd.array(np.random.default_rng(1).normal(size=(count, *TINY.image_shape)))


def randomised(network, seed=0):
    """Weights, scales, shifts and statistics at random; the same for parameters of the same name."""
    network.initialize(PublishedInitializer())
    values = {}
    for name, parameter in network.collect_params().items():
        rng = np.random.default_rng([seed, *name.encode()])
        values[name] = rng.uniform(0.5 if "var" in name or "gamma" in name else -0.7, 1.3, parameter.shape)
        parameter.set_data(mx.nd.array(values[name]))
    return values


def sparse_lambdas(seed):
    rng = np.random.default_rng(seed)
    keep = rng.uniform(0.1, 0.9)
    return {name: ((rng.random(shape) < keep) * rng.uniform(0.01, 1.5, shape)).astype(np.float32)
            for name, shape in LAYOUT.shapes().items()}


def set_lambdas(network, values):
    for name, parameter in network.lambdas.items():
        parameter.set_data(mx.nd.array(values[name]))


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_parameters_of_the_known_networks(name):
    spec, genotype, parameters = known_network(name)
    learned = {key: parameter for key, parameter in MobileNetwork(spec, genotype).collect_params().items()
               if not key.endswith(("running_mean", "running_var"))}
    assert sum(np.prod(parameter.shape) for parameter in learned.values()) == parameters
    assert {parameter.grad_req for parameter in learned.values()} == {"write"}


def convolved(x, weight, stride):
    """A grouped convolution in float64, one multiplication a kernel's entry."""
    count, channels, height, width = x.shape
    filters, depth, kernel, _ = weight.shape
    pad = kernel // 2
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    size = -(-height // stride), -(-width // stride)
    result = np.zeros((count, filters, *size))
    for row in range(kernel):
        for column in range(kernel):
            part = padded[:, :, row:row + height:stride, column:column + width:stride]
            if depth == 1 and filters == channels:
                result += part * weight[:, 0, row, column].reshape(1, -1, 1, 1)
            else:
                result += np.einsum("bchw,oc->bohw", part, weight[:, :, row, column])
    return result


def normalised(x, values, prefix, scaled):
    mean, variance, gamma, beta = (values[f"{prefix}_{part}"].reshape(1, -1, 1, 1)
                                   for part in ("running_mean", "running_var", "gamma", "beta"))
    return (x - mean) / np.sqrt(variance + 2e-5) * (gamma if scaled else 1) + beta


def by_hand(unit, values, lambdas, x):
    """Eq. 3-4 with lambdas; BatchNorm scales count where there are none (a derived network)."""
    total = x if unit.shortcut else 0
    for name, scale in lambdas.items():
        prefix = f"{unit.name}_{name}"
        h = x
        for part, stride in (("expand", 1), ("dw", unit.stride), ("project", 1)):
            h = normalised(convolved(h, values[f"{prefix}_{part}_weight"], stride), values, f"{prefix}_{part}_bn",
                           scale is None)
            h = h if part == "project" else np.clip(h, 0, 6)
        total = total + h * (1 if scale is None else scale)
    return total


@pytest.mark.parametrize("index", range(len(TINY.units())))
@pytest.mark.parametrize("live", [TINY.operations, ("mb3_5x5",), ("mb3_3x3", "mb3_5x5")])
@pytest.mark.parametrize("searching", [True, False])
def test_a_block_by_hand(index, live, searching):
    unit = TINY.units()[index]
    scales = mx.gluon.Parameter("lambda_x", shape=(1, 3)) if searching else None
    block = MobileBlock(unit, TINY.operations, live, scales)
    values = randomised(block)
    x = np.random.default_rng(2).normal(size=(2, unit.in_channels, *unit.in_size))
    row = values.get("lambda_x", [[None] * 3])[0]
    expected = by_hand(unit, values, {name: row[TINY.operations.index(name)] for name in live}, x)
    found = block(mx.nd.array(x)).asnumpy()
    assert found.shape == (2, unit.channels, *unit.size)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("hybridized", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_the_pruned_supernet_equals_the_full_one(seed, hybridized):
    pruned = prune_mobile(LAYOUT, sparse_lambdas(seed))
    full, left = MobileSuperNet(LAYOUT), MobileSuperNet(LAYOUT, pruned.genotype)
    for network in (full, left):
        randomised(network)
        set_lambdas(network, pruned.values)
        if hybridized:
            network.hybridize_segments()
    expected = full(images()).asnumpy()
    np.testing.assert_allclose(left(images()).asnumpy(), expected, atol=1e-5 * np.abs(expected).max())
    assert set(left.lambdas) == {f"lambda_{name}" for name, live in pruned.genotype.blocks.items() if live}


@pytest.mark.parametrize("run", [recorded, compiled])
def test_dead_operations_get_no_gradient_and_live_ones_do(run):
    pruned = prune_mobile(LAYOUT, sparse_lambdas(3))
    network = MobileSuperNet(LAYOUT, pruned.genotype)
    randomised(network)
    set_lambdas(network, pruned.values)
    run(network, [images()], mx.nd.array([0, 1, 2]), ClassificationLoss())
    for name, parameter in network.lambdas.items():
        gradient = parameter.grad().asnumpy()
        assert gradient.shape == (1, 3)
        np.testing.assert_array_equal(gradient != 0, pruned.values[name] > 0)


def test_a_lambdas_gradient_is_the_slope_of_the_loss():
    """In float64, so that the step can be too small for any ReLU6 to bend in it."""
    network = MobileSuperNet(LAYOUT)
    randomised(network)
    network.cast("float64")
    data, labels, step = images(8).astype("float64"), mx.nd.array([0, 1, 2, 3, 4, 0, 1, 2]), 1e-6

    def loss():
        with mx.autograd.record():
            losses = ClassificationLoss()(network(data), labels)
        losses.backward()
        return float(losses.sum().asscalar())

    for name, parameter in network.lambdas.items():
        value = parameter.data().asnumpy()
        loss()
        gradient = parameter.grad().asnumpy()[0]
        for entry in range(3):
            ends = []
            for sign in (1, -1):
                moved = value.copy()
                moved[0, entry] += sign * step
                parameter.set_data(mx.nd.array(moved, dtype="float64"))
                ends.append(loss())
            parameter.set_data(mx.nd.array(value, dtype="float64"))
            assert gradient[entry] == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4, abs=1e-6), name


def after_a_step(genotype, run, hybridized=True, **options):
    network = MobileSuperNet(LAYOUT, genotype)
    mx.random.seed(3)
    network.initialize(PublishedInitializer())
    if hybridized:
        network.hybridize_segments()
    return run(network, [images(6)], mx.nd.array([0, 1, 2, 3, 4, 0]), ClassificationLoss(), **options)


@pytest.mark.parametrize("groups", [
    block_groups(SEGMENTS), [(0, 3), (3, SEGMENTS - 1)], block_groups(SEGMENTS)[:3],
    [(i, i + 1) for i in range(SEGMENTS - 1)], None])
@pytest.mark.parametrize("pruned", [False, True])
def test_mirrored_equals_unmirrored(groups, pruned):
    genotype = prune_mobile(LAYOUT, sparse_lambdas(1)).genotype if pruned else None
    assert_alike(after_a_step(genotype, compiled, groups=groups), after_a_step(genotype, recorded))


@pytest.mark.parametrize("run, options", [
    (recorded, {}), (compiled, {}), (compiled, {"groups": block_groups(SEGMENTS)})])
def test_compiled_blocks_that_are_their_shortcut_alone_hand_the_gradient_on(run, options):
    blocks = {unit.name: () if unit.shortcut else ("mb3_5x5",) for unit in TINY.units()}
    genotype = MobileGenotype(TINY.operations, blocks)
    plain = after_a_step(genotype, recorded, hybridized=False)
    assert np.abs(plain["conv0_weight"]).max() > 0
    assert_alike(after_a_step(genotype, run, **options), plain)


def test_segments_are_those_of_the_plan():
    network = MobileSuperNet(LAYOUT)
    network.initialize()
    assert len(network.segments) == SEGMENTS
    x = images(1)
    for segment, planned in zip(network.segments, mobile_segments(TINY)):
        assert x.size == planned.input
        x = segment(x)
    assert x.shape == (1, TINY.classes) and network.num_paths == 0


def test_the_derived_network_has_the_searched_ones_names_and_no_lambdas():
    genotype = random_mobile(TINY, 0.3, np.random.default_rng(0))
    derived, searched = MobileNetwork(TINY, genotype), MobileSuperNet(LAYOUT, genotype)
    names = set(searched.collect_params())
    assert set(derived.collect_params()) == {name for name in names if not name.startswith("lambda")}
    assert derived.spec == TINY and derived.genotype == genotype


def test_batch_norm_scales_are_fixed_in_the_searched_operations_alone():
    network = MobileSuperNet(LAYOUT)
    fixed = {name for name, parameter in network.collect_params(".*gamma").items() if parameter.grad_req == "null"}
    assert fixed == {name for name in network.collect_params(".*gamma") if name.startswith("stage")}


def test_dropout_drops_in_training_alone():
    network = MobileNetwork(TINY, MobileGenotype.full(TINY), dropout=0.5)
    network.initialize(PublishedInitializer())
    network.hybridize_segments()
    with mx.autograd.train_mode():
        first, second = (network(images()).asnumpy() for _ in range(2))
    assert not np.allclose(first, second)
    np.testing.assert_array_equal(network(images()).asnumpy(), network(images()).asnumpy())


def test_a_genotype_that_does_not_fit():
    with pytest.raises(GenotypeError, match="blocks"):
        MobileNetwork(TINY, MobileGenotype(TINY.operations, {}))
