"""What the stages ask of a search space, so that they are written once for all of them.

A space knows its networks, costs and pictures; what images it is trained on, and how, does not belong here: a `Run`
knows that. One line of a recipe chooses the space.
"""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional, Sequence

import numpy as np

from dso_nas.architecture.cost import Conventions, CostTable, network_cost
from dso_nas.architecture.genotype import SHARED, Genotype
from dso_nas.architecture.lambdas import LambdaLayout
from dso_nas.architecture.memory_plan import MemoryPlan, plan_memory
from dso_nas.architecture.pruning import PruneResult, live_connections, prune
from dso_nas.architecture.sampling import random_genotype
from dso_nas.architecture.topology import NetworkSpec
from dso_nas.networks.derived import DerivedNetwork
from dso_nas.networks.supernet import SuperNet
from dso_nas.reporting.structure import draw_structure


class NormalSpace:
    """Completely connected blocks (paper, section 3.1, normal setting).

    `spec` is the supernet's macro-structure, `layout` its lambda parameters.
    """

    def __init__(self, spec: NetworkSpec, scope: str, packed: bool = False) -> None:
        self.spec = spec
        self.layout = LambdaLayout(spec, scope, packed)

    def full(self) -> Genotype:
        """The architecture with every connection."""
        return Genotype.full(self.spec, self.layout.scope)

    def prune(self, values: Mapping[str, Any], previous: Optional[Mapping[str, Any]] = None) -> PruneResult:
        """What lambdas leave; see `dso_nas.architecture.pruning.prune`."""
        return prune(self.layout, values, previous)

    def live(self, genotype: Genotype) -> int:
        """Live connections of the whole network."""
        return live_connections(genotype, self.spec)

    def is_settled(self, genotype: Genotype) -> bool:
        """Whether the space itself says that the search has ended: this one never does."""
        return False

    def random(self, density: float, rng: np.random.Generator) -> Genotype:
        """An architecture whose every connection is kept with probability `density`."""
        return random_genotype(self.spec, self.layout.scope, density, rng)

    def supernet(self, genotype: Optional[Genotype] = None) -> SuperNet:
        """The supernet of what `genotype` keeps, without values."""
        return SuperNet(self.layout, genotype)

    def derived(self, spec: NetworkSpec, genotype: Genotype, settings: Any = None) -> DerivedNetwork:
        """The derived network, with what the recipe's section `settings` (retrain) adds to it."""
        if settings is None:
            return DerivedNetwork(spec, genotype)
        return DerivedNetwork(spec, genotype, settings.drop_path > 0, settings.dropout, settings.auxiliary_weight > 0)

    def widened(self, widths: Optional[Sequence[int]]) -> NetworkSpec:
        """The macro-structure at other widths (None: its own)."""
        return self.spec if widths is None else self.spec.with_widths(widths)

    def placed(self, spec: NetworkSpec) -> NetworkSpec:
        """The macro-structure `spec` for this space's own images and classes."""
        return self.spec.with_widths(spec.widths)

    def cost(self, spec: NetworkSpec, genotype: Optional[Genotype] = None,
             conventions: Optional[Conventions] = None) -> CostTable:
        """Costs of every layer of a genotype's network, or of the supernet's."""
        return network_cost(spec, genotype, conventions)

    def plan(self, genotype: Optional[Genotype], images: int, mirroring: str, limit_mb: Optional[float]) -> MemoryPlan:
        """The memory plan of a supernet's step with `images` on a device."""
        return plan_memory(self.spec, genotype, images, mirroring, limit_mb)

    def draw(self, genotype: Genotype, stem: str, values: Mapping[str, np.ndarray], title: str) -> None:
        """Write `stem`.svg and .png: the architecture, and the lambdas `values` it was found with."""
        draw_structure(genotype, stem, self._by_block(values), title)

    def _by_block(self, values: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Packed lambda vectors under the keys of a genotype's blocks."""
        vectors = self.layout.to_units(values)
        blocks = self.spec.block_units()
        if self.layout.scope == "share":
            return {SHARED: vectors[blocks[0].name]}
        return {unit.name: vectors[unit.name] for unit in blocks}
