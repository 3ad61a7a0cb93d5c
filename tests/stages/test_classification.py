"""Record files that are read while training, through the stages."""

import mxnet as mx
import numpy as np
import pytest

from dso_nas.data.records import write_records
from dso_nas.data.sample import load_sample
from dso_nas.errors import UserError
from dso_nas.recipes import load_recipe
from dso_nas.stages.classification import StreamedRun, classification_run
from dso_nas.stages.pretrain import pretrain
from dso_nas.stages.retrain import retrain
from dso_nas.stages.run import Run
from dso_nas.stages.search import search
from dso_nas.training.checkpoint import CheckpointFolder
from dso_nas.training.workfolder import WorkFolder
from tests.stages.conftest import RECIPE


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    root, whole = tmp_path_factory.mktemp("records"), load_sample()
    for name, part in (("train1", range(120)), ("train2", range(120, 200)), ("train", range(200))):
        write_records(root / f"{name}.rec", whole.train.subset(part))
    write_records(root / "val.rec", whole.test.subset(range(50)))
    return root


def run_on(root, folder, *overrides):
    path = folder.parent / f"{folder.name}.yaml"
    path.write_text(RECIPE)
    keys = ["data.dataset=records", "network.image_size=32", "search.epochs=2", "search.batch_size=20",
            "pretrain.batch_size=20", *overrides]
    recipe = load_recipe(path, None, keys)
    return classification_run(recipe, WorkFolder(folder), str(root), [mx.cpu()], "device", True)


def end_of(run):
    pretrain(run)
    genotype = search(run)
    values = retrain(run, genotype)
    return values, CheckpointFolder(run.folder.retrain).latest().arrays


def test_streamed_records_go_through_the_stages_and_the_same_seed_gives_the_same_bits(records, tmp_path):
    first, second = (run_on(records, tmp_path / name, "data.streaming=true") for name in "ab")
    assert isinstance(first, StreamedRun)
    values, arrays = end_of(first)
    again, same = end_of(second)
    assert values == again and 0 <= values["test_error"] <= 1
    assert all(np.array_equal(arrays[name], same[name]) for name in arrays)
    assert not (tmp_path / "a" / "split.json").exists()


def test_small_files_are_held_in_memory(records, tmp_path):
    assert type(run_on(records, tmp_path / "c")) is Run


def test_cutout_and_streaming_do_not_go_together(records, tmp_path):
    run = run_on(records, tmp_path / "d", "data.streaming=true", "data.cutout=8")
    with pytest.raises(UserError, match="data.cutout"):
        pretrain(run)
