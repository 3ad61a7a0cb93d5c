"""One process of a distributed run: started here or over ssh, its output passed on, ended for certain."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Dict, List, Mapping, Optional, Sequence

from dso_nas.environment import inherited

LOCAL_HOSTS = ("localhost", "127.0.0.1")
SSH_OPTIONS = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5",
               "-o", "ServerAliveCountMax=2")
SSH_FAILED = 255
SECONDS_TO_END = 3.0

_GUARD = str(Path(__file__).with_name("guard.py"))
_FORWARDED = ("DMLC_", "PS_", "MXNET_", "OMP_", "CUDA_", "NCCL_", "DSO_NAS_", "NNVM_", "PYTHON")


class Member:
    """A running command of the job, under a guard (`dso_nas.launching.guard`) that ends when this process does.

    Attributes:
        role: scheduler, server or worker.
        title: role, number and host, for people.
        last_words: the last line it wrote to stderr.
    """

    def __init__(self, role: str, number: int, host: str, command: Sequence[str], variables: Mapping[str, str],
                 python: str) -> None:
        self.role = role
        self.host = host
        self.title = f"{role} {number} on {host}"
        self.last_words = ""
        guarded = [python, _GUARD, *command]
        environment = {**inherited(), **variables}
        if not self.is_local:
            guarded = ["ssh", *SSH_OPTIONS, host, _remote_line(guarded, environment)]
        self._process = subprocess.Popen(guarded, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         stderr=subprocess.PIPE, start_new_session=True)
        assert self._process.stdin is not None
        self._orders = self._process.stdin
        self._pumps = [self._pump(self._process.stdout, sys.stdout, f"[{role} {number}] "),
                       self._pump(self._process.stderr, sys.stderr, f"[{role} {number}] ")]

    @property
    def is_local(self) -> bool:
        """Whether it runs on this machine, without ssh."""
        return self.host in LOCAL_HOSTS

    @property
    def pid(self) -> int:
        """Of the guard, or of the ssh client; it leads the process group of the command if that is local."""
        return self._process.pid

    def _pump(self, source: Optional[IO[bytes]], sink: Any, prefix: str) -> threading.Thread:
        def pass_on() -> None:
            for raw in source or ():
                line = raw.decode(errors="replace").rstrip("\n")
                if sink is sys.stderr and line.strip():
                    self.last_words = line.strip()
                with suppress(OSError, ValueError):
                    print(prefix + line, file=sink, flush=True)

        thread = threading.Thread(target=pass_on, daemon=True)
        thread.start()
        return thread

    def status(self) -> Optional[int]:
        """Its exit status, 128 + n after signal n; None while it runs."""
        code = self._process.poll()
        return 128 - code if code is not None and code < 0 else code

    def send(self, number: int) -> None:
        """Send a signal to the command alone, wherever it runs."""
        with suppress(OSError, ValueError):
            self._orders.write(b"%d\n" % number)
            self._orders.flush()

    def kill(self) -> None:
        """End the command and all that it started: a local process group at once, a remote one through its guard."""
        if self.is_local:
            # Even a stopped process dies of it, which could not obey its guard.
            with suppress(OSError):
                os.killpg(self.pid, signal.SIGKILL)
        with suppress(OSError):
            self._orders.close()

    def reap(self) -> None:
        """Wait for what `kill` ended, and for the rest of its output."""
        try:
            self._process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            # Without its connection a remote guard kills what it runs.
            with suppress(OSError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
        for pump in self._pumps:
            pump.join(1.0)

    def why(self) -> str:
        """One line about how it ended, with its last words."""
        status = self.status()
        if status == SSH_FAILED and not self.is_local:
            return f"{self.host} cannot be reached or was lost: {self.last_words or 'ssh said nothing'}"
        how = f"was killed by signal {status - 128}" if status and status > 128 else f"ended with status {status}"
        return f"{self.title} {how}" + (f": {self.last_words}" if self.last_words else "")


def _remote_line(command: List[str], environment: Dict[str, str]) -> str:
    """What the remote shell is to run: the same folder, program and variables as here."""
    words = [f"{name}={value}" for name, value in sorted(environment.items()) if name.startswith(_FORWARDED)]
    line = " ".join(shlex.quote(word) for word in ["env", *words, *command])
    return f"cd {shlex.quote(os.getcwd())} && exec {line}"
