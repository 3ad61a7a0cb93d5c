"""Several devices: choosing them, sharing a batch out, and summing gradients over a kvstore."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence

import mxnet as mx
import numpy as np
from mxnet.gluon import Parameter

from dso_nas.errors import UserError


def choose_contexts(gpus: Optional[str] = None, cpus: Optional[int] = None) -> List[mx.Context]:
    """Contexts for `--gpus 0,1` or `--cpus N`; without either all GPUs, else one CPU.

    Raises:
        UserError: both are given, a GPU that is not there, a count below one.
    """
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


def share_out(array: np.ndarray, contexts: Sequence[mx.Context]) -> List[mx.nd.NDArray]:
    """Cut a batch along its first axis into one part per context, the first ones one longer where it does not divide.

    Raises:
        UserError: fewer images than contexts.
    """
    if len(array) < len(contexts):
        raise UserError(f"--batch-size: a batch of {len(array)} cannot be shared by {len(contexts)} devices")
    return [mx.nd.array(part, ctx=ctx) for part, ctx in zip(np.array_split(array, len(contexts)), contexts)]


class GradientExchange:
    """Sums the gradients of a step over all devices, in place.

    MXNet's Trainer is not given the kvstore: each device then makes the same step from the same sum, and several
    optimizers can share one store.

    Raises:
        UserError: no kvstore for more than one device, which would train each by itself.
    """

    def __init__(self, kvstore: Optional[str], contexts: Sequence[mx.Context]) -> None:
        self._store = None
        self._keys: Dict[str, str] = {}
        if len(contexts) > 1:
            if kvstore not in ("local", "device"):
                raise UserError(f"--kvstore {kvstore}: must be local or device for {len(contexts)} devices")
            self._store = mx.kv.create(kvstore)

    def sum_gradients(self, parameters: Sequence[Parameter]) -> None:
        """Replace each device's gradient by the sum over devices."""
        if self._store is None:
            return
        for priority, parameter in enumerate(parameters):
            gradients = parameter.list_grad()
            key = self._key(parameter, gradients[0])
            self._store.pushpull(key, gradients, priority=-priority)

    def _key(self, parameter: Parameter, like: Any) -> str:
        if parameter.name not in self._keys:
            key = f"gradient/{len(self._keys)}"
            self._store.init(key, mx.nd.zeros_like(like))
            self._keys[parameter.name] = key
        return self._keys[parameter.name]
