"""Budgets in the stages: a search that ends at a share of the FLOPs, a retraining at a latency."""

import json

import numpy as np
import pytest

from dso_nas.architecture.cost import network_cost
from dso_nas.architecture.genotype import Genotype
from dso_nas.budgets.latency import Latency
from dso_nas.budgets.latency_table import Entry, LatencyTable
from dso_nas.budgets.layer_latency import layer_counts, table_space, timed_layers
from dso_nas.errors import UserError
from dso_nas.stages import targets as module
from dso_nas.stages.retrain import retrain_spec
from dso_nas.stages.search import SearchTask, search

STEERED = ("pretrain.epochs=0", "search.batch_size=10", "search.epochs=2", "search.prune_every=2",
           "search.learning_rate=0.05", "search.gamma=0.1", "network.scope=full")


def share_of(run, genotype):
    return network_cost(run.spec, genotype).total.multiply_adds / network_cost(run.spec).total.multiply_adds


@pytest.mark.parametrize("seed", [0, 2])
@pytest.mark.parametrize("target", [0.75, 0.5])
def test_a_search_ends_at_the_asked_share(make_run, target, seed):
    run = make_run(*STEERED, f"search.target_flops_share={target}", f"seed={seed}")
    genotype = search(run)
    assert share_of(run, genotype) == pytest.approx(target, rel=0.05)
    assert genotype.source["converged"] and not any("target" in text for text in genotype.source["warnings"])
    lines = [json.loads(line) for line in run.folder.metrics.read_text().splitlines()]
    assert [line["value"] for line in lines if line["name"] == "flops_share"][-1] == share_of(run, genotype)


def test_a_steered_search_is_the_same_again_and_resumed(make_run):
    ends = []
    for name, halt in (("one", None), ("two", 7)):
        task = SearchTask(make_run(*STEERED, "search.target_flops_share=0.5", name=name))
        for epoch in range(2):
            taken = 0
            for _ in task.train(epoch, 0):
                taken += 1
                if epoch == 0 and taken == halt:
                    state = task.state()
                    task = SearchTask(make_run(*STEERED, "search.target_flops_share=0.5", name=f"{name} resumed"))
                    task.restore(*state)
                    for _ in task.train(epoch, taken):
                        pass
                    break
            task.end_epoch(epoch)
            if task.finished():
                break
        ends.append((task.genotype, task.state()[0]["steering"].tobytes()))
    assert ends[0] == ends[1]


def test_a_search_stopped_on_its_target_stays_there(make_run):
    task = SearchTask(make_run(*STEERED, "search.target_flops_share=0.5"))
    task._steering.share = 0.5
    resumed = SearchTask(make_run(*STEERED, "search.target_flops_share=0.5", name="resumed"))
    resumed.restore(*task.state())
    assert list(resumed.train(2, 3)) == [] and resumed.finished()
    assert resumed.end_epoch(2)["flops_share"] == 1.0


def test_a_share_that_no_network_has(make_run):
    with pytest.raises(UserError, match="search.target_flops_share: 0.01 is below the smallest network"):
        SearchTask(make_run("search.target_flops_share=0.01"))
    with pytest.raises(UserError, match="search.target_flops_share: must be a number above 0 and below 1"):
        make_run("search.target_flops_share=1.5")


def test_a_search_without_the_time_says_where_it_ended(make_run):
    run = make_run("pretrain.epochs=0", "search.epochs=1", "search.gamma=1e-6", "search.target_flops_share=0.5")
    genotype = search(run)
    assert "ended at 1.000" in genotype.source["warnings"][0] and not genotype.source["converged"]


TABLED = ("search.regularization=adaptive_latency", "search.gamma=0.02", "search.latency_table={}")


def table_of(spec, path):
    """A table of a made-up machine."""
    entries = {name: Entry(float(price), 0.0) for price, name in enumerate(timed_layers(spec), start=1)}
    LatencyTable(table_space(spec), "gpu(0)", 1, "median", {}, entries).save(path)
    return [setting.format(path) for setting in TABLED]


def test_a_search_sums_a_table_instead_of_measuring(make_run, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "measure_built", None)
    settings = table_of(make_run().spec, tmp_path / "table.json")
    task = SearchTask(make_run(*settings))
    next(task.train(0, 0))
    gamma = task._apg_nag._gamma["lambda_after"]
    # A convolution and its way out are dearer than a pool's: without it the network is the fastest.
    assert gamma.shape == (1, 6) and 0 <= gamma.min() < gamma.max() <= 0.02
    genotype = task.genotype
    assert task._milliseconds(genotype) == task._table.total(layer_counts(task._run.spec, genotype)) > 0


def test_a_table_of_another_space_is_refused(make_run, tmp_path):
    settings = table_of(make_run().spec.scaled(2), tmp_path / "table.json")
    with pytest.raises(UserError, match="table.json: the latency table is of another space, its widths is"):
        SearchTask(make_run(*settings))
    with pytest.raises(UserError, match="none.json: cannot read the latency table"):
        SearchTask(make_run(*TABLED[:2], "search.latency_table=none.json"))
    with pytest.raises(UserError, match="search.latency_table: must be null unless search.regularization is"):
        make_run("search.latency_table=table.json")


@pytest.mark.parametrize("key, field", [("parameters", "parameters"), ("flops", "multiply_adds"), ("mac", "mac")])
def test_retraining_meets_a_count(make_run, key, field):
    target = getattr(network_cost(make_run().spec.scaled(9)).total, field)
    run = make_run(f"retrain.target_{key}={int(1.003 * target)}")
    spec, _ = retrain_spec(run, run.space.full())
    assert getattr(network_cost(spec, run.space.full()).total, field) == pytest.approx(target, rel=0.02)


@pytest.mark.parametrize("key", ["parameters", "flops", "mac"])
@pytest.mark.parametrize("value", [1, 10**12])
def test_a_count_that_no_width_has(make_run, key, value):
    run = make_run(f"retrain.target_{key}={value}")
    with pytest.raises(UserError, match="the nearest width has .* more than 2 % away"):
        retrain_spec(run, run.space.full())


def test_one_target_at_a_time(make_run):
    with pytest.raises(UserError, match="retrain.target_flops: must be null where retrain.target_parameters"):
        make_run("retrain.target_parameters=1000", "retrain.target_flops=1000")
    with pytest.raises(UserError, match="retrain.width_multiplier: must be 1 where retrain.target_latency"):
        make_run("retrain.target_latency=10", "retrain.width_multiplier=2")


@pytest.fixture
def stopwatch(monkeypatch):
    """A device on which a microsecond makes a thousand multiply-adds, half a millisecond before the first."""
    asked = []

    def measure_built(build, *arguments):
        spec = build().spec
        asked.append((spec, *arguments))
        return Latency.of([0.5 + network_cost(spec).total.multiply_adds / 1e6], "mean")

    monkeypatch.setattr(module, "measure_built", measure_built)
    return asked


def test_retraining_meets_a_latency_and_keeps_the_width(make_run, stopwatch):
    settings = ("retrain.target_latency=6", "search.latency_batch=3", "search.latency_statistic=paper")
    run = make_run(*settings)
    full = run.space.full()
    spec, multiplier = retrain_spec(run, full)
    assert 0.5 + network_cost(spec, full).total.multiply_adds / 1e6 == pytest.approx(6, rel=0.05)
    assert stopwatch[0][1:] == (run.contexts[0], run.spec.image_shape, 3, "paper", 0.25) and len(stopwatch) < 10
    before = len(stopwatch)
    assert retrain_spec(make_run(*settings), full) == (spec, multiplier) and len(stopwatch) == before
    assert retrain_spec(make_run("retrain.target_latency=12"), full) != (spec, multiplier)
    assert len(stopwatch) > before


def test_a_latency_that_no_width_has(make_run, stopwatch):
    run = make_run("retrain.target_latency=0.1")
    with pytest.raises(UserError, match=r"target of 0.1 ms: the nearest width has 0\.\d+, more than 5 % away"):
        retrain_spec(run, run.space.full())


@pytest.mark.parametrize("content", ["{}", "[1]", "not JSON", '{"multiplier": -1}', '{"multiplier": 1e999}'])
def test_a_damaged_width_is_said(make_run, content):
    run = make_run("retrain.target_latency=6")
    (run.folder.path / module.LATENCY_FILE).write_text(content)
    with pytest.raises(UserError, match=module.LATENCY_FILE):
        retrain_spec(run, run.space.full())


def test_a_real_measurement(make_run):
    """On whatever machine this is: what comes out is what was measured nearest to the target, or it is said."""
    run = make_run("search.latency_statistic=paper", "search.latency_spread=1e9", "retrain.target_latency=1e-6")
    with pytest.raises(UserError, match="the nearest width has"):
        retrain_spec(run, Genotype.full(run.spec, "share"))
    assert np.isfinite(module.milliseconds(run, run.spec, run.space.full()))
