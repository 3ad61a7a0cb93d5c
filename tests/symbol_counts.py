"""Parameters, multiply-adds and memory access counted on a traced Symbol: an oracle for dso_nas.architecture.cost.

Nothing of the package is used: shapes are MXNet's own, and a layer is what a Symbol's node says of itself.
"""

from __future__ import annotations

import json
from typing import Any, Dict, Iterator, List, NamedTuple, Tuple

import numpy as np

Shape = Tuple[int, ...]
Counts = Dict[str, Tuple[int, int, int]]
# What a weight begins with that nothing feeds: the mean's, of an average pool that is computed as a convolution.
CONSTANTS = ("_full", "_ones")


class Node(NamedTuple):
    """One node of a graph: what it does, the nodes it reads and the shape of its first output."""

    op: str
    name: str
    inputs: List[int]
    shape: Shape


def nodes_of(symbol: Any, **shapes: Shape) -> List[Node]:
    """Every node of a graph with MXNet's shapes, given those of its inputs."""
    graph = json.loads(symbol.tojson())
    internals = symbol.get_internals()
    arguments, outputs, auxiliary = internals.infer_shape(**shapes)
    known = dict(zip(internals.list_outputs(), outputs))
    known.update(zip(internals.list_arguments(), arguments))
    known.update(zip(internals.list_auxiliary_states(), auxiliary))
    found = []
    for node in graph["nodes"]:
        name = node["name"]
        shape = next(known[key] for key in (name, f"{name}_output", f"{name}_output0") if key in known)
        found.append(Node(node["op"], name, [entry[0] for entry in node["inputs"]], shape))
    return found


def count(symbol: Any, batch_norm: bool = False, bias: bool = False, **shapes: Shape) -> Counts:
    """(parameters, multiply-adds, memory access) of every layer, for one image: shapes have a batch of 1.

    A layer bears its weight's name; a pool that of the BatchNorm that reads it, or its own. Memory access is
    ShuffleNet V2's: elements read, written and of the weights. BatchNorm's scales and shifts, and biases, on request.
    """
    nodes = nodes_of(symbol, **shapes)
    counts: Counts = {}
    for name, layer in _layers(nodes, batch_norm, bias):
        assert name not in counts, f"two layers are called {name}"
        counts[name] = layer
    return counts


def total(counts: Counts) -> Tuple[int, int, int]:
    """The sum over all layers."""
    return tuple(int(value) for value in np.sum(list(counts.values()), axis=0))


def _is_constant(nodes: List[Node], node: Node) -> bool:
    return node.op in CONSTANTS or (bool(node.inputs) and all(_is_constant(nodes, nodes[at]) for at in node.inputs))


def _layers(nodes: List[Node], batch_norm: bool, bias: bool) -> Iterator[Tuple[str, Tuple[int, int, int]]]:
    for position, node in enumerate(nodes):
        inputs = [nodes[index] for index in node.inputs]
        if node.op == "BatchNorm" and batch_norm:
            yield inputs[1].name[: -len("_gamma")], (_size(inputs[1]) + _size(inputs[2]), 0, 0)
        elif node.op in ("Pooling", "mean"):
            yield _read_by(nodes, position), (0, 0, _size(inputs[0]) + _size(node))
        elif node.op in ("Convolution", "FullyConnected"):
            data, weight = inputs[:2]
            if _is_constant(nodes, weight):
                yield _read_by(nodes, position), (0, 0, _size(data) + _size(node))
                continue
            assert weight.op == "null", f"{node.name} has a weight that is computed"
            weights, added = _size(weight), _size(inputs[2]) if bias and len(inputs) > 2 else 0
            multiply_adds = _size(node) * weights // node.shape[1]
            yield weight.name[: -len("_weight")], (weights + added, multiply_adds, _size(data) + _size(node) + weights)


def _size(node: Node) -> int:
    return int(np.prod(node.shape))


def _read_by(nodes: List[Node], position: int) -> str:
    for reader in nodes:
        if reader.op == "BatchNorm" and reader.inputs[0] == position:
            return nodes[reader.inputs[1]].name[: -len("_bn_gamma")]
    return nodes[position].name
