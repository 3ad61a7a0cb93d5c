"""Random architectures: reproducible, pruned, never empty, and as dense as asked."""

from __future__ import annotations

import numpy as np
import pytest

from dso_nas.architecture.pruning import live_connections, prune_block
from dso_nas.architecture.sampling import random_genotype
from dso_nas.architecture.topology import BlockTopology, NetworkSpec
from dso_nas.errors import UserError


@pytest.mark.parametrize("scope", ["share", "full"])
def test_blocks_are_pruned_and_live(spec, scope):
    for seed in range(20):
        genotype = random_genotype(spec, scope, 0.1, np.random.default_rng(seed))
        genotype.check_fits(spec)
        for block in genotype.blocks.values():
            mask = block.mask(spec.topology)
            assert not block.is_empty and np.array_equal(prune_block(spec.topology, mask), mask)
        assert genotype.reductions == (("conv1x1", "conv3x3"),) * 2


def test_the_seed_decides(spec):
    drawn = [random_genotype(spec, "full", 0.5, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_full_draws_every_block_for_itself(spec):
    blocks = random_genotype(spec, "full", 0.5, np.random.default_rng(0)).blocks.values()
    assert len({block.outputs for block in blocks}) > 1
    assert len(random_genotype(spec, "share", 0.5, np.random.default_rng(0)).blocks) == 1


def test_density_is_the_share_kept_before_pruning(topology):
    """Outputs show it: with every level alive, pruning takes none of them."""
    spec = NetworkSpec(topology, "cifar", (100,), (4,), 10, (3, 32, 32))
    genotype = random_genotype(spec, "full", 0.7, np.random.default_rng(3))
    kept = sum(len(block.outputs) for block in genotype.blocks.values())
    assert kept / (100 * 16) == pytest.approx(0.7, abs=0.03)
    everything = random_genotype(spec, "full", 1.0, np.random.default_rng(3))
    assert live_connections(everything, spec) == 100 * 124


@pytest.mark.parametrize("density", [0.0, -0.1, 1.5, float("nan")])
def test_impossible_densities_are_refused(spec, density):
    with pytest.raises(UserError, match="density"):
        random_genotype(spec, "share", density, np.random.default_rng(0))


def test_a_hopeless_density_ends_with_an_error():
    spec = NetworkSpec(BlockTopology(1, ("max_pool_3x3",)), "cifar", (1,), (4,), 10, (3, 32, 32))
    with pytest.raises(UserError, match="density: 1e-12"):
        random_genotype(spec, "share", 1e-12, np.random.default_rng(0))


def test_unknown_scopes_are_refused(spec):
    with pytest.raises(UserError, match="scope"):
        random_genotype(spec, "both", 0.5, np.random.default_rng(0))
