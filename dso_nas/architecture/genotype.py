"""The searched architecture as a plain, versioned description, apart from weights and framework.

A genotype holds live connections only: every operation it names has an input and a way to the block's output.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, Mapping, Set, Tuple

import numpy as np

from dso_nas.architecture import genotype_file
from dso_nas.architecture.block_genotype import BlockGenotype, GenotypeError
from dso_nas.architecture.genotype_file import SHARED, SPACE, GenotypeFile
from dso_nas.architecture.lambdas import SCOPES
from dso_nas.architecture.topology import REDUCTION_OPERATIONS, BlockTopology, NetworkSpec, Unit
from dso_nas.errors import UserError

__all__ = ["SHARED", "BlockGenotype", "Genotype", "GenotypeError"]


@dataclasses.dataclass(frozen=True)
class Genotype(GenotypeFile):
    """A network's architecture.

    `blocks` holds one block under 'shared' in scope 'share', one under each unit's name in scope 'full'.
    `reductions` lists the live ones of REDUCTION_OPERATIONS for every stage but the last; `source` is free
    JSON saying where the genotype came from.
    """

    topology: BlockTopology
    scope: str
    blocks: Mapping[str, BlockGenotype]
    reductions: Tuple[Tuple[str, ...], ...]
    source: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    space: str = SPACE

    def block(self, unit: Unit) -> BlockGenotype:
        """The block standing at a convolution block's place."""
        return self.blocks[SHARED if self.scope == "share" else unit.name]

    def reduction(self, unit: Unit) -> Tuple[str, ...]:
        """Live operations of a reduction block."""
        return self.reductions[unit.stage - 1]

    @classmethod
    def full(cls, spec: NetworkSpec, scope: str) -> Genotype:
        """The completely connected network (paper, Fig. 5a)."""
        if scope not in SCOPES:
            raise UserError(f"scope: unknown {scope!r}, allowed are {', '.join(SCOPES)}")
        topology = spec.topology
        block = BlockGenotype.from_mask(topology, np.ones(topology.num_connections, bool))
        names = [SHARED] if scope == "share" else [unit.name for unit in spec.block_units()]
        reductions = (REDUCTION_OPERATIONS,) * (spec.stages - 1)
        return cls(topology, scope, {name: block for name in names}, reductions)

    def transferred(self, spec: NetworkSpec) -> Genotype:
        """This architecture in a macro-structure with another number of stages (paper, Table 2, CIFAR-10 to ImageNet).

        In scope 'share' the block goes anywhere; reductions that it does not know keep both operations. In scope 'full'
        nothing changes, and `check_fits` will say what does not fit.
        """
        if self.scope != "share":
            return self
        wanted = spec.stages - 1
        reductions = (self.reductions + (REDUCTION_OPERATIONS,) * wanted)[:wanted]
        return dataclasses.replace(self, reductions=reductions)

    def check_fits(self, spec: NetworkSpec) -> None:
        """Check that a network of `spec` can be built from this genotype.

        Scope 'share' fits any number of blocks per stage, 'full' only its own.

        Raises:
            GenotypeError: saying what differs.
        """
        self._check_space(spec, NetworkSpec)
        if self.topology != spec.topology:
            ours, theirs = _describe(self.topology), _describe(spec.topology)
            raise GenotypeError(f"topology: the genotype has {ours}, the network has {theirs}")
        found, needed = len(self.reductions), spec.stages - 1
        if found != needed:
            raise GenotypeError(
                f"reductions: the genotype has {found}, a network of {spec.stages} stages needs {needed}"
            )
        if self.scope == "full":
            self._check_blocks({unit.name for unit in spec.block_units()})

    def to_json(self) -> Dict[str, Any]:
        """See GenotypeFile."""
        return {
            "format": genotype_file.FORMAT,
            "version": genotype_file.VERSION,
            "space": self.space,
            "topology": genotype_file.topology_json(self.topology),
            "scope": self.scope,
            "blocks": {name: block.to_json() for name, block in self.blocks.items()},
            "reductions": [list(live) for live in self.reductions],
            "source": dict(self.source),
        }

    @classmethod
    def from_json(cls, content: Any, where: str) -> Genotype:
        """See GenotypeFile."""
        return cls(**genotype_file.parse(content, where))

    def _check_blocks(self, needed: Set[str]) -> None:
        missing, extra = sorted(needed - set(self.blocks)), sorted(set(self.blocks) - needed)
        if missing:
            raise GenotypeError(f"blocks: the network has {missing[0]}, the genotype (scope full) does not")
        if extra:
            raise GenotypeError(f"blocks: the genotype (scope full) has {extra[0]}, the network does not")


def _describe(topology: BlockTopology) -> str:
    return f"{topology.levels} levels of {', '.join(topology.operations)} (reach {topology.reach})"
