"""Genotypes: masks, the JSON file and everything its reader refuses."""

from __future__ import annotations

import copy
import dataclasses
import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dso_nas.architecture.genotype import BlockGenotype, Genotype, GenotypeError
from dso_nas.architecture.genotype_file import MAX_BYTES
from dso_nas.architecture.pruning import prune_block
from dso_nas.architecture.sampling import random_genotype
from dso_nas.architecture.topology import OPERATIONS, REACHES, BlockTopology, NetworkSpec
from dso_nas.errors import UserError

GOOD = {
    "format": "dso-nas-genotype",
    "version": 1,
    "space": "normal",
    "topology": {"levels": 3, "operations": ["sep_conv_3x3", "max_pool_3x3"]},
    "scope": "share",
    "blocks": {
        "shared": {"operations": {"2.1": ["input", "1.2"], "3.2": ["2.1"]}, "outputs": ["1.1", "3.2"]},
    },
    "reductions": [["conv1x1"], ["conv1x1", "conv3x3"]],
    "source": {"recipe": "demo", "epochs": 3, "loss": 0.5},
}
OPS = "blocks.shared.operations"


def test_a_file_says_what_it_means():
    genotype = Genotype.from_json(GOOD, "here")
    block = genotype.blocks["shared"]
    assert block == BlockGenotype({(2, 1): ((0, 0), (1, 2)), (3, 2): ((2, 1),)}, ((1, 1), (3, 2)))
    assert block.live_nodes == ((1, 1), (1, 2), (2, 1), (3, 2))
    assert block.num_connections == 5 and not block.is_empty
    assert genotype.reductions == (("conv1x1",), ("conv1x1", "conv3x3"))
    assert genotype.to_json() == GOOD


def test_the_mask_marks_the_live_connections():
    genotype = Genotype.from_json(GOOD, "here")
    vectors = genotype.topology.unpack(genotype.blocks["shared"].mask(genotype.topology))
    assert {key: vector.nonzero()[0].tolist() for key, vector in vectors.items()} == {
        (2, 1): [0, 2],
        (2, 2): [],
        (3, 1): [],
        (3, 2): [3],
        "after": [0, 5],
    }


def test_order_in_the_file_does_not_matter():
    shuffled = copy.deepcopy(GOOD)
    shuffled["blocks"]["shared"] = {
        "outputs": ["3.2", "1.1"],
        "operations": {"3.2": ["2.1"], "2.1": ["1.2", "input"]},
    }
    shuffled["reductions"][1].reverse()
    assert Genotype.from_json(shuffled, "here") == Genotype.from_json(GOOD, "here")


@settings(deadline=None, max_examples=60)
@given(
    levels=st.integers(1, 5),
    operations=st.lists(st.sampled_from(sorted(OPERATIONS)), min_size=1, max_size=5, unique=True),
    blocks=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    scope=st.sampled_from(["share", "full"]),
    density=st.floats(0.2, 1),
    reach=st.sampled_from(REACHES),
    seed=st.integers(0, 2**32 - 1),
)
def test_files_round_trip(tmp_path_factory, levels, operations, blocks, scope, density, reach, seed):
    topology = BlockTopology(levels, tuple(operations), reach)
    spec = NetworkSpec(topology, "cifar", tuple(blocks), (4,) * len(blocks), 10, (3, 32, 32))
    genotype = random_genotype(spec, scope, density, np.random.default_rng(seed))
    path = str(tmp_path_factory.mktemp("genotype") / "genotype.json")
    genotype.save(path)
    loaded = Genotype.load(path)
    assert loaded == genotype
    loaded.check_fits(spec)
    for block in loaded.blocks.values():
        mask = block.mask(topology)
        assert BlockGenotype.from_mask(topology, mask) == block
        assert mask.sum() == block.num_connections
        assert np.array_equal(prune_block(topology, mask), mask)


def test_only_a_reach_that_is_not_the_usual_one_is_written():
    content = changed(("topology", "reach"), "previous")
    content["blocks"]["shared"]["operations"]["2.1"] = ["1.2"]
    genotype = Genotype.from_json(content, "here")
    assert genotype.topology == BlockTopology(3, ("sep_conv_3x3", "max_pool_3x3"), "previous")
    assert genotype.to_json() == content
    assert Genotype.from_json(changed(("topology", "reach"), "all"), "here").to_json() == GOOD


def test_an_empty_block_round_trips():
    empty = copy.deepcopy(GOOD)
    empty["blocks"]["shared"] = {"operations": {}, "outputs": []}
    genotype = Genotype.from_json(empty, "here")
    assert genotype.blocks["shared"].is_empty and genotype.blocks["shared"].live_nodes == ()
    assert genotype.to_json() == empty


def test_an_unpruned_mask_is_refused(topology):
    mask = np.zeros(topology.num_connections, bool)
    mask[topology.slice((2, 1))] = True
    with pytest.raises(ValueError, match="not pruned: operations.2.1: it reaches no output"):
        BlockGenotype.from_mask(topology, mask)


def changed(path, value):
    content = copy.deepcopy(GOOD)
    *parents, last = path
    part = content
    for key in parents:
        part = part[key]
    part[last] = value
    return content


def without(key):
    return {name: value for name, value in GOOD.items() if name != key}


def with_operations(operations, outputs):
    return changed(("blocks", "shared"), {"operations": operations, "outputs": outputs})


BROKEN = {
    "no object": ([GOOD], "the file"),
    "missing key": (without("scope"), "'scope' is missing"),
    "unknown key": ({**GOOD, "extra": 1}, "unknown key 'extra'"),
    "other format": ({**GOOD, "format": "darts"}, "format: 'darts'"),
    "later version": ({**GOOD, "version": 2}, "version: 2"),
    "version true": ({**GOOD, "version": True}, "version: True"),
    "version float": ({**GOOD, "version": 1.0}, "version: 1.0"),
    "other space": ({**GOOD, "space": "mobile"}, "space: 'mobile'"),
    "no levels": (changed(("topology",), {"operations": ["sep_conv_3x3"]}), "topology: the key 'levels'"),
    "zero levels": (changed(("topology", "levels"), 0), "topology.levels: 0"),
    "too many levels": (changed(("topology", "levels"), 10**30), "topology.levels: 1000"),
    "levels as text": (changed(("topology", "levels"), "3"), "topology.levels: '3'"),
    "levels true": (changed(("topology", "levels"), True), "topology.levels: True"),
    "strange reach": (changed(("topology", "reach"), "next"), "topology.reach: 'next' is not 'all' or"),
    "input out of reach": (changed(("topology", "reach"), "previous"), f"{OPS}.2.1: input is out of reach"),
    "unknown topology key": (changed(("topology", "width"), 3), "'width', allowed are levels, operations, reach"),
    "no operations": (changed(("topology", "operations"), []), "topology.operations: is empty"),
    "strange operation": (changed(("topology", "operations"), ["conv"]), "topology.operations: 'conv'"),
    "operation twice": (changed(("topology", "operations"), ["max_pool_3x3"] * 2), "'max_pool_3x3' twice"),
    "operations as text": (changed(("topology", "operations"), "max_pool_3x3"), "topology.operations"),
    "operation unhashable": (changed(("topology", "operations"), [["max_pool_3x3"]]), "topology.operations"),
    "strange scope": ({**GOOD, "scope": "half"}, "scope: 'half'"),
    "shared block missing": ({**GOOD, "blocks": {}}, "blocks: the key 'shared'"),
    "shared and others": (changed(("blocks", "stage1_unit1"), GOOD["blocks"]["shared"]), "blocks: unknown"),
    "full without blocks": ({**GOOD, "scope": "full", "blocks": {}}, "blocks: is empty"),
    "full with shared": ({**GOOD, "scope": "full"}, "blocks.'shared'"),
    "block as list": (changed(("blocks", "shared"), []), "blocks.shared: [] is not an object"),
    "no outputs": (changed(("blocks", "shared"), {"operations": {}}), "blocks.shared: the key 'outputs'"),
    "operations as list": (with_operations([], []), f"{OPS}: [] is not an object"),
    "inputs as text": (with_operations({"2.1": "input"}, ["2.1"]), f"{OPS}.'2.1': 'input' is not a list"),
    "no inputs": (with_operations({"2.1": []}, ["2.1"]), f"{OPS}.2.1: the list of inputs is empty"),
    "input twice": (with_operations({"2.1": ["1.1", "1.1"]}, ["2.1"]), f"{OPS}.'2.1': names '1.1' twice"),
    "input null": (with_operations({"2.1": [None]}, ["2.1"]), f"{OPS}.'2.1': None"),
    "input number": (with_operations({"2.1": [1.1]}, ["2.1"]), f"{OPS}.'2.1': 1.1"),
    "input of another form": (with_operations({"2.1": ["01.1"]}, ["2.1"]), "'01.1' is not an operation"),
    "input does not exist": (with_operations({"2.1": ["1.3"]}, ["2.1"]), "operation 1.3 does not exist"),
    "input of the same level": (with_operations({"2.1": ["2.1"]}, ["2.1"]), "2.1 is not of an earlier"),
    "input dead": (with_operations({"3.1": ["2.2"]}, ["3.1"]), f"{OPS}.3.1: 2.2 is dead"),
    "operation does not exist": (with_operations({"4.1": ["1.1"]}, ["4.1"]), "operation 4.1 does not exist"),
    "operation of level 1": (with_operations({"1.1": ["input"]}, ["1.1"]), f"{OPS}.1.1: operations of"),
    "operation without a way out": (with_operations({"2.1": ["1.1"]}, ["1.1"]), f"{OPS}.2.1: it reaches no"),
    "output dead": (with_operations({}, ["2.1"]), "blocks.shared.outputs: 2.1 is dead"),
    "output twice": (with_operations({}, ["1.1", "1.1"]), "blocks.shared.outputs: names '1.1' twice"),
    "output is the input": (with_operations({}, ["input"]), "blocks.shared.outputs: 'input'"),
    "outputs null": (with_operations({}, None), "blocks.shared.outputs: None is not a list"),
    "reductions null": ({**GOOD, "reductions": None}, "reductions: None"),
    "reduction empty": ({**GOOD, "reductions": [[]]}, "reductions.0: is empty"),
    "reduction unknown": ({**GOOD, "reductions": [["conv1x1"], ["conv5x5"]]}, "reductions.1: 'conv5x5'"),
    "reduction twice": ({**GOOD, "reductions": [["conv1x1"] * 2]}, "reductions.0: names 'conv1x1' twice"),
    "source as list": ({**GOOD, "source": []}, "source: [] is not an object"),
    "source infinite": ({**GOOD, "source": {"a": [{"b": float("inf")}]}}, "source: holds inf"),
}


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_broken_content_is_refused_in_one_line(name):
    content, message = BROKEN[name]
    with pytest.raises(GenotypeError) as refusal:
        Genotype.from_json(content, "work/genotype.json")
    text = str(refusal.value)
    assert text.startswith("work/genotype.json: ") and message in text
    assert "\n" not in text and len(text) < 250


UNREADABLE = {
    "empty": (b"", "Expecting value"),
    "cut off": (json.dumps(GOOD).encode()[:-20], "not a genotype's JSON"),
    "not a number": (json.dumps({**GOOD, "source": {"loss": float("nan")}}).encode(), "NaN is not a finite"),
    "overflowing": (json.dumps(GOOD).replace("0.5", "1e999").encode(), "source: holds inf"),
    "key twice": (json.dumps(GOOD).replace('"3.2": [', '"2.1": [').encode(), "'2.1' appears twice"),
    "not utf-8": (b'{"format": "\xff"}', "not a genotype's JSON"),
    "nested": (b"[" * 100000, "nested too deeply"),
    "huge": (b" " * (MAX_BYTES + 1), "larger than 16 MB"),
}


@pytest.mark.parametrize("name", sorted(UNREADABLE))
def test_unreadable_files_are_refused_in_one_line(name, tmp_path):
    raw, message = UNREADABLE[name]
    path = tmp_path / "genotype.json"
    path.write_bytes(raw)
    with pytest.raises(GenotypeError) as refusal:
        Genotype.load(str(path))
    text = str(refusal.value)
    assert text.startswith(f"{path}: ") and message in text and "\n" not in text


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(UserError, match="absent.json: cannot read the genotype: No such file"):
        Genotype.load(str(tmp_path / "absent.json"))
    with pytest.raises(UserError, match="genotype.json: cannot be written: No such file"):
        Genotype.from_json(GOOD, "here").save(str(tmp_path / "absent" / "genotype.json"))


def test_saving_replaces_the_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "genotype.json"
    path.write_text("old")
    Genotype.from_json(GOOD, "here").save(str(path))
    assert json.loads(path.read_text()) == GOOD
    assert os.listdir(tmp_path) == ["genotype.json"]


def test_share_fits_any_depth_and_full_only_its_own(spec):
    deeper = NetworkSpec(spec.topology, "cifar", (3, 2, 2), (8, 16, 32), 10, (3, 32, 32))
    Genotype.full(spec, "share").check_fits(deeper)
    full = Genotype.full(spec, "full")
    full.check_fits(spec.scaled(2))
    with pytest.raises(GenotypeError, match="the network has stage1_unit3"):
        full.check_fits(deeper)
    with pytest.raises(GenotypeError, match="the genotype .* has stage1_unit3"):
        Genotype.full(deeper, "full").check_fits(spec)


def test_other_stages_and_topologies_do_not_fit(spec):
    shared = Genotype.full(spec, "share")
    two = NetworkSpec(spec.topology, "cifar", (2, 2), (8, 16), 10, (3, 32, 32))
    with pytest.raises(GenotypeError, match="reductions: the genotype has 2"):
        shared.check_fits(two)
    short = BlockTopology(3, spec.topology.operations)
    with pytest.raises(GenotypeError, match="topology: the genotype has 4 levels"):
        shared.check_fits(NetworkSpec(short, "cifar", (2, 2, 2), (8, 16, 32), 10, (3, 32, 32)))
    near = BlockTopology(4, spec.topology.operations, "previous")
    with pytest.raises(GenotypeError, match="reach all.* the network has .*reach previous"):
        shared.check_fits(NetworkSpec(near, "cifar", (2, 2, 2), (8, 16, 32), 10, (3, 32, 32)))


@pytest.mark.parametrize("scope", ["share", "full"])
def test_full_has_everything(spec, scope):
    genotype = Genotype.full(spec, scope)
    for unit in spec.block_units():
        assert genotype.block(unit).num_connections == 124
        assert genotype.block(unit).live_nodes == genotype.block(unit).outputs == spec.topology.nodes()
    for unit in spec.reduction_units():
        assert genotype.reduction(unit) == ("conv1x1", "conv3x3")
    with pytest.raises(UserError, match="scope"):
        Genotype.full(spec, "some")


def test_a_shared_block_goes_into_a_network_of_another_number_of_stages():
    topology = BlockTopology(2, ("sep_conv_3x3", "max_pool_3x3"))
    three, four, two = (NetworkSpec(topology, "cifar", (1,) * n, (4,) * n, 10, (3, 32, 32)) for n in (3, 4, 2))
    found = dataclasses.replace(Genotype.full(three, "share"), reductions=(("conv1x1",), ("conv3x3",)))
    assert found.transferred(four).reductions == (("conv1x1",), ("conv3x3",), ("conv1x1", "conv3x3"))
    assert found.transferred(two).reductions == (("conv1x1",),)
    found.transferred(four).check_fits(four)
    full = Genotype.full(three, "full")
    assert full.transferred(four) is full
