"""Costs of mobile networks: known parameters, what the traced networks say of themselves, and the plan of memory."""

from __future__ import annotations

import re

import dso_nas  # noqa: F401  (before MXNet)

# isort: split
import mxnet as mx
import numpy as np
import pytest

from dso_nas.architecture.cost import Conventions
from dso_nas.architecture.memory_plan import MB
from dso_nas.architecture.mobile import MOBILE_OPERATIONS, MobileLambdas, MobileSpec
from dso_nas.architecture.mobile_cost import (
    mobile_cost,
    mobile_operation_cost,
    mobile_segments,
    plan_mobile_memory,
)
from dso_nas.architecture.mobile_genotype import MobileGenotype, random_mobile
from dso_nas.errors import UserError
from dso_nas.networks.mobile import MobileNetwork, MobileSuperNet
from tests.architecture.mobile_networks import KNOWN, TINY, known_network
from tests.symbol_counts import count, total

EVERYTHING = Conventions(batch_norm=True, bias=True)


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_parameters_of_the_known_networks(name):
    spec, genotype, parameters = known_network(name)
    assert mobile_cost(spec, genotype, EVERYTHING).total.parameters == parameters


def assert_same(spec, genotype):
    """Every layer's three numbers are those of the traced network's, and so are the sums with all conventions."""
    symbol = MobileNetwork(spec, genotype)(mx.sym.var("data"))
    expected = count(symbol, data=(1, *spec.image_shape))
    found = {row.layer.name: (row.cost.parameters, row.cost.multiply_adds, row.cost.mac)
             for row in mobile_cost(spec, genotype).rows}
    pools = [set(counts) - set(others) for counts, others in ((expected, found), (found, expected))]
    assert [len(names) for names in pools] == [1, 1], pools
    found[pools[0].pop()] = found.pop(pools[1].pop())
    assert found == expected
    everything = mobile_cost(spec, genotype, EVERYTHING).total
    theirs = total(count(symbol, batch_norm=True, bias=True, data=(1, *spec.image_shape)))
    assert theirs == (everything.parameters, everything.multiply_adds, everything.mac)


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_the_known_networks_against_their_graphs(name):
    assert_same(*known_network(name)[:2])


@pytest.mark.parametrize("seed", range(6))
def test_random_architectures_against_their_graphs(seed):
    rng = np.random.default_rng(seed)
    assert_same(TINY, random_mobile(TINY, rng.uniform(0.1, 1), rng))


def test_every_operation_against_its_graph():
    spec = MobileSpec(4, 5, ((7, 1, 2),), 9, tuple(MOBILE_OPERATIONS), 3, (3, 17, 12))
    unit = spec.units()[0]
    for name in MOBILE_OPERATIONS:
        symbol = MobileNetwork(spec, MobileGenotype(spec.operations, {unit.name: (name,)}))(mx.sym.var("data"))
        theirs = {key: value for key, value in count(symbol, data=(1, 3, 17, 12)).items() if name in key}
        cost = mobile_operation_cost(unit, name)
        assert len(theirs) == 3 and total(theirs) == (cost.parameters, cost.multiply_adds, cost.mac)


def test_one_operation_by_hand():
    unit = MobileSpec.named("gpu").units()[0]
    cost = mobile_operation_cost(unit, "mb3_5x5")
    expand, depthwise, project = 24 * 72, 25 * 72, 72 * 32
    before, after = 112 * 112, 56 * 56
    assert cost.parameters == expand + depthwise + project
    assert cost.multiply_adds == expand * before + (depthwise + project) * after
    assert cost.mac == cost.parameters + before * (24 + 72) + (before + after) * 72 + after * (72 + 32)


def test_the_supernet_has_the_full_networks_weights():
    network = MobileSuperNet(MobileLambdas(TINY))
    weights = [np.prod(parameter.shape) for name, parameter in network.collect_params().items()
               if name.endswith("_weight")]
    assert sum(weights) == mobile_cost(TINY).total.parameters


def test_there_is_no_auxiliary_head():
    with pytest.raises(UserError, match="aux_head"):
        mobile_cost(TINY, None, Conventions(aux_head=True))


def test_planned_memory_is_what_mxnet_plans():
    """Within a tenth: a block more in the executor's plan against a block more in ours."""
    spec = MobileSpec(8, 16, ((16, 3, 1),), 16, tuple(MOBILE_OPERATIONS), 10, (3, 64, 64))
    totals, x = [], mx.sym.var("data")
    for unit in MobileSuperNet(MobileLambdas(spec)).units[1:]:
        x = unit(x)
        executor = mx.sym.sum(x).simple_bind(mx.cpu(), data=(16, 16, 32, 32), grad_req="write")
        totals.append(int(re.search(r"Total (\d+) MB", executor.debug_str()).group(1)))
    planned = mobile_segments(spec)[2].kept * 16 * 4 / MB
    assert planned == pytest.approx(totals[2] - totals[1], rel=0.1)


def test_mirroring_takes_the_largest_block_and_a_limit_is_kept():
    spec = MobileSpec.named("cpu")
    nothing, block = (plan_mobile_memory(spec, None, 8, mirroring) for mirroring in ("none", "block"))
    assert nothing.groups is None and block.groups[-1][1] == len(mobile_segments(spec)) - 2 == 22
    assert block.total_mb < nothing.total_mb / 3
    limit = (block.total_mb + nothing.total_mb) / 2
    some = plan_mobile_memory(spec, None, 8, "auto", limit)
    assert some.total_mb <= limit and 0 < some.groups[-1][1] < block.groups[-1][1]
    with pytest.raises(UserError, match="memory.limit_mb"):
        plan_mobile_memory(spec, None, 8, "auto", 1)
