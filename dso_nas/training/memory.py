"""Forward and backward through a chain of segments, with or without keeping what is inside them.

Memory mirroring (the paper's "GPU memory-saving technique", section 4.1): a group of segments runs once, only its input
is kept, and in the backward pass it runs again, from the last group to the first. All groups use the same memory. Which
groups there are is planned in `dso_nas.architecture.memory_plan`.
"""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any, Callable, Collection, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

import mxnet as mx
from mxnet.gluon import HybridBlock

from dso_nas.architecture.memory_plan import Group, block_groups
from dso_nas.training.programs import Program, structure, trace

__all__ = ["Chain", "Group", "block_groups"]

_DATA, _PATHS = "data", "paths"
_STATISTICS = ("running_mean", "running_var")


class _Part(NamedTuple):
    """A function from the map before some segments to the one behind, and the parameters that it reads."""

    run: Callable[..., Any]
    names: Set[str]


class _Arrays(NamedTuple):
    """What a part reads, by name in the order of its symbol's inputs, and what gradients go into; None: any array."""

    values: Dict[str, Any]
    gradients: Dict[str, Optional[Any]]

    @property
    def shapes(self) -> Tuple[Any, ...]:
        """What two parts must have in common that run in one program: shapes, and which gradients are wanted."""
        return tuple((array.shape, name in self.gradients) for name, array in self.values.items())


class Chain:
    """A network's training steps on one device: on inputs of one shape, with gradients of some parameters.

    `inputs` are arrays like those that `forward` takes: images (B, C, H, W) and maybe drop-path multipliers (B, paths).
    `names` are the parameters that get gradients. `groups` are ranges over the segments from the first on, in order,
    that are mirrored; what is behind the last one (the head at least) is kept and runs once. Without any everything is
    kept. Mirrored segments must not draw random numbers, and read no multipliers. Chains that never run at the same
    time can use the same memory: `shared` is the `root` of the first of them.
    """

    def __init__(self, network: Any, inputs: Sequence[Any], names: Collection[str],
                 groups: Optional[Sequence[Group]] = None, shared: Optional[Program] = None) -> None:
        self._context = inputs[0].context
        self._parameters = network.collect_params()
        parts = _parts(network, groups or ())
        counts = Counter(name for part in parts for name in part.names)
        self._requests = {name: "add" if counts[name] > 1 else "write" for name in names}
        # Parts before the first one with a wanted parameter take no part in the backward pass.
        self._first = next(index for index, part in enumerate(parts) if not part.names.isdisjoint(names))
        self._again = set().union(*(part.names for part in parts[self._first : -1]))
        self._inputs = [mx.nd.empty(like.shape, self._context, like.dtype) for like in inputs]
        variables = [[_DATA, _PATHS][: len(inputs)]] + [[_DATA]] * (len(parts) - 1)
        symbols = [trace(part.run, each, names, self._context) for part, each in zip(parts, variables)]
        # What runs again runs first without gradients, by the operators that are fastest then.
        self._ahead = [trace(part.run, each, (), self._context) for part, each in zip(parts[:-1], variables)]
        self._maps = _maps(symbols, self._inputs[0])
        self._runners = self._bind(symbols, shared)

    @property
    def root(self) -> Program:
        """The program whose memory all others use."""
        return self._root

    def forward(self, *inputs: Any) -> List[Any]:
        """The network's outputs in training mode; the next pass overwrites them."""
        for array, own in zip(inputs, self._inputs):
            array.copyto(own)
        saved = self._gpu_statistics()
        for runner, following in zip(self._runners, self._maps[1:]):
            runner.ahead()[0].copyto(following)
        for array, value in saved:
            array[:] = value
        return self._runners[-1].forward()

    def backward(self, heads: Sequence[Any]) -> None:
        """Write the parameters' gradients, behind `forward`; `heads` are the gradients of its outputs."""
        for name, request in self._requests.items():
            if request == "add":
                self._parameters[name].grad(self._context)[:] = 0
        gradient = self._runners[-1].backward(heads)
        for runner in reversed(self._runners[self._first : -1]):
            runner.forward()
            gradient = runner.backward([gradient])

    def _bind(self, symbols: Sequence[Any], shared: Optional[Program]) -> List[_Runner]:
        """One program for all parts of the same structure; the largest maps first: others find room in their memory."""
        arrays = [self._arrays(symbol, index) for index, symbol in enumerate(symbols)]
        alike: Dict[Any, List[int]] = {}
        for index, symbol in enumerate(symbols):
            alike.setdefault((structure(symbol), arrays[index].shapes), []).append(index)
        runners: Dict[int, _Runner] = {}
        for indices in sorted(alike.values(), key=lambda several: -self._maps[several[0]].size):
            places = _places([arrays[index] for index in indices], self._requests)
            program = Program(symbols[indices[0]], *places, self._context, shared)
            shared = shared or program
            ahead = [Program(symbol, places.values, {}, {}, self._context, shared)
                     for symbol in self._ahead[indices[0] : indices[0] + 1]]
            for index in indices:
                runners[index] = _Runner(program, ahead, arrays[index], places, self._requests)
        assert shared is not None
        self._root = shared
        return [runners[index] for index in range(len(symbols))]

    def _arrays(self, symbol: Any, index: int) -> _Arrays:
        inputs = {**dict(zip([_DATA, _PATHS], self._inputs)), _DATA: self._maps[index]}
        names = symbol.list_arguments() + symbol.list_auxiliary_states()
        values = {name: inputs[name] if name in inputs else self._parameters[name].data(self._context) for name in names}
        gradients = {name: self._parameters[name].grad(self._context) if name in self._requests else None
                     for name in names if name in self._requests or (name == _DATA and index > self._first)}
        return _Arrays(values, gradients)

    def _gpu_statistics(self) -> List[Tuple[Any, Any]]:
        """Copies of the statistics of what runs again, on a GPU: cuDNN updates them in every forward pass."""
        if self._context.device_type != "gpu":
            return []
        arrays = [self._parameters[name].data(self._context) for name in sorted(self._again)
                  if name.endswith(_STATISTICS)]
        return [(array, array.copy()) for array in arrays]


class _Places(NamedTuple):
    """A program's arrays by name, those for its gradients, and how these are written."""

    values: Dict[str, Any]
    gradients: Dict[str, Any]
    requests: Dict[str, str]


def _places(parts: Sequence[_Arrays], requests: Mapping[str, str]) -> _Places:
    """For a program of parts of the same structure: the arrays that they have in common, and others like theirs."""
    places = _Places({}, {}, {})
    for name, several in zip(parts[0].values, zip(*(part.values.values() for part in parts))):
        common = all(array is several[0] for array in several)
        places.values[name] = several[0] if common else several[0].copy()
        if name in parts[0].gradients:
            own = parts[0].gradients[name] if common else None
            places.gradients[name] = places.values[name].copy() if own is None else own
            places.requests[name] = "write" if own is None else requests[name]
    return places


class _Runner:
    """A part of the network in a program that it may have in common with others of its structure.

    What differs from them is copied into the program's arrays before a run, and out of them behind the backward pass.
    `aheads` is a program for a first forward pass, if there is one.
    """

    def __init__(self, program: Program, aheads: Sequence[Program], own: _Arrays, places: _Places,
                 requests: Mapping[str, str]) -> None:
        self._program = program
        self._aheads = aheads
        pairs = [(name, array, place) for (name, array), place in zip(own.values.items(), places.values.values())
                 if array is not place]
        self._statistics = [(array, place) for name, array, place in pairs if name.endswith(_STATISTICS)]
        self._loads = [(array, place) for name, array, place in pairs if not name.endswith(_STATISTICS)]
        gradients = [(name, array, place) for (name, array), place in zip(own.gradients.items(), places.gradients.values())
                     if array is not None and array is not place]
        self._added = [(array, place) for name, array, place in gradients if requests[name] == "add"]
        self._written = [(array, place) for name, array, place in gradients if requests[name] == "write"]
        self._below = places.gradients.get(_DATA)

    def ahead(self) -> List[Any]:
        """The outputs, which the next run overwrites, of a part that runs again if a gradient goes through it."""
        self._load(self._loads)
        return self._aheads[0].forward()

    def forward(self) -> List[Any]:
        """The outputs, which the next run overwrites."""
        self._load(self._loads + self._statistics)
        return self._program.forward()

    def backward(self, heads: Sequence[Any]) -> Any:
        """Write the gradients of the parameters, and return that of the input, if it is wanted."""
        self._program.backward(heads)
        for array, place in self._written + self._statistics:
            place.copyto(array)
        for array, place in self._added:
            array += place
        return self._below

    @staticmethod
    def _load(pairs: Sequence[Tuple[Any, Any]]) -> None:
        for array, place in pairs:
            array.copyto(place)


def _parts(network: Any, groups: Sequence[Group]) -> List[_Part]:
    if not groups:
        return [_Part(network, set(network.collect_params()))]
    segments = network.segments
    chains = [segments[start:stop] for start, stop in [*groups, (groups[-1][1], len(segments))]]
    return [_Part(functools.partial(_run, chain), {name for segment in chain for name in segment.collect_params()})
            for chain in chains]


def _run(segments: Sequence[HybridBlock], data: Any) -> Any:
    for segment in segments:
        data = segment(data)
    return data


def _maps(symbols: Sequence[Any], data: Any) -> List[Any]:
    """An array for what each part reads: the network's input, and what the part before gives."""
    maps = [data]
    for symbol in symbols[:-1]:
        shape = symbol.infer_shape_partial(**{_DATA: maps[-1].shape})[1][0]
        maps.append(mx.nd.empty(shape, data.context, data.dtype))
    return maps
