"""Search and train behind the ImageNet stem: record files that fit in memory, or the embedded Fashion-MNIST."""

from __future__ import annotations

import sys
from typing import Optional

from dso_nas import cli
from dso_nas.data.arrays import ImageDataset
from dso_nas.data.classification import load_dataset
from dso_nas.recipes import Recipe


def load_data(recipe: Recipe, data_dir: Optional[str]) -> ImageDataset:
    """The recipe's data set, out of `data_dir` or the recipe's own folder."""
    return load_dataset(recipe.data.dataset, cli.data_root(recipe, data_dir))


if __name__ == "__main__":
    sys.exit(cli.run(load_data, "train_imagenet.py", "imagenet-demo"))
