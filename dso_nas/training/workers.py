"""Who takes part in a run: one process, or several workers that share MXNet's parameter server.

How workers exchange anything is in `dso_nas.training.distributed`; MXNet is not loaded before that is needed.
"""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import contextmanager
from typing import Any, Dict, Iterator, Mapping, NoReturn, Sequence

import numpy as np

from dso_nas.errors import Stopped, UserError

DEVICE_STORES = ("local", "device")
WORKER_STORES = ("dist_sync", "dist_device_sync")


class Workers:
    """A run's only process: there is nobody to exchange anything with.

    Attributes:
        rank: of this process, from 0; the first one writes the run's folder.
        count: how many there are.
        store: what sums arrays over workers and devices (`SummingStore`), None for a single process.
    """

    rank = 0
    count = 1
    store: Any = None

    def gather(self, name: str, array: np.ndarray) -> np.ndarray:
        """Every worker's array of one shape, stacked by rank: (count, ...); float32 between machines."""
        return np.asarray(array)[None]

    def sum(self, name: str, array: np.ndarray) -> np.ndarray:
        """The sum of all workers' arrays, the same bits on each of them."""
        return array

    def mean(self, arrays: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """The means of all workers' arrays, by name."""
        return dict(arrays)

    def share_first(self, data: bytes) -> bytes:
        """The first worker's `data`, on all of them."""
        return data

    def first(self, number: float) -> float:
        """The first worker's number, on all of them."""
        return float(self.share_first(repr(float(number)).encode()))

    def agree(self, parameters: Sequence[Any]) -> None:
        """Give every worker and device the first one's values of initialised Gluon parameters."""

    def check_same(self, what: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Make sure that all workers hold the same bits.

        Raises:
            UserError: a worker's differ; the line names it and the first array that does.
        """

    def alive(self, patience: float = 1.0) -> None:
        """Tell the watchdog that the run goes on; the next call may take `patience` times its deadline."""


_ALONE = Workers()
_current = _ALONE


def workers() -> Workers:
    """Those that this process trains with."""
    return _current


def default_kvstore() -> str:
    """What `--kvstore` is when it is not given: `dist_sync` in a worker that a launcher started, else `device`."""
    return WORKER_STORES[0] if os.environ.get("DMLC_ROLE") == "worker" else "device"


@contextmanager
def joined(kvstore: str) -> Iterator[Workers]:
    """Be one of the workers while the block runs; with a kvstore for one process there is nothing to join.

    A worker that fails ends at once, without waiting for the others as MXNet would: whoever started them notices.

    Raises:
        UserError: the kvstore does not fit the way the process was started.
        Stopped: passed on; all workers stop at the same step.
    """
    global _current
    _check_start(kvstore)
    if kvstore not in WORKER_STORES:
        yield _ALONE
        return
    from dso_nas.training.distributed import StoreWorkers

    if _current is not _ALONE:
        raise RuntimeError("a process cannot have two distributed kvstores: MXNet hangs")
    try:
        _current = connected = StoreWorkers(kvstore)
        print(f"worker {connected.rank} of {connected.count} has joined the others by {kvstore}", flush=True)
        try:
            yield connected
        except Stopped:
            connected.close()
            raise
        connected.close()
    except Stopped:
        raise
    except BaseException as error:
        _end_process(error)
    finally:
        _current = _ALONE


def _check_start(kvstore: str) -> None:
    role, count = os.environ.get("DMLC_ROLE"), os.environ.get("DMLC_NUM_WORKER", "1")
    if kvstore in WORKER_STORES and role != "worker":
        raise UserError(f"--kvstore {kvstore}: needs servers and a scheduler, start the command with "
                        "python -m dso_nas launch -n WORKERS")
    if kvstore not in WORKER_STORES and role == "worker" and count != "1":
        raise UserError(f"--kvstore {kvstore}: each of {count} workers would train by itself, give dist_sync")


def _end_process(error: BaseException) -> NoReturn:
    """Say why and leave, past MXNet's own end, which would wait for the other workers for ever."""
    if isinstance(error, UserError):
        print(f"error: {error}", file=sys.stderr)
    else:
        traceback.print_exception(type(error), error, error.__traceback__)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2 if isinstance(error, UserError) else 1)
