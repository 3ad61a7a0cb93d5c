"""A run killed anywhere and resumed ends with the bits of one that was not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import dso_nas  # noqa: F401  (before MXNet)
from dso_nas.training.checkpoint import CheckpointFolder

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """
name: tiny
data: {dataset: fashion-mnist, padding: 2}
network: {stem: cifar, blocks: [1, 1, 1], widths: [2, 2, 2], levels: 2, operations: [sep_conv_3x3, avg_pool_3x3]}
memory: {mirroring: block}
pretrain: {epochs: 2, batch_size: 500, learning_rate: 0.1}
search: {epochs: 3, batch_size: 500, learning_rate: 0.1, clip_gradient: 2, gamma: 0.08, prune_every: 1}
retrain: {epochs: 2, batch_size: 1000, learning_rate: 0.1, drop_path: 0.3, dropout: 0.2, cutout: 8}
compare: {random_architectures: 0, full_network: false}
checkpoint: {every_steps: 2}
"""


def command(folder: Path, *arguments: str) -> list:
    recipe = str(folder.parent / "tiny.yaml")
    script = str(ROOT / "train_cifar.py")
    return [sys.executable, script, "all", "--recipe", recipe, "--work-dir", str(folder), *arguments]


def environment() -> dict:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "work"
    (folder.parent / "tiny.yaml").write_text(RECIPE)
    subprocess.run(command(folder), check=True, capture_output=True, timeout=300, env=environment())
    return folder


def run_and_stop(folder: Path, after: int, how: int) -> int:
    """Start or resume the run, send it `how` when `after` checkpoints more have been written; its exit status."""
    process = subprocess.Popen(command(folder, "--resume"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               env=environment())
    seen, newest = 0, None
    while process.poll() is None and seen < after:
        found = sorted((path.stat().st_mtime_ns, str(path)) for path in folder.rglob("checkpoint-*.dso"))
        if found and found[-1] != newest:
            seen, newest = seen + 1, found[-1]
        time.sleep(0.01)
    process.send_signal(how)
    process.communicate(timeout=120)
    return process.returncode


def assert_same_run(one: Path, two: Path) -> None:
    assert (one / "metrics.jsonl").read_bytes() == (two / "metrics.jsonl").read_bytes()
    assert (one / "search" / "genotype.json").read_bytes() == (two / "search" / "genotype.json").read_bytes()
    for stage in ("pretrain", "search", "retrain"):
        first, second = (CheckpointFolder(folder / stage).latest() for folder in (one, two))
        assert first.arrays.keys() == second.arrays.keys()
        for name, array in first.arrays.items():
            np.testing.assert_array_equal(array, second.arrays[name], err_msg=f"{stage} {name}")
    reports = [json.loads((folder / "report.json").read_text()) for folder in (one, two)]
    assert reports[0]["summary"] == reports[1]["summary"]


def test_sigkill_in_every_stage_changes_nothing(uninterrupted, tmp_path):
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    folder = tmp_path / "work"
    for after in (3, 4, 9, 5):
        run_and_stop(folder, after, signal.SIGKILL)
    subprocess.run(command(folder, "--resume"), check=True, capture_output=True, timeout=300, env=environment())
    assert_same_run(uninterrupted, folder)


def test_sigterm_writes_a_checkpoint_first(uninterrupted, tmp_path):
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    folder = tmp_path / "work"
    assert run_and_stop(folder, 5, signal.SIGTERM) == 128 + signal.SIGTERM
    subprocess.run(command(folder, "--resume"), check=True, capture_output=True, timeout=300, env=environment())
    assert_same_run(uninterrupted, folder)
