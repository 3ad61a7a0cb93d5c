"""The connections that a symbol file's own graph makes, read from the graph: nothing of ours goes into it."""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

from dso_nas.architecture.genotype import BlockGenotype, Genotype
from dso_nas.architecture.topology import INPUT, REDUCTION_OPERATIONS, BlockTopology, NetworkSpec, Node, Unit

Connection = Tuple[str, Node, str]


def read_wiring(nodes: Sequence[Mapping[str, Any]], spec: NetworkSpec) -> Optional[Genotype]:
    """The genotype (scope full) of a graph of `spec`, or None where the graph does not show it.

    It does not where all inputs of a level are one contraction with its lambdas, as in our own supernets.
    Connections of a supernet count whatever their lambdas are.
    """
    graph = _Graph(nodes)
    blocks = {}
    for unit in spec.block_units():
        block = graph.block(spec.topology, unit)
        if block is None or block.find_problem():
            return None
        blocks[unit.name] = block
    reductions = tuple(
        tuple(name for name in REDUCTION_OPERATIONS if f"{unit.name}_{name}_weight" in graph.variables)
        for unit in spec.reduction_units()
    )
    if not all(reductions):
        return None
    return Genotype(spec.topology, "full", blocks, reductions, {"from": "symbol file"})


def connections(genotype: Genotype, spec: NetworkSpec) -> Set[Connection]:
    """Every connection of a network as (unit, node, source), 'output' being the way to the block's output."""
    found: Set[Connection] = set()
    for unit in spec.block_units():
        block = genotype.block(unit)
        found |= {
            (unit.name, node, str(source)) for node, inputs in block.connections.items() for source in inputs
        }
        found |= {(unit.name, node, "output") for node in block.outputs}
    for unit in spec.reduction_units():
        found |= {(unit.name, INPUT, name) for name in genotype.reduction(unit)}
    return found


class _Graph:
    def __init__(self, nodes: Sequence[Mapping[str, Any]]) -> None:
        self._nodes = nodes
        self.variables = {node["name"]: index for index, node in enumerate(nodes) if node["op"] == "null"}
        self._readers: Dict[int, int] = {}
        for index, node in enumerate(nodes):
            for source in node["inputs"]:
                self._readers.setdefault(source[0], index)

    def block(self, topology: BlockTopology, unit: Unit) -> Optional[BlockGenotype]:
        ends = dict(self._ends(topology, unit))
        connections: Dict[Node, Tuple[Node, ...]] = {}
        for index, node in ends.items():
            if node[0] > 1:
                sources = self._sources(self._start(index, topology, unit, node), ends)
                if not sources:
                    return None
                connections[node] = tuple(sorted(sources))
        outputs = [
            node
            for node in topology.nodes()
            if f"{unit.name}_output_conv_{topology.output_index(node) + 1}_weight" in self.variables
        ]
        return BlockGenotype({node: connections[node] for node in sorted(connections)}, tuple(outputs))

    def _ends(self, topology: BlockTopology, unit: Unit) -> Iterator[Tuple[int, Node]]:
        """The BatchNorm every operation of the block ends in, by its index."""
        for node in topology.nodes():
            gamma = f"{_prefix(topology, unit, node)}_bn_gamma"
            if gamma in self.variables:
                yield self._readers[self.variables[gamma]], node

    def _start(self, end: int, topology: BlockTopology, unit: Unit, node: Node) -> int:
        """What goes into an operation."""
        depthwise = f"{_prefix(topology, unit, node)}_sep_weight"
        first = self._readers[self.variables[depthwise]] if depthwise in self.variables else self._input(end)
        return self._input(first)

    def _input(self, index: int) -> int:
        return self._nodes[index]["inputs"][0][0]

    def _sources(self, start: int, ends: Mapping[int, Node]) -> Set[Node]:
        """Operations of the block that reach `start` with none between; empty if that cannot be told."""
        found: Set[Node] = set()
        waiting: List[int] = [start]
        seen: Set[int] = set()
        while waiting:
            index = waiting.pop()
            node = self._nodes[index]
            if index in seen or (node["op"] == "null" and node["name"] != "data"):
                continue
            seen.add(index)
            if index in ends:
                found.add(ends[index])
            elif node["op"] == "BatchNorm" or node["op"] == "null":
                found.add(INPUT)
            elif node["op"] == "Convolution":
                return set()
            else:
                waiting.extend(source[0] for source in node["inputs"])
        return found


def _prefix(topology: BlockTopology, unit: Unit, node: Node) -> str:
    return f"{unit.name}_{node[0]}_{topology.operation(node).token}"
