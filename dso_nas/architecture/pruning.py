"""From lambdas to an architecture (paper, section 3.2).

Connections at zero go, and with them every operation left without an input or without a way to the output.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, List, Mapping, Optional, Tuple

import numpy as np

from dso_nas.architecture.genotype import SHARED, BlockGenotype, Genotype
from dso_nas.architecture.lambdas import LambdaLayout
from dso_nas.architecture.topology import (
    AFTER,
    INPUT,
    REDUCTION_OPERATIONS,
    BlockTopology,
    Key,
    NetworkSpec,
    Node,
    Unit,
)
from dso_nas.errors import UserError


@dataclasses.dataclass(frozen=True)
class PruneResult:
    """What pruning leaves.

    `values` are all lambda parameters, float32 of shape (1, k), with dead connections at zero; `genotype`
    (of the space's own class) names the live ones; `warnings` says what pruning had to decide by itself.
    """

    values: Dict[str, np.ndarray]
    genotype: Any
    warnings: Tuple[str, ...]


def prune_block(topology: BlockTopology, vector: np.ndarray) -> np.ndarray:
    """A packed lambda vector (num_connections,) with every connection that cannot carry anything set to zero.

    A connection lives if its lambda is above zero, its source is reached from the block's input and its
    target reaches the block's output. The graph is acyclic, so one pass each way is the fixpoint.
    """
    flat = np.asarray(vector).reshape(-1)
    positive = topology.unpack(flat > 0)
    nodes = [node for node in topology.nodes() if node[0] > 1]
    reached = _reached(topology, positive)
    useful = np.concatenate([[False], positive[AFTER] & reached[1:]])
    kept: Dict[Key, np.ndarray] = {AFTER: useful[1:].copy()}
    for node in reversed(nodes):
        sources = _sources(topology, node)
        kept[node] = positive[node] & reached[sources] & useful[1 + topology.output_index(node)]
        useful[sources] |= kept[node]
    return np.where(topology.pack(kept), flat, 0).astype(flat.dtype)


def prune(
    layout: LambdaLayout, values: Mapping[str, Any], previous: Optional[Mapping[str, Any]] = None
) -> PruneResult:
    """Prune a network's lambdas and describe what is left.

    `values` are lambda parameters by name; one at or below zero is dead. A reduction whose two are both dead
    keeps one: the larger of `values`, else (both equal) the larger of `previous`, the lambdas of an earlier
    step, else conv3x3; the kept lambda gets its value in `previous` if that is above zero, else 1.

    Raises:
        UserError: a lambda is missing, of another shape, or not finite.
    """
    topology = layout.spec.topology
    vectors = {name: vector.astype(np.float32) for name, vector in layout.to_units(values).items()}
    check_finite(vectors)
    warnings: List[str] = []
    for unit in layout.spec.block_units():
        vectors[unit.name] = prune_block(topology, vectors[unit.name])
    for unit in layout.spec.reduction_units():
        if (vectors[unit.name] <= 0).all():
            earlier = None if previous is None else layout.to_units(previous)[unit.name]
            vectors[unit.name], warning = _revive(unit, vectors[unit.name], earlier)
            warnings.append(warning)
        vectors[unit.name] = np.maximum(vectors[unit.name], 0)
    return PruneResult(layout.from_units(vectors), _genotype(layout, vectors), tuple(warnings))


def live_connections(genotype: Genotype, spec: NetworkSpec) -> int:
    """Live connections of all convolution blocks of a network; reductions are outside the paper's count."""
    return sum(genotype.block(unit).num_connections for unit in spec.block_units())


def _reached(topology: BlockTopology, positive: Mapping[Any, np.ndarray]) -> np.ndarray:
    """Which of the block's input and its nodes get anything from the input: bool, shape (1 + num_nodes,)."""
    reached = np.zeros(1 + topology.num_nodes, bool)
    reached[: 1 + topology.num_operations] = True
    for node in topology.nodes()[topology.num_operations :]:
        reached[1 + topology.output_index(node)] = (positive[node] & reached[_sources(topology, node)]).any()
    return reached


def _sources(topology: BlockTopology, node: Node) -> slice:
    """Where a node's predecessors, which follow each other, stand among the block's input and its nodes."""
    predecessors = topology.predecessors(node[0])
    start = 0 if predecessors[0] == INPUT else 1 + topology.output_index(predecessors[0])
    return slice(start, start + len(predecessors))


def _revive(unit: Unit, vector: np.ndarray, earlier: Optional[np.ndarray]) -> Tuple[np.ndarray, str]:
    kept = REDUCTION_OPERATIONS.index("conv3x3")
    reason = "for want of a larger one"
    for candidates, why in ((vector, "the larger before clamping"), (earlier, "the larger earlier")):
        if candidates is not None and candidates[0] != candidates[1]:
            kept, reason = int(np.argmax(candidates)), why
            break
    revived = np.zeros_like(vector)
    revived[kept] = earlier[kept] if earlier is not None and earlier[kept] > 0 else 1
    operation = REDUCTION_OPERATIONS[kept]
    return revived, (
        f"lambda_{unit.name}: both lambdas of the reduction are zero; {operation}, {reason}, is kept "
        f"at {revived[kept]:g}"
    )


def check_finite(vectors: Mapping[str, np.ndarray]) -> None:
    """Refuse lambdas, vectors by unit, that are not finite (`UserError`)."""
    for name, vector in vectors.items():
        if not np.isfinite(vector).all():
            raise UserError(f"{name}: a lambda is not finite; the search diverged, lower its learning rate")


def _genotype(layout: LambdaLayout, vectors: Mapping[str, np.ndarray]) -> Genotype:
    spec = layout.spec
    units = spec.block_units()[:1] if layout.scope == "share" else spec.block_units()
    blocks = {
        SHARED if layout.scope == "share" else unit.name: BlockGenotype.from_mask(
            spec.topology, vectors[unit.name] > 0
        )
        for unit in units
    }
    reductions = tuple(
        tuple(name for name, value in zip(REDUCTION_OPERATIONS, vectors[unit.name]) if value > 0)
        for unit in spec.reduction_units()
    )
    return Genotype(spec.topology, layout.scope, blocks, reductions)
