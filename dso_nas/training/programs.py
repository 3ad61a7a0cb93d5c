"""Networks as static graphs: MXNet's symbolic executor, bound to the arrays of Gluon's parameters.

A Gluon block, compiled or not, sends its operators to MXNet's engine one by one in every step, from Python's thread,
which takes its time on the cores that compute. A static graph is planned once and sent off in one piece.

While a graph is traced, blocks can ask which weights it learns (`learns`) and whether it is to train on the CPU
(`trains_on_cpu`), and choose the operators by that; outside, the answer to both is no. And they can give it arrays that
never change (`constant`), which are then not made anew in every step.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Callable, Collection, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence

import mxnet as mx
import numpy as np


class _Tracing(NamedTuple):
    learned: Collection[str]
    on_cpu: bool
    constants: Optional[Dict[str, np.ndarray]]


_tracing = _Tracing((), False, None)


def learns(name: str) -> bool:
    """Whether the graph that is being traced has a gradient for the parameter `name`."""
    return name in _tracing.learned


def has_gradients() -> bool:
    """Whether the graph that is being traced has a gradient for any parameter."""
    return bool(_tracing.learned)


def trains_on_cpu() -> bool:
    """Whether the graph that is being traced is to run in training mode on the CPU."""
    return _tracing.on_cpu


def in_rows(F: Any, x: Any) -> Any:
    """`x` (B, C, H, W) and its gradient as they are, in the plain layout.

    For training on the CPU, before operators that oneDNN does not have: they would bring them into that layout
    themselves, and a static graph would keep their copies. Only oneDNN's operators do that without.
    """
    return F.transpose(x, axes=(0, 1, 2, 3)) if trains_on_cpu() else x


def constant(values: np.ndarray) -> Optional[mx.sym.Symbol]:
    """An input of the graph that is being traced, whose value is always this; None outside."""
    known = _tracing.constants
    if known is None:
        return None
    name = f"constant{len(known)}"
    known[name] = values
    return mx.sym.var(name, shape=values.shape, dtype=values.dtype)


@contextmanager
def tracing(learned: Collection[str], on_cpu: bool) -> Iterator[Dict[str, np.ndarray]]:
    """Let blocks know which parameters the graph that is traced in the with-block learns, and where.

    Yields what holds the values of the constants that they give it.
    """
    global _tracing
    constants: Dict[str, np.ndarray] = {}
    before, _tracing = _tracing, _Tracing(learned, on_cpu, constants)
    try:
        yield constants
    finally:
        _tracing = before


class Traced(NamedTuple):
    """A network, or part of one, as a Symbol, and the values of the constants among its inputs."""

    symbol: mx.sym.Symbol
    constants: Mapping[str, np.ndarray]


def trace(run: Callable[..., Any], inputs: Sequence[str], learned: Collection[str], context: mx.Context) -> Traced:
    """`run`, called with a variable for each of `inputs`, for a graph on `context` that learns `learned`."""
    with tracing(learned, context.device_type == "cpu") as constants:
        outputs = run(*map(mx.sym.var, inputs))
    return Traced(mx.sym.Group(list(outputs)) if isinstance(outputs, (list, tuple)) else outputs, constants)


class Program:
    """A traced network, or part of one, as a static graph for training on one device.

    `arrays` are what it reads and learns, by name: inputs and constants, whose values it takes when it runs, parameters
    and statistics. `gradients` are what gradients go into, of the names in `requests`, each 'write' or 'add'. Programs
    that never run at the same time can use the same memory: `shared` is the first of them.
    """

    def __init__(self, symbol: mx.sym.Symbol, arrays: Mapping[str, Any], gradients: Mapping[str, Any],
                 requests: Mapping[str, str], context: mx.Context, shared: Optional[Program] = None) -> None:
        names = symbol.list_arguments()
        statistics = {name: arrays[name] for name in symbol.list_auxiliary_states()}
        wanted = {name: gradients[name] for name in names if name in requests}
        # A graph without gradients MXNet takes for one that is used for inference, and rewrites it; the gradient of the
        # last parameter needs the least.
        wanted = wanted or {names[-1]: arrays[names[-1]].copy()}
        how = {name: requests.get(name, "write") if name in wanted else "null" for name in names}
        self._executor: Any = symbol.bind(context, {name: arrays[name] for name in names}, wanted, how, statistics,
                                          shared_exec=None if shared is None else shared._executor)

    def forward(self) -> List[Any]:
        """Run in training mode; the outputs are overwritten by the next run, of a program that shares memory too."""
        return self._executor.forward(is_train=True)

    def backward(self, heads: Sequence[Any] = ()) -> None:
        """Compute gradients from those of the outputs, behind a forward run of this program and no other's.

        Outputs that are losses themselves need none.
        """
        self._executor.backward(list(heads))
