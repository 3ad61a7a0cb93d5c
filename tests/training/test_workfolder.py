from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from dso_nas.errors import UserError
from dso_nas.training import workfolder as module
from dso_nas.training.workfolder import WorkFolder, describe_environment

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import os, sys, time
from dso_nas.training.workfolder import WorkFolder
with WorkFolder(sys.argv[1]).lock():
    worker = os.fork() if "fork" in sys.argv else 1
    if worker:
        print(worker, flush=True)
    time.sleep(600)
"""
TAKE = """
import sys
from dso_nas.errors import UserError
from dso_nas.training.workfolder import WorkFolder
try:
    with WorkFolder(sys.argv[1]).lock():
        print("taken")
except UserError as error:
    print(error)
"""


def start(script, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def takes_soon(folder):
    """Whether the folder can be locked, now or in a moment: a new worker needs one to let go."""
    for _ in range(20):
        if start(TAKE, folder).communicate()[0] == "taken\n":
            return True
        time.sleep(0.1)
    return False


@pytest.fixture
def holder(tmp_path):
    process = start(HOLD, tmp_path / "run")
    process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


def one_line(caught):
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_folder_and_its_parts_are_made(tmp_path):
    work = WorkFolder(tmp_path / "deep" / "run")
    for name in ("pretrain", "search", "retrain"):
        assert getattr(work, name) == tmp_path / "deep" / "run" / name
        assert getattr(work, name).is_dir()
    paths = [work.recipe, work.genotype, work.metrics, work.report_json, work.report_md, work.run]
    assert [str(path.relative_to(work.path)) for path in paths] == [
        "recipe.yaml",
        "search/genotype.json",
        "metrics.jsonl",
        "report.json",
        "report.md",
        "run.json",
    ]
    WorkFolder(work.path)
    assert sorted(os.listdir(work.path)) == ["pretrain", "retrain", "search"]


def test_what_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError) as caught:
            WorkFolder(path)
        assert str(path) in one_line(caught) and "--work-dir" in str(caught.value)


def test_a_folder_that_cannot_be_written_is_refused():
    with pytest.raises(UserError) as caught:
        WorkFolder("/proc")
    assert "/proc" in one_line(caught)


def test_a_folder_that_was_writable_once_is_refused():
    folder = tempfile.mkdtemp()
    WorkFolder(folder)
    os.chmod(folder, 0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may write everywhere
    try:
        with pytest.raises(UserError, match="Permission denied") as caught:
            WorkFolder(folder)
    finally:
        os.seteuid(user)
        os.chmod(folder, 0o755)
        shutil.rmtree(folder)
    assert folder in one_line(caught)


# ---- the lock


def test_another_run_in_the_folder_is_named(tmp_path, holder):
    with pytest.raises(UserError) as caught, WorkFolder(tmp_path / "run").lock():
        pass
    assert str(tmp_path / "run") in one_line(caught) and f"process {holder.pid} on" in str(caught.value)


def test_a_dead_run_is_no_obstacle(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert f"process {holder.pid}" in (tmp_path / "run" / ".lock").read_text()
    with WorkFolder(tmp_path / "run").lock():
        assert f"process {os.getpid()} on" in (tmp_path / "run" / ".lock").read_text()


def test_a_worker_that_outlives_its_run_does_not_keep_the_lock(tmp_path):
    process = start(HOLD, tmp_path, "fork")
    worker = int(process.stdout.readline())
    try:
        process.kill()
        process.wait()
        assert takes_soon(tmp_path)
        os.kill(worker, 0)
    finally:
        os.kill(worker, signal.SIGKILL)
        process.communicate()


def test_the_lock_ends_with_its_block(tmp_path):
    work = WorkFolder(tmp_path)
    with pytest.raises(RuntimeError), work.lock():
        answer, _ = start(TAKE, tmp_path).communicate()
        assert f"process {os.getpid()} on" in answer and answer.count("\n") == 1
        raise RuntimeError
    assert start(TAKE, tmp_path).communicate()[0] == "taken\n"
    assert not module._held


def test_a_lock_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(UserError) as caught, WorkFolder(tmp_path).lock():
        pass
    assert str(tmp_path / ".lock") in one_line(caught)


# ---- files


def test_text_and_json_are_written_whole(tmp_path):
    work = WorkFolder(tmp_path)
    assert work.write_text("search/note.md", "ä\n") == tmp_path / "search" / "note.md"
    assert (tmp_path / "search" / "note.md").read_text(encoding="utf-8") == "ä\n"
    work.write_json("report.json", {"b": [1, 2.5], "a": None})
    assert json.loads(work.report_json.read_text()) == {"b": [1, 2.5], "a": None}
    with pytest.raises(ValueError):
        work.write_json("report.json", {"error": float("nan")})
    assert json.loads(work.report_json.read_text()) == {"b": [1, 2.5], "a": None}
    assert not list(tmp_path.rglob("*.partial"))


def test_a_write_that_fails_leaves_the_old_text(tmp_path, monkeypatch):
    work = WorkFolder(tmp_path)
    work.write_text("report.md", "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left") as caught:
        work.write_text("report.md", "new")
    assert "report.md" in one_line(caught)
    assert work.report_md.read_text() == "old"
    assert not list(tmp_path.rglob(".report*"))


def test_a_target_that_is_a_folder_is_one_line(tmp_path):
    work = WorkFolder(tmp_path)
    with pytest.raises(UserError, match="cannot be written"):
        work.write_text("search", "text")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        work.write_text("file/note.md", "text")


def test_folders_of_a_file_system_that_cannot_sync_them_do(tmp_path, monkeypatch):
    fsync = os.fsync

    def only_files(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(22, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    WorkFolder(tmp_path).write_text("report.md", "text")
    assert (tmp_path / "report.md").read_text() == "text"


# ---- what it ran on


def test_the_environment_is_enough_to_repeat_a_run(monkeypatch):
    monkeypatch.setenv("MXNET_TEST_VARIABLE", "7")
    monkeypatch.setenv("SECRET_TOKEN", "x")
    found = describe_environment()
    assert json.loads(json.dumps(found)) == found
    assert found["versions"]["python"] == sys.version.split()[0]
    assert found["versions"]["numpy"] == "1.23.5"
    assert found["versions"]["mxnet"] == "1.9.1" or found["versions"]["mxnet-cu112"] == "1.9.1"
    assert found["environment"]["MXNET_TEST_VARIABLE"] == "7"
    assert "MXNET_EXEC_INPLACE_GRAD_SUM_CAP" in found["environment"]
    assert "SECRET_TOKEN" not in found["environment"]
    assert found["command"] and found["machine"]["processors"] >= 1


def test_mxnet_is_not_imported():
    script = "import sys\nfrom dso_nas.training import workfolder as w\nw.describe_environment()\n"
    answer, _ = start(script + "print('mxnet' in sys.modules)").communicate()
    assert answer == "False\n"


def test_the_commit_is_that_of_the_checkout(tmp_path):
    assert module._commit(tmp_path) is None
    git = [
        "git",
        "-C",
        str(tmp_path),
        "-c",
        "user.name=n",
        "-c",
        "user.email=e",
        "-c",
        "commit.gpgsign=false",
    ]
    subprocess.run([*git, "init", "-q"], check=True)
    assert module._commit(tmp_path) is None
    (tmp_path / "file").write_text("1")
    subprocess.run([*git, "add", "file"], check=True)
    subprocess.run([*git, "commit", "-qm", "one"], check=True)
    head = subprocess.run(
        [*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    subprocess.run([*git, "tag", "v1"], check=True)
    assert module._commit(tmp_path) == head
    (tmp_path / "file").write_text("2")
    assert module._commit(tmp_path) == head + "-dirty"


def test_every_start_is_added(tmp_path):
    work = WorkFolder(tmp_path)
    assert work.runs() == []
    work.record_run()
    first = work.runs()
    work.record_run()
    assert work.runs()[:1] == first and len(work.runs()) == 2


@pytest.mark.parametrize(
    "text", ["{", '{"a": 1}', "[1]", "[" * 100_000], ids=["torn", "object", "number", "deep"]
)
def test_a_strange_list_of_runs_is_kept_and_told(tmp_path, text):
    work = WorkFolder(tmp_path)
    work.run.write_text(text)
    with pytest.raises(UserError, match="run.json"):
        work.record_run()
    assert work.run.read_text() == text
