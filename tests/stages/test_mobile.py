"""The mobile space through all stages."""

import json

import mxnet as mx
import numpy as np
import pytest

from dso_nas.architecture.genotypes import load_genotype
from dso_nas.architecture.mobile_genotype import MobileGenotype
from dso_nas.budgets.latency_table import Entry, LatencyTable
from dso_nas.budgets.layer_latency import layer_counts, table_space, timed_layers
from dso_nas.data.arrays import ImageDataset
from dso_nas.data.sample import load_sample
from dso_nas.errors import UserError
from dso_nas.recipes import load_recipe
from dso_nas.stages import targets
from dso_nas.stages.compare import compare
from dso_nas.stages.evaluate import evaluate
from dso_nas.stages.pretrain import pretrain
from dso_nas.stages.run import Run
from dso_nas.stages.search import SearchTask, search
from dso_nas.training.workfolder import WorkFolder

SHORT = ["network.stem_width=4", "network.first_width=4", "network.widths=[4,4]", "network.blocks=[2,1]",
         "network.strides=[2,1]", "network.feature_width=8", "network.operations=[mb3_3x3, mb3_5x5]",
         "pretrain.epochs=1", "search.gamma=0.3", "search.regularization=uniform", "retrain.epochs=2",
         "compare.tolerance=0.9", "pretrain.batch_size=40", "search.batch_size=40", "retrain.batch_size=40"]


@pytest.fixture
def make_run(tmp_path):
    whole = load_sample()
    images = ImageDataset.of(whole.name, whole.title, whole.train.subset(range(400)), whole.test.subset(range(100)),
                             whole.classes)

    def make(*overrides, name="work"):
        recipe = load_recipe("mobile-demo", None, [*SHORT, *overrides])
        return Run(recipe, WorkFolder(tmp_path / name), images, [mx.cpu()])

    return make


def test_all_stages(make_run):
    run = make_run("search.epochs=12")
    pretrain(run)
    genotype = search(run)
    assert isinstance(genotype, MobileGenotype) and genotype == load_genotype(str(run.folder.genotype))
    # Searched until at most one operation is left in every block, the paper's rule, and no longer.
    assert genotype.source["converged"] and genotype.source["epochs"] < 12
    assert all(len(operations) <= 1 for operations in genotype.blocks.values())
    report = compare(run, genotype)
    assert [result["kind"] for result in report["results"]] == ["searched", "random"]
    assert evaluate(run, genotype)["test_error"] == pytest.approx(report["results"][0]["test_error"])
    assert (run.folder.search / "structure.png").stat().st_size > 1000
    lambdas = np.load(run.folder.search / "lambdas.npz")
    assert all(array.shape[1] == 2 for array in lambdas.values())
    assert json.loads(run.folder.report_json.read_text())["search"]["total_connections"] == 6


@pytest.mark.parametrize("rule", ["adaptive_flops", "adaptive_mac", "adaptive_latency"])
def test_every_regularisation(make_run, rule):
    run = make_run("pretrain.epochs=0", "search.epochs=2", f"search.regularization={rule}",
                   "search.regularization_rule=equation", name=rule)
    assert search(run).num_live <= 6


TABLED = ("search.regularization=adaptive_latency", "search.regularization_rule=equation", "search.gamma=0.3")


def table_of(spec, path):
    """A table of a made-up machine, on which every layer is dearer than the one before; the recipe's setting."""
    entries = {name: Entry(float(price), 0.0) for price, name in enumerate(timed_layers(spec), start=1)}
    LatencyTable(table_space(spec), "gpu(0)", 1, "median", {}, entries).save(path)
    return f"search.latency_table={path}"


def test_a_search_with_a_table_measures_nothing(make_run, tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "measure_built", None)
    table = table_of(make_run().spec, tmp_path / "table.json")
    task = SearchTask(make_run(*TABLED, table))
    next(task.train(0, 0))
    total = task._table.total(layer_counts(task._run.spec, task.genotype))
    assert task._milliseconds(task.genotype) == total > 0
    # An operation goes with its term of the sum: 3 + 5 and 4 + 5 ms, 7 + 5 and 8 + 5, 9 + 11 and 10 + 11. By Eq. 19
    # the last, without which the network is the fastest, has nothing.
    for name, spared in (("stage1_unit1", (8, 9)), ("stage1_unit2", (12, 13)), ("stage2_unit1", (20, 21))):
        expected = [0.3 * (21 - milliseconds) / (21 - 8) for milliseconds in spared]
        np.testing.assert_allclose(task._apg_nag._gamma[f"lambda_{name}"], [expected], rtol=1e-6)
    assert search(make_run(*TABLED, table, "pretrain.epochs=0", "search.epochs=2", name="whole")).num_live <= 6


def test_a_table_of_another_network_is_refused(make_run, tmp_path):
    table = table_of(make_run().spec.scaled(2), tmp_path / "table.json")
    with pytest.raises(UserError, match="table.json: the latency table is of another space, its widths is"):
        SearchTask(make_run(*TABLED, table))


def settled_task(make_run, name):
    """A search that rebuilds after 7 epochs, whose blocks are down to one operation when its second epoch ends."""
    return SearchTask(make_run("search.epochs=7", "search.prune_every=7", "search.gamma=1e-6", name=name))


def end_epochs(task, first):
    """Train and end epochs from `first` on until the search says that it has finished; the epochs it took."""
    for epoch in range(first, 7):
        for _ in task.train(epoch, 0):
            pass
        if epoch == 1:
            task.learner.set_values({name: np.array([[0.25, 0.0]], np.float32) for name in task.network.lambdas})
        task.end_epoch(epoch)
        if task.finished():
            return epoch + 1
    return 8


def test_a_search_ends_when_it_is_settled_whenever_it_rebuilds(make_run):
    whole = settled_task(make_run, "whole")
    assert end_epochs(whole, 0) == 2
    assert all(live == ("mb3_3x3",) for live in whole.genotype.blocks.values())
    halves = settled_task(make_run, "first half")
    for _ in halves.train(0, 0):
        pass
    halves.end_epoch(0)
    assert not halves.finished() and halves.genotype == MobileGenotype.full(halves._run.spec)
    resumed = settled_task(make_run, "second half")
    resumed.restore(*halves.state())
    assert end_epochs(resumed, 1) == 2
    arrays, meta = whole.state()
    others, other_meta = resumed.state()
    assert meta == other_meta and set(arrays) == set(others)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, others[name], err_msg=name)
    after = settled_task(make_run, "behind the end")
    after.restore(arrays, meta)
    assert after.finished()


def test_a_genotype_of_the_other_space_is_refused(make_run, tmp_path):
    run = make_run()
    from dso_nas.architecture.genotype import Genotype
    from dso_nas.architecture.topology import BlockTopology, NetworkSpec

    spec = NetworkSpec(BlockTopology(1, ("max_pool_3x3",)), "cifar", (1,), (4,), 10, (3, 32, 32))
    with pytest.raises(UserError, match="space 'normal'"):
        run.space.transferred(Genotype.full(spec, "share"))
