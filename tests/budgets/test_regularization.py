"""Gamma of each connection: Eq. 17, 18 and 19 by hand on a toy block, and what the published code has instead."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from dso_nas.architecture.lambdas import LambdaLayout
from dso_nas.architecture.topology import BlockTopology, NetworkSpec
from dso_nas.budgets.latency import RemovalLatencies
from dso_nas.budgets.regularization import make_regularizer
from dso_nas.errors import UserError

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
FOUR = ("sep_conv_3x3", "sep_conv_5x5", "max_pool_3x3", "avg_pool_3x3")


def layout_of(scope, levels=2, operations=("sep_conv_3x3", "max_pool_3x3"), packed=False, widths=(4, 8)):
    spec = NetworkSpec(BlockTopology(levels, operations), "cifar", (1,) * len(widths), widths, 10, (3, 8, 8))
    return LambdaLayout(spec, scope, packed)


def ones(layout):
    return {name: np.ones(shape, np.float32) for name, shape in layout.shapes().items()}


def test_uniform_is_one_number():
    assert make_regularizer(layout_of("share"), "uniform", "equation", 0.3).gamma({}) == 0.3


def test_eq_17_by_hand():
    """8x8, 4 channels: a separable 3x3 has (36 + 16) * 64 multiply-adds, an output convolution 16 * 64, a pool none."""
    layout = layout_of("full")
    rule = make_regularizer(layout, "adaptive_flops", "equation", 0.5)
    values = ones(layout)
    full = 2 * 52 + 4 * 16
    for array in rule.gamma(values).values():
        np.testing.assert_allclose(array, 0.5)
    values["lambda_after_stage1_unit1"][:] = [[1, 1, 0, 1]]
    gamma = rule.gamma(values)
    # Node (2, 1), the second separable convolution, has no way out any more: it and one output convolution are gone.
    expected = 0.5 * (52 + 3 * 16) / full
    for name in ("lambda_stage1_unit1_layer_2_1", "lambda_stage1_unit1_layer_2_2", "lambda_after_stage1_unit1"):
        np.testing.assert_allclose(gamma[name], expected, rtol=1e-6)
    np.testing.assert_allclose(gamma["lambda_stage2_unit1_layer_2_1"], 0.5)
    np.testing.assert_allclose(gamma["lambda_stage1_unit2"], 0.5)


def test_eq_17_of_an_empty_block_is_zero():
    layout = layout_of("full")
    values = ones(layout)
    values["lambda_after_stage2_unit1"][:] = 0
    gamma = make_regularizer(layout, "adaptive_flops", "equation", 0.5).gamma(values)
    np.testing.assert_array_equal(gamma["lambda_stage2_unit1_layer_2_1"], 0)


def test_eq_18_by_hand():
    """Reading, writing and weights: depthwise 2 * 4 * 64 + 36, pointwise 2 * 4 * 64 + 16, pool 2 * 4 * 64."""
    layout = layout_of("full", widths=(4,))
    gamma = make_regularizer(layout, "adaptive_mac", "equation", 0.1).gamma(ones(layout))
    separable, pool, output = 512 + 36 + 512 + 16, 512, 512 + 16
    np.testing.assert_allclose(gamma["lambda_stage1_unit1_layer_2_1"], np.full((1, 3), 0.1), rtol=1e-6)
    np.testing.assert_allclose(gamma["lambda_stage1_unit1_layer_2_2"], 0.1 * pool / separable, rtol=1e-6)
    np.testing.assert_allclose(gamma["lambda_after_stage1_unit1"], 0.1 * output / separable, rtol=1e-6)


@pytest.mark.parametrize("levels", [3, 4])
def test_published_flops_counts_operations(levels):
    layout = layout_of("full", levels, FOUR, packed=True)
    rng = np.random.default_rng(levels)
    rule = make_regularizer(layout, "adaptive_flops", "published", 0.05)
    values = {name: (rng.random(shape) < 0.3).astype(np.float32) for name, shape in layout.shapes().items()}
    gamma = rule.gamma(values)
    packed = values["lambda_stage1_unit1"].ravel()
    count, start = 2, 0
    for level in range(2, levels + 1):
        size = 1 + 4 * (level - 1)
        count += int(packed[start : start + size].any()) + int(packed[start + size : start + 2 * size].any())
        start += 4 * size
    count += int(packed[start:].sum())
    np.testing.assert_allclose(gamma["lambda_stage1_unit1"], 0.05 * (count + 1) / (6 * levels + 1), rtol=1e-6)
    np.testing.assert_allclose(gamma["lambda_stage1_unit2"], 0.05)


def test_published_mac_constants():
    layout = layout_of("share", 2, FOUR)
    gamma = make_regularizer(layout, "adaptive_mac", "published", 1.0).gamma(ones(layout))
    for operation, constant in enumerate((0.986, 1.0, 0.447, 0.447), start=1):
        np.testing.assert_allclose(gamma[f"lambda_layer_2_{operation}"], constant, rtol=1e-6)
    np.testing.assert_allclose(gamma["lambda_after"], 0.448, rtol=1e-6)


@pytest.mark.parametrize("scope", ["share", "full"])
@pytest.mark.parametrize("kind", ["adaptive_flops", "adaptive_mac"])
def test_every_scope_and_size_has_every_lambda(scope, kind):
    layout = layout_of(scope, 3, FOUR + ("sep_conv_7x7",))
    gamma = make_regularizer(layout, kind, "equation", 0.2).gamma(ones(layout))
    assert {name: array.shape for name, array in gamma.items()} == layout.shapes()


def connections(genotype):
    """A latency one can count: a millisecond for every connection of every block in the genotype."""
    return float(sum(block.num_connections for block in genotype.blocks.values()))


@pytest.mark.parametrize(("rule", "needed", "spared"), [("equation", 0.0 + 0.02, 0.5 + 0.02), ("published", 0.5, 0.25)])
def test_eq_19_by_hand(rule, needed, spared):
    """Without the only way out of a level-2 operation its three inputs go too: 6 of 10 connections stay, else 9."""
    layout = layout_of("share")
    base = 0.02 if rule == "equation" else 0.0
    regularizer = make_regularizer(layout, "adaptive_latency", rule, 0.5, base, connections)
    assert regularizer.gamma({}) == 0.5 + base
    regularizer.epoch_begins(ones(layout))
    gamma = regularizer.gamma({})
    np.testing.assert_allclose(gamma["lambda_after"], [[spared, spared, needed, needed]], rtol=1e-6)
    for operation in (1, 2):
        np.testing.assert_allclose(gamma[f"lambda_layer_2_{operation}"], [[spared] * 3], rtol=1e-6)
    np.testing.assert_allclose(gamma["lambda_stage1_unit2"], 0.5)


@pytest.mark.parametrize("packed", [False, True])
def test_eq_19_compares_over_all_blocks(packed):
    """Stage 1 has lost an operation: without its last way out 3 connections fewer, in stage 2 still 4."""
    layout = layout_of("full", packed=packed)
    values = ones(layout)
    vectors = layout.to_units(values)
    vectors["stage1_unit1"] = np.array([1, 1, 0, 0, 0, 0, 1, 1, 1, 0], np.float32)
    regularizer = make_regularizer(layout, "adaptive_latency", "equation", 1.0, 0.0, connections)
    regularizer.epoch_begins(layout.from_units(vectors))
    gamma = layout.to_units(regularizer.gamma({}))
    np.testing.assert_allclose(gamma["stage1_unit1"][[0, 1, 6, 7]], 1)
    np.testing.assert_allclose(gamma["stage1_unit1"][8], (4 - 3) / (4 - 1), rtol=1e-6)
    np.testing.assert_allclose(gamma["stage1_unit1"][[2, 3, 4, 5, 9]], 1)
    np.testing.assert_allclose(gamma["stage2_unit1"], [1] * 8 + [0, 0])


@pytest.mark.parametrize("case", [0, 1, 2])
def test_published_latency_is_the_recorded_one(case, monkeypatch):
    """The recorded latencies, told in the order they are asked for, give the recorded gamma of every connection."""
    with np.load(GOLDEN / f"G_misc_adlatency_gamma_{case}.npz") as golden:
        arrays = dict(golden)
    spec = NetworkSpec(BlockTopology(4, FOUR), "imagenet", (1, 1, 1), (4, 8, 16), 10, (3, 32, 32))
    layout = LambdaLayout(spec, "share")
    values = {name: arrays.get(f"in/{name}", np.ones(shape, np.float32)) for name, shape in layout.shapes().items()}
    recorded = iter(arrays["latency_list"][arrays["structure_code"] == 1])
    monkeypatch.setattr(RemovalLatencies, "_latency", lambda *_: next(recorded))
    regularizer = make_regularizer(layout, "adaptive_latency", "published", 1.0)
    regularizer.epoch_begins(values)
    assert next(recorded, None) is None
    gamma = regularizer.gamma(values)
    for name in (name for name in values if f"latency_gamma/{name}" in arrays):
        np.testing.assert_array_equal(gamma[name], arrays[f"latency_gamma/{name}"], err_msg=name)
    np.testing.assert_array_equal(gamma["lambda_stage1_unit2"], 1)


def test_latency_gamma_holds_for_an_epoch_and_through_a_checkpoint():
    layout = layout_of("full")
    clock = itertools.count(1.0)
    first, second = (make_regularizer(layout, "adaptive_latency", "equation", 0.1, 0.01, lambda _: next(clock))
                     for _ in range(2))
    assert first.state()["structures"].shape == (0, 20)
    first.epoch_begins(ones(layout))
    second.load_state(first.state())
    for regularizer in (first, second):
        gamma = regularizer.gamma({})
        regularizer.epoch_begins(ones(layout))
        for name, array in regularizer.gamma({}).items():
            assert array.dtype == np.float32
            np.testing.assert_array_equal(array, gamma[name])
            np.testing.assert_array_equal(array, first.gamma({})[name])


def test_what_is_not_there_is_said():
    with pytest.raises(UserError, match="adaptive_mac"):
        make_regularizer(layout_of("share"), "adaptive_power", "equation", 0.1)
    with pytest.raises(UserError, match="conv7x7"):
        make_regularizer(layout_of("share", 2, ("sep_conv_7x7",)), "adaptive_mac", "published", 0.1)
