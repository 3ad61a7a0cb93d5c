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
from dso_nas.networks.blocks import in_rows
from dso_nas.training.programs import Program, trace

__all__ = ["Chain", "Group", "block_groups"]

_DATA, _PATHS, _HEAD = "data", "paths", "head"
_STATISTICS = ("running_mean", "running_var")


class _Part(NamedTuple):
    """A function from the map before some segments to the one behind, its inputs, and the parameters that it reads."""

    run: Callable[..., Any]
    inputs: Sequence[str]
    names: Set[str]


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
        added = [parameter for parameter, request in requests.items() if request == "add"]
        self._steps[name] = _Steps(first, programs, added)

    def forward(self, name: str, *inputs: Any) -> List[Any]:
        """The network's outputs in training mode, for a step of group `name`; the backward pass overwrites them."""
        for array, own in zip(inputs, self._inputs):
            array.copyto(own)
        first, programs, _ = self._steps[name]
        saved = self._gpu_statistics(first)
        for program, head, following in zip(programs, self._gradients[1:], self._maps[1:]):
            head[:] = 1
            program.forward()[0].copyto(following)
        if saved:
            mx.nd.waitall()
        for array, value in saved:
            array[:] = value
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
        """A program of part `index`, in the memory of the first one that was made."""
        part, following = self._parts[index], self._gradients[index + 1 :]
        traced = trace(_weighted(part.run) if following else part.run, [*part.inputs, *[_HEAD][: len(following)]],
                       requests, self._context)
        arrays = {name: self._parameters[name].data(self._context) for name in part.names}
        arrays.update(zip([_DATA, _PATHS], [self._maps[index], *self._inputs[1:]]))
        arrays.update(zip([_HEAD], following))
        arrays.update({name: mx.nd.array(values, self._context, values.dtype)
                       for name, values in traced.constants.items()})
        gradients = {name: self._gradients[index] if name == _DATA else self._parameters[name].grad(self._context)
                     for name in requests}
        program = Program(traced.symbol, arrays, gradients, requests, self._context, self.root)
        self.root = self.root or program
        return program

    def _gpu_statistics(self, first: int) -> List[Tuple[Any, Any]]:
        """Copies of the statistics of what runs again, on a GPU: cuDNN updates them in every forward pass."""
        if self._context.device_type != "gpu":
            return []
        # The engine does not know that graphs write them.
        mx.nd.waitall()
        again = set().union(*(part.names for part in self._parts[first:-1]))
        arrays = [self._parameters[name].data(self._context) for name in sorted(again) if name.endswith(_STATISTICS)]
        return [(array, array.copy()) for array in arrays]


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


def _weighted(run: Callable[..., Any]) -> Callable[..., Any]:
    """What `run` gives, times an array `head`, as a loss: the gradient of what `run` gives is `head`.

    Of any other output MXNet keeps an array for the gradient in every graph; `head` can be the same in all of them.
    """
    return lambda data, head: mx.sym.MakeLoss(in_rows(mx.sym, run(data)) * head)


def _gradients(maps: Sequence[Any]) -> List[Any]:
    """An array for the gradient of each map but the first, one for all of a shape: read before it is written."""
    buffers: Dict[Any, Any] = {}
    for like in maps[1:]:
        if like.shape not in buffers:
            buffers[like.shape] = mx.nd.empty(like.shape, like.context, like.dtype)
    return [None, *(buffers[like.shape] for like in maps[1:])]
