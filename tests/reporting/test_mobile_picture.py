"""The picture of a mobile genotype, read back from its SVG."""

from __future__ import annotations

import re

import numpy as np
import pytest

from dso_nas.architecture.block_genotype import GenotypeError
from dso_nas.architecture.mobile_genotype import MobileGenotype, random_mobile
from dso_nas.reporting.mobile_picture import draw_mobile
from tests.architecture.mobile_networks import TINY, known_network


def drawn(genotype, spec, tmp_path, **more):
    stem = tmp_path / "structure"
    draw_mobile(genotype, spec, str(stem), **more)
    assert stem.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    return stem.with_suffix(".svg").read_text()


def boxes(svg):
    return set(re.findall(r'id="(stage\d+_unit\d+_mb\d_\dx\d)"', svg))


@pytest.mark.parametrize("name", ["gpu", "cpu"])
def test_a_box_for_each_live_operation_and_dots_for_each_shortcut(name, tmp_path):
    spec, genotype, _ = known_network(name)
    svg = drawn(genotype, spec, tmp_path, title="As <found>")
    assert boxes(svg) == {f"{unit}_{live}" for unit, lives in genotype.blocks.items() for live in lives}
    empty = {unit for unit, live in genotype.blocks.items() if not live}
    assert set(re.findall(r'id="(\w+)_alone_line"', svg)) == empty
    shortcuts = {unit.name for unit in spec.units() if unit.shortcut} - empty
    assert set(re.findall(r'id="(\w+)_shortcut"', svg)) == shortcuts
    for text in ("As &lt;found&gt;", f"{genotype.num_live} of 126", f"{len(empty)} of 21", "Group 6"):
        assert text in svg
    assert svg.count("MB6 ") == sum(live[0].startswith("mb6") for live in genotype.blocks.values() if live)


def test_an_architecture_half_way(tmp_path):
    genotype = random_mobile(TINY, 0.7, np.random.default_rng(0))
    svg = drawn(genotype, TINY, tmp_path)
    assert len(boxes(svg)) == genotype.num_live > len(genotype.blocks)
    assert drawn(genotype, TINY, tmp_path) == svg


def test_of_another_network(tmp_path):
    with pytest.raises(GenotypeError):
        draw_mobile(MobileGenotype.full(TINY), known_network("gpu")[0], str(tmp_path / "structure"))
