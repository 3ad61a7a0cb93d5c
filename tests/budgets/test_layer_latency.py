"""Layers timed by themselves: that they are all there, run, and are counted as the network has them."""

import dso_nas  # noqa: F401  (before MXNet)

# isort: split
import dataclasses
from collections import Counter

import mxnet as mx
import numpy as np
import pytest

from dso_nas.architecture.block_genotype import BlockGenotype
from dso_nas.architecture.genotype import Genotype
from dso_nas.architecture.sampling import random_genotype
from dso_nas.architecture.topology import OPERATIONS, BlockTopology, NetworkSpec
from dso_nas.budgets import layer_latency as module
from dso_nas.budgets.latency import Latency
from dso_nas.budgets.latency_table import Entry, LatencyTable
from dso_nas.budgets.layer_latency import COPIES, layer_counts, load_table, measure_layer, table_space, timed_layers
from dso_nas.errors import UserError
from dso_nas.networks.derived import DerivedNetwork
from tests.symbol_counts import nodes_of

SPEC = NetworkSpec(BlockTopology(2, tuple(OPERATIONS)), "cifar", (1, 2), (4, 6), 10, (3, 9, 7))
TABLE = LatencyTable(table_space(SPEC), "cpu(0)", 1, "median", {},
                     {name: Entry(1.0, 0.0) for name in timed_layers(SPEC)})


@pytest.mark.parametrize("spec", [SPEC, dataclasses.replace(SPEC, stem="imagenet", image_shape=(3, 33, 29))])
@pytest.mark.parametrize("scope", ["share", "full"])
def test_counts_are_those_of_the_traced_network(spec, scope):
    """Convolutions, pools, BatchNorms and sums, on the graph that MXNet runs; a mean is a convolution there."""
    rng = np.random.default_rng(1)
    for _ in range(3):
        genotype = random_genotype(spec, scope, 0.4, rng)
        nodes = nodes_of(DerivedNetwork(spec, genotype)(mx.sym.var("data")), data=(1, *spec.image_shape))
        ops = Counter(node.op for node in nodes)
        terms = sum(len(node.inputs) - 1 for node in nodes if node.op == "add_n")
        by_part = Counter()
        for name, number in layer_counts(spec, genotype).items():
            by_part["reduction" if "reduction" in name else name.split("/")[-1]] += number
        stems = len(spec.stem_widths)
        separable = sum(by_part[name] for name in OPERATIONS if name.startswith("sep"))
        assert ops["Convolution"] == stems + 2 * separable + by_part["avg_pool_3x3"] + by_part["output"] + \
            by_part["shortcut"] + by_part["reduction"]
        assert ops["Pooling"] == by_part["max_pool_3x3"] + 1
        assert ops["BatchNorm"] == stems + 1 + sum(by_part[name] for name in (
            *OPERATIONS, "shortcut", "block end", "reduction"))
        assert terms == by_part["sum"]
        assert set(layer_counts(spec, genotype)) <= set(timed_layers(spec))


def test_an_empty_block_is_its_shortcut():
    genotype = dataclasses.replace(Genotype.full(SPEC, "share"), blocks={"shared": BlockGenotype({}, ())},
                                   reductions=(("conv1x1",),))
    counts = {name: number for name, number in layer_counts(SPEC, genotype).items() if number}
    assert counts == {"stem": 1, "stage1/shortcut": 1, "stage1/reduction conv1x1": 1, "stage2/shortcut": 1, "head": 1}


def test_every_layer_runs_on_inputs_of_its_own(monkeypatch):
    """What is timed: COPIES outputs of the layer's shape, whose time is divided among them."""
    def timed(action, *arguments):
        action()
        return Latency.of([240.0], "mean")

    monkeypatch.setattr(module, "timed", timed)
    for name, layer in timed_layers(SPEC).items():
        entry = measure_layer(layer, mx.cpu(), 2, "paper", 1.0)
        assert entry.milliseconds == 240 / COPIES / (4 if name.endswith("/sum") else 1)
        network = module.compiled(module._Copies(layer), mx.cpu())
        inputs = [mx.nd.random.normal(shape=(2, *layer.shape)) for _ in range(COPIES)]
        outputs = network(*inputs)
        assert len(outputs) == COPIES
        if name.endswith("/sum"):
            expected = sum(inputs[position].asnumpy() for position in (6, 7, 0, 1, 2))
            np.testing.assert_allclose(outputs[6].asnumpy(), expected, atol=1e-5)
        assert not np.array_equal(outputs[0].asnumpy(), outputs[1].asnumpy())
        by_itself = network.layer(*[inputs[(1 + n) % COPIES] for n in range(layer.inputs)])
        np.testing.assert_allclose(outputs[1].asnumpy(), by_itself.asnumpy(), atol=1e-5)


def test_measuring_leaves_random_generators_alone():
    draws = []
    for measured in (True, False):
        mx.random.seed(5)
        np.random.seed(5)
        if measured:
            entry = measure_layer(timed_layers(SPEC)["stage1/sep_conv_3x3"], mx.cpu(), 1, "paper", 1e9)
            assert entry.milliseconds > 0
        draws.append((mx.nd.random.uniform(shape=3).asnumpy().tolist(), np.random.rand(3).tolist()))
    assert draws[0] == draws[1]


def test_a_table_serves_any_depth_and_no_other_size(tmp_path):
    path = tmp_path / "table.json"
    TABLE.save(path)
    deeper = dataclasses.replace(SPEC, blocks=(4, 1), topology=BlockTopology(3, tuple(OPERATIONS)))
    assert load_table(path, deeper, 1) == TABLE
    for other, said in [(SPEC.scaled(2), "widths"), (dataclasses.replace(SPEC, image_shape=(3, 8, 7)), "image_shape"),
                        (dataclasses.replace(SPEC, classes=11), "classes"),
                        (dataclasses.replace(SPEC, topology=BlockTopology(2, ("max_pool_3x3",))), "operations")]:
        with pytest.raises(UserError, match=f"table.json: the latency table is of another space, its {said} is"):
            load_table(path, other, 1)
    with pytest.raises(UserError, match="table.json: the latency table is for batches of 1, search.latency_batch is 3"):
        load_table(path, SPEC, 3)
