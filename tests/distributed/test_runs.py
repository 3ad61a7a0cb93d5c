"""Whole searches on two workers: against one process with two devices, killed and resumed, stopped, refused."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from dso_nas.training.checkpoint import CheckpointFolder
from tests.distributed.jobs import ROOT, Running

RECIPE = """
name: tiny
data: {dataset: fashion-mnist, padding: 2}
network: {stem: cifar, blocks: [1, 1], widths: [2, 2], levels: 2, operations: [sep_conv_3x3, avg_pool_3x3]}
memory: {mirroring: block}
pretrain: {epochs: 0, batch_size: 500, learning_rate: 0.1}
search: {epochs: 2, batch_size: 500, learning_rate: 0.1, clip_gradient: 2, gamma: 0.08, prune_every: 1}
retrain: {epochs: 1, batch_size: 500, learning_rate: 0.1}
checkpoint: {every_steps: 4}
"""


def command(folder, *words):
    return [sys.executable, str(ROOT / "train_cifar.py"), "search", "--recipe", str(folder / "tiny.yaml"),
            "--work-dir", str(folder / "work"), *words]


def search(folder, *words, wait=True, log="log"):
    (folder / "tiny.yaml").write_text(RECIPE)
    job = Running(folder / log, command(folder, *words), "-n", "2", "-s", "1")
    if wait:
        output = job.end(180)
        assert job.process.returncode == 0, output[-2000:]
    return job


def result(folder):
    checkpoint = CheckpointFolder(folder / "work" / "search").latest()
    return checkpoint.arrays, (folder / "work" / "search" / "genotype.json").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    search(folder)
    return folder


def test_two_workers_search_as_two_devices_do(whole, tmp_path):
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    subprocess.run(command(tmp_path, "--cpus", "2"), check=True, capture_output=True, timeout=180)
    (workers, found), (devices, expected) = result(whole), result(tmp_path)
    assert found == expected
    # How connections and weights came about: the lambdas at every epoch's end, and all that is live at the last.
    assert (devices["history"] == 0).any() and (devices["history"] > 0).any()
    for name, value in devices.items():
        if name == "history" or name.startswith("parameter/") and "running" not in name:
            np.testing.assert_allclose(workers[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_worker_killed_in_mid_epoch_and_the_run_resumed(whole, tmp_path):
    job = search(tmp_path, wait=False)
    job.wait_for(lambda: (tmp_path / "work" / "search" / f"checkpoint-{8:012d}.dso").exists())
    os.kill(job.members("worker")[-1], signal.SIGKILL)
    assert "killed by signal 9" in job.end() and job.process.returncode == 2
    search(tmp_path, "--resume", log="again")
    (one, first), (two, second) = result(whole), result(tmp_path)
    assert first == second and one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    metrics = [(folder / "work" / "metrics.jsonl").read_bytes() for folder in (whole, tmp_path)]
    assert metrics[0] == metrics[1]


def test_sigterm_makes_all_stop_at_one_step(tmp_path):
    job = search(tmp_path, wait=False)
    job.wait_for(lambda: bool(CheckpointFolder(tmp_path / "work" / "search").positions()))
    job.process.send_signal(signal.SIGTERM)
    output = job.end()
    assert job.process.returncode == 128 + signal.SIGTERM, output[-2000:]
    assert output.count("the checkpoint is written") == 3
    assert not CheckpointFolder(tmp_path / "work" / "search").latest().meta["position"]["ended"]


def test_more_workers_than_images_of_a_step(tmp_path):
    job = search(tmp_path, "--batch-size", "1", wait=False)
    output = job.end(90)
    assert job.process.returncode == 2
    assert "--batch-size: a batch of 1 cannot be shared by 2 devices" in output.splitlines()[-1]
