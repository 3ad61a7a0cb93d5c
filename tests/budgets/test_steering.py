"""Steering gamma to a share of the FLOPs, on lambdas that a hand-made loss pulls at."""

import numpy as np
import pytest

from dso_nas.architecture.cost import network_cost
from dso_nas.architecture.genotype import Genotype
from dso_nas.architecture.lambdas import LambdaLayout
from dso_nas.architecture.pruning import prune
from dso_nas.architecture.topology import BlockTopology, NetworkSpec
from dso_nas.budgets.steering import LARGEST_FACTOR, TOLERANCE, Steering
from dso_nas.errors import UserError

FOUR = ("sep_conv_3x3", "sep_conv_5x5", "max_pool_3x3", "avg_pool_3x3")
SPEC = NetworkSpec(BlockTopology(3, FOUR), "cifar", (1, 1), (8, 16), 10, (3, 16, 16))
WHOLE = network_cost(SPEC).total.multiply_adds


class World:
    """Lambdas of a layout under APG-NAG in NumPy; each is worth something to a quadratic loss, some nothing."""

    def __init__(self, scope="full", seed=0, gamma=0.01, rate=0.1, momentum=0.9):
        self.layout = LambdaLayout(SPEC, scope)
        self.rng = np.random.default_rng(seed)
        self.values = {name: np.ones(shape, np.float32) for name, shape in self.layout.shapes().items()}
        self.velocity = {name: np.zeros_like(value) for name, value in self.values.items()}
        self.worth = {name: 0.05 * self.rng.random(value.shape) ** 3 for name, value in self.values.items()}
        self.gamma, self.rate, self.momentum, self.noise = gamma, rate, momentum, 0.02

    def share(self, values):
        genotype = prune(self.layout, values).genotype
        return network_cost(SPEC, genotype).total.multiply_adds / WHOLE

    def step(self, factor):
        """One lambda step; returns the lambdas before and after it."""
        before = {name: value.copy() for name, value in self.values.items()}
        for name, value in self.values.items():
            noise = self.noise * self.rng.normal(size=value.shape)
            point = value - self.rate * (self.worth[name] * (value - 1.2) + noise)
            bound = self.rate * self.gamma * factor
            point = point - np.clip(point, -bound, bound)
            self.velocity[name] = point - value + self.momentum * self.velocity[name]
            moved = np.maximum(0, point + self.momentum * self.velocity[name]).astype(np.float32)
            self.values[name] = np.where(value > 0, moved, 0)
        return before, self.values


def run(world, target, steps=200, halt=None):
    """The steering at the end of a search, and the number of its steps."""
    steering = Steering(world.share, target, steps, world.values)
    for step in range(1, steps + 1):
        world.values.update(steering.after_step(step, *world.step(steering.factor)))
        if halt == step:
            resumed = Steering(world.share, target, steps, world.values)
            resumed.load_state(steering.state())
            steering = resumed
        if steering.reached:
            break
    return steering, step


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("target", [0.7, 0.4])
@pytest.mark.parametrize("gamma", [0.0005, 0.01, 0.3])
def test_a_search_ends_at_the_asked_share(target, seed, gamma):
    """Whether gamma was far too small or far too large."""
    world = World(seed=seed, gamma=gamma)
    steering, steps = run(world, target)
    assert steering.reached and steering.verdict() is None
    assert world.share(world.values) == pytest.approx(target, rel=TOLERANCE)
    assert steering.share == world.share(world.values)
    if gamma < 0.3:
        assert steps > 60, "a search that has the time takes it"


def test_shared_lambdas_reach_it_too():
    world = World("share", gamma=0.01)
    steering, _ = run(world, 0.5)
    assert world.share(world.values) == pytest.approx(0.5, rel=TOLERANCE)


def test_it_is_the_same_again_and_after_a_checkpoint():
    ends = []
    for halt in (None, None, 97):
        world = World(seed=3)
        steering, steps = run(world, 0.5, halt=halt)
        ends.append((steps, steering.factor, steering.share, {name: v.tobytes() for name, v in world.values.items()}))
    assert ends[0] == ends[1] == ends[2]


def test_all_lambdas_dying_in_one_step_do_not_carry_it_past_the_target():
    """Equal lambdas fall alike: without help the share goes from one to the least in one step."""
    world = World(gamma=1.0)
    for name in world.worth:
        world.worth[name][:] = 0
    world.noise = 0
    steering, _ = run(world, 0.6)
    assert world.share(world.values) == pytest.approx(0.6, rel=TOLERANCE)


class Lumps:
    """Three lambdas that have the whole of the FLOPs among them."""

    parts = np.array([0.5, 0.3, 0.2])

    def share(self, values):
        return float(self.parts[values["lambda"][0] > 0].sum())

    def fall(self, target, to, steps=1):
        """One step after which the lambdas are `to`, and the steering then."""
        before = {"lambda": np.array([[0.03, 0.02, 0.01]], np.float32)}
        steering = Steering(self.share, target, steps, before)
        corrected = steering.after_step(1, before, {"lambda": np.array([to], np.float32)})
        return steering, corrected


def test_a_death_that_goes_too_far_is_passed_over():
    """Without the third 0.8 is left, then without the second 0.5; without the first as well nothing."""
    steering, corrected = Lumps().fall(0.5, [0, 0, 0])
    np.testing.assert_array_equal(corrected["lambda"], np.array([[0.03, 0, 0]], np.float32))
    assert steering.reached
    steering, corrected = Lumps().fall(0.7, [0, 0, 0], steps=5)
    np.testing.assert_array_equal(corrected["lambda"], np.array([[0.03, 0.02, 0]], np.float32))
    assert not steering.reached and steering.share == 0.8


@pytest.mark.parametrize("target, nearest", [(0.7, 0.8), (0.6, 0.5)])
def test_where_single_connections_are_too_large_the_nearest_is_said(target, nearest):
    steering, _ = Lumps().fall(target, [0, 0, 0])
    assert steering.share == pytest.approx(nearest)
    assert f"ended at {nearest:.3f} of the supernet's multiply-adds, the nearest to {target}" in steering.verdict()


def test_a_target_below_the_smallest_network_is_refused():
    world = World()
    smallest = world.share({name: 0 * value for name, value in world.values.items()})
    with pytest.raises(UserError, match=rf"search.target_flops_share: 0.01 is below .* {smallest:.3f}"):
        Steering(world.share, 0.01, 100, world.values)
    assert smallest == network_cost(SPEC, prune(world.layout, {
        name: 0 * value for name, value in world.values.items()}).genotype).total.multiply_adds / WHOLE > 0.01


def test_a_search_too_short_says_where_it_ended():
    steering, steps = run(World(gamma=1e-9), 0.4, steps=10)
    assert steps == 10 and "ended at 1.000" in steering.verdict() and "\n" not in steering.verdict()
    assert steering.factor <= LARGEST_FACTOR


def test_a_checkpoint_without_it_is_refused():
    with pytest.raises(UserError, match="search without it"):
        Steering(Lumps().share, 0.5, 10, {"lambda": np.ones((1, 3), np.float32)}).load_state({})


def test_the_share_is_one_of_the_whole_network():
    world = World()
    assert world.share(world.values) == 1.0
    assert network_cost(SPEC, Genotype.full(SPEC, "full")).total.multiply_adds == WHOLE
