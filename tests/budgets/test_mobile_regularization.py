"""Gamma of the mobile space's operations: Eq. 17-19 by hand on a small network."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dso_nas.architecture.mobile import MobileLambdas
from dso_nas.architecture.mobile_cost import mobile_cost
from dso_nas.architecture.mobile_genotype import MobileGenotype
from dso_nas.budgets.mobile_regularization import MobileRemovals
from dso_nas.budgets.regularization import make_regularizer
from dso_nas.errors import UserError
from tests.architecture.mobile_networks import TINY

LAYOUT = MobileLambdas(TINY)
UNITS = [unit.name for unit in TINY.units()]
# stage2_unit1 alone has no shortcut.
VALUES = LAYOUT.from_units(dict(zip(UNITS, ([1, 1, 1], [0, 1, 0], [0, 0, 2], [0, 0, 0], [1, 0, 1]))))


def gammas(kind, rule="equation", values=VALUES, **more):
    regularizer = make_regularizer(LAYOUT, kind, rule, 0.5, **more)
    regularizer.epoch_begins(values)
    assert regularizer.changes
    gamma = regularizer.gamma(values)
    assert {name: array.shape for name, array in gamma.items()} == LAYOUT.shapes()
    return {name[len("lambda_"):]: array[0] for name, array in gamma.items()}


def costs(unit, field):
    rows = mobile_cost(TINY).rows
    return np.array([sum(getattr(row.cost, field) for row in rows if row.layer.name.startswith(f"{unit}_{name}_"))
                     for name in TINY.operations], float)


@pytest.mark.parametrize("rule", ["equation", "published"])
def test_uniform_but_for_what_cannot_be_chosen(rule):
    gamma = gammas("uniform", rule)
    for name in UNITS:
        np.testing.assert_array_equal(gamma[name], [0 if name == "stage2_unit1" else 0.5] * 3)


def test_a_block_without_a_shortcut_is_free_when_one_operation_is_left_not_before():
    values = {**VALUES, "lambda_stage2_unit1": np.array([[0, 1, 2]], np.float32)}
    np.testing.assert_array_equal(gammas("uniform", values=values)["stage2_unit1"], [0.5] * 3)


def test_adaptive_flops():
    gamma = gammas("adaptive_flops")
    for name, live in (("stage1_unit1", [0, 1, 2]), ("stage1_unit2", [1]), ("stage2_unit2", []),
                       ("stage3_unit1", [0, 2])):
        flops = costs(name, "multiply_adds")
        np.testing.assert_allclose(gamma[name], [0.5 * flops[live].sum() / flops.sum()] * 3, rtol=1e-6)
    assert not gamma["stage2_unit1"].any()


def test_adaptive_mac():
    gamma = gammas("adaptive_mac")
    largest = max(costs(name, "mac").max() for name in UNITS)
    for name in UNITS:
        expected = 0 if name == "stage2_unit1" else 0.5 * costs(name, "mac") / largest
        np.testing.assert_allclose(gamma[name], expected, rtol=1e-6)


def milliseconds(genotype: MobileGenotype) -> float:
    """Ten, and for each operation its place in the block and ten times the block's number."""
    return 10 + sum((1 + genotype.operations.index(operation)) * (1 + UNITS.index(name))
                    for name, live in genotype.blocks.items() for operation in live)


def test_adaptive_latency_by_the_equation():
    gamma = gammas("adaptive_latency", gamma_base=0.125, measure=milliseconds)
    own = {"stage1_unit1": [1, 2, 3], "stage1_unit2": [None, 4, None], "stage3_unit1": [5, None, 15]}
    # What is removed makes the network faster by its own time: from 1 to 15 ms.
    for name, times in own.items():
        expected = [0.5 * (1 if time is None else (15 - time) / 14) + 0.125 for time in times]
        np.testing.assert_allclose(gamma[name], expected, rtol=1e-6)
    assert not gamma["stage2_unit1"].any()
    np.testing.assert_allclose(gamma["stage2_unit2"], [0.625] * 3)


def test_adaptive_latency_as_published():
    gamma = gammas("adaptive_latency", "published", measure=milliseconds)
    np.testing.assert_allclose(gamma["stage3_unit1"], [0.5 * (0.5 + 0.5 * 4 / 14), 0.5, 0.5], rtol=1e-6)


def test_latencies_are_measured_once_for_every_structure_and_survive_a_checkpoint():
    asked = []

    def measure(genotype):
        asked.append(genotype)
        return milliseconds(genotype)

    regularizer = make_regularizer(LAYOUT, "adaptive_latency", "equation", 0.5, 0.0, measure)
    for name, array in regularizer.gamma(VALUES).items():
        np.testing.assert_array_equal(array, [[0 if "stage2_unit1" in name else 0.5] * 3])
    regularizer.epoch_begins(VALUES)
    assert len(asked) == 3 + 1 + 2
    regularizer.epoch_begins(VALUES)
    assert len(asked) == 6
    again = make_regularizer(LAYOUT, "adaptive_latency", "equation", 0.5, 0.0, measure)
    again.load_state(regularizer.state())
    for name, array in regularizer.gamma(VALUES).items():
        np.testing.assert_array_equal(array, again.gamma(VALUES)[name])
    again.epoch_begins(VALUES)
    assert len(asked) == 6


def test_like_blocks_may_stand_in_any_order():
    spec = dataclasses.replace(TINY, groups=((8, 3, 2),))
    removals = MobileRemovals(spec, milliseconds)

    def digest(*blocks):
        return removals._digest(MobileGenotype(spec.operations, {
            unit.name: block for unit, block in zip(spec.units(), blocks)}))

    small, large = ("mb3_3x3",), ("mb6_3x3",)
    assert digest(small, small, large) == digest(small, large, small)
    assert len({digest(small, small, large), digest(large, small, small), digest(small, small, small),
                digest(small, (), small), digest(small, small + large, ())}) == 5


@pytest.mark.parametrize("kind", ["adaptive_flops", "adaptive_mac"])
def test_what_was_never_published(kind):
    with pytest.raises(UserError, match=f"there is no {kind} by published"):
        make_regularizer(LAYOUT, kind, "published", 0.5)
