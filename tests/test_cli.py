"""The command line as its user meets it: stages on a tiny recipe, and one line for everything that is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dso_nas import cli
from dso_nas.architecture.genotype import Genotype

ROOT = Path(__file__).resolve().parents[1]
TINY = """
name: tiny
data: {dataset: fashion-mnist, padding: 2}
network: {stem: cifar, blocks: [1, 1, 1], widths: [2, 2, 2], levels: 2, operations: [sep_conv_3x3, avg_pool_3x3]}
memory: {mirroring: block}
pretrain: {epochs: 1, batch_size: 1000, learning_rate: 0.1}
search: {epochs: 3, batch_size: 1000, learning_rate: 0.1, clip_gradient: 2, gamma: 0.2, prune_every: 1, patience: 1}
retrain: {epochs: 1, batch_size: 1000, learning_rate: 0.1, drop_path: 0.3, dropout: 0.2, cutout: 8}
compare: {random_architectures: 1, full_network: true, tolerance: 0.5}
"""


def command(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(ROOT / "train_cifar.py"), *arguments], cwd=cwd, capture_output=True,
                          text=True, timeout=300)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "work"
    done = command("all", "--recipe", str(recipe), "--work-dir", str(folder))
    assert done.returncode == 0, done.stderr
    return folder, done


def test_all_stages_leave_what_the_folder_promises(finished):
    folder, done = finished
    for name in ("recipe.yaml", "split.json", "metrics.jsonl", "run.json", "report.json", "report.md",
                 "search/genotype.json", "search/structure.svg", "search/structure.png", "search/lambdas.npz"):
        assert (folder / name).stat().st_size > 0, name
    report = json.loads((folder / "report.json").read_text())
    kinds = [result["kind"] for result in report["results"]]
    assert kinds == ["searched", "random", "full"]
    sizes = [result["parameters"] for result in report["results"]]
    assert all(abs(size - sizes[0]) <= 0.5 * sizes[0] for size in sizes)
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {"stage", "epoch", "step", "name", "value"} == set(metrics[0])
    assert {"pretrain", "search", "retrain"} <= {metric["stage"] for metric in metrics}


def test_evaluate_reports_the_retrained_error(finished, recipe):
    folder, _ = finished
    report = json.loads((folder / "report.json").read_text())
    done = command("evaluate", "--recipe", str(recipe), "--work-dir", str(folder))
    assert done.returncode == 0, done.stderr
    assert f"{100 * report['summary']['searched']:.2f} %" in done.stdout


def test_a_finished_run_is_not_trained_over(finished, recipe):
    folder, _ = finished
    before = (folder / "retrain").stat().st_mtime_ns
    assert_refused(command("all", "--recipe", str(recipe), "--work-dir", str(folder)), "--resume")
    assert (folder / "retrain").stat().st_mtime_ns == before


def test_stages_find_each_others_results(recipe, tmp_path):
    folder = str(tmp_path / "work")
    assert_refused(command("search", "--recipe", str(recipe), "--work-dir", folder), "pretrain has not run here")
    assert command("pretrain", "--recipe", str(recipe), "--work-dir", folder).returncode == 0
    assert command("search", "--recipe", str(recipe), "--work-dir", folder).returncode == 0
    genotype = Genotype.load(tmp_path / "work" / "search" / "genotype.json")
    assert genotype.source["recipe"] == "tiny"
    done = command("retrain", "--recipe", str(recipe), "--work-dir", folder)
    assert done.returncode == 0 and "test error" in done.stdout


def test_two_devices_train_too(recipe, tmp_path):
    done = command("pretrain", "--recipe", str(recipe), "--work-dir", str(tmp_path / "work"), "--cpus", "2",
                   "--kvstore", "local")
    assert done.returncode == 0, done.stderr


def assert_refused(done: subprocess.CompletedProcess, *words: str) -> None:
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    for word in words:
        assert word in lines[0]


def test_a_missing_data_folder(tmp_path):
    done = command("pretrain", "--set", "data.dataset=cifar10", "--data-dir", str(tmp_path / "none"), "--work-dir",
                   str(tmp_path / "work"))
    assert_refused(done, "none")


def test_a_truncated_archive(tmp_path):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"\x1f\x8b\x08\x00" + bytes(20))
    done = command("pretrain", "--set", "data.dataset=cifar10", "--data-dir", str(tmp_path), "--work-dir",
                   str(tmp_path / "work"))
    assert_refused(done, "cifar-10-python.tar.gz")


def test_a_record_file_that_is_none(tmp_path):
    for name in ("train.rec", "val.rec", "train1.rec", "train2.rec"):
        (tmp_path / name).write_text("no record")
    done = command("pretrain", "--set", "data.dataset=records", "--data-dir", str(tmp_path), "--work-dir",
                   str(tmp_path / "work"))
    assert_refused(done, ".rec")


def test_a_genotype_with_a_dead_reference(finished, recipe, tmp_path):
    folder, _ = finished
    content = json.loads((folder / "search" / "genotype.json").read_text())
    content["blocks"]["shared"] = {"operations": {"2.1": ["1.2"]}, "outputs": ["2.1", "2.2"]}
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(content))
    done = command("retrain", "--recipe", str(recipe), "--genotype", str(path), "--work-dir", str(tmp_path / "work"))
    assert_refused(done, "broken.json", "2.2")


def test_an_unwritable_work_folder(tmp_path):
    (tmp_path / "file").write_text("")
    assert_refused(command("pretrain", "--work-dir", str(tmp_path / "file" / "work")), "work folder")


def test_gpus_that_are_not_there(tmp_path):
    pytest.importorskip("mxnet")
    import mxnet

    if mxnet.context.num_gpus():
        pytest.skip("this machine has a GPU")
    assert_refused(command("pretrain", "--gpus", "0", "--work-dir", str(tmp_path / "work")), "--gpus 0")


@pytest.mark.parametrize("task, recipe, words", [
    ("classification", "demo", ["--dtype float16", "GPU"]),
    ("classification", "imagenet-demo", ["--dtype float16", "GPU"]),
    ("segmentation", "seg-demo", ["dtype", "segmentation"]),
])
def test_float16_on_a_cpu(task, recipe, words, tmp_path, capsys):
    arguments = ["search", "--cpus", "1", "--dtype", "float16", "--work-dir", str(tmp_path / "work")]
    assert cli.run(task, "program", recipe, arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and all(word in lines[0] for word in words)


@pytest.mark.parametrize("arguments, words", [
    (["--set", "search.gama=1"], ["search.gama"]),
    (["--set", "search.gamma=-1"], ["search.gamma"]),
    (["--recipe", "nothing"], ["--recipe"]),
    (["--genotype", "x.json"], ["--genotype"]),
    (["--batch-size", "100000"], ["--batch-size"]),
])
def test_bad_options(arguments, words, tmp_path):
    assert_refused(command("pretrain", *arguments, "--work-dir", str(tmp_path / "work")), *words)


def test_a_search_without_regularisation_fails_aloud(recipe, tmp_path):
    folder = str(tmp_path / "work")
    done = command("search", "--recipe", str(recipe), "--work-dir", folder, "--set", "pretrain.epochs=0", "--set",
                   "search.gamma=0")
    assert done.returncode == 2 and "soft-threshold" in done.stderr


def test_a_loss_that_is_not_a_number_stops_the_run(recipe, tmp_path):
    done = command("pretrain", "--recipe", str(recipe), "--work-dir", str(tmp_path / "work"), "--set",
                   "pretrain.learning_rate=1e30")
    assert done.returncode == 2 and "step" in done.stderr and "learning_rate" in done.stderr
