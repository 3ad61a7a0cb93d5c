"""Segmentation through all stages, on a few generated scenes; resumed, lent weights, and what a report says of it."""

import dataclasses
import json

import mxnet as mx
import numpy as np
import pytest

from dso_nas.architecture.genotype import Genotype
from dso_nas.data.arrays import ImageDataset
from dso_nas.data.sample import load_sample
from dso_nas.data.segmentation import generated
from dso_nas.errors import UserError
from dso_nas.recipes import load_recipe
from dso_nas.stages import segmentation as module
from dso_nas.stages.compare import compare
from dso_nas.stages.evaluate import evaluate
from dso_nas.stages.pretrain import pretrain
from dso_nas.stages.retrain import RetrainTask, retrain
from dso_nas.stages.search import search
from dso_nas.training.checkpoint import CheckpointFolder
from dso_nas.training.workfolder import WorkFolder

SHORT = ["network.widths=[2,2,4,4]", "network.operations=[sep_conv_3x3, avg_pool_3x3]", "search.epochs=3",
         "search.gamma=0.3", "search.batch_size=8", "segmentation.crop=32", "segmentation.head_channels=4",
         "pretrain.batch_size=40", "retrain.batch_size=40", "compare.tolerance=0.5",
         "segmentation.auxiliary_weight=0.4"]


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    """Build the run of seg-demo, cut short, on 200 images and 40 scenes."""
    whole = load_sample()
    images = ImageDataset.of(whole.name, whole.title, whole.train.subset(range(200)), whole.test.subset(range(50)),
                             whole.classes)
    scenes = generated.load_scenes(32, 40, 10)
    monkeypatch.setattr(module, "classification_images", lambda recipe, root: images)
    monkeypatch.setattr(module, "load_segmentation", lambda name, root: scenes)

    def make(*overrides, name="work", resume=False):
        recipe = load_recipe("seg-demo", None, [*SHORT, *overrides])
        phases = [dataclasses.replace(phase, epochs=2, batch_size=8) for phase in recipe.segmentation.phases]
        section = dataclasses.replace(recipe.segmentation, phases=tuple(phases))
        recipe = dataclasses.replace(recipe, segmentation=section)
        return module.segmentation_run(recipe, WorkFolder(tmp_path / name), None, [mx.cpu()], "device", resume)

    return make


def test_all_stages_and_the_report(make_run):
    run = make_run()
    pretrain(run.before_search())
    genotype = search(run)
    report = compare(run, genotype)
    assert [result["kind"] for result in report["results"]] == ["searched", "random"]
    assert any("background" in note for note in report["notes"])
    assert [stage["stage"] for stage in report["stages"]] == ["pretrain", "search", "retrain/backbone",
                                                              "retrain/phase-1"]
    assert run.folder.report_md.exists() and (run.folder.retrain / "pictures.png").stat().st_size > 1000
    values = evaluate(run, genotype)
    assert values["test_error"] == pytest.approx(report["results"][0]["test_error"])
    assert values["test_error"] == pytest.approx(1 - values["test_miou"])
    assert 0 <= values["multi_scale_miou"] <= 1 and 0 <= values["test_pixel_accuracy"] <= 1


def stop_after(steps, monkeypatch):
    """Make the loop save and stop after so many steps, as a signal would."""
    from dso_nas.errors import Stopped
    from dso_nas.training.loop import Loop

    original, count = Loop._is_due, [0]

    def due(self):
        count[0] += 1
        if count[0] == steps:
            self._save(ended=False)
            raise Stopped(15)
        return original(self)

    monkeypatch.setattr(Loop, "_is_due", due)
    return Stopped


def finish(run):
    pretrain(run.before_search())
    genotype = search(run)
    retrain(run, genotype)
    return genotype, CheckpointFolder(run.folder.retrain / "phase-1").latest().arrays


@pytest.mark.parametrize("steps", [5, 15, 22, 27])
def test_a_stopped_run_ends_with_the_same_bits(make_run, monkeypatch, steps):
    genotype, arrays = finish(make_run(name="whole"))
    with monkeypatch.context() as patch:
        stopped = stop_after(steps, patch)
        with pytest.raises(stopped):
            finish(make_run(name="cut"))
    resumed, same = finish(make_run(name="cut", resume=True))
    assert resumed.blocks == genotype.blocks
    assert set(arrays) == set(same) and all(np.array_equal(arrays[name], same[name]) for name in arrays)


def test_weights_that_a_classification_run_lends(make_run):
    own = make_run(name="own")
    pretrain(own.before_search())
    lent = make_run("pretrain.epochs=0", f"segmentation.pretrained_from={own.folder.path}", name="lent")
    genotype = search(lent)
    source = CheckpointFolder(own.folder.pretrain).latest().arrays
    assert genotype.source["epochs"] == 3 and lent.pretrained().arrays.keys() == source.keys()


def test_a_phase_starts_from_the_feature_extractor(make_run):
    run = make_run()
    genotype = Genotype.full(run.spec, "share")
    (backbone, _), (phase, _) = run.phases()
    arrays = RetrainTask(backbone, backbone.space.placed(run.spec), genotype).learner.state()
    task = RetrainTask(phase, run.spec, genotype)
    phase.start_from(task.learner, arrays)
    now = task.learner.state()
    name = next(name for name in arrays if name.endswith("stage1_unit1_id_conv_weight"))
    assert np.array_equal(arrays[name], now[name])


def test_classification_recipes_are_refused(tmp_path):
    with pytest.raises(UserError, match="segmentation"):
        module.segmentation_run(load_recipe("demo"), WorkFolder(tmp_path / "x"), None, [mx.cpu()], None, False)


def test_the_resolved_recipe_is_kept(make_run):
    run = make_run()
    assert json.loads(json.dumps(run.recipe.to_mapping()))["segmentation"]["crop"] == 32
