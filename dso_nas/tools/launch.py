"""`python -m dso_nas launch`: a command on several workers, with the servers and the scheduler they need."""

from __future__ import annotations

import argparse
import shutil
import socket
import sys
from pathlib import Path
from typing import Dict, List

from dso_nas.errors import Stopped, UserError
from dso_nas.launching.job import Job, Plan
from dso_nas.launching.member import LOCAL_HOSTS

_MOST = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The tool's options."""
    parser.add_argument("-n", "--workers", type=int, required=True, metavar="WORKERS", help="processes that train")
    parser.add_argument("-s", "--servers", type=int, default=1, metavar="SERVERS",
                        help="processes that sum gradients (default: %(default)s)")
    parser.add_argument("--hosts", metavar="FILE", help="a host a line, reached by ssh without a password; workers and "
                                                        "servers go round them (default: this machine)")
    parser.add_argument("--address", metavar="HOST", help="this machine's name or address as the hosts know it")
    parser.add_argument("--port", type=int, default=0, metavar="P", help="the scheduler's (default: a free one)")
    parser.add_argument("--python", default=sys.executable, metavar="FILE",
                        help="the Python with MXNet on every host (default: %(default)s)")
    parser.add_argument("--stall", type=float, default=300.0, metavar="SECONDS",
                        help="a worker that makes no step for so long ends the job (default: %(default)g)")
    parser.add_argument("--stop", type=float, default=120.0, metavar="SECONDS",
                        help="time for a last checkpoint after SIGTERM or SIGINT (default: %(default)g)")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND",
                        help="what every worker runs, such as: python train_cifar.py all --kvstore dist_sync")


def run(options: argparse.Namespace) -> None:
    """Run the job to its end.

    Raises:
        UserError: bad options, a host that cannot be reached, or a process that failed.
        Stopped: a signal stopped it.
    """
    status = Job(_plan(options)).run()
    if status:
        raise Stopped(status - 128)


def _plan(options: argparse.Namespace) -> Plan:
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise UserError("launch: give the COMMAND that every worker is to run")
    for flag, count in (("-n", options.workers), ("-s", options.servers)):
        if not 1 <= count <= _MOST:
            raise UserError(f"launch: {flag} {count}: must be at least 1 and at most {_MOST:,}")
    for flag, seconds in (("--stall", options.stall), ("--stop", options.stop)):
        if not 0 < seconds < 1e6:
            raise UserError(f"launch: {flag} {seconds:g}: must be seconds above zero")
    if not 0 <= options.port < 2**16:
        raise UserError(f"launch: --port {options.port}: must be below 65536")
    hosts = read_hosts(Path(options.hosts)) if options.hosts else ["localhost"]
    if set(hosts) == {"localhost"} and shutil.which(command[0]) is None:
        raise UserError(f"launch: {command[0]}: there is no such command")
    address = options.address or _address(hosts)
    return Plan(command, options.workers, options.servers, hosts, address, options.port or _free_port(),
                options.python, options.stop, _variables(options.stall))


def _variables(stall: float) -> Dict[str, str]:
    return {"DSO_NAS_STALL_SECONDS": str(stall), "PYTHONUNBUFFERED": "1"}


def read_hosts(path: Path) -> List[str]:
    """The hosts of a file, one a line; what follows '#' is a remark.

    Raises:
        UserError: it cannot be read, names nothing, or a line is no host.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    hosts = []
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if len(words) > 1 or (words and words[0].startswith("-")):
            raise UserError(f"{path}: line {number}: must be one host, such as 10.0.0.2 or user@name")
        hosts += ["localhost" if word in LOCAL_HOSTS else word for word in words]
    if not hosts:
        raise UserError(f"{path}: names no host")
    return hosts


def _address(hosts: List[str]) -> str:
    """This machine's address on the way to the first other host."""
    others = [host.rpartition("@")[2] for host in hosts if host not in LOCAL_HOSTS]
    if not others:
        return "127.0.0.1"
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            # Connecting a datagram socket sends nothing.
            probe.connect((others[0], 9))
            return str(probe.getsockname()[0])
    except OSError as error:
        raise UserError(f"launch: {others[0]} cannot be reached: {error.strerror or error}; correct --hosts, or give "
                        "--address where only ssh knows the host's name") from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
