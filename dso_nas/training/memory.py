"""Forward and backward through a chain of segments, with or without keeping what is inside them.

Memory mirroring (the paper's "GPU memory-saving technique", section 4.1): a group of segments runs once, only its input
is kept, and in the backward pass it runs again, from the last group to the first. All groups use the same memory. Which
groups there are is planned in `dso_nas.architecture.memory_plan`.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from typing import Any, Callable, Collection, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

import mxnet as mx
from mxnet.gluon import HybridBlock

from dso_nas.architecture.memory_plan import Group, block_groups
from dso_nas.training.programs import Program, Traced, in_rows, trace

__all__ = ["Chain", "Group", "block_groups"]

_DATA, _PATHS, _HEAD = "data", "paths", "head"


class _Part(NamedTuple):
    """A function from the map before some segments to the one behind, its inputs, and the parameters that it reads."""

    run: Callable[..., Any]
    inputs: Sequence[str]
    names: Set[str]


class _FirstRun(NamedTuple):
    """A program that gives what a part gives, and what is copied before it runs: (value, into which array)."""

    program: Program
    copies: Sequence[Tuple[Any, Any]]


class _Steps(NamedTuple):
    """What moves one set of parameters: a program for each part, and the first part that has a parameter of the set.

    `added` are parameters that several parts read.
    """

    first: int
    programs: List[Program]
    added: Sequence[str]


class Chain:
    """A network's training steps on one device, on inputs of one shape.

    `inputs` are arrays like those that `forward` takes: images (B, C, H, W) and maybe drop-path multipliers (B, paths).
    `groups` are ranges over the segments from the first on, in order, that are mirrored; what is behind the last one
    (the head at least) is kept and runs once. Without any everything is kept. Mirrored segments must not draw random
    numbers, and read no multipliers. Chains that never run at the same time can use the same memory: `shared` is the
    `root` of the first of them.
    """

    def __init__(self, network: Any, inputs: Sequence[Any], groups: Optional[Sequence[Group]] = None,
                 shared: Optional[Program] = None) -> None:
        self._context = inputs[0].context
        self._parameters = network.collect_params()
        self._parts = _parts(network, groups or (), [_DATA, _PATHS][: len(inputs)])
        self._inputs = [mx.nd.empty(like.shape, self._context, like.dtype) for like in inputs]
        self._maps = self._made_maps()
        self._gradients = _gradients(self._maps)
        self.root = shared
        self._first_runs: List[_FirstRun] = []
        self._steps: Dict[str, _Steps] = {}

    def has_group(self, name: str) -> bool:
        """Whether there are steps called `name`."""
        return name in self._steps

    def add_group(self, name: str, parameters: Collection[str]) -> None:
        """Let steps called `name` compute the gradients of `parameters`."""
        counts = Counter(read for part in self._parts for read in part.names)
        requests = {parameter: "add" if counts[parameter] > 1 else "write" for parameter in parameters}
        first = next(index for index, part in enumerate(self._parts) if not part.names.isdisjoint(requests))
        programs = [self._program(index, {**requests, _DATA: "write"} if index > first else requests)
                    for index in range(len(self._parts))]
        self._first_runs = self._first_runs or self._made_first_runs()
        added = [parameter for parameter, request in requests.items() if request == "add"]
        self._steps[name] = _Steps(first, programs, added)

    def forward(self, name: str, *inputs: Any) -> List[Any]:
        """The network's outputs in training mode, for a step of group `name`; the backward pass overwrites them."""
        for array, own in zip(inputs, self._inputs):
            array.copyto(own)
        first, programs, _ = self._steps[name]
        for index, following in enumerate(self._maps[1:]):
            program, copies = self._first_runs[index] if index >= first else _FirstRun(programs[index], ())
            for value, own in copies:
                value.copyto(own)
            program.forward()[0].copyto(following)
        return programs[-1].forward()

    def backward(self, name: str, heads: Sequence[Any]) -> None:
        """Write the group's gradients, behind its `forward`; `heads` are the gradients of the outputs."""
        first, programs, added = self._steps[name]
        for parameter in added:
            self._parameters[parameter].grad(self._context)[:] = 0
        programs[-1].backward(heads)
        for program in reversed(programs[first:-1]):
            program.forward()
            program.backward()

    def _made_maps(self) -> List[Any]:
        """An array for what each part reads: the network's input, and what the part before gives."""
        maps = [self._inputs[0]]
        for part in self._parts[:-1]:
            symbol = trace(part.run, part.inputs, (), self._context).symbol
            shape = symbol.infer_shape_partial(**{_DATA: maps[-1].shape})[1][0]
            maps.append(mx.nd.empty(shape, self._context, maps[-1].dtype))
        return maps

    def _program(self, index: int, requests: Mapping[str, str]) -> Program:
        """A program of part `index` with gradients, if it has parameters that are requested."""
        traced, arrays = self._traced(index, requests)
        gradients = {name: self._gradients[index] if name == _DATA else self._parameters[name].grad(self._context)
                     for name in requests}
        return self._bound(traced.symbol, arrays, gradients, requests)

    def _made_first_runs(self) -> List[_FirstRun]:
        """Programs without gradients of all parts but the last; those of the same structure have one together.

        What runs again must move the running statistics then, and only then (on a GPU every forward pass does): first
        runs have statistics of their own, whose values matter only to a BatchNorm that normalises by them. Maps lie
        where their gradients will.
        """
        made: Dict[Any, Tuple[Program, List[Any]]] = {}
        runs = []
        for index, like in enumerate(self._maps[:-1]):
            traced, arrays = self._traced(index, {})
            structure = _structure(traced.symbol)
            reads_statistics = '"use_global_stats": "True"' in structure
            read = traced.symbol.list_inputs() if reads_statistics else traced.symbol.list_arguments()
            names = [name for name in read if name not in traced.constants]
            key = like.shape, structure, *(values.tobytes() for values in traced.constants.values())
            if key not in made:
                own = {name: array if name in traced.constants else mx.nd.empty(array.shape, self._context, array.dtype)
                       for name, array in arrays.items() if name != _DATA}
                own[_DATA] = self._gradients[index] if index else like
                made[key] = self._bound(traced.symbol, own, {}, {}), [own[name] for name in names]
            program, places = made[key]
            copies = [(arrays[name], place) for name, place in zip(names, places) if arrays[name] is not place]
            runs.append(_FirstRun(program, copies))
        return runs

    def _traced(self, index: int, requests: Mapping[str, str]) -> Tuple[Traced, Dict[str, Any]]:
        """Part `index` as a graph with these gradients, and the arrays that it reads."""
        part, last = self._parts[index], index == len(self._parts) - 1
        learns = not part.names.isdisjoint(requests) or _DATA in requests
        heads = [_HEAD] if learns and not last else []
        run = part.run if last else functools.partial(_as_loss, part.run)
        traced = trace(run, [*part.inputs, *heads], requests, self._context)
        arrays = {name: self._parameters[name].data(self._context) for name in part.names}
        arrays.update(zip([_DATA, _PATHS], [self._maps[index], *self._inputs[1:]]))
        arrays.update(zip(heads, self._gradients[index + 1 :]))
        arrays.update({name: mx.nd.array(values, self._context, values.dtype)
                       for name, values in traced.constants.items()})
        return traced, arrays

    def _bound(self, symbol: mx.sym.Symbol, arrays: Mapping[str, Any], gradients: Mapping[str, Any],
               requests: Mapping[str, str]) -> Program:
        """A program in the memory of the first one that was made."""
        program = Program(symbol, arrays, gradients, requests, self._context, self.root)
        self.root = self.root or program
        return program


def _parts(network: Any, groups: Sequence[Group], inputs: Sequence[str]) -> List[_Part]:
    if not groups:
        return [_Part(network, inputs, set(network.collect_params()))]
    segments = network.segments
    chains = [segments[start:stop] for start, stop in [*groups, (groups[-1][1], len(segments))]]
    return [_Part(functools.partial(_run, chain), [_DATA],
                  {name for segment in chain for name in segment.collect_params()}) for chain in chains]


def _run(segments: Sequence[HybridBlock], data: Any) -> Any:
    for segment in segments:
        data = segment(data)
    return data


def _structure(symbol: mx.sym.Symbol) -> str:
    """All of a graph but the names in it."""
    graph = json.loads(symbol.tojson())
    for node in graph["nodes"]:
        del node["name"]
    return json.dumps(graph)


def _as_loss(run: Callable[..., Any], data: Any, head: Optional[Any] = None) -> Any:
    """What `run` gives, as a loss; times an array `head`, which so is the gradient of what `run` gives.

    Of any other output MXNet keeps an array for the gradient in every graph; `head` can be the same in all of them.
    """
    output = run(data)
    return mx.sym.MakeLoss(output if head is None else in_rows(mx.sym, output) * head)


def _gradients(maps: Sequence[Any]) -> List[Any]:
    """An array for the gradient of each map but the first, one for all of a shape: read before it is written."""
    buffers: Dict[Any, Any] = {}
    for like in maps[1:]:
        if like.shape not in buffers:
            buffers[like.shape] = mx.nd.empty(like.shape, like.context, like.dtype)
    return [None, *(buffers[like.shape] for like in maps[1:])]
