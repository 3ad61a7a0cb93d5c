"""A run small enough to train in a test."""

import mxnet as mx
import pytest

from dso_nas.data.arrays import ImageDataset
from dso_nas.data.sample import load_sample
from dso_nas.recipes import load_recipe
from dso_nas.stages.run import Run
from dso_nas.training.workfolder import WorkFolder

RECIPE = """
name: tiny
data: {dataset: fashion-mnist, padding: 2}
network:
  {stem: cifar, blocks: [1, 1], widths: [2, 3], levels: 2, operations: [sep_conv_3x3, max_pool_3x3, avg_pool_3x3]}
memory: {mirroring: block}
pretrain: {epochs: 1, batch_size: 50, learning_rate: 0.1}
search: {epochs: 4, batch_size: 50, learning_rate: 0.1, clip_gradient: 2, gamma: 0.2, prune_every: 1}
retrain: {epochs: 1, batch_size: 100, learning_rate: 0.1, drop_path: 0.3, dropout: 0.2}
"""


@pytest.fixture
def make_run(tmp_path):
    """Build a run on 400 training and 100 test images, with recipe keys changed."""
    whole = load_sample()
    dataset = ImageDataset.of(whole.name, whole.title, whole.train.subset(range(400)), whole.test.subset(range(100)),
                              whole.classes)
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE)

    def make(*overrides, contexts=1, name="work"):
        recipe = load_recipe(path, None, overrides)
        return Run(recipe, WorkFolder(tmp_path / name), dataset, [mx.cpu(i) for i in range(contexts)])

    return make
