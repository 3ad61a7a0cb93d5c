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
from dso_nas.architecture.mobile_genotype import MobileGenotype, random_mobile
from dso_nas.architecture.sampling import random_genotype
from dso_nas.architecture.topology import OPERATIONS, BlockTopology, NetworkSpec
from dso_nas.budgets import layer_latency as module
from dso_nas.budgets.latency import Latency
from dso_nas.budgets.latency_table import Entry, LatencyTable
from dso_nas.budgets.layer_latency import COPIES, layer_counts, load_table, measure_layer, table_space, timed_layers
from dso_nas.errors import UserError
from dso_nas.networks.derived import DerivedNetwork
from dso_nas.networks.mobile import MobileNetwork
from tests.architecture.mobile_networks import TINY, known_network
from tests.symbol_counts import count, nodes_of, total

SPEC = NetworkSpec(BlockTopology(2, tuple(OPERATIONS)), "cifar", (1, 2), (4, 6), 10, (3, 9, 7))


def table_of(spec):
    return LatencyTable(table_space(spec), "cpu(0)", 1, "median", {},
                        {name: Entry(1.0, 0.0) for name in timed_layers(spec)})


@pytest.mark.parametrize("spec", [SPEC, dataclasses.replace(SPEC, stem="imagenet", image_shape=(3, 33, 29))])
@pytest.mark.parametrize("scope", ["share", "full"])
def test_counts_are_those_of_the_traced_network(spec, scope):
    """Convolutions, pools, BatchNorms and sums, on the graph that MXNet runs; a mean is a convolution there.

    A block ends in the sum with its shortcut.
    """
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
        assert (ops["Pooling"], ops["mean"]) == (by_part["max_pool_3x3"], 1)
        assert ops["BatchNorm"] == stems + 1 + sum(by_part[name] for name in (
            *OPERATIONS, "shortcut", "block end", "reduction"))
        assert terms == by_part["sum"] + by_part["block end"]
        assert set(layer_counts(spec, genotype)) <= set(timed_layers(spec))


def test_an_empty_block_is_its_shortcut():
    genotype = dataclasses.replace(Genotype.full(SPEC, "share"), blocks={"shared": BlockGenotype({}, ())},
                                   reductions=(("conv1x1",),))
    counts = {name: number for name, number in layer_counts(SPEC, genotype).items() if number}
    assert counts == {"stem": 1, "stage1/shortcut": 1, "stage1/reduction conv1x1": 1, "stage2/shortcut": 1, "head": 1}


@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_mobile_counts_are_those_of_the_traced_network(density):
    genotype = random_mobile(TINY, density, np.random.default_rng(2))
    counts = layer_counts(TINY, genotype)
    nodes = nodes_of(MobileNetwork(TINY, genotype)(mx.sym.var("data")), data=(1, *TINY.image_shape))
    shortcuts = sum(number for name, number in counts.items() if name.endswith("/shortcut"))
    assert shortcuts == sum(node.op in ("elemwise_add", "_plus", "broadcast_add", "_Plus") for node in nodes)
    assert sum(number for name, number in counts.items() if name.endswith("/sum")) == sum(
        len(node.inputs) - 1 for node in nodes if node.op == "add_n")
    assert sum(number for name, number in counts.items() if "/mb" in name or " mb" in name) == genotype.num_live
    assert {name for name, number in counts.items() if number} <= set(timed_layers(TINY))


@pytest.mark.parametrize("spec, genotype", [(TINY, MobileGenotype.full(TINY)), known_network("cpu")[:2]])
def test_mobile_layers_have_the_parameters_and_multiply_adds_of_the_network(spec, genotype):
    """A layer timed at another size, width or stride than its place's would not add up."""
    def traced(network, shape):
        return np.array(total(count(network(mx.sym.var("data")), data=(1, *shape))))[:2]

    layers = timed_layers(spec)
    found = sum(number * traced(layers[name].build(), layers[name].shape)
                for name, number in layer_counts(spec, genotype).items()
                if number and layers[name].inputs == 1)
    assert found.tolist() == traced(MobileNetwork(spec, genotype), spec.image_shape).tolist()


def test_a_mobile_block_without_operations_adds_nothing():
    genotype = MobileGenotype(TINY.operations, {
        unit.name: () if unit.shortcut else ("mb3_3x3",) for unit in TINY.units()})
    counts = {name: number for name, number in layer_counts(TINY, genotype).items() if number}
    assert counts == {"stem": 1, "first": 1, "head": 1, "stage2/first mb3_3x3": 1}


@pytest.mark.parametrize("spec", [SPEC, TINY])
def test_every_layer_runs_on_inputs_of_its_own(monkeypatch, spec):
    """What is timed: COPIES outputs of the layer's shape, whose time is divided among them."""
    def timed(action, *arguments):
        action()
        return Latency.of([240.0], "mean")

    monkeypatch.setattr(module, "timed", timed)
    for name, layer in timed_layers(spec).items():
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
    table_of(SPEC).save(path)
    deeper = dataclasses.replace(SPEC, blocks=(4, 1), topology=BlockTopology(3, tuple(OPERATIONS)))
    assert load_table(path, deeper, 1) == table_of(SPEC)
    for other, said in [(SPEC.scaled(2), "widths"), (dataclasses.replace(SPEC, image_shape=(3, 8, 7)), "image_shape"),
                        (dataclasses.replace(SPEC, classes=11), "classes"),
                        (dataclasses.replace(SPEC, topology=BlockTopology(2, ("max_pool_3x3",))), "operations"),
                        (TINY, "name")]:
        with pytest.raises(UserError, match=f"table.json: the latency table is of another space, its {said} is"):
            load_table(path, other, 1)
    with pytest.raises(UserError, match="table.json: the latency table is for batches of 1, search.latency_batch is 3"):
        load_table(path, SPEC, 3)


def test_a_mobile_table_serves_its_own_macro_structure(tmp_path):
    path = tmp_path / "table.json"
    table_of(TINY).save(path)
    deeper = dataclasses.replace(TINY, groups=((6, 4, 1), (8, 3, 2), (8, 1, 1)))
    assert load_table(path, deeper, 1) == load_table(path, TINY, 1) == table_of(TINY)
    for changes, said in [({"image_shape": (3, 16, 13)}, "image_shape is"), ({"classes": 6}, "classes is"),
                          ({"stem_width": 5}, "stem_width is"), ({"first_width": 5}, "first_width is"),
                          ({"feature_width": 8}, "feature_width is"), ({"operations": ("mb3_3x3",)}, "operations is"),
                          ({"groups": ((6, 2, 1), (8, 2, 2), (9, 1, 1))}, "widths is"),
                          ({"groups": ((6, 2, 1), (8, 2, 2), (8, 1, 2))}, "strides is"),
                          ({"groups": ((6, 2, 1), (8, 2, 2), (8, 2, 1))}, "has no entry 'stage3/mb3_3x3'")]:
        with pytest.raises(UserError, match=f"table.json: the latency table .*{said}") as caught:
            load_table(path, dataclasses.replace(TINY, **changes), 1)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="table.json: .* its name is 'mobile' and the network's 'normal'"):
        load_table(path, SPEC, 1)
