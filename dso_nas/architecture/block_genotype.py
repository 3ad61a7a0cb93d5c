"""The live connections of one block, and what would make them impossible."""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, Mapping, Optional, Sequence, Set, Tuple

import numpy as np

from dso_nas.architecture.topology import AFTER, INPUT, BlockTopology, Node
from dso_nas.errors import UserError


class GenotypeError(UserError):
    """A genotype that cannot be read or does not fit: one line naming the file and the key."""


@dataclasses.dataclass(frozen=True)
class BlockGenotype:
    """Live connections of one block.

    `connections` gives the inputs of every live operation of level 2 on ((0, 0) is the block's input);
    operations of level 1 take the block's input and are not listed. `outputs` are the nodes summed into the
    block's output.
    """

    connections: Mapping[Node, Tuple[Node, ...]]
    outputs: Tuple[Node, ...]

    @property
    def live_nodes(self) -> Tuple[Node, ...]:
        """Every operation that computes something, in level order."""
        used = set(self.connections).union(self.outputs, *self.connections.values())
        return tuple(sorted(used - {INPUT}))

    @property
    def is_empty(self) -> bool:
        """Whether the block is its shortcut alone."""
        return not self.outputs

    @property
    def num_connections(self) -> int:
        """Live lambdas: inputs of levels 2 on, and outputs."""
        return sum(len(inputs) for inputs in self.connections.values()) + len(self.outputs)

    def mask(self, topology: BlockTopology) -> np.ndarray:
        """Live entries of the packed lambda vector: bool, shape (num_connections,)."""
        vectors = {key: np.zeros(topology.size(key), bool) for key in topology.keys()}
        for node, inputs in self.connections.items():
            predecessors = topology.predecessors(node[0])
            vectors[node][[predecessors.index(source) for source in inputs]] = True
        vectors[AFTER][[topology.output_index(node) for node in self.outputs]] = True
        return topology.pack(vectors)

    @classmethod
    def from_mask(cls, topology: BlockTopology, mask: np.ndarray) -> BlockGenotype:
        """The block whose live lambdas are `mask`, bool of shape (num_connections,).

        Raises:
            ValueError: the mask holds a connection that cannot be used; prune it first.
        """
        vectors = topology.unpack(np.asarray(mask, bool))
        connections = {
            node: tuple(source for source, live in zip(topology.predecessors(node[0]), vectors[node]) if live)
            for node in topology.nodes()
            if node in vectors and vectors[node].any()
        }
        block = cls(connections, tuple(node for node, live in zip(topology.nodes(), vectors[AFTER]) if live))
        problem = block.find_problem()
        if problem:
            raise ValueError(f"the mask is not pruned: {problem[0]}: {problem[1]}")
        return block

    def find_problem(self) -> Optional[Tuple[str, str]]:
        """What makes the block impossible, as (key, reason), or None.

        An operation of level 2 on needs inputs, all live and of earlier levels, and a way to an output.
        """
        for node, inputs in self.connections.items():
            problem = self._input_problem(node, inputs)
            if problem:
                return f"operations.{node_name(node)}", problem
        for node in self.outputs:
            if not self._is_live(node):
                return "outputs", f"{node_name(node)} is dead, it has no inputs"
        useless = set(self.connections) - self._reaching()
        if useless:
            return f"operations.{node_name(min(useless))}", "it reaches no output"
        return None

    def to_json(self) -> Dict[str, Any]:
        """The block as plain JSON values, nodes written 'level.operation'."""
        operations = {
            node_name(node): [node_name(source) for source in self.connections[node]]
            for node in sorted(self.connections)
        }
        return {"operations": operations, "outputs": [node_name(node) for node in self.outputs]}

    def _input_problem(self, node: Node, inputs: Sequence[Node]) -> Optional[str]:
        if node[0] == 1:
            return "operations of level 1 always take the block's input and are not listed"
        if not inputs:
            return "the list of inputs is empty"
        for source in inputs:
            if source[0] >= node[0]:
                return f"{node_name(source)} is not of an earlier level"
            if not self._is_live(source):
                return f"{node_name(source)} is dead, it has no inputs"
        return None

    def _is_live(self, node: Node) -> bool:
        return node[0] <= 1 or node in self.connections

    def _reaching(self) -> Set[Node]:
        reaching = set(self.outputs)
        for node in sorted(self.connections, reverse=True):
            if node in reaching:
                reaching.update(self.connections[node])
        return reaching


def node_name(node: Node) -> str:
    """A node as files write it: 'input' or 'level.operation'."""
    return "input" if node == INPUT else f"{node[0]}.{node[1]}"
