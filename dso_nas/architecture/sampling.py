"""Random architectures: the paper's random-share and random-full baselines (section 4.2, Table 1)."""

from __future__ import annotations

import numpy as np

from dso_nas.architecture.genotype import SHARED, BlockGenotype, Genotype
from dso_nas.architecture.lambdas import SCOPES
from dso_nas.architecture.pruning import prune_block
from dso_nas.architecture.topology import REDUCTION_OPERATIONS, BlockTopology, NetworkSpec
from dso_nas.errors import UserError

MAX_DRAWS = 10000


def random_genotype(spec: NetworkSpec, scope: str, density: float, rng: np.random.Generator) -> Genotype:
    """A genotype whose every connection is kept with probability `density`, then pruned.

    A block that comes out empty is drawn again; reductions keep both operations.

    Raises:
        UserError: an unknown scope, `density` outside (0, 1], or so low that MAX_DRAWS blocks are all empty.
    """
    if scope not in SCOPES:
        raise UserError(f"scope: unknown {scope!r}, allowed are {', '.join(SCOPES)}")
    if not 0 < density <= 1:
        raise UserError(f"density: {density} is not above 0 and at most 1")
    names = [SHARED] if scope == "share" else [unit.name for unit in spec.block_units()]
    blocks = {name: _random_block(spec.topology, density, rng) for name in names}
    reductions = (REDUCTION_OPERATIONS,) * (spec.stages - 1)
    return Genotype(spec.topology, scope, blocks, reductions, source={"random": {"density": density}})


def _random_block(topology: BlockTopology, density: float, rng: np.random.Generator) -> BlockGenotype:
    for _ in range(MAX_DRAWS):
        kept = prune_block(topology, rng.random(topology.num_connections) < density)
        if kept.any():
            return BlockGenotype.from_mask(topology, kept)
    raise UserError(f"density: {density} left every one of {MAX_DRAWS} drawn blocks empty, raise it")
