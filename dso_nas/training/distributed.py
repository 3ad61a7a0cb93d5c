"""Workers on MXNet's parameter server: one process-wide kvstore, and everything on it a sum on a key of its own.

MXNet's Trainer is never given the store. It would send the first weights and the first gradients under the same keys,
which the server may answer in either order, and only after the first forward pass: `dist_sync` then trains wrong
weights without an error. Here weights are agreed upon before the first forward pass on keys of their own; a step sums
gradients; each worker makes the step itself.
"""

from __future__ import annotations

import os
import zlib
from typing import Any, Dict, List, Mapping, Sequence, Set

import mxnet as mx
import numpy as np

from dso_nas.errors import UserError
from dso_nas.training.watchdog import Watchdog
from dso_nas.training.workers import Workers

RANK_VARIABLE = "DSO_NAS_RANK"
STALL_VARIABLE = "DSO_NAS_STALL_SECONDS"
STALL_SECONDS = 300.0
CONNECT_SECONDS = 60.0

# Three bytes fit into float32 exactly.
_CHUNK = 2**18


class SummingStore:
    """Sums over devices and workers on an MXNet kvstore; a key for every name, shape and type.

    A key is made at its first use, so every worker must use the same names in the same order. Networks that follow each
    other in a run meet their parameters' keys again.
    """

    def __init__(self, store: Any) -> None:
        self._store = store
        self._keys: Set[str] = set()

    def close(self) -> None:
        """Let MXNet's kvstore go, whoever still holds this object."""
        self._store = None

    def sum(self, names: Sequence[str], arrays: Sequence[List[Any]]) -> None:
        """Replace every array, a list with one copy per device, by the sum of all devices' and workers' copies.

        What was summed must have been read (or waited for) before its name is used again.
        """
        keys = [f"{name}/{np.dtype(copies[0].dtype).name}/{copies[0].shape}" for name, copies in zip(names, arrays)]
        new = {key: mx.nd.zeros_like(copies[0]) for key, copies in zip(keys, arrays) if key not in self._keys}
        if new:
            self._store.init(list(new), list(new.values()))
            self._keys.update(new)
        for priority, (key, copies) in enumerate(zip(keys, arrays)):
            self._store.pushpull(key, copies, priority=-priority)


class StoreWorkers(Workers):
    """All workers of the job that the environment (DMLC_*) describes; one object in a process."""

    def __init__(self, kvstore: str) -> None:
        """Connect to the scheduler and all servers; a process that gets no answer within a minute ends."""
        connecting = Watchdog(CONNECT_SECONDS, f"no answer from the scheduler {os.environ.get('DMLC_PS_ROOT_URI')}:"
                                               f"{os.environ.get('DMLC_PS_ROOT_PORT')} or from its servers")
        connecting.alive()
        kv = mx.kv.create(kvstore)
        connecting.stop()
        # MXNet numbers workers as they come; the run's folder is to lie on the same machine at every start.
        self.rank, self.count = int(os.environ.get(RANK_VARIABLE, kv.rank)), kv.num_workers
        self.store = SummingStore(kv)
        self._watchdog = Watchdog(_stall_seconds(), f"worker {self.rank} waits for another worker or a server")

    def close(self) -> None:
        """Wait for the other workers and leave; servers and scheduler end with the last one."""
        self.alive()
        mx.nd.waitall()
        # MXNet says goodbye when the kvstore is freed, and aborts if that happens while the interpreter ends.
        self.store.close()
        self._watchdog.stop()

    def gather(self, name: str, array: np.ndarray) -> np.ndarray:
        """See Workers."""
        rows = np.zeros((self.count, *np.shape(array)), np.float32)
        rows[self.rank] = array
        return self.sum(f"gather {name}", rows)

    def sum(self, name: str, array: np.ndarray) -> np.ndarray:
        """See Workers."""
        return self._sums({f"sum {name}": array})[f"sum {name}"]

    def _sums(self, arrays: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
        copies = {name: mx.nd.array(array, dtype=np.float32) for name, array in arrays.items()}
        self.store.sum(list(copies), [[copy] for copy in copies.values()])
        return {name: copy.asnumpy() for name, copy in copies.items()}

    def mean(self, arrays: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """See Workers."""
        sums = self._sums({f"mean {name}": array for name, array in arrays.items()})
        return {name: sums[f"mean {name}"] / self.count for name in arrays}

    def share_first(self, data: bytes) -> bytes:
        """See Workers."""
        size = self.sum("length", np.array(_digits(len(data) if self.rank == 0 else 0)))
        length = sum(int(digit) << (16 * place) for place, digit in enumerate(size))
        parts = []
        for start in range(0, length, 3 * _CHUNK):
            part = data[start : start + 3 * _CHUNK] if self.rank == 0 else b""
            parts.append(_unpacked(self.sum("bytes", _packed(part))))
        return b"".join(parts)[:length]

    def agree(self, parameters: Sequence[Any]) -> None:
        """See Workers; to all others' zeros the first one's values are added, which gives its bits."""
        values = [parameter.list_data()[0].copy() for parameter in parameters]
        for value in values if self.rank else ():
            value[:] = 0
        self.store.sum([f"value {parameter.name}" for parameter in parameters], [[value] for value in values])
        for parameter, value in zip(parameters, values):
            value.wait_to_read()
            for copy in parameter.list_data():
                value.copyto(copy)
        mx.nd.waitall()

    def check_same(self, what: str, arrays: Mapping[str, np.ndarray]) -> None:
        """See Workers."""
        prints = [_digits(zlib.crc32(np.ascontiguousarray(array).tobytes()))[:2] for array in arrays.values()]
        rows = self.gather(what, np.array(prints))
        for rank, index in np.argwhere((rows != rows[0]).any(axis=2))[:1]:
            raise UserError(f"{what}: worker {rank} holds another {list(arrays)[index]} than worker 0; check that all "
                            "workers run the same program on the same files, and go on with --resume")

    def alive(self, patience: float = 1.0) -> None:
        """See Workers."""
        self._watchdog.alive(patience)


def _stall_seconds() -> float:
    text = os.environ.get(STALL_VARIABLE, str(STALL_SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UserError(f"{STALL_VARIABLE}: '{text}' must be seconds above zero")
    return seconds


def _digits(number: int) -> List[int]:
    """A number below 2**64 in four digits of 16 bits, lowest first: float32 holds each exactly."""
    return [(number >> (16 * place)) & 0xFFFF for place in range(4)]


def _packed(data: bytes) -> np.ndarray:
    triples = np.zeros((_CHUNK, 3), np.uint8)
    triples.reshape(-1)[: len(data)] = np.frombuffer(data, np.uint8)
    return triples @ np.array([1, 2**8, 2**16], np.float32)


def _unpacked(floats: np.ndarray) -> bytes:
    whole = floats.astype("<u4")
    return whole.view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
