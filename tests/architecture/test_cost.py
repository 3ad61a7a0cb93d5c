"""Costs, against the published counts and layers worked out by hand."""

from __future__ import annotations

import dataclasses
import json

import pytest

from dso_nas.architecture.cost import Conventions, Cost, Layer, block_cost, network_cost, operation_cost
from dso_nas.architecture.genotype import Genotype
from dso_nas.architecture.pruning import prune
from dso_nas.architecture.topology import BlockTopology, NetworkSpec
from dso_nas.errors import UserError

EVERYTHING = Conventions(batch_norm=True, bias=True)


def cost_of(case, spec, conventions=None):
    genotype = prune(case.layout, case.packed("in")).genotype
    return network_cost(spec, genotype, conventions).total


def test_derived_networks_cost_the_published_counts(built_case):
    entry, spec = built_case.entry, built_case.spec
    total = cost_of(built_case, spec)
    assert [total.parameters, total.multiply_adds] == entry["params_flops_weights_only_excl_aux"]
    assert cost_of(built_case, spec, EVERYTHING).parameters == entry["params_all_args_excl_aux_head"]
    with_aux = dataclasses.replace(EVERYTHING, aux_head=spec.stem == "cifar")
    assert cost_of(built_case, spec, with_aux).parameters == entry["params_all_args_incl_aux_head"]


def test_shared_blocks_cost_the_published_counts_at_full_depth(built_case):
    wide = [
        ("depth110_width36", (8, 8, 8), 10, (3, 32, 32)),
        ("units_3_3_14_7_width36_224", (2, 2, 13, 6), 1000, (3, 224, 224)),
    ]
    recorded = [row for row in wide if row[0] in built_case.entry]
    assert len(recorded) == (built_case.layout.scope == "share")
    for key, blocks, classes, shape in recorded:
        widths = tuple(36 * 2**stage for stage in range(len(blocks)))
        spec = NetworkSpec(built_case.spec.topology, built_case.spec.stem, blocks, widths, classes, shape)
        total = cost_of(built_case, spec)
        published = built_case.entry[key]["params_flops_weights_only_excl_aux"]
        assert [total.parameters, total.multiply_adds] == published


def supernet(entry, operations, width):
    topology = BlockTopology(entry["num_layers"], operations)
    if entry["folder"] == "Imagenet":
        return NetworkSpec(topology, "imagenet", (2, 2, 13, 6), (28, 56, 112, 224), 1000, (3, 224, 224))
    return NetworkSpec(topology, "cifar", (8, 8, 8), (width, 2 * width, 4 * width), 10, (3, 32, 32))


def test_supernets_cost_the_published_counts(golden_folder, topology):
    entries = json.loads((golden_folder / "F_params_flops.json").read_text())
    assert len(entries) == 9
    for entry in entries:
        # One of the published sources has 2 as its first width, the others 48.
        spec = supernet(entry, topology.operations, 2 if entry["params_weights_only"] < 10**5 else 48)
        table = network_cost(spec)
        outputs = sum(row.cost.parameters for row in table.rows if "_output_conv_" in row.layer.name)
        sep = sum(
            row.layer.kernel**2 * row.layer.channels for row in table.rows if row.layer.kind == "sep_conv"
        )
        assert table.total.parameters == entry["params_weights_only"]
        assert table.total.multiply_adds == entry["flops_mult_adds"]
        assert outputs == entry["output_conv_params"]
        assert sep == entry["sep_params"]
        everything = network_cost(spec, conventions=EVERYTHING).total
        assert everything.parameters == entry["params_all_args_excl_lambda"]


def test_a_toy_network_by_hand():
    """Two channels on 4x4: conv0, the shortcut, one separable 3x3, its output, and five classes."""
    spec = NetworkSpec(BlockTopology(1, ("sep_conv_3x3",)), "cifar", (1,), (2,), 5, (3, 4, 4))
    table = network_cost(spec)
    assert {row.layer.name: dataclasses.astuple(row.cost) for row in table.rows} == {
        "conv0": (54, 864, 48 + 32 + 54),
        "stage1_unit1_id_conv": (4, 64, 68),
        "stage1_unit1_1_conv3x3": (18 + 4, 288 + 64, 82 + 68),
        "stage1_unit1_output_conv_1": (4, 64, 68),
        "stage1_unit1_bn": (0, 0, 0),
        "final_bn": (0, 0, 0),
        "global_pool": (0, 0, 34),
        "fc1": (10, 10, 17),
    }
    assert table.total == Cost(94, 1354, 471)
    assert table.by_unit() == {
        "stem": Cost(54, 864, 134),
        "stage1_unit1": Cost(30, 480, 286),
        "head": Cost(10, 10, 51),
    }
    assert network_cost(spec, conventions=Conventions(batch_norm=True)).total == Cost(94 + 5 * 4, 1354, 471)
    assert network_cost(spec, conventions=Conventions(bias=True)).total == Cost(94 + 5, 1354, 471)


def test_a_reduction_by_hand():
    """5x5 to 3x3, two channels to four: both convolutions read the whole input."""
    spec = NetworkSpec(BlockTopology(1, ("max_pool_3x3",)), "cifar", (1, 1), (2, 4), 5, (3, 5, 5))
    costs = {row.layer.name: row.cost for row in network_cost(spec).rows}
    assert costs["stage1_unit2_conv1x1"] == Cost(8, 72, 50 + 36 + 8)
    assert costs["stage1_unit2_conv3x3"] == Cost(72, 648, 50 + 36 + 72)
    assert costs["stage1_unit1_1_max_pool"] == Cost(0, 0, 50 + 50)
    genotype = dataclasses.replace(Genotype.full(spec, "share"), reductions=(("conv3x3",),))
    names = [row.layer.name for row in network_cost(spec, genotype).rows]
    assert "stage1_unit2_conv3x3" in names and "stage1_unit2_conv1x1" not in names


def test_a_strided_separable_convolution_by_hand():
    """Two channels on 4x4 to three on 2x2: the pointwise half reads what the depthwise half wrote."""
    layer = Layer("unit", "unit_sep", "sep_conv", 2, 3, 3, (4, 4), (2, 2))
    depthwise, pointwise = Cost(18, 72, 32 + 8 + 18), Cost(6, 24, 8 + 12 + 6)
    assert operation_cost(layer, Conventions()) == depthwise + pointwise
    assert operation_cost(layer, EVERYTHING).parameters == 24 + 2 * 3


def test_a_block_costs_what_its_rows_in_the_network_do(spec):
    genotype = Genotype.full(spec, "share")
    for unit in spec.block_units():
        whole = network_cost(spec, genotype, EVERYTHING).by_unit()[unit.name]
        table = block_cost(spec, unit, genotype.block(unit), EVERYTHING)
        assert table.total == whole
        assert {row.layer.node for row in table.rows} == {None, *spec.topology.nodes()}


def test_the_auxiliary_head_on_imagenet_by_hand(topology):
    spec = NetworkSpec(topology, "imagenet", (2, 2, 13, 6), (28, 56, 112, 224), 1000, (3, 224, 224))
    table = network_cost(spec, conventions=Conventions(aux_head=True))
    aux = {row.layer.name: row.cost for row in table.rows if row.layer.unit == "aux"}
    assert aux["aux_conv1"] == Cost(112 * 128, 112 * 128 * 25, 25 * (112 + 128) + 112 * 128)
    assert aux["aux_conv2"] == Cost(4 * 128 * 768, 4 * 128 * 768 * 16, 25 * 128 + 16 * 768 + 4 * 128 * 768)
    assert aux["aux_fc"].parameters == 768 * 1000
    assert aux["aux_pool"] == Cost(0, 0, 112 * (14 * 14 + 25))


@pytest.mark.parametrize("change", [{"blocks": (1, 1), "widths": (8, 16)}, {"image_shape": (3, 28, 28)}])
def test_no_room_for_the_auxiliary_head_is_an_error(spec, change):
    small = dataclasses.replace(spec, **change)
    assert network_cost(small).total.parameters > 0
    with pytest.raises(UserError, match="aux_head"):
        network_cost(small, conventions=Conventions(aux_head=True))


def test_an_operation_without_a_formula_is_an_error():
    layer = Layer("stage1_unit1", "stage1_unit1_1_shuffle", "shuffle", 2, 2, 1, (4, 4), (4, 4))
    with pytest.raises(UserError, match="no formula for 'shuffle'"):
        operation_cost(layer, Conventions())


def test_a_genotype_that_does_not_fit_is_refused(spec):
    other = NetworkSpec(BlockTopology(2, ("sep_conv_3x3",)), "cifar", (2, 2, 2), (8, 16, 32), 10, (3, 32, 32))
    with pytest.raises(UserError, match="topology"):
        network_cost(spec, Genotype.full(other, "share"))
