"""Several devices, of one worker or many: choosing them, sharing a batch out, and summing gradients."""

from __future__ import annotations

import os
from typing import List, Optional, Sequence

import mxnet as mx
import numpy as np
from mxnet.gluon import Parameter

from dso_nas.errors import UserError
from dso_nas.training.distributed import SummingStore
from dso_nas.training.workers import DEVICE_STORES, WORKER_STORES, Workers, workers

# The scratch buffers that MXNet's operators on the CPU share.
BUFFERS_VARIABLE, BUFFERS = "MXNET_CPU_TEMP_COPY", 4096


def choose_contexts(gpus: Optional[str] = None, cpus: Optional[int] = None,
                    dtype: str = "float32") -> List[mx.Context]:
    """Contexts for `--gpus 0,1` or `--cpus N`; without either all GPUs, else one CPU.

    Raises:
        UserError: both are given, a GPU that is not there, a count below one; a CPU, and training in float16.
    """
    contexts = _chosen(gpus, cpus)
    if dtype == "float16" and contexts[0].device_type == "cpu":
        raise UserError("--dtype float16: needs a GPU, MXNet has no float16 Convolution or FullyConnected for the CPU; "
                        "give --gpus, or --dtype float32")
    return contexts


def _chosen(gpus: Optional[str], cpus: Optional[int]) -> List[mx.Context]:
    if gpus is not None and cpus is not None:
        raise UserError("--gpus and --cpus: give one of them")
    if gpus is not None:
        return [mx.gpu(index) for index in _gpu_indices(gpus)]
    if cpus is not None:
        if cpus < 1:
            raise UserError(f"--cpus {cpus}: must be at least 1")
        return [mx.cpu(index) for index in range(cpus)]
    return [mx.gpu(index) for index in range(_gpu_count())] or [mx.cpu()]


def _gpu_indices(text: str) -> List[int]:
    try:
        indices = [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--gpus {text}: must be indices like 0,1") from None
    present = _gpu_count()
    for index in indices:
        if not 0 <= index < present:
            raise UserError(f"--gpus {text}: MXNet sees {present} GPUs here, use --cpus 1 or install a CUDA build "
                            "(requirements-cu112.txt) and driver")
    if len(set(indices)) != len(indices):
        raise UserError(f"--gpus {text}: names one device twice")
    return indices


def _gpu_count() -> int:
    try:
        return mx.context.num_gpus()
    except mx.MXNetError:
        return 0


def check_can_synchronise(contexts: Sequence[mx.Context]) -> None:
    """Make sure that BatchNorms may wait for each other on these devices (`sync_batch_norm`).

    MXNet gives all CPU devices the same few scratch buffers in turn, and an operator waits for the one that had its
    buffer before. Where that one waits for another device's BatchNorm the process hangs, unless there are more buffers
    than operators on their way.

    Raises:
        UserError: several CPU devices, and too few buffers.
    """
    buffers = os.environ.get(BUFFERS_VARIABLE, "")
    if len(contexts) > 1 and contexts[0].device_type == "cpu" and not (buffers.isdigit() and int(buffers) >= BUFFERS):
        raise UserError(f"sync_batch_norm: on several CPU devices MXNet hangs with few scratch buffers; set "
                        f"{BUFFERS_VARIABLE}={BUFFERS} in the environment before the start")


def share_out(array: np.ndarray, contexts: Sequence[mx.Context]) -> List[mx.nd.NDArray]:
    """Cut a batch along its first axis into one part per context, the first ones one longer where it does not divide.

    Raises:
        UserError: fewer images than contexts.
    """
    if len(array) < len(contexts):
        raise UserError(f"--batch-size: a batch of {len(array)} cannot be shared by {len(contexts)} devices")
    return [mx.nd.array(part, ctx=ctx) for part, ctx in zip(np.array_split(array, len(contexts)), contexts)]


class GradientExchange:
    """Shares batches out and sums the gradients of a step over all devices of all workers, in place.

    MXNet's Trainer is not given the kvstore: each device then makes the same step from the same sum, and several
    optimizers can share one store.

    Raises:
        UserError: no kvstore for more than one device, which would train each by itself; workers with different
            numbers of devices.
    """

    def __init__(self, kvstore: Optional[str], contexts: Sequence[mx.Context]) -> None:
        self._contexts = list(contexts)
        self.workers = workers() if kvstore in WORKER_STORES else Workers()
        self._store: Optional[SummingStore] = self.workers.store
        if kvstore in WORKER_STORES:
            self._check_devices(kvstore)
        elif len(contexts) > 1:
            if kvstore not in DEVICE_STORES:
                raise UserError(f"--kvstore {kvstore}: must be local or device for {len(contexts)} devices")
            self._store = SummingStore(mx.kv.create(kvstore))

    def _check_devices(self, kvstore: Optional[str]) -> None:
        if self._store is None:
            raise UserError(f"--kvstore {kvstore}: this process has not joined any workers (training.workers.joined)")
        counts = self.workers.gather("devices", np.array(len(self._contexts)))
        if len(set(counts)) > 1:
            listed = ", ".join(str(int(count)) for count in counts)
            raise UserError(f"--gpus, --cpus: the workers have {listed} devices, give each the same number")

    @property
    def devices(self) -> int:
        """Devices of all workers together."""
        return self.workers.count * len(self._contexts)

    def own_part(self, batch: np.ndarray) -> np.ndarray:
        """This worker's part of a batch that every worker has, such that each device of all gets its share of it.

        Raises:
            UserError: fewer images than devices.
        """
        if len(batch) < self.devices:
            raise UserError(f"--batch-size: a batch of {len(batch)} cannot be shared by {self.devices} devices")
        first = self.workers.rank * len(self._contexts)
        return np.concatenate(np.array_split(batch, self.devices)[first : first + len(self._contexts)])

    def agree(self, parameters: Sequence[Parameter]) -> None:
        """Give all workers the first one's values of `parameters`; they must not have been used for a step yet."""
        self.workers.agree(parameters)

    def sum_gradients(self, parameters: Sequence[Parameter]) -> None:
        """Replace each device's gradient by the sum over all workers' devices."""
        if self._store is not None:
            names = [f"gradient {parameter.name}" for parameter in parameters]
            self._store.sum(names, [parameter.list_grad() for parameter in parameters])

    def average(self, parameters: Sequence[Parameter]) -> None:
        """Give every device the mean of all devices' values."""
        if self.devices == 1:
            return
        means = {p.name: sum(copy.asnumpy() for copy in p.list_data()) / len(self._contexts) for p in parameters}
        for parameter, mean in zip(parameters, self.workers.mean(means).values()):
            parameter.set_data(mx.nd.array(mean))
