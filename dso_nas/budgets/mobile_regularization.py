"""What each operation's gamma follows in the mobile space (paper, sections 3.4 and 4.3).

Where a block has no shortcut and one operation left, there is nothing to choose any more: that one's gamma is zero in
every rule, or the block's scale would go on shrinking until it carries nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any, Dict, Iterator, List, Mapping, Tuple, Type

import numpy as np

from dso_nas.architecture.mobile import MobileLambdas, MobileUnit
from dso_nas.architecture.mobile_cost import mobile_operation_cost
from dso_nas.architecture.mobile_genotype import prune_mobile
from dso_nas.budgets.latency import RemovalLatencies, equation_factors, published_factors
from dso_nas.budgets.regularizer import Gamma, LatencyRegularizer, Regularizer


class MobileRegularizer(Regularizer):
    """The same gamma for every operation there is still a choice of."""

    changes = True
    layout: MobileLambdas

    def gamma(self, values: Mapping[str, Any]) -> Gamma:
        """See Regularizer."""
        vectors = self.layout.to_units(values)
        factors = {unit.name: _chosen_from(unit, vectors[unit.name]) * self._factors(unit, vectors[unit.name])
                   for unit in self.layout.spec.units()}
        return {name: self.base * array for name, array in self.layout.from_units(factors).items()}

    def _factors(self, unit: MobileUnit, vector: np.ndarray) -> np.ndarray:
        """The share of gamma that each of a block's operations has, from its lambdas."""
        return np.ones(len(vector))


class MobileAdaptiveFlops(MobileRegularizer):
    """Eq. 17: gamma times the share of the block's multiply-adds that its live operations have."""

    def __init__(self, layout: MobileLambdas, gamma: float) -> None:
        super().__init__(layout, gamma)
        self._costs = {unit.name: _costs(layout, unit, "multiply_adds") for unit in layout.spec.units()}

    def _factors(self, unit: MobileUnit, vector: np.ndarray) -> np.ndarray:
        costs = self._costs[unit.name]
        return np.full(len(vector), costs[vector > 0].sum() / costs.sum())


class MobileAdaptiveMac(MobileRegularizer):
    """Eq. 18: gamma times the memory access of the operation, over the network's largest."""

    def __init__(self, layout: MobileLambdas, gamma: float) -> None:
        super().__init__(layout, gamma)
        costs = {unit.name: _costs(layout, unit, "mac") for unit in layout.spec.units()}
        largest = max(array.max() for array in costs.values())
        self._shares = {name: array / largest for name, array in costs.items()}

    def _factors(self, unit: MobileUnit, vector: np.ndarray) -> np.ndarray:
        return self._shares[unit.name]


class MobileRemovals(RemovalLatencies):
    """Latencies of a network without each of its live operations that can go."""

    @property
    def _size(self) -> int:
        return len(self._spec.operations)

    def _without_each(self, genotype: Any) -> Iterator[Tuple[str, int, Any]]:
        for unit in self._spec.units():
            live = genotype.block(unit)
            for name in live if unit.shortcut or len(live) > 1 else ():
                fewer = {**genotype.blocks, unit.name: tuple(other for other in live if other != name)}
                yield (unit.name, genotype.operations.index(name),
                       dataclasses.replace(genotype, blocks=fewer))

    def _digest(self, genotype: Any) -> bytes:
        """The same for networks that compute the same on the same sizes: like blocks may stand in any order."""
        alike: Dict[str, List[List[str]]] = {}
        for unit in self._spec.units():
            place = f"{unit.stage} {unit.in_channels} {unit.stride}"
            alike.setdefault(place, []).append(list(genotype.block(unit)))
        content = json.dumps({place: sorted(blocks) for place, blocks in alike.items()})
        return hashlib.sha1(content.encode()).digest()


class MobileAdaptiveLatency(LatencyRegularizer):
    """Eq. 19: the share of gamma that the network's latency without an operation gives it, plus gamma_0.

    Smallest and largest are taken over all live operations of the network that can be removed, at each epoch's start.
    """

    changes = True
    factors = staticmethod(equation_factors)
    removals = MobileRemovals
    layout: MobileLambdas

    def gamma(self, values: Mapping[str, Any]) -> Gamma:
        """See Regularizer."""
        vectors = self.layout.to_units(values)
        free = self.layout.from_units({unit.name: _chosen_from(unit, vectors[unit.name])
                                       for unit in self.layout.spec.units()})
        return {name: array * (self._gamma[name] if isinstance(self._gamma, dict) else np.float32(self._gamma))
                for name, array in free.items()}

    def epoch_begins(self, values: Mapping[str, Any]) -> None:
        """See Regularizer."""
        latencies = self._removals.of(prune_mobile(self.layout, values).genotype)
        by_block = dict(zip(latencies, self.factors(np.stack(list(latencies.values())))))
        self._gamma = {name: self.base * array + np.float32(self._gamma_base)
                       for name, array in self.layout.from_units(by_block).items()}


class PublishedMobileAdaptiveLatency(MobileAdaptiveLatency):
    """By the published code's rule: all of gamma for the operation that slows the network most, half for the least."""

    factors = staticmethod(published_factors)


MOBILE_RULES: Dict[Tuple[str, str], Type[Regularizer]] = {
    ("uniform", "equation"): MobileRegularizer,
    ("uniform", "published"): MobileRegularizer,
    ("adaptive_flops", "equation"): MobileAdaptiveFlops,
    ("adaptive_mac", "equation"): MobileAdaptiveMac,
    ("adaptive_latency", "equation"): MobileAdaptiveLatency,
    ("adaptive_latency", "published"): PublishedMobileAdaptiveLatency,
}


def _chosen_from(unit: MobileUnit, vector: np.ndarray) -> np.ndarray:
    """One for every entry of a block's lambdas, zeros where only one lives and no shortcut could stand for it."""
    settled = not unit.shortcut and np.count_nonzero(vector > 0) <= 1
    return np.zeros(len(vector)) if settled else np.ones(len(vector))


def _costs(layout: MobileLambdas, unit: MobileUnit, field: str) -> np.ndarray:
    return np.array([getattr(mobile_operation_cost(unit, name), field) for name in layout.spec.operations], np.float64)
