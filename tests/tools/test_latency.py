"""`python -m dso_nas latency`, on a device whose time is counted and not measured."""

import itertools
import json

import numpy as np
import pytest

from dso_nas.__main__ import main
from dso_nas.architecture.genotype import Genotype
from dso_nas.architecture.spaces import space_of
from dso_nas.budgets import latency, layer_latency
from dso_nas.budgets.latency import Latency
from dso_nas.budgets.latency_table import Entry, LatencyTable
from dso_nas.budgets.layer_latency import layer_counts, timed_layers
from dso_nas.recipes import load_recipe

SPEC = space_of(load_recipe("demo")).spec


def prices_of(spec):
    """A made-up device's milliseconds of every layer."""
    return {name: float(price) for price, name in enumerate(timed_layers(spec), start=1)}


@pytest.fixture
def device(monkeypatch):
    """Layers have the prices above; a network has the sum of its layers', or what `order` makes of it."""
    monkeypatch.setattr(layer_latency, "measure_layer", lambda layer, *how: Entry(next(prices), 0.01))
    prices, order = itertools.count(1.0), [lambda total: total]

    def measure_built(build, *how):
        network = build()
        prices = prices_of(network.spec)
        total = sum(number * prices[name] for name, number in layer_counts(network.spec, network.genotype).items())
        return Latency.of([order[0](total)], "mean")

    monkeypatch.setattr(latency, "measure_built", measure_built)
    return order


def tool(*words):
    return main(["latency", "--cpus", "1", *map(str, words)])


@pytest.mark.parametrize("recipe", ["demo", "mobile-demo"])
def test_the_table_is_written_checked_and_read(device, tmp_path, capsys, recipe):
    path, genotype, space = tmp_path / "table.json", tmp_path / "genotype.json", space_of(load_recipe(recipe))
    how = "--recipe", recipe, "--set", "search.latency_statistic=median"
    assert tool(*how, "--out", path, "--check", 30) == 0
    assert "30 measured random architectures: 1.000" in capsys.readouterr().out
    table = LatencyTable.load(path)
    assert {name: entry.milliseconds for name, entry in table.entries.items()} == prices_of(space.spec)
    assert (table.device, table.batch, table.statistic) == ("cpu(0)", 1, "median")
    assert table.check.architectures == 30 and table.environment["versions"]["mxnet"]
    space.full().save(genotype)
    assert tool(*how, "--genotype", genotype, "--table", path) == 0
    row = capsys.readouterr().out.strip().splitlines()[-1]
    assert row.count(f"{table.total(layer_counts(space.spec, space.full())):.3f}") == 2


@pytest.mark.parametrize("recipe", ["demo", "mobile-demo"])
def test_an_order_that_is_not_good_enough_is_said(device, tmp_path, capsys, recipe):
    rng = np.random.default_rng(0)
    device[0] = lambda total: rng.uniform(1, 2)
    assert tool("--recipe", recipe, "--out", tmp_path / "table.json", "--check", 30) == 0
    assert "not good enough: below 0.9" in capsys.readouterr().out
    assert not LatencyTable.load(tmp_path / "table.json").check.is_good


def test_a_genotype_alone_needs_no_table(device, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("one.json", "two.json"):
        Genotype.full(SPEC, "share").save(name)
    assert tool("--genotype", "one.json", "two.json") == 0
    shown = capsys.readouterr().out
    assert "one.json" in shown and "two.json" in shown
    assert {path.name for path in tmp_path.iterdir()} == {"one.json", "two.json"}


@pytest.mark.parametrize("words, said", [
    (["--check", "2"], "--check 2: an order needs at least 3"),
    (["--table", "none.json"], "none.json: cannot read the latency table"),
    (["--genotype", "none.json"], "none.json"),
    (["--out", "none/table.json"], "--out none/table.json: there is no such folder"),
    (["--recipe", "seg-demo"], "--recipe seg-demo: is for segmentation"),
    (["--recipe", "mobile-demo", "--table", "table.json"], "table.json: the latency table is of another space, its n"),
    (["--recipe", "mobile-demo", "--genotype", "normal.json"], "space: the genotype is of 'normal', the network"),
    (["--genotype", "mobile.json"], "space: the genotype is of 'mobile', the network is not"),
    (["--batch", "0"], "search.latency_batch"),
    (["--spread", "-1"], "search.latency_spread"),
    (["--table", "table.json", "--width", "2"], "table.json: the latency table is of another space, its widths is"),
    (["--table", "table.json", "--batch", "2"], "search.latency_batch is 2"),
])
def test_bad_input_is_one_line(device, tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    assert tool("--out", "table.json") == 0
    for recipe, name in (("demo", "normal.json"), ("mobile-demo", "mobile.json")):
        space_of(load_recipe(recipe)).full().save(name)
    capsys.readouterr()
    assert tool(*words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and said in lines[0]


@pytest.mark.parametrize("recipe, settings", [
    ("demo", ["network.levels=1"]), ("mobile-demo", ["network.strides=[1]", "network.operations=[mb3_3x3]"])])
def test_a_real_layer_and_network(tmp_path, recipe, settings):
    """Measured for once, on whatever machine this is; the numbers are nobody's business."""
    path = tmp_path / "table.json"
    settings = [*settings, "network.blocks=[1]", "network.widths=[2]", "network.image_size=8",
                "search.latency_statistic=paper"]
    small = [word for setting in settings for word in ("--set", setting)]
    assert tool("--recipe", recipe, *small, "--spread", "1e9", "--out", path, "--check", 3) == 0
    content = json.loads(path.read_text())
    assert all(entry["milliseconds"] > 0 for entry in content["entries"].values())
    assert -1 <= content["check"]["rank_correlation"] <= 1


def test_too_much_spread_is_refused(capsys):
    assert tool("--spread", "1e-9", "--out", "/tmp/never.json") == 2
    assert "--spread" in capsys.readouterr().err
