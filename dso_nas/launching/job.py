"""A distributed run from its start to its end: scheduler, servers and workers, watched until all have ended.

MXNet's processes wait for each other for ever when one of them dies, whatever their heartbeats are set to. So the one
that started them looks at them, and when one fails it ends all the others.
"""

from __future__ import annotations

import signal
import sys
import time
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence

from dso_nas.environment import SHARERS_VARIABLE
from dso_nas.errors import UserError
from dso_nas.launching.member import Member

_POLL_SECONDS = 0.1
# A worker's death often brings another's message along; the worker's own is the better one.
_SETTLE_SECONDS = 0.5
# Servers end with the last worker's goodbye, workers a little after that.
_GOODBYE_SECONDS = 5.0
_SERVER = "import mxnet"


class Plan(NamedTuple):
    """What to start and where; `hosts` get workers and servers in turn, the scheduler runs here."""

    command: Sequence[str]
    workers: int
    servers: int
    hosts: Sequence[str]
    address: str
    port: int
    python: str
    stop_seconds: float
    variables: Dict[str, str]

    def workers_on(self, host: str) -> int:
        """The number of workers that share `host`."""
        return sum(self.hosts[number % len(self.hosts)] == host for number in range(self.workers))


class Job:
    """The running processes of a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._members: List[Member] = []
        self._signals: List[int] = []

    def run(self) -> int:
        """Start everything and wait for its end; 0, or 128 + n if signal n stopped it.

        Raises:
            UserError: a process failed; all have been ended.
        """
        with self._noting_signals():
            try:
                self._start()
                status = self._watch()
                self._say_goodbye()
                return status
            finally:
                self._end_all()

    def _start(self) -> None:
        plan = self._plan
        serve = [plan.python, "-c", _SERVER]
        self._add("scheduler", 0, "localhost", serve)
        for number in range(plan.servers):
            self._add("server", number, plan.hosts[number % len(plan.hosts)], serve)
        for number in range(plan.workers):
            self._add("worker", number, plan.hosts[number % len(plan.hosts)], plan.command)

    def _add(self, role: str, number: int, host: str, command: Sequence[str]) -> None:
        plan = self._plan
        variables = {"DMLC_ROLE": role, "DMLC_PS_ROOT_URI": plan.address, "DMLC_PS_ROOT_PORT": str(plan.port),
                     "DMLC_NUM_WORKER": str(plan.workers), "DMLC_NUM_SERVER": str(plan.servers),
                     "DSO_NAS_RANK": str(number), SHARERS_VARIABLE: str(plan.workers_on(host)), **plan.variables}
        if set(plan.hosts) == {"localhost"}:
            variables["DMLC_NODE_HOST"] = plan.address
        self._members.append(Member(role, number, host, command, variables, plan.python))

    def _of(self, *roles: str) -> List[Member]:
        return [member for member in self._members if member.role in roles]

    def _watch(self) -> int:
        """Until the last worker has ended, or one process fails, or a signal comes."""
        idle: Optional[float] = None
        while any(member.status() is None for member in self._of("worker")):
            time.sleep(_POLL_SECONDS)
            if self._signals:
                return self._stop(self._signals[0])
            self._check([member for member in self._members if member.status()])
            if any(member.status() == 0 for member in self._of("scheduler", "server")):
                idle = idle or time.monotonic()
                if time.monotonic() - idle > _GOODBYE_SECONDS:
                    self._check([member for member in self._of("scheduler", "server") if member.status() == 0])
        self._check([member for member in self._of("worker") if member.status()])
        return 0

    def _check(self, failed: List[Member]) -> None:
        if not failed:
            return
        time.sleep(_SETTLE_SECONDS)
        workers = [member for member in self._of("worker") if member.status()]
        self._end_all()
        raise UserError(f"launch: {(workers or failed)[0].why()}; all other processes of the job were stopped")

    def _stop(self, number: int) -> int:
        """Pass a signal on and give the workers time for their checkpoints; a second signal ends that."""
        print(f"launch: signal {number} is passed on to the workers", file=sys.stderr, flush=True)
        for member in self._of("worker"):
            member.send(number)
        deadline = time.monotonic() + self._plan.stop_seconds
        while any(member.status() is None for member in self._of("worker")):
            if any(member.status() is not None for member in self._of("worker")):
                # The others were at the same step, or wait for this one for ever.
                deadline = min(deadline, time.monotonic() + _GOODBYE_SECONDS)
            if len(self._signals) > 1 or time.monotonic() > deadline:
                print("launch: the workers did not end by themselves, they are killed", file=sys.stderr, flush=True)
                break
            time.sleep(_POLL_SECONDS)
        return 128 + number

    def _say_goodbye(self) -> None:
        deadline = time.monotonic() + _GOODBYE_SECONDS
        while any(member.status() is None for member in self._members) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)

    def _end_all(self) -> None:
        for member in self._members:
            member.kill()
        for member in self._members:
            member.reap()

    @contextmanager
    def _noting_signals(self) -> Iterator[None]:
        def note(number: int, _frame: Any) -> None:
            self._signals.append(number)

        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
