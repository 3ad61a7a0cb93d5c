"""What each connection's gamma follows (paper, section 3.4): nothing, FLOPs, memory access, or the network's latency.

Every rule is a `Regularizer` registered in `RULES` under the recipe's name for it and 'equation' (the paper's) or
'published' (what the authors' code has instead); those of the mobile space are in
`dso_nas.budgets.mobile_regularization`. Reductions always take the plain gamma. What a layer costs is
`dso_nas.architecture.cost`'s business, how long one takes `dso_nas.budgets.latency`'s.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Mapping, Optional, Tuple, Type

import numpy as np

from dso_nas.architecture.block_genotype import BlockGenotype
from dso_nas.architecture.cost import Cost, CostRow, block_cost
from dso_nas.architecture.genotype import SHARED
from dso_nas.architecture.lambdas import LambdaLayout
from dso_nas.architecture.mobile import MobileLambdas
from dso_nas.architecture.pruning import prune, prune_block
from dso_nas.architecture.topology import AFTER, BlockTopology, Key, Node, Unit
from dso_nas.budgets.latency import Measure, equation_factors, published_factors
from dso_nas.budgets.mobile_regularization import MOBILE_RULES
from dso_nas.budgets.regularizer import Gamma, LatencyRegularizer, Regularizer
from dso_nas.errors import UserError

PUBLISHED_MAC = {"conv3x3": 0.986, "conv5x5": 1.0, "max_pool": 0.447, "avg_pool": 0.447}
PUBLISHED_OUTPUT_MAC = 0.448


class _BlockRegularizer(Regularizer):
    """Gamma from factors of every block's connections."""

    def _spread(self, factor_of: Callable[[Unit], np.ndarray]) -> Dict[str, np.ndarray]:
        """Arrays by name from the factors (num_connections,) of each block; blocks that share lambdas are averaged."""
        spec = self.layout.spec
        factors = {unit.name: factor_of(unit) for unit in spec.block_units()}
        if self.layout.scope == "share":
            mean = np.mean(list(factors.values()), axis=0)
            factors = dict.fromkeys(factors, mean)
        return self._scaled(factors)

    def _scaled(self, factors: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Arrays by name from the factors of every block; they are alike in blocks that share lambdas."""
        reductions = {unit.name: np.ones(2) for unit in self.layout.spec.reduction_units()}
        return {name: self.base * array for name, array in self.layout.from_units({**factors, **reductions}).items()}


class AdaptiveFlops(_BlockRegularizer):
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


class PublishedAdaptiveFlops(_BlockRegularizer):
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
        convolutions = sum(bool((parts[node] > 0).any()) for node in topology.nodes()
                           if node in parts and topology.operation(node).kind == "sep_conv")
        count = 2 + convolutions + np.count_nonzero(parts[AFTER] > 0)
        return np.full(topology.num_connections, (count + 1) / (6 * topology.levels + 1))


class AdaptiveMac(_BlockRegularizer):
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


class AdaptiveLatency(LatencyRegularizer, _BlockRegularizer):
    """Eq. 19: the share of gamma that the network's latency without a connection gives it, plus `gamma_base` (gamma_0).

    Smallest and largest are taken over all live connections of the network, at each epoch's start; before the first
    one all have the same gamma. Reductions are without gamma_0.
    """

    factors = staticmethod(equation_factors)

    def epoch_begins(self, values: Mapping[str, Any]) -> None:
        """See Regularizer."""
        latencies = self._removals.of(prune(self.layout, values).genotype)
        by_block = dict(zip(latencies, self.factors(np.stack(list(latencies.values())))))
        shared = self.layout.scope == "share"
        gamma = self._scaled({unit.name: by_block[SHARED if shared else unit.name]
                              for unit in self.layout.spec.block_units()})
        reductions = {f"lambda_{unit.name}" for unit in self.layout.spec.reduction_units()}
        self._gamma = {name: array if name in reductions else array + np.float32(self._gamma_base)
                       for name, array in gamma.items()}


class PublishedAdaptiveLatency(AdaptiveLatency):
    """The published code's: all of gamma for the connection that slows the network most, half for the one least so."""

    factors = staticmethod(published_factors)


RULES: Dict[Tuple[str, str], Type[Regularizer]] = {
    ("uniform", "equation"): Regularizer,
    ("uniform", "published"): Regularizer,
    ("adaptive_flops", "equation"): AdaptiveFlops,
    ("adaptive_flops", "published"): PublishedAdaptiveFlops,
    ("adaptive_mac", "equation"): AdaptiveMac,
    ("adaptive_mac", "published"): PublishedAdaptiveMac,
    ("adaptive_latency", "equation"): AdaptiveLatency,
    ("adaptive_latency", "published"): PublishedAdaptiveLatency,
}


def make_regularizer(layout: LambdaLayout, kind: str, rule: str, gamma: float, gamma_base: float = 0.0,
                     measure: Optional[Measure] = None) -> Regularizer:
    """The regularizer a recipe asks for.

    `gamma_base` and `measure`, which gives the milliseconds of a genotype's network, serve adaptive latency alone.

    Raises:
        UserError: there is none.
    """
    rules: Mapping[Tuple[str, str], Any] = MOBILE_RULES if isinstance(layout, MobileLambdas) else RULES
    if (kind, rule) not in rules:
        known = ", ".join(sorted({f"{name} by {by}" for name, by in rules}))
        raise UserError(f"search.regularization: there is no {kind} by {rule}, there are {known}")
    chosen = rules[(kind, rule)]
    if issubclass(chosen, LatencyRegularizer):
        return chosen(layout, gamma, gamma_base, measure)
    return chosen(layout, gamma)


def entries(topology: BlockTopology, value: Callable[[Node, str], float]) -> np.ndarray:
    """A packed vector whose entries are `value(node, 'operation' or 'output')` of what each connection feeds."""
    vectors: Dict[Key, np.ndarray] = {node: np.full(topology.size(node), value(node, "operation"))
                                      for node in topology.nodes() if node[0] > 1}
    vectors[AFTER] = np.array([value(node, "output") for node in topology.nodes()])
    return topology.pack(vectors)


def _costs_by_part(layout: LambdaLayout, unit: Unit) -> Dict[Tuple[Node, str], Cost]:
    """Costs of the completely connected block's operations and output convolutions."""
    topology = layout.spec.topology
    full = BlockGenotype.from_mask(topology, np.ones(topology.num_connections, bool))
    rows = block_cost(layout.spec, unit, full).rows
    return {(row.layer.node, _part(row)): row.cost for row in rows if row.layer.node is not None}


def _part(row: CostRow) -> str:
    return "output" if "_output_conv_" in row.layer.name else "operation"
