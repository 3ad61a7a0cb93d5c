"""Starting jobs for the tests, and looking at what runs of them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Dict, List, Optional

ROOT = Path(__file__).resolve().parents[2]
# Nothing but one exchange after another, as training is to the parameter server.
ENDLESS = """
import dso_nas, time
import numpy as np
from dso_nas.training.workers import joined
with joined("dist_sync") as workers:
    for step in range(100_000):
        total = workers.sum("x", np.ones(3))
        workers.alive()
        if step == 5:
            print("under way", flush=True)
        time.sleep(0.01)
"""
# The bound is 10 s; the machine may be busy with other things.
SECONDS = 20


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


class Running:
    """A job under the launcher, known by its port."""

    def __init__(self, log: Path, command: List[str], *options: str,
                 variables: Optional[Dict[str, str]] = None) -> None:
        self.port = free_port()
        self.log = log
        with open(log, "w") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dso_nas", "launch", "--port", str(self.port), *options, *command], cwd=ROOT,
                stdout=stream, stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1", **(variables or {})})

    def members(self, role: str = "", guards: bool = False) -> List[int]:
        """Process ids of the job's processes of a role, without the guards that hold them."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                variables = (entry / "environ").read_bytes().split(b"\0")
                guard = b"guard.py" in (entry / "cmdline").read_bytes()
                running = (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
            except (OSError, IndexError):
                continue
            mine = f"DMLC_PS_ROOT_PORT={self.port}".encode() in variables
            if running and mine and guard <= guards and (not role or f"DMLC_ROLE={role}".encode() in variables):
                found.append(int(entry.name))
        return sorted(found)

    def wait_for(self, condition: Callable[[], bool], seconds: float = 90, running: bool = True) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.log.read_text()[-2000:]
            assert not running or self.process.poll() is None, self.log.read_text()[-2000:]
            time.sleep(0.02)

    def wait_for_line(self, text: str) -> None:
        self.wait_for(lambda: text in self.log.read_text())

    def end(self, seconds: float = SECONDS) -> str:
        """Wait for the launcher's end; its output. Nothing of the job may run on."""
        self.process.wait(seconds)
        self.wait_for(lambda: not self.members(guards=True), 5, running=False)
        return self.log.read_text()
