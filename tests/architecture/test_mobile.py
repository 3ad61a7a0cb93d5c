"""The mobile space's macro-structures, lambdas, genotypes and pruning."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dso_nas.architecture.genotype import Genotype, GenotypeError
from dso_nas.architecture.genotypes import load_genotype
from dso_nas.architecture.mobile import MOBILE_OPERATIONS, MobileLambdas, MobileSpec, make_divisible
from dso_nas.architecture.mobile_genotype import MobileGenotype, is_settled, prune_mobile, random_mobile
from dso_nas.architecture.topology import BlockTopology, NetworkSpec
from dso_nas.errors import UserError
from tests.architecture.mobile_networks import KNOWN, TINY, known_network

LAYOUT = MobileLambdas(TINY)


def test_the_six_operations():
    assert set(MOBILE_OPERATIONS) == {"mb3_3x3", "mb6_3x3", "mb3_5x5", "mb6_5x5", "mb3_7x7", "mb6_7x7"}
    assert (MOBILE_OPERATIONS["mb6_7x7"].kernel, MOBILE_OPERATIONS["mb6_7x7"].expansion) == (7, 6)


@pytest.mark.parametrize("name, widths", [
    ("gpu", [32, 56, 112, 128, 256, 432]), ("cpu", [32, 48, 88, 104, 216, 360]),
    ("mobile", [32, 40, 80, 96, 192, 320])])
def test_macro_structures(name, widths):
    spec = MobileSpec.named(name)
    assert list(spec.widths) == widths and len(spec.units()) == 21
    assert [unit.size for unit in spec.units() if unit.unit == 1] == [
        (56, 56), (28, 28), (14, 14), (14, 14), (7, 7), (7, 7)]
    assert [unit.name for unit in spec.units() if not unit.shortcut] == [f"stage{stage}_unit1" for stage in range(1, 7)]
    assert spec.units()[0].in_channels == spec.first_width and spec.first_unit.size == (112, 112)


def test_a_first_block_that_keeps_its_shape_has_a_shortcut():
    assert [unit.shortcut for unit in TINY.units()] == [True, True, False, True, True]
    assert [unit.size for unit in TINY.units()] == [(8, 7)] * 2 + [(4, 4)] * 3


@pytest.mark.parametrize("change", [
    {"stem_width": 0}, {"groups": ()}, {"groups": ((8, 1, 3),)}, {"groups": ((8, 1),)}, {"image_shape": (3, 8)},
    {"operations": ("mb3_3x3", "mb3_3x3")}, {"operations": ()}, {"operations": ("mb4_3x3",)}, {"classes": True}])
def test_a_macro_structure_that_cannot_be(change):
    with pytest.raises(UserError, match=next(iter(change))):
        dataclasses.replace(TINY, **change)


def test_an_unknown_name():
    with pytest.raises(UserError, match="tpu.*gpu, cpu, mobile"):
        MobileSpec.named("tpu")


@given(st.sampled_from(sorted(KNOWN)), st.floats(0.01, 8))
def test_scaled_widths_are_multiples_of_eight(name, multiplier):
    spec, scaled = MobileSpec.named(name), MobileSpec.named(name).scaled(multiplier)
    before = (spec.stem_width, spec.first_width, *spec.widths, spec.feature_width)
    after = (scaled.stem_width, scaled.first_width, *scaled.widths, scaled.feature_width)
    for old, new in zip(before, after):
        assert new % 8 == 0 and new >= max(8, 0.9 * old * multiplier) and abs(new - old * multiplier) < 8
    assert [group[1:] for group in scaled.groups] == [group[1:] for group in spec.groups]


def test_scaling_by_one_changes_nothing_whatever_the_widths():
    assert TINY.scaled(1.0) == TINY
    assert TINY.scaled(2).widths == (12, 16, 16)


def test_a_multiple_that_loses_more_than_a_tenth_is_not_taken():
    assert [make_divisible(width, 8) for width in (1, 8.8, 8.9, 11, 100)] == [8, 8, 16, 16, 104]


def test_lambdas_one_vector_for_each_block():
    assert LAYOUT.shapes() == {f"lambda_{unit.name}": (1, 3) for unit in TINY.units()}
    assert LAYOUT.scope == "full" and LAYOUT.spec is TINY
    vectors = {unit.name: np.arange(3.0) + place for place, unit in enumerate(TINY.units())}
    values = LAYOUT.from_units(vectors)
    assert {value.shape for value in values.values()} == {(1, 3)}
    for name, vector in LAYOUT.to_units(values).items():
        np.testing.assert_array_equal(vector, vectors[name])
    with pytest.raises(UserError, match="lambda_stage1_unit1: missing"):
        LAYOUT.to_units({})


def lambdas(**units):
    values = {name: np.ones((1, 3), np.float32) for name in LAYOUT.shapes()}
    values.update({f"lambda_{name}": np.array([vector], np.float32) for name, vector in units.items()})
    return values


def test_pruning():
    result = prune_mobile(LAYOUT, lambdas(stage1_unit1=[0, -1, 0], stage1_unit2=[0, 0.5, 0],
                                          stage2_unit2=[0.1, 0, 0.2]))
    blocks = result.genotype.blocks
    assert blocks["stage1_unit1"] == () and blocks["stage1_unit2"] == ("mb6_3x3",)
    assert blocks["stage2_unit2"] == ("mb3_3x3", "mb3_5x5") and blocks["stage2_unit1"] == TINY.operations
    assert not result.values["lambda_stage1_unit1"].any() and not result.warnings
    assert result.genotype.num_live == 0 + 1 + 3 + 2 + 3
    result.genotype.check_fits(TINY)


@pytest.mark.parametrize("now, before, kept, value", [
    ([0, 0, 0], [0.2, 0.7, 0.3], 1, 0.7),
    ([0, 0, 0], [0, 0, 0.1], 2, 0.1),
    ([-3, -2, -1], [0.2, 0.7, 0.3], 2, 0.3),
    ([0, 0, 0], None, 0, 1),
    ([-1, 0, 0], [0.3, 0, 0], 0, 0.3),
])
def test_a_block_without_a_shortcut_keeps_an_operation(now, before, kept, value):
    previous = None if before is None else lambdas(stage2_unit1=before)
    result = prune_mobile(LAYOUT, lambdas(stage2_unit1=now), previous)
    expected = np.zeros(3, np.float32)
    expected[kept] = value
    np.testing.assert_array_equal(result.values["lambda_stage2_unit1"][0], expected)
    assert result.genotype.blocks["stage2_unit1"] == (TINY.operations[kept],)
    assert len(result.warnings) == 1 and "lambda_stage2_unit1: all lambdas" in result.warnings[0]


def test_lambdas_that_diverged_are_refused():
    with pytest.raises(UserError, match="stage1_unit2.*not finite"):
        prune_mobile(LAYOUT, lambdas(stage1_unit2=[1, np.nan, 1]))


def test_the_search_ends_with_one_operation_or_none():
    _, found, _ = known_network("gpu")
    assert is_settled(found)
    assert not is_settled(MobileGenotype.full(TINY))
    assert not is_settled(dataclasses.replace(found, blocks={**found.blocks, "stage1_unit2": ("mb3_3x3", "mb6_3x3")}))


@given(st.floats(0.01, 1), st.integers(0, 2**31 - 1))
def test_random_architectures_fit(density, seed):
    genotype = random_mobile(TINY, density, np.random.default_rng(seed))
    genotype.check_fits(TINY)
    if density * 3 <= 1:
        assert is_settled(genotype)
    sizes = {len(live) for live in genotype.blocks.values()}
    assert max(sizes) - min(sizes) <= 1


def test_a_random_architectures_density():
    spec = MobileSpec.named("gpu")
    live = [random_mobile(spec, 0.4, np.random.default_rng(seed)).num_live for seed in range(50)]
    assert np.mean(live) == pytest.approx(0.4 * 126, rel=0.05)
    with pytest.raises(UserError, match="density"):
        random_mobile(spec, 0, np.random.default_rng(0))


def test_a_genotype_survives_its_file(tmp_path):
    _, found, _ = known_network("cpu")
    found = dataclasses.replace(found, source={"recipe": "x"})
    path = str(tmp_path / "genotype.json")
    found.save(path)
    assert MobileGenotype.load(path) == found == load_genotype(path)
    content = json.loads((tmp_path / "genotype.json").read_text())
    assert (content["format"], content["version"], content["space"]) == ("dso-nas-genotype", 1, "mobile")


def test_each_space_refuses_the_others_genotype(tmp_path):
    normal = Genotype.full(NetworkSpec(BlockTopology(2, ("sep_conv_3x3",)), "cifar", (1,), (4,), 5, (3, 8, 8)), "full")
    mobile = MobileGenotype.full(TINY)
    for genotype, other, words in ((normal, MobileGenotype, "'normal', where a genotype of the mobile space is needed"),
                                   (mobile, Genotype, "'mobile', where a genotype of the normal space is needed")):
        path = str(tmp_path / "genotype.json")
        genotype.save(path)
        with pytest.raises(GenotypeError) as refusal:
            other.load(path)
        assert str(refusal.value) == f"{path}: space: {words}"
        assert type(load_genotype(path)) is type(genotype)


GOOD = MobileGenotype.full(TINY).to_json()
BROKEN = {
    "no space": ({key: value for key, value in GOOD.items() if key != "space"}, "the key 'space' is missing"),
    "other space": ({**GOOD, "space": "macro"}, "space: 'macro' is not 'normal' or 'mobile'"),
    "space as list": ({**GOOD, "space": ["mobile"]}, "space: ['mobile'] is not"),
    "no object": ([], "the file: [] is not an object"),
    "version": ({**GOOD, "version": 2}, "version: 2 is not 1"),
    "unknown key": ({**GOOD, "scope": "full"}, "unknown key 'scope'"),
    "operation": ({**GOOD, "operations": ["mb4_3x3"]}, "operations: 'mb4_3x3' is not"),
    "operation twice": ({**GOOD, "operations": ["mb3_3x3"] * 2}, "operations: names 'mb3_3x3' twice"),
    "no blocks": ({**GOOD, "blocks": {}}, "blocks: is empty"),
    "block's name": ({**GOOD, "blocks": {"first": []}}, "blocks.'first': is not of the form"),
    "block's operation": ({**GOOD, "blocks": {"stage1_unit1": ["mb6_7x7"]}}, "blocks.'stage1_unit1': 'mb6_7x7' is not"),
    "block as text": ({**GOOD, "blocks": {"stage1_unit1": "mb3_3x3"}}, "is not a list"),
    "source": ({**GOOD, "source": {"a": float("nan")}}, "source: holds nan"),
}


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_broken_content_is_refused_in_one_line(name, tmp_path):
    content, message = BROKEN[name]
    path = tmp_path / "genotype.json"
    if name == "source":
        with pytest.raises(GenotypeError, match="source: holds nan"):
            MobileGenotype.from_json(content, str(path))
        return
    path.write_text(json.dumps(content))
    with pytest.raises(GenotypeError) as refusal:
        load_genotype(str(path))
    assert str(refusal.value).startswith(f"{path}: ") and message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("change, message", [
    ({"operations": ("mb3_3x3",)}, "operations: the genotype has mb3_3x3"),
    ({"blocks": {}}, "blocks: the network has stage1_unit1"),
    ({"blocks": {**MobileGenotype.full(TINY).blocks, "stage9_unit1": ()}}, "blocks: the genotype has stage9_unit1"),
    ({"blocks": {**MobileGenotype.full(TINY).blocks, "stage2_unit1": ()}}, "blocks.stage2_unit1: is empty"),
])
def test_a_genotype_that_does_not_fit(change, message):
    with pytest.raises(GenotypeError, match=message):
        dataclasses.replace(MobileGenotype.full(TINY), **change).check_fits(TINY)


def test_a_genotype_does_not_fit_the_other_space():
    normal = NetworkSpec(BlockTopology(1, ("max_pool_3x3",)), "cifar", (1,), (4,), 10, (3, 32, 32))
    with pytest.raises(GenotypeError, match="space: the genotype is of 'mobile', the network is not"):
        MobileGenotype.full(TINY).check_fits(normal)
    with pytest.raises(GenotypeError, match="space: the genotype is of 'normal', the network is not"):
        Genotype.full(normal, "share").check_fits(TINY)
