"""What happens to a run on a shared machine: each fault costs nothing but time, and says one line."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from dso_nas import cli
from dso_nas.errors import UserError
from dso_nas.stages.run import check_setting
from dso_nas.training.checkpoint import CheckpointError, CheckpointFolder, read_checkpoint, write_checkpoint
from dso_nas.training.learner import StepResult
from dso_nas.training.loop import Loop, Task
from dso_nas.training.monitor import Monitor
from dso_nas.training.workfolder import WorkFolder

ROOT = Path(__file__).resolve().parents[2]


class Walk(Task):
    """A task of a second's fraction: every step adds a number that the epoch and step decide to a weight."""

    name, epochs = "walk", 3

    def __init__(self, nan_at=None, size=4, during=None):
        self.weight = np.zeros(size)
        self._nan_at = nan_at
        self._during = during

    def steps_per_epoch(self):
        return 5

    def train(self, epoch, start):
        for step in range(start, 5):
            self.weight += np.random.default_rng([epoch, step]).normal(size=self.weight.shape)
            if self._during:
                self._during(epoch, step)
            loss = np.nan if (epoch, step) == self._nan_at else abs(self.weight).sum()
            yield "train", StepResult([mx.nd.array([loss])], [mx.nd.array([1])], 2)

    def end_epoch(self, epoch):
        return {"norm": float((self.weight**2).sum())}

    def state(self):
        return {"weight": self.weight.copy()}, {}

    def restore(self, arrays, meta):
        self.weight = arrays["weight"].copy()


def go(folder, task, every_minutes=None):
    """Run a task in a work folder, from its last checkpoint if there is one."""
    work = WorkFolder(folder)
    checkpoints = CheckpointFolder(work.search)
    with work.lock(), Monitor(work.path, task.name, tensorboard=False) as monitor:
        Loop(task, checkpoints, monitor, 2, every_minutes).run(checkpoints.latest())
    return task


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return go(folder, Walk()).weight, (folder / "metrics.jsonl").read_bytes()


def assert_whole(folder, task, whole):
    assert task.weight.tobytes() == whole[0].tobytes()
    assert (folder / "metrics.jsonl").read_bytes() == whole[1]
    assert not list(folder.rglob(".*.partial"))


class Failing:
    """System calls that fail from the `at`th on until `mended`: a full disk stays full."""

    def __init__(self, monkeypatch, names):
        self.calls, self.at = 0, None
        for name in names:
            monkeypatch.setattr(os, name, self._failing(getattr(os, name)))

    def _failing(self, real):
        def call(*arguments, **options):
            self.calls += 1
            if self.at is not None and self.calls >= self.at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments, **options)

        return call


def test_a_disk_that_is_full_at_any_call_stops_the_run_and_costs_nothing(tmp_path, whole, monkeypatch):
    failing = Failing(monkeypatch, ("write", "fsync", "replace"))
    go(tmp_path / "count", Walk())
    calls = failing.calls
    assert calls > 30
    for at in range(1, calls + 1):
        folder = tmp_path / str(at)
        failing.calls, failing.at = 0, at
        with pytest.raises(UserError, match="No space left on device") as caught:
            go(folder, Walk())
        assert "\n" not in str(caught.value)
        failing.at = None
        assert_whole(folder, go(folder, Walk()), whole)


def test_a_small_disk_keeps_the_last_good_checkpoint(tmp_path):
    """A disk of 300 kB, really full; the checkpoints are of 80 kB, and three do not fit."""
    script = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]
import dso_nas, test_faults
from dso_nas.errors import UserError
from dso_nas.training.checkpoint import CheckpointFolder
try:
    test_faults.go({str(tmp_path / "disk")!r}, test_faults.Walk(size=10_000))
except UserError as error:
    print(error)
print(CheckpointFolder({str(tmp_path / "disk" / "search")!r}).latest().meta["position"]["step"])
"""
    (tmp_path / "disk").mkdir()
    mount = f"mount -t tmpfs -o size=220k none {tmp_path / 'disk'}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    done = subprocess.run(["unshare", "-rm", "sh", "-c", f'{mount} && exec "$0" -c "$1"', sys.executable, script],
                          capture_output=True, text=True, timeout=120)
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stderr
    assert "No space left on device" in lines[0] and lines[1] == "4"


def test_damage_at_a_thousand_places_is_passed_over_for_the_checkpoint_before(tmp_path, whole):
    go(tmp_path, Walk())
    folder = CheckpointFolder(tmp_path / "search")
    before, last = sorted(folder.folder.glob("checkpoint-*"))
    good, rng = last.read_bytes(), np.random.default_rng(5)
    for trial in range(1000):
        place = int(rng.integers(len(good)))
        flipped = good[:place] + bytes([good[place] ^ (1 << int(rng.integers(8)))]) + good[place + 1 :]
        last.write_bytes(flipped if trial % 2 else good[:place])
        with pytest.raises(CheckpointError) as caught:
            read_checkpoint(last)
        assert "\n" not in str(caught.value)
    with pytest.warns(UserWarning, match=f"{before.name} is taken instead"):
        assert_whole(tmp_path, go(tmp_path, Walk()), whole)


def test_a_folder_in_use_is_refused_before_anything_in_it_changes(tmp_path, capsys):
    recipe = tmp_path / "mine.yaml"
    work = WorkFolder(tmp_path / "work")
    from dso_nas.recipes import load_recipe

    load_recipe("demo").save(recipe)
    with work.lock():
        before = sorted(path for path in work.path.rglob("*"))
        assert cli.run("classification", "train_cifar.py", "demo", [
            "pretrain", "--recipe", str(recipe), "--work-dir", str(work.path), "--resume"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and "another run is using this folder" in lines[0]
    assert sorted(path for path in work.path.rglob("*")) == before


@pytest.mark.parametrize("nan_at", [(0, 0), (1, 3), (2, 4)])
def test_a_loss_that_is_no_number_stops_with_its_step_and_keeps_the_last_good_checkpoint(tmp_path, whole, nan_at):
    with pytest.raises(UserError, match=f"epoch {nan_at[0] + 1}, step {nan_at[1] + 1};.*checkpoint is kept") as caught:
        go(tmp_path, Walk(nan_at))
    assert "\n" not in str(caught.value)
    latest = CheckpointFolder(tmp_path / "search").latest()
    assert latest is None or np.isfinite(latest.arrays["weight"]).all()
    if latest is not None:
        assert (latest.meta["position"]["epoch"], latest.meta["position"]["step"]) <= nan_at
    assert_whole(tmp_path, go(tmp_path, Walk()), whole)


def test_a_weight_that_is_no_number_is_never_written(tmp_path):
    task = Walk()
    task.end_epoch = lambda epoch: task.weight.fill(np.inf) or {}
    with pytest.raises(UserError, match="weight is not finite"):
        go(tmp_path, task)
    assert np.isfinite(CheckpointFolder(tmp_path / "search").latest().arrays["weight"]).all()


def test_a_clock_that_jumps_changes_nothing(tmp_path, whole, monkeypatch):
    jumps = iter(np.random.default_rng(2).uniform(-1e9, 1e9, 10_000))
    real, gmtime = time.time, time.gmtime
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    monkeypatch.setattr(time, "gmtime", lambda *at: gmtime(*at or (abs(real() + next(jumps)),)))
    kept = []

    def look(epoch, step):
        kept.append(len(list((tmp_path / "search").glob("checkpoint-*"))))
        # Files older than the run, or from the future.
        for path in (tmp_path / "search").glob("checkpoint-*"):
            os.utime(path, (real() + next(jumps), abs(real() + next(jumps))))

    assert_whole(tmp_path, go(tmp_path, Walk(during=look), every_minutes=60), whole)
    latest = CheckpointFolder(tmp_path / "search").latest()
    assert latest.meta["position"]["epoch"] == 3 and 0 <= latest.meta["position"]["seconds"] < 3600
    assert kept[:3] == [0, 0, 1] and max(kept) == 2


def test_minutes_between_checkpoints_are_those_of_a_clock_that_cannot_jump(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    saved = []

    def tick(epoch, step):
        saved.append(sorted(path.name for path in (tmp_path / "search").glob("checkpoint-*"))[-1:])
        now[0] += 25

    work, task = WorkFolder(tmp_path), Walk(during=tick)
    with Monitor(work.path, task.name, tensorboard=False) as monitor:
        Loop(task, CheckpointFolder(work.search), monitor, None, 1.0).run()
    assert [len(names) for names in saved[:5]] == [0, 0, 0, 1, 1]
    assert saved[3] == ["checkpoint-000000000003.dso"]


def test_another_batch_size_or_seed_is_refused_and_another_device_count_said(capsys):
    before = {"batch_size": 64, "seed": 1, "devices": 1}
    check_setting("search", before, dict(before))
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match="--batch-size 32: search was begun with 64.*give --batch-size 64"):
        check_setting("search", before, {**before, "batch_size": 32})
    with pytest.raises(UserError, match="--seed 2: search was begun with 1"):
        check_setting("search", before, {**before, "seed": 2})
    check_setting("search", before, {**before, "devices": 2})
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "was on 1 devices and goes on on 2" in lines[0]
    check_setting("search", {}, before)


def test_an_array_of_another_endianness_or_layout_is_not_lost(tmp_path):
    write_checkpoint(tmp_path / "c", {"a": np.arange(6, dtype=">f4").reshape(2, 3).T}, {})
    np.testing.assert_array_equal(read_checkpoint(tmp_path / "c").arrays["a"], np.arange(6).reshape(2, 3).T)
