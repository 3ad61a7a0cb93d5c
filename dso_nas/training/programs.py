"""Networks as static graphs: MXNet's symbolic executor, bound to the arrays of Gluon's parameters.

A Gluon block, compiled or not, sends its operators to MXNet's engine one by one in every step, from Python's thread, which
takes its time on the cores that compute. A static graph is planned once and sent off in one piece.

While a graph is traced, blocks can ask which weights it learns (`learns`) and whether it is to train on the CPU
(`trains_on_cpu`), and choose the operators by that. Outside, the answer to both is no.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import Any, Callable, Collection, Iterator, List, Mapping, NamedTuple, Optional, Sequence

import mxnet as mx


class _Tracing(NamedTuple):
    learned: Collection[str]
    on_cpu: bool


_tracing = _Tracing((), False)


def learns(name: str) -> bool:
    """Whether the graph that is being traced has a gradient for the parameter `name`."""
    return name in _tracing.learned


def has_gradients() -> bool:
    """Whether the graph that is being traced has a gradient for any parameter."""
    return bool(_tracing.learned)


def trains_on_cpu() -> bool:
    """Whether the graph that is being traced is to run in training mode on the CPU."""
    return _tracing.on_cpu


@contextmanager
def tracing(learned: Collection[str], on_cpu: bool) -> Iterator[None]:
    """Let blocks know which parameters the graph that is traced in the with-block learns, and where."""
    global _tracing
    before, _tracing = _tracing, _Tracing(learned, on_cpu)
    try:
        yield
    finally:
        _tracing = before


class Program:
    """A traced network, or part of one, as a static graph for training on one device.

    `arrays` are what it reads and learns, by name: of inputs, whose values it takes when it runs, and of parameters and
    statistics. `gradients` are the arrays that gradients go into, of the names in `requests`, each 'write' or 'add'.
    Programs that never run at the same time can use the same memory: `shared` is the first of them.
    """

    def __init__(self, symbol: mx.sym.Symbol, arrays: Mapping[str, Any], gradients: Mapping[str, Any],
                 requests: Mapping[str, str], context: mx.Context, shared: Optional[Program] = None) -> None:
        names = symbol.list_arguments()
        statistics = {name: arrays[name] for name in symbol.list_auxiliary_states()}
        wanted = {name: gradients[name] for name in names if name in requests}
        # A graph without gradients MXNet takes for one that is used for inference, and rewrites it; the last parameter's
        # needs the least.
        wanted = wanted or {names[-1]: arrays[names[-1]].copy()}
        self._executor = symbol.bind(context, {name: arrays[name] for name in names}, wanted,
                                     {name: requests.get(name, "write") if name in wanted else "null" for name in names},
                                     statistics, shared_exec=None if shared is None else shared._executor)

    def forward(self) -> List[Any]:
        """Run in training mode; the outputs are overwritten by the next run, of a program that shares memory too."""
        return self._executor.forward(is_train=True)

    def backward(self, heads: Sequence[Any]) -> None:
        """Compute gradients from those of the outputs, behind a forward run of this program and no other's."""
        self._executor.backward(list(heads))

def structure(symbol: mx.sym.Symbol) -> str:
    """What two symbols have in common that compute the same of other inputs and parameters, whatever their names."""
    graph = json.loads(symbol.tojson())
    nodes = [[node["op"], node.get("attrs") if node["op"] != "null" else None, node["inputs"]]
             for node in graph["nodes"]]
    return json.dumps([nodes, graph["heads"]], sort_keys=True)


def trace(run: Callable[..., Any], inputs: Sequence[str], learned: Collection[str],
          context: mx.Context) -> mx.sym.Symbol:
    """The Symbol of `run`, called with a variable for each of `inputs`, for a graph on `context` that learns `learned`."""
    with tracing(learned, context.device_type == "cpu"):
        outputs = run(*map(mx.sym.var, inputs))
    return mx.sym.Group(list(outputs)) if isinstance(outputs, (list, tuple)) else outputs
