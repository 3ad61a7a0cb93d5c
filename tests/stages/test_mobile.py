"""The mobile space through all stages."""

import json

import mxnet as mx
import numpy as np
import pytest

from dso_nas.architecture.genotypes import load_genotype
from dso_nas.architecture.mobile_genotype import MobileGenotype
from dso_nas.data.arrays import ImageDataset
from dso_nas.data.sample import load_sample
from dso_nas.errors import UserError
from dso_nas.recipes import load_recipe
from dso_nas.stages.compare import compare
from dso_nas.stages.evaluate import evaluate
from dso_nas.stages.pretrain import pretrain
from dso_nas.stages.run import Run
from dso_nas.stages.search import search
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


def test_a_genotype_of_the_other_space_is_refused(make_run, tmp_path):
    run = make_run()
    from dso_nas.architecture.genotype import Genotype
    from dso_nas.architecture.topology import BlockTopology, NetworkSpec

    spec = NetworkSpec(BlockTopology(1, ("max_pool_3x3",)), "cifar", (1,), (4,), 10, (3, 32, 32))
    with pytest.raises(UserError, match="space 'normal'"):
        run.space.transferred(Genotype.full(spec, "share"))
