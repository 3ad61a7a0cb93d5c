"""The diffs of docs/contributing.md: each applies to a copy of the tree, is short, in style, and does what it says."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from dso_nas.data.sample import load_sample

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "contributing.md").read_text()
# A diff, and the part of a recipe that uses what it adds.
NAMES = ("operation", "budget", "data", "space")
ADDITIONS = dict(zip(NAMES, re.findall(r"```diff\n(.*?)```\n\n```yaml\n(.*?)```", PAGE, re.DOTALL)))
APPLY = ["patch", "-p1"] if shutil.which("patch") else ["git", "apply", "-p1"]
RECIPE = """
data: {dataset: npz, root: photos.npz}
network: {stem: cifar, blocks: [1, 1], widths: [2, 3], levels: 2, operations: [sep_conv_3x3, max_pool_3x3]}
pretrain: {epochs: 0, batch_size: 50, learning_rate: 0.1}
search: {epochs: 8, batch_size: 50, learning_rate: 0.1, gamma: 0.2, clip_gradient: 2, prune_every: 1}
retrain: {epochs: 1, batch_size: 50, learning_rate: 0.1}
"""
GAMMA = """
import json, dso_nas
from dso_nas.architecture.spaces import space_of
from dso_nas.budgets.regularization import make_regularizer
from dso_nas.recipes import load_recipe
recipe = load_recipe("tiny.yaml")
rule = make_regularizer(space_of(recipe).layout, recipe.search.regularization, "equation", 11.0)
print(json.dumps({name: array.ravel().tolist() for name, array in rule.gamma({}).items()}))
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A file of 200 images for training and 50 for the test."""
    path = tmp_path_factory.mktemp("photos") / "photos.npz"
    whole = load_sample()
    train, test = whole.train.subset(np.arange(200)), whole.test.subset(np.arange(50))
    np.savez(path, train_images=train.images, train_labels=train.labels, test_images=test.images,
             test_labels=test.labels)
    return path


@pytest.fixture
def tree(tmp_path, photos):
    for name in ("dso_nas", "recipes", "symbols"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (ROOT / "train_cifar.py", ROOT / "pyproject.toml", photos):
        shutil.copy(path, tmp_path)
    # The data set's diff comes along with every other: its images are few.
    patch("data", tmp_path)
    return tmp_path


def patch(name, tree):
    applied = subprocess.run(APPLY, cwd=tree, input=ADDITIONS[name][0], text=True, capture_output=True)
    assert applied.returncode == 0, applied.stdout + applied.stderr


def add(name, tree):
    """Apply a diff, see that it passes the style, and write the recipe that uses it."""
    if name != "data":
        patch(name, tree)
    style = [sys.executable, "-m", "ruff", "check", "--no-cache", "dso_nas"]
    checked = subprocess.run(style, cwd=tree, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    recipe = yaml.safe_load(RECIPE)
    for section, keys in yaml.safe_load(ADDITIONS[name][1]).items():
        recipe[section].update(keys)
    (tree / "tiny.yaml").write_text(yaml.safe_dump(recipe))


def python(tree, *words, status=0):
    """What a command in the tree prints, or complains of where it is to fail."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([sys.executable, *words], cwd=tree, env=environment, capture_output=True, text=True)
    assert ended.returncode == status, ended.stderr[-2000:]
    return ended.stdout if status == 0 else ended.stderr


def search(tree):
    """The architecture that a search finds."""
    python(tree, "train_cifar.py", "search", "--recipe", "tiny.yaml", "--work-dir", "run", "--cpus", "1")
    return json.loads((tree / "run" / "search" / "genotype.json").read_text())


def live_connections(tree):
    """How many the supernet has at each epoch's end of the search."""
    lines = map(json.loads, (tree / "run" / "metrics.jsonl").read_text().splitlines())
    return [line["value"] for line in lines if line["name"] == "live_connections"]


def test_every_diff_of_the_page_is_short_and_used():
    assert PAGE.count("```diff") == len(ADDITIONS) == len(NAMES)
    assert all(len(diff.splitlines()) < 40 for diff, _ in ADDITIONS.values())


def test_an_operation_is_counted_and_searched(tree):
    add("operation", tree)
    table = python(tree, "-m", "dso_nas", "cost", "--recipe", "tiny.yaml")
    # A shortcut, two levels of a separable and a plain 3x3 convolution, six convolutions to the output; 2 channels.
    assert re.search(rf"stage1_unit1 +\| +{4 + 2 * (9 * 2 + 4 + 9 * 4) + 6 * 4} ", table), table
    assert "conv_3x3" in search(tree)["topology"]["operations"]


def test_a_budget_gives_each_connection_its_gamma(tree):
    add("budget", tree)
    # The separable convolution of 3 channels has 36 parameters and is the largest, that of 2 has 22; a pool has none.
    gamma = json.loads(python(tree, "-c", GAMMA))
    np.testing.assert_allclose(gamma["lambda_layer_2_1"], 11 * np.mean([22 / 36, 1]), rtol=1e-6)
    np.testing.assert_array_equal(gamma["lambda_layer_2_2"], 0)
    np.testing.assert_allclose(gamma["lambda_after"], 11 * np.mean([4 / 36, 9 / 36]), rtol=1e-6)
    # What costs nothing has no reason to die.
    left = search(tree)["blocks"]["shared"]["operations"]
    assert left["2.2"] == ["input", "1.1", "1.2"] and "2.1" not in left


def test_a_data_set_is_searched_on_and_a_bad_file_refused(tree):
    add("data", tree)
    assert search(tree)["source"]["data"] == "photos"
    whole = (tree / "photos.npz").read_bytes()
    (tree / "photos.npz").write_bytes(whole[: len(whole) // 2])
    complaint = python(tree, "train_cifar.py", "search", "--recipe", "tiny.yaml", "--work-dir", "bad", status=2)
    assert "photos.npz: must hold images and labels" in complaint and "Traceback" not in complaint


def test_a_space_ends_its_own_search(tree):
    add("space", tree)
    search(tree)
    live = live_connections(tree)
    assert 1 < len(live) < 8
    assert 2 * live[-1] <= live[0] and all(2 * before > live[0] for before in live[:-1])
