"""Measuring a network, and a network without each of its connections."""

import dso_nas  # noqa: F401  (before MXNet)

# isort: split
import dataclasses
import itertools

import mxnet as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dso_nas.architecture.block_genotype import BlockGenotype
from dso_nas.architecture.genotype import Genotype
from dso_nas.architecture.topology import BlockTopology, NetworkSpec
from dso_nas.budgets import latency as module
from dso_nas.budgets.latency import (
    ATTEMPTS,
    PROTOCOLS,
    Latency,
    RemovalLatencies,
    equation_factors,
    measure,
    measure_built,
    published_factors,
    structure_digest,
    without_each,
)
from dso_nas.errors import UserError
from dso_nas.networks.derived import DerivedNetwork
from dso_nas.recipes.schema import Search

TOPOLOGY = BlockTopology(2, ("sep_conv_3x3", "max_pool_3x3"))
SPEC = NetworkSpec(TOPOLOGY, "cifar", (1, 3), (4, 8), 10, (3, 8, 8))
milliseconds = st.lists(st.floats(1e-3, 1e4), min_size=2, max_size=100)


def measured(genotype, batch):
    """The latency of a derived network, whatever the spread."""
    return measure_built(lambda: DerivedNetwork(SPEC, genotype), mx.cpu(), SPEC.image_shape, batch, "paper", 1e9)


class Sleeper:
    """A network on a clock of the test's own: every run takes the next of `times` milliseconds."""

    def __init__(self, monkeypatch, times):
        self.times, self.now, self.calls, self.shape = itertools.cycle(times), 0.0, 0, None
        monkeypatch.setattr(module.time, "perf_counter", lambda: self.now / 1000)

    def __call__(self, images):
        self.calls, self.shape = self.calls + 1, images.shape
        return self

    def wait_to_read(self):
        self.now += next(self.times)


def test_the_warm_up_is_not_counted(monkeypatch):
    for name, runs, value in (("median", 50, 2), ("paper", 5, 2), ("published", 90, 2)):
        plan = PROTOCOLS[name]
        network = Sleeper(monkeypatch, [500] * plan.warmup + [2] * runs)
        found = measure(network, mx.cpu(), (3, 8, 8), batch=7, protocol=name)
        assert (network.calls, network.shape) == (plan.warmup + runs, (7, 3, 8, 8))
        assert found.runs == runs and found.value == pytest.approx(value) and found.spread == pytest.approx(0)


def test_statistics_are_those_asked_for(monkeypatch):
    times = [1.0, 2, 2, 2, 13]
    found = Latency.of(times, "median")
    assert (found.value, found.median, found.mean, found.spread) == (2, 2, 4, 0)
    assert Latency.of(times, "mean").value == 4
    assert measure(Sleeper(monkeypatch, [9.0] + times), mx.cpu(), (3, 8, 8), protocol="paper").value == pytest.approx(4)


def test_one_interrupted_run_does_not_matter_but_many_do(monkeypatch):
    once = Sleeper(monkeypatch, [1.0] * 59 + [100])
    assert measure(once, mx.cpu(), (3, 8, 8)).value == pytest.approx(1)
    often = Sleeper(monkeypatch, [1.0, 2])
    with pytest.raises(UserError, match=r"cpu\(0\).* 50 runs is 67% .*more than 25%.*search.latency_spread") as caught:
        measure(often, mx.cpu(), (3, 8, 8))
    assert "\n" not in str(caught.value)
    assert often.calls == ATTEMPTS * 60
    assert measure(often, mx.cpu(), (3, 8, 8), largest_spread=0.7).value == pytest.approx(1.5)


def test_a_noisy_moment_is_measured_again(monkeypatch):
    network = Sleeper(monkeypatch, [1.0, 2] * 30 + [3] * 60)
    assert measure(network, mx.cpu(), (3, 8, 8)).value == pytest.approx(3)


@given(milliseconds)
def test_the_median_is_between_all_and_the_spread_has_no_unit(times):
    found, slower = Latency.of(times, "median"), Latency.of([4 * value for value in times], "median")
    assert min(times) <= found.value <= max(times) and found.spread >= 0
    assert slower.value == pytest.approx(4 * found.value) and slower.spread == pytest.approx(found.spread, abs=1e-9)


def test_a_real_network_leaves_random_generators_alone():
    """What is drawn after a measurement is what would have been drawn without it."""
    def draw():
        return mx.nd.random.uniform(shape=3).asnumpy(), np.random.rand(3)

    genotype = Genotype.full(SPEC, "share")
    results = []
    for work in (lambda: measured(genotype, 2), lambda: None):
        mx.random.seed(5)
        np.random.seed(5)
        found = work()
        results.append(draw())
        assert found is None or (found.runs == 5 and found.value == found.mean > 0)
    for one, two in zip(*results):
        np.testing.assert_array_equal(one, two)


def test_training_beside_a_measurement_goes_on_to_the_same_bits():
    """Gradients, statistics and autograd's modes are as if nothing had been measured, in the middle of a step."""
    genotype = Genotype.full(SPEC, "share")
    ends = []
    for work in (lambda: measured(genotype, 2), lambda: None):
        mx.random.seed(3)
        network = DerivedNetwork(SPEC, genotype, dropout=0.5)
        network.initialize(mx.init.Xavier())
        trainer = mx.gluon.Trainer(network.collect_params(), "sgd", {"learning_rate": 0.1}, kvstore=None)
        images = mx.nd.array(np.random.default_rng(1).normal(size=(4, 3, 8, 8)))
        for _ in range(2):
            with mx.autograd.record():
                loss = (network(images) ** 2).mean()
                work()
                assert mx.autograd.is_recording() and mx.autograd.is_training()
                loss = loss + 0
            work()
            assert not mx.autograd.is_recording() and not mx.autograd.is_training()
            loss.backward()
            trainer.step(1)
        ends.append({name: parameter.data().asnumpy() for name, parameter in network.collect_params().items()})
    for name, value in ends[0].items():
        np.testing.assert_array_equal(value, ends[1][name], err_msg=name)


def test_a_network_that_is_measured_does_not_learn():
    """Under `record` it would take batch statistics, and keep them."""
    network = module.compiled(DerivedNetwork(SPEC, Genotype.full(SPEC, "share")), mx.cpu())
    with mx.autograd.record():
        measure(network, mx.cpu(), (3, 8, 8), protocol="paper", largest_spread=1e9)
    mx.nd.waitall()
    assert all((p.data() == (0 if "mean" in name else 1)).asnumpy().all()
               for name, p in network.collect_params(".*running_(mean|var)").items())


@pytest.mark.parametrize("scope", ["share", "full"])
def test_every_connection_is_removed_once_and_what_hangs_on_it(scope):
    genotype = Genotype.full(SPEC, scope)
    removed = list(without_each(genotype))
    assert len(removed) == 10 * len(genotype.blocks)
    for name, position, fewer in removed:
        mask = fewer.blocks[name].mask(TOPOLOGY)
        assert not mask[position]
        assert mask.sum() == (6 if position in (8, 9) else 9)
        assert all(fewer.blocks[other] == genotype.blocks[other] for other in genotype.blocks if other != name)
        fewer.check_fits(SPEC)


def test_a_last_way_out_leaves_the_shortcut():
    block = BlockGenotype({}, ((1, 1),))
    genotype = dataclasses.replace(Genotype.full(SPEC, "share"), blocks={"shared": block})
    (_, position, fewer), = without_each(genotype)
    assert position == 6 and fewer.blocks["shared"].is_empty
    assert measured(fewer, 1).value > 0


def test_a_structure_is_measured_once():
    asked = []

    def count(genotype):
        asked.append(genotype)
        return float(len(asked))

    latencies = RemovalLatencies(SPEC, count)
    full = Genotype.full(SPEC, "full")
    first = latencies.of(full)
    # The three blocks of stage 2 are two kinds: the first, and the others.
    assert len(asked) == 3 * 10
    np.testing.assert_array_equal(first["stage2_unit2"], first["stage2_unit3"])
    assert not set(first["stage2_unit1"]) & set(first["stage2_unit2"])
    fewer = next(fewer for name, _, fewer in without_each(full) if name == "stage1_unit1")
    second = latencies.of(fewer)
    assert np.isnan(second["stage1_unit1"]).sum() == 1 and len(asked) > 30
    before = len(asked)
    for name, values in latencies.of(full).items():
        np.testing.assert_array_equal(values, first[name])
    restored = RemovalLatencies(SPEC, count)
    restored.load_state(latencies.state())
    for name, values in restored.of(fewer).items():
        np.testing.assert_array_equal(values, second[name])
    assert len(asked) == before


def test_structures_that_differ_have_other_digests():
    full = Genotype.full(SPEC, "full")
    bare = BlockGenotype({}, ((1, 1),))
    other = {name: dataclasses.replace(full, blocks={**full.blocks, name: bare}) for name in full.blocks}
    assert structure_digest(SPEC, other["stage2_unit2"]) == structure_digest(SPEC, other["stage2_unit3"])
    conv = dataclasses.replace(full, reductions=(("conv3x3",),))
    distinct = [full, other["stage1_unit1"], other["stage2_unit1"], other["stage2_unit2"], conv]
    assert len({structure_digest(SPEC, genotype) for genotype in distinct}) == len(distinct)
    assert structure_digest(SPEC, full) == structure_digest(SPEC, Genotype.full(SPEC, "share"))


def test_factors_by_hand():
    latencies = np.array([10.0, 14, np.nan, 12])
    np.testing.assert_array_equal(equation_factors(latencies), [0, 1, 1, 0.5])
    np.testing.assert_allclose(published_factors(latencies), [1, 0.5, 1, 0.75])
    for none_differ in (np.array([3.0, 3, np.nan]), np.array([np.nan])):
        np.testing.assert_array_equal(equation_factors(none_differ), np.ones(none_differ.size))


@given(milliseconds)
def test_the_two_rules_point_in_opposite_ways(times):
    latencies = np.array(times)
    if np.ptp(latencies) < 1:
        return
    printed, published = equation_factors(latencies), published_factors(latencies)
    assert printed.min() == 0 and printed.max() == 1
    np.testing.assert_allclose(published, 1 - 0.5 * printed, atol=1e-8)


def test_the_recipe_knows_every_protocol():
    rule = Search.__dataclass_fields__["latency_statistic"].metadata["rule"]
    assert all(rule.read(name, "search.latency_statistic") == name for name in PROTOCOLS)
    assert Search.__dataclass_fields__["latency_statistic"].default in PROTOCOLS
