"""The ImageNet entry script: its minutes-long recipe on a few images and steps, through all stages."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dso_nas import cli
from dso_nas.architecture.genotype import Genotype
from dso_nas.architecture.topology import BlockTopology, NetworkSpec
from dso_nas.data.arrays import ImageDataset
from dso_nas.data.sample import load_sample

ROOT = Path(__file__).resolve().parents[1]
SHORT = [
    "network.widths=[2,2,4,4]", "network.operations=[sep_conv_3x3, avg_pool_3x3]", "pretrain.epochs=1",
    "search.epochs=3", "search.gamma=0.3", "retrain.epochs=2", "compare.tolerance=0.5",
]  # fmt: skip


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    monkeypatch.setattr("dso_nas.stages.classification.load_images", load_few)


def load_few(name, root, streaming):
    assert (name, root) == ("fashion-mnist", None)
    whole = load_sample()
    train, test = whole.train.subset(range(500)), whole.test.subset(range(100))
    return ImageDataset.of(whole.name, whole.title, train, test, whole.classes)


def run_all(folder, *overrides):
    """All stages of imagenet-demo, cut short, on 500 images; returns the folder's report and genotype."""
    settings = [part for override in [*SHORT, *overrides] for part in ("--set", override)]
    arguments = ["all", "--work-dir", str(folder), "--batch-size", "50", "--cpus", "1", *settings]
    assert cli.run("classification", "train_imagenet.py", "imagenet-demo", arguments) == 0
    report = json.loads((folder / "report.json").read_text())
    return report, Genotype.load(str(folder / "search" / "genotype.json"))


def test_the_demo_goes_through_all_stages(tmp_path):
    report, genotype = run_all(tmp_path / "work", "network.levels=2")
    assert [result["kind"] for result in report["results"]] == ["searched", "random", "full"]
    assert json.loads((tmp_path / "work" / "split.json").read_text())["ratio"] == [4, 1]
    assert len(genotype.reductions) == 3 and genotype.topology.reach == "all"


def test_the_published_full_scope_goes_through_all_stages(tmp_path):
    full = ("network.scope=full", "network.reach=previous", "search.regularization=uniform")
    alone = ("compare.random_architectures=0", "compare.full_network=false")
    _, genotype = run_all(tmp_path / "work", *full, *alone)
    assert genotype.topology.reach == "previous" and len(genotype.blocks) == 4
    for block in genotype.blocks.values():
        for node, inputs in block.connections.items():
            assert {level for level, _ in inputs} == {node[0] - 1}


@pytest.mark.parametrize(("arguments", "word"), [((), "--data-dir"), (("--data-dir", "absent"), "absent")])
def test_record_files_come_from_a_folder(arguments, word, tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "train_imagenet.py"), "pretrain", "--recipe", "imagenet-share", *arguments,
         "--work-dir", str(tmp_path / "work")],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1 and word in done.stderr


def test_an_architecture_found_behind_the_cifar_stem_is_trained_behind_this_one(tmp_path, capsys):
    topology = BlockTopology(2, ("sep_conv_3x3", "avg_pool_3x3"))
    spec = NetworkSpec(topology, "cifar", (1, 1, 1), (4, 8, 16), 10, (3, 32, 32))
    Genotype.full(spec, "share").save(str(tmp_path / "cifar.json"))
    settings = [part for key in [*SHORT, "network.levels=2", "network.widths=[8,16,32,64]", "retrain.epochs=1",
                                 "retrain.schedule.warmup_epochs=0"] for part in ("--set", key)]
    arguments = ["retrain", "--genotype", str(tmp_path / "cifar.json"), "--target-flops", "1.5M",
                 "--work-dir", str(tmp_path / "work"), "--batch-size", "50", "--cpus", "1", *settings]
    assert cli.run("classification", "train_imagenet.py", "imagenet-demo", arguments) == 0
    assert "test error" in capsys.readouterr().out
