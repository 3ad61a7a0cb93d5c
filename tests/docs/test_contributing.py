"""The diffs of docs/contributing.md: each applies to a copy of the tree, is short, and what it adds is used."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "contributing.md").read_text()
DIFFS = re.findall(r"```diff\n(.*?)```", PAGE, re.DOTALL)
RECIPE = """
name: tiny
data: {dataset: fashion-mnist}
network: {stem: cifar, blocks: [1], widths: [2], levels: 2, operations: [sep_conv_3x3, max_pool_3x3]}
pretrain: {epochs: 0, batch_size: 50, learning_rate: 0.1}
search: {epochs: 2, batch_size: 50, learning_rate: 0.1, gamma: 0.3, clip_gradient: 2, prune_every: 1}
retrain: {epochs: 1, batch_size: 50, learning_rate: 0.1}
"""
IMAGES = """
import numpy as np, dso_nas
from dso_nas.data.sample import load_sample
train = load_sample().train.subset(np.arange(250))
np.savez("images.npz", images=train.images, labels=train.labels)
"""
APPLY = ["patch", "-p1"] if shutil.which("patch") else ["git", "apply", "-p1"]
USES = ("network.operations=[sep_conv_3x3,conv_3x3]", "search.regularization=adaptive_parameters",
        "data.dataset=npz", None)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    subprocess.run([sys.executable, "-c", IMAGES], cwd=folder, check=True, env=environment(ROOT))
    return folder / "images.npz"


def environment(tree):
    return {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}


def copy_of_the_tree(folder):
    for name in ("dso_nas", "recipes", "symbols"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "train_cifar.py", folder)
    (folder / "tiny.yaml").write_text(RECIPE)
    (folder / "half.yaml").write_text(RECIPE.replace("stem: cifar", "space: half, stem: cifar"))


@pytest.mark.parametrize("number", range(len(USES)), ids=["operation", "budget", "data", "space"])
def test_a_diff_applies_and_adds_what_it_says(number, tmp_path, images):
    diff = DIFFS[number]
    assert len(diff.splitlines()) < 40
    copy_of_the_tree(tmp_path)
    data = [] if number == 2 else ["--set", "data.dataset=npz"]
    for text in [diff] if number == 2 else [DIFFS[2], diff]:
        # The data set's diff comes along: its images are few.
        subprocess.run(APPLY, cwd=tmp_path, input=text, text=True, check=True, capture_output=True)
    # Another space is another section of the recipe, no single key.
    recipe, use = ("tiny.yaml", ["--set", USES[number]]) if USES[number] else ("half.yaml", [])
    command = [sys.executable, "train_cifar.py", "search", "--recipe", recipe, "--work-dir", "run", "--data-dir",
               str(images), "--cpus", "1", *data, *use]
    ended = subprocess.run(command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert (tmp_path / "run" / "search" / "genotype.json").is_file()


def test_there_is_a_use_for_every_diff():
    assert len(DIFFS) == len(USES)
