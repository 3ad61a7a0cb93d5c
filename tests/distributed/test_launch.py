"""The launcher: all ends when one ends, whoever it is and however; hosts, and what is refused."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dso_nas.__main__ import main
from tests.distributed.jobs import ENDLESS, SECONDS, Running

COMMAND = [sys.executable, "-c", ENDLESS]
PAIR = ("-n", "2", "-s", "1")


def errors(output: str) -> list:
    return [line for line in output.splitlines() if line.startswith("error:")]


@pytest.mark.parametrize("role, name", [("worker", "worker"), ("server", "server 0"), ("scheduler", "scheduler 0")])
def test_a_death_ends_all(tmp_path, role, name):
    job = Running(tmp_path / "log", COMMAND, *PAIR)
    job.wait_for_line("under way")
    os.kill(job.members(role)[-1], signal.SIGKILL)
    output = job.end()
    assert job.process.returncode == 2
    assert len(errors(output)) == 1 and name in errors(output)[0] and "killed by signal 9" in errors(output)[0]


def test_a_worker_that_hangs_ends_all(tmp_path):
    job = Running(tmp_path / "log", COMMAND, *PAIR, "--stall", "3")
    job.wait_for_line("under way")
    os.kill(job.members("worker")[0], signal.SIGSTOP)
    output = job.end()
    assert job.process.returncode == 2
    assert "nothing happened for 3 s" in errors(output)[-1]


def test_an_exception_in_one_worker_ends_all(tmp_path):
    job = Running(tmp_path / "log", [sys.executable, "-c", ENDLESS.replace(
        "time.sleep(0.01)", "assert workers.rank == 0 or step < 9, 'out of luck'")], *PAIR)
    output = job.end(90)
    assert job.process.returncode == 2 and "worker 1" in errors(output)[0] and "out of luck" in errors(output)[0]


def test_a_launcher_that_is_killed_takes_all_along(tmp_path):
    job = Running(tmp_path / "log", COMMAND, *PAIR)
    job.wait_for_line("under way")
    job.process.kill()
    job.process.wait()
    job.wait_for(lambda: not job.members(guards=True), SECONDS, running=False)


def test_a_signal_reaches_workers_that_do_not_heed_it(tmp_path):
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + ENDLESS
    job = Running(tmp_path / "log", [sys.executable, "-c", deaf], *PAIR, "--stop", "1")
    job.wait_for_line("under way")
    job.process.send_signal(signal.SIGTERM)
    assert "are killed" in job.end() and job.process.returncode == 128 + signal.SIGTERM


@pytest.fixture
def ssh(tmp_path, monkeypatch):
    """A stand-in for ssh; `ssh(script)` makes it, `$1` on being the remote line of a host called 'near'."""
    def make(script: str) -> dict:
        path = tmp_path / "bin" / "ssh"
        path.parent.mkdir()
        path.write_text('#!/bin/sh\nwhile [ "$1" = -o ]; do shift 2; done\nhost=$1; shift\n' + script)
        path.chmod(0o755)
        hosts = tmp_path / "hosts"
        hosts.write_text("localhost  # this machine\n\nnear\n")
        return {"PATH": f"{path.parent}:{os.environ['PATH']}", "DMLC_NODE_HOST": "127.0.0.1"}

    return make


def test_a_host_that_cannot_be_reached_is_one_line(tmp_path, ssh):
    variables = ssh('echo "ssh: connect to host $host port 22: No route to host" >&2; exit 255\n')
    job = Running(tmp_path / "log", COMMAND, *PAIR, "--hosts", str(tmp_path / "hosts"), "--address", "127.0.0.1",
                  variables=variables)
    output = job.end()
    assert job.process.returncode == 2
    assert len(errors(output)) == 1 and "near cannot be reached" in errors(output)[0]
    assert "No route to host" in errors(output)[0]


def test_workers_on_hosts_run_and_die_with_the_job(tmp_path, ssh):
    # The stand-in loses the environment, as ssh does, and the remote process is in a session of its own.
    variables = ssh('exec setsid env -i PATH="$PATH" sh -c "$*"\n')
    job = Running(tmp_path / "log", COMMAND, *PAIR, "--hosts", str(tmp_path / "hosts"), "--address", "127.0.0.1",
                  variables=variables)
    job.wait_for_line("worker 1 of 2")
    job.wait_for_line("under way")
    os.kill(job.members("server")[0], signal.SIGKILL)
    job.end()
    assert job.process.returncode == 2


@pytest.mark.parametrize("words, problem", [
    (["-n", "2"], "COMMAND"), (["-n", "0", "true"], "-n 0"), (["-n", "1", "-s", "-3", "true"], "-s -3"),
    (["-n", "1", "--port", "70000", "true"], "--port"), (["-n", "1", "--stall", "nan", "true"], "--stall"),
    (["-n", "1", "no-such-command"], "no-such-command"), (["-n", "1", "--hosts", "no-file", "true"], "no-file"),
])
def test_bad_options_are_one_line(words, problem, capsys):
    assert main(["launch", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and problem in lines[0]


@pytest.mark.parametrize("text", ["", "# nobody\n", "one two\n", "-oProxyCommand=x\n"])
def test_bad_host_files_are_one_line(text, tmp_path, capsys):
    (tmp_path / "hosts").write_text(text)
    assert main(["launch", "-n", "1", "--hosts", str(tmp_path / "hosts"), "true"]) == 2
    assert str(tmp_path / "hosts") in capsys.readouterr().err


@pytest.mark.parametrize("variables, kvstore", [({}, "dist_sync"), ({"DMLC_ROLE": "worker", "DMLC_NUM_WORKER": "2"},
                                                                    "device")])
def test_a_kvstore_that_does_not_fit_is_refused(variables, kvstore, tmp_path):
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, str(root / "train_cifar.py"), "pretrain", "--kvstore", kvstore, "--work-dir",
               str(tmp_path / "work")]
    result = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2 and result.stderr.startswith("error: --kvstore")
