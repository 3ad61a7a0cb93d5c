"""What each connection's gamma follows (paper, section 3.4): nothing, FLOPs, memory access.

Every rule is a `Regularizer` registered in `RULES` under the recipe's name for it and 'equation' (the paper's) or
'published' (what the authors' code has instead). Reductions always take the plain gamma. What a layer costs is
`dso_nas.architecture.cost`'s business.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Mapping, Tuple, Union

import numpy as np

from dso_nas.architecture.block_genotype import BlockGenotype
from dso_nas.architecture.cost import Cost, CostRow, block_cost
from dso_nas.architecture.lambdas import LambdaLayout
from dso_nas.architecture.pruning import prune_block
from dso_nas.architecture.topology import AFTER, BlockTopology, Node, Unit
from dso_nas.errors import UserError

Gamma = Union[float, Dict[str, np.ndarray]]
PUBLISHED_MAC = {"conv3x3": 0.986, "conv5x5": 1.0, "max_pool": 0.447, "avg_pool": 0.447}
PUBLISHED_OUTPUT_MAC = 0.448


class Regularizer:
    """Gamma of every lambda entry from the lambdas before the step; this one is the same for all.

    `changes` says whether gamma depends on the lambdas, so that it must be asked for at every step.
    """

    changes = False

    def __init__(self, layout: LambdaLayout, gamma: float) -> None:
        self.layout = layout
        self.base = gamma

    def gamma(self, values: Mapping[str, Any]) -> Gamma:
        """One number for all, or arrays of the lambdas' shapes by name."""
        return self.base

    def _spread(self, factor_of: Callable[[Unit], np.ndarray]) -> Dict[str, np.ndarray]:
        """Arrays by name from the factors (num_connections,) of each block; blocks that share lambdas are averaged."""
        spec = self.layout.spec
        factors = {unit.name: factor_of(unit) for unit in spec.block_units()}
        if self.layout.scope == "share":
            mean = np.mean(list(factors.values()), axis=0)
            factors = dict.fromkeys(factors, mean)
        factors.update({unit.name: np.ones(2) for unit in spec.reduction_units()})
        return {name: self.base * array for name, array in self.layout.from_units(factors).items()}


class AdaptiveFlops(Regularizer):
    """Eq. 17: gamma times the share of the block's multiply-adds that its live operations and outputs have."""

    changes = True

    def __init__(self, layout: LambdaLayout, gamma: float) -> None:
        super().__init__(layout, gamma)
        self._costs = {unit.name: _costs_by_part(layout, unit) for unit in layout.spec.block_units()}

    def gamma(self, values: Mapping[str, Any]) -> Gamma:
        """See Regularizer."""
        vectors = self.layout.to_units(values)
        return self._spread(lambda unit: self._factor(unit, vectors[unit.name]))

    def _factor(self, unit: Unit, vector: np.ndarray) -> np.ndarray:
        topology = self.layout.spec.topology
        block = BlockGenotype.from_mask(topology, prune_block(topology, vector) > 0)
        costs = self._costs[unit.name]
        kept = [(node, "operation") for node in block.live_nodes] + [(node, "output") for node in block.outputs]
        share = sum(costs[part].multiply_adds for part in kept) / sum(cost.multiply_adds for cost in costs.values())
        return np.full(topology.num_connections, share)


class PublishedAdaptiveFlops(Regularizer):
    """The published code's: gamma * (count + 1) / (6M + 1), which counts live operations rather than FLOPs.

    count = 2 + separable convolutions of levels >= 2 with an input + live outputs.
    """

    changes = True

    def gamma(self, values: Mapping[str, Any]) -> Gamma:
        """See Regularizer."""
        vectors = self.layout.to_units(values)
        return self._spread(lambda unit: self._factor(vectors[unit.name]))

    def _factor(self, vector: np.ndarray) -> np.ndarray:
        topology = self.layout.spec.topology
        parts = topology.unpack(vector)
        convolutions = sum(bool((parts[key] > 0).any()) for key in parts
                           if key != AFTER and topology.operation(key).kind == "sep_conv")
        count = 2 + convolutions + np.count_nonzero(parts[AFTER] > 0)
        return np.full(topology.num_connections, (count + 1) / (6 * topology.levels + 1))


class AdaptiveMac(Regularizer):
    """Eq. 18: gamma times the memory access of the operation a connection feeds, over the network's largest.

    A connection to the block's output feeds its output convolution.
    """

    def __init__(self, layout: LambdaLayout, gamma: float) -> None:
        super().__init__(layout, gamma)
        costs = {unit.name: _costs_by_part(layout, unit) for unit in layout.spec.block_units()}
        largest = max(cost.mac for parts in costs.values() for cost in parts.values())
        topology = layout.spec.topology
        self._gamma = self._spread(lambda unit: entries(
            topology, lambda node, part: costs[unit.name][(node, part)].mac / largest))

    def gamma(self, values: Mapping[str, Any]) -> Gamma:
        """See Regularizer."""
        return self._gamma


class PublishedAdaptiveMac(AdaptiveMac):
    """The published code's constants per kind of operation."""

    def __init__(self, layout: LambdaLayout, gamma: float) -> None:
        Regularizer.__init__(self, layout, gamma)
        topology = layout.spec.topology
        self._gamma = self._spread(lambda unit: entries(topology, self._constant))

    def _constant(self, node: Node, part: str) -> float:
        if part == "output":
            return PUBLISHED_OUTPUT_MAC
        token = self.layout.spec.topology.operation(node).token
        if token not in PUBLISHED_MAC:
            raise UserError(f"search.regularization: the published code has no memory-access constant for {token}; set "
                            "search.regularization_rule=equation")
        return PUBLISHED_MAC[token]


RULES = {
    ("uniform", "equation"): Regularizer,
    ("uniform", "published"): Regularizer,
    ("adaptive_flops", "equation"): AdaptiveFlops,
    ("adaptive_flops", "published"): PublishedAdaptiveFlops,
    ("adaptive_mac", "equation"): AdaptiveMac,
    ("adaptive_mac", "published"): PublishedAdaptiveMac,
}


def make_regularizer(layout: LambdaLayout, kind: str, rule: str, gamma: float) -> Regularizer:
    """The regularizer a recipe asks for.

    Raises:
        UserError: there is none.
    """
    if (kind, rule) not in RULES:
        known = ", ".join(sorted({name for name, _ in RULES}))
        raise UserError(f"search.regularization: {kind} is not to be had yet, there are {known}")
    return RULES[(kind, rule)](layout, gamma)


def entries(topology: BlockTopology, value: Callable[[Node, str], float]) -> np.ndarray:
    """A packed vector whose entries are `value(node, 'operation' or 'output')` of what each connection feeds."""
    vectors = {key: np.full(topology.size(key), value(key, "operation")) for key in topology.keys() if key != AFTER}
    vectors[AFTER] = np.array([value(node, "output") for node in topology.nodes()])
    return topology.pack(vectors)


def _costs_by_part(layout: LambdaLayout, unit: Unit) -> Dict[Tuple[Node, str], Cost]:
    """Costs of the completely connected block's operations and output convolutions."""
    topology = layout.spec.topology
    full = BlockGenotype.from_mask(topology, np.ones(topology.num_connections, bool))
    rows = [row for row in block_cost(layout.spec, unit, full).rows if row.layer.node is not None]
    return {(row.layer.node, _part(row)): row.cost for row in rows}


def _part(row: CostRow) -> str:
    return "output" if "_output_conv_" in row.layer.name else "operation"
