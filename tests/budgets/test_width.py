"""The width that meets a target."""

import itertools

import pytest

from dso_nas.architecture.cost import network_cost
from dso_nas.architecture.genotype import Genotype
from dso_nas.architecture.topology import BlockTopology, NetworkSpec
from dso_nas.budgets.width import LATENCY_TOLERANCE, TOLERANCE, fit
from dso_nas.errors import UserError

SPEC = NetworkSpec(BlockTopology(2, ("sep_conv_3x3", "max_pool_3x3")), "cifar", (1, 1, 1), (8, 16, 32), 10, (3, 32, 32))
FULL = Genotype.full(SPEC, "share")
COSTS = ("parameters", "multiply_adds", "mac")


def cost_of(name):
    return lambda spec, genotype: getattr(network_cost(spec, genotype).total, name)


def fit_parameters(target, tolerance=0.05):
    return fit(SPEC, FULL, cost_of("parameters"), target, tolerance, "parameters")


@pytest.mark.parametrize("target", [3000, 20_000, 333_333, 2_000_000])
def test_the_count_comes_within_the_tolerance(target):
    spec, multiplier = fit_parameters(target)
    assert spec == SPEC.scaled(multiplier)
    assert network_cost(spec, FULL).total.parameters == pytest.approx(target, rel=0.05)


@pytest.mark.parametrize("name", COSTS)
@pytest.mark.parametrize("multiplier", [0.25, 0.7, 1.0, 3.3, 20])
def test_every_cost_that_a_width_has_is_met_within_two_per_cent(name, multiplier):
    cost = cost_of(name)
    target = int(1.004 * cost(SPEC.scaled(multiplier), FULL))
    spec, _ = fit(SPEC, FULL, cost, target, TOLERANCE, name)
    assert cost(spec, FULL) == pytest.approx(target, rel=0.02)


def test_no_neighbouring_width_is_nearer():
    target = 50_000
    spec, _ = fit_parameters(target)
    distance = abs(network_cost(spec, FULL).total.parameters - target)
    for thousandths in range(100, 4000):
        other = network_cost(SPEC.scaled(thousandths / 1000), FULL).total.parameters
        assert distance <= abs(other - target)


def test_widths_of_one_channel_are_whole_and_the_least():
    """There is no smaller network; what it has is said."""
    least = network_cost(SPEC.with_widths((1, 1, 1)), FULL).total.parameters
    spec, _ = fit_parameters(least, 0.001)
    assert spec.widths == (1, 1, 1)
    with pytest.raises(UserError, match=rf"target of 1 parameters: the nearest width has {least:,}, .*5 % away"):
        fit_parameters(1)


def test_a_target_above_the_largest_network_names_it():
    largest = network_cost(SPEC.scaled(64), FULL).total.parameters
    with pytest.raises(UserError, match=rf"the nearest width has {largest:,}") as caught:
        fit_parameters(10**12)
    assert "\n" not in str(caught.value)


def test_a_gap_between_two_widths_names_the_nearer():
    """Between widths of 1 and 2 channels there is none."""
    one, two = (network_cost(SPEC.with_widths((width,) * 3), FULL).total.parameters for width in (1, 2))
    narrow = SPEC.with_widths((1, 1, 1))
    with pytest.raises(UserError, match=f"the nearest width has {one:,}"):
        fit(narrow, FULL, cost_of("parameters"), one + (two - one) // 3, 0.05, "parameters")


class Stopwatch:
    """A latency that grows with the width, a little off every time, and counts how often it is asked."""

    def __init__(self):
        self.asked, self._noise = [], itertools.cycle((0.99, 1.012, 1.0, 0.991))

    def __call__(self, spec, genotype):
        self.asked.append(spec)
        return next(self._noise) * (0.5 + 1e-6 * network_cost(spec, genotype).total.multiply_adds)


@pytest.mark.parametrize("target", [0.6, 3.0, 12.5, 100.0])
def test_a_latency_takes_few_measurements(target):
    watch = Stopwatch()
    spec, _ = fit(SPEC, FULL, watch, target, LATENCY_TOLERANCE, "ms", LATENCY_TOLERANCE / 2)
    assert 0.5 + 1e-6 * network_cost(spec, FULL).total.multiply_adds == pytest.approx(target, rel=0.05)
    assert len(watch.asked) == len(set(watch.asked)) <= 12


def test_a_latency_below_the_shortest_names_it():
    with pytest.raises(UserError, match=r"target of 0.1 ms: the nearest width has 0\.\d+, more than 5 % away"):
        fit(SPEC, FULL, Stopwatch(), 0.1, LATENCY_TOLERANCE, "ms", 0.02)


def test_any_macro_structure_will_do():
    """Another space has another description; all it needs is `scaled`."""
    class Line(float):
        def scaled(self, multiplier):
            return Line(round(self * multiplier))

    fitted, multiplier = fit(Line(100), None, lambda line, genotype: 3 * line, 333, 0.02, "points")
    assert fitted == 111 and multiplier == pytest.approx(1.11, 0.01)
