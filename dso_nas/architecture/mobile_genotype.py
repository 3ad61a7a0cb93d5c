"""Architectures of the mobile space: which operations live in each block, and what lambdas leave of them.

The search goes on until every block has one operation left, or none where a shortcut stands (paper, section 4.3).
"""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, List, Mapping, Optional, Tuple

import numpy as np

from dso_nas.architecture import genotype_file
from dso_nas.architecture.block_genotype import GenotypeError
from dso_nas.architecture.genotype_file import GenotypeFile
from dso_nas.architecture.mobile import MOBILE_OPERATIONS, MobileLambdas, MobileSpec, MobileUnit
from dso_nas.architecture.pruning import PruneResult, check_finite
from dso_nas.errors import UserError


@dataclasses.dataclass(frozen=True)
class MobileGenotype(GenotypeFile):
    """A mobile network's architecture.

    `blocks` has the live ones of `operations`, the candidates, under every unit's name; none where the block is its
    shortcut alone. `source` is free JSON saying where the genotype came from.
    """

    operations: Tuple[str, ...]
    blocks: Mapping[str, Tuple[str, ...]]
    source: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    space: str = genotype_file.MOBILE

    @property
    def scope(self) -> str:
        """Every block has a structure of its own."""
        return "full"

    def block(self, unit: MobileUnit) -> Tuple[str, ...]:
        """Live operations of the block at a place."""
        return self.blocks[unit.name]

    @property
    def num_live(self) -> int:
        """Live operations of all blocks."""
        return sum(len(live) for live in self.blocks.values())

    @classmethod
    def full(cls, spec: MobileSpec) -> MobileGenotype:
        """Every operation in every block."""
        return cls(spec.operations, {unit.name: spec.operations for unit in spec.units()})

    def transferred(self, spec: MobileSpec) -> MobileGenotype:
        """As for the normal space; blocks go with their macro-structure here, so nothing changes."""
        return self

    def check_fits(self, spec: MobileSpec) -> None:
        """Check that a network of `spec` can be built from this genotype.

        Raises:
            GenotypeError: saying what differs.
        """
        self._check_space(spec, MobileSpec)
        if self.operations != spec.operations:
            raise GenotypeError(f"operations: the genotype has {', '.join(self.operations)}, the network has "
                                f"{', '.join(spec.operations)}")
        units = {unit.name: unit for unit in spec.units()}
        missing, extra = [name for name in units if name not in self.blocks], sorted(set(self.blocks) - set(units))
        if missing:
            raise GenotypeError(f"blocks: the network has {missing[0]}, the genotype does not")
        if extra:
            raise GenotypeError(f"blocks: the genotype has {extra[0]}, the network does not")
        for name, unit in units.items():
            if not self.blocks[name] and not unit.shortcut:
                raise GenotypeError(f"blocks.{name}: is empty, and has no shortcut that could stand for it")

    def to_json(self) -> Dict[str, Any]:
        """See GenotypeFile."""
        return {
            "format": genotype_file.FORMAT,
            "version": genotype_file.VERSION,
            "space": self.space,
            "operations": list(self.operations),
            "blocks": {name: list(live) for name, live in self.blocks.items()},
            "source": dict(self.source),
        }

    @classmethod
    def from_json(cls, content: Any, where: str) -> MobileGenotype:
        """See GenotypeFile."""
        return cls(**genotype_file.parse_mobile(content, where, tuple(MOBILE_OPERATIONS)))


def prune_mobile(layout: MobileLambdas, values: Mapping[str, Any],
                 previous: Optional[Mapping[str, Any]] = None) -> PruneResult:
    """Prune a mobile network's lambdas and describe what is left.

    `values` are lambda parameters by name; an operation whose lambda is at or below zero is dead. A block that no
    shortcut can stand for keeps one operation whatever its lambdas: the largest of `values`, else of `previous`, the
    lambdas of an earlier step, among those that lived there. The kept lambda gets its value in `previous` if that is
    above zero, else 1.

    Raises:
        UserError: a lambda is missing, of another shape, or not finite.
    """
    spec = layout.spec
    vectors = {name: vector.astype(np.float32) for name, vector in layout.to_units(values).items()}
    check_finite(vectors)
    earlier = None if previous is None else layout.to_units(previous)
    warnings: List[str] = []
    for unit in spec.units():
        if not unit.shortcut and (vectors[unit.name] <= 0).all():
            vectors[unit.name], warning = _revive(spec, unit, vectors[unit.name], earlier)
            warnings.append(warning)
        vectors[unit.name] = np.maximum(vectors[unit.name], 0)
    blocks = {name: tuple(operation for operation, value in zip(spec.operations, vector) if value > 0)
              for name, vector in vectors.items()}
    genotype = MobileGenotype(spec.operations, blocks)
    return PruneResult(layout.from_units(vectors), genotype, tuple(warnings))


def is_settled(genotype: MobileGenotype) -> bool:
    """Whether every block has at most one operation left: the paper's end of the search (section 4.3)."""
    return all(len(live) <= 1 for live in genotype.blocks.values())


def random_mobile(spec: MobileSpec, density: float, rng: np.random.Generator) -> MobileGenotype:
    """An architecture of `density` * operations live ones a block on average, all equally likely.

    A block has that number rounded down or up, so that up to one over the operations there is one, or none where a
    shortcut stands, as the search ends with. A block without a shortcut has at least one.

    Raises:
        UserError: `density` outside (0, 1].
    """
    if not 0 < density <= 1:
        raise UserError(f"density: {density} is not above 0 and at most 1")
    wanted = density * len(spec.operations)
    blocks = {}
    for unit in spec.units():
        count = int(wanted) + int(rng.random() < wanted - int(wanted))
        chosen = rng.permutation(len(spec.operations))[: max(count, 0 if unit.shortcut else 1)]
        blocks[unit.name] = tuple(spec.operations[index] for index in sorted(chosen))
    return MobileGenotype(spec.operations, blocks, {"random": {"density": density}})


def _revive(spec: MobileSpec, unit: MobileUnit, vector: np.ndarray,
            earlier: Optional[Mapping[str, np.ndarray]]) -> Tuple[np.ndarray, str]:
    before = np.zeros_like(vector) if earlier is None else earlier[unit.name]
    kept = max(range(len(vector)), key=lambda index: (before[index] > 0, vector[index], before[index], -index))
    revived = np.zeros_like(vector)
    revived[kept] = before[kept] if before[kept] > 0 else 1
    return revived, (f"lambda_{unit.name}: all lambdas of a block without a shortcut are zero; "
                     f"{spec.operations[kept]}, the largest before, is kept")
