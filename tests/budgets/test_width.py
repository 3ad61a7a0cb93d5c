"""The width that meets a parameter target."""

import pytest

from dso_nas.architecture.cost import network_cost
from dso_nas.architecture.genotype import Genotype
from dso_nas.architecture.topology import BlockTopology, NetworkSpec
from dso_nas.budgets.width import fit_parameters
from dso_nas.errors import UserError

SPEC = NetworkSpec(BlockTopology(2, ("sep_conv_3x3", "max_pool_3x3")), "cifar", (1, 1, 1), (8, 16, 32), 10, (3, 32, 32))


@pytest.mark.parametrize("target", [3000, 20_000, 333_333, 2_000_000])
def test_the_count_comes_within_the_tolerance(target):
    genotype = Genotype.full(SPEC, "share")
    spec, multiplier = fit_parameters(SPEC, genotype, target, 0.05)
    assert spec == SPEC.scaled(multiplier)
    assert network_cost(spec, genotype).total.parameters == pytest.approx(target, rel=0.05)


def test_no_neighbouring_width_is_nearer():
    genotype = Genotype.full(SPEC, "share")
    target = 50_000
    spec, _ = fit_parameters(SPEC, genotype, target, 0.05)
    distance = abs(network_cost(spec, genotype).total.parameters - target)
    for thousandths in range(100, 4000):
        other = network_cost(SPEC.scaled(thousandths / 1000), genotype).total.parameters
        assert distance <= abs(other - target)


def test_an_unreachable_target_names_the_nearest():
    with pytest.raises(UserError, match=r"nearest width has \d"):
        fit_parameters(SPEC, Genotype.full(SPEC, "share"), 1, 0.05)
