"""The picture of a genotype holds what the genotype holds."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from dso_nas.architecture.genotype import SHARED, BlockGenotype, Genotype
from dso_nas.architecture.sampling import random_genotype
from dso_nas.architecture.topology import BlockTopology, NetworkSpec
from dso_nas.errors import UserError
from dso_nas.reporting.structure import draw_structure

OPERATIONS = ("sep_conv_3x3", "sep_conv_5x5", "max_pool_3x3", "avg_pool_3x3")
READABLE = ["sep conv 3×3", "sep conv 5×5", "max pool 3×3", "avg pool 3×3"]


def network(levels: int = 4, blocks=(2, 2, 2)) -> NetworkSpec:
    topology = BlockTopology(levels, OPERATIONS)
    return NetworkSpec(topology, "cifar", blocks, (8, 16, 32)[: len(blocks)], 10, (3, 32, 32))


def draw(genotype: Genotype, folder: Path, **more) -> tuple[list, list]:
    """All ids and all texts of the SVG."""
    draw_structure(genotype, str(folder / "structure"), **more)
    root = ElementTree.parse(str(folder / "structure.svg")).getroot()
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    texts = ["".join(element.itertext()).strip() for element in root.iter() if element.tag.endswith("}text")]
    return ids, texts


def starting(ids, prefix: str) -> list:
    return [name for name in ids if name.startswith(prefix)]


def test_shared_block_shows_every_operation_and_live_connection(tmp_path):
    genotype = random_genotype(network(), "share", 0.3, np.random.default_rng(1))
    block = genotype.blocks[SHARED]
    ids, texts = draw(genotype, tmp_path)
    assert 0 < block.num_connections < 124
    assert len(starting(ids, "connection_shared_")) == block.num_connections
    assert len(starting(ids, "operation_shared_")) == len(block.live_nodes)
    assert len(starting(ids, "pruned_operation_shared_")) == 16 - len(block.live_nodes)
    assert len(starting(ids, "fixed_shared_")) == sum(node[0] == 1 for node in block.live_nodes)
    assert Counter(text for text in texts if text in READABLE) == Counter(READABLE * 4)
    assert {"input", "output", "shortcut", "level 1", "level 4"} <= set(texts)
    assert f"pruned connections: {124 - block.num_connections} of 124" in texts
    assert f"pruned operations: {16 - len(block.live_nodes)} of 16" in texts


def test_ids_name_the_connections_ends(tmp_path):
    block = BlockGenotype({(2, 1): ((0, 0), (1, 3)), (4, 2): ((2, 1),)}, ((1, 1), (4, 2)))
    genotype = Genotype(network().topology, "share", {SHARED: block}, (("conv3x3",), ("conv1x1", "conv3x3")))
    ids, _ = draw(genotype, tmp_path)
    assert set(starting(ids, "connection_")) == {
        "connection_shared_input_2.1",
        "connection_shared_1.3_2.1",
        "connection_shared_2.1_4.2",
        "connection_shared_1.1_output",
        "connection_shared_4.2_output",
    }
    assert set(starting(ids, "fixed_")) == {"fixed_shared_1.1", "fixed_shared_1.3"}
    reductions = set(starting(ids, "reduction_") + starting(ids, "pruned_reduction_"))
    assert reductions == {
        "pruned_reduction_1_conv1x1",
        "reduction_1_conv3x3",
        "reduction_2_conv1x1",
        "reduction_2_conv3x3",
    }


def test_full_scope_shows_every_block_once(tmp_path):
    spec = network(blocks=(5, 1, 2))
    genotype = random_genotype(spec, "full", 0.2, np.random.default_rng(2))
    ids, texts = draw(genotype, tmp_path)
    assert len(ids) == len(set(ids))
    for unit in spec.block_units():
        live = genotype.block(unit).num_connections
        assert len(starting(ids, f"connection_{unit.name}_")) == live
        assert f"block {unit.unit}: {live} of 124" in texts
    assert [text for text in texts if text.startswith("Stage")] == ["Stage 1", "Stage 2", "Stage 3"]
    assert len(starting(ids, "reduction_")) == 4
    assert set(READABLE) <= set(texts)


def test_an_empty_block_is_its_shortcut(tmp_path):
    empty = BlockGenotype({}, ())
    topology = network().topology
    ids, _ = draw(Genotype(topology, "share", {SHARED: empty}, ()), tmp_path)
    assert "shortcut_shared" in ids
    assert not starting(ids, "connection_") + starting(ids, "operation_") + starting(ids, "fixed_")
    _, texts = draw(Genotype(topology, "full", {"stage1_unit1": empty}, ()), tmp_path)
    assert "block 1: only the shortcut" in texts


@pytest.mark.parametrize("levels", [1, 2, 5])
def test_any_number_of_levels(tmp_path, levels):
    ids, _ = draw(Genotype.full(network(levels), "share"), tmp_path)
    assert len(starting(ids, "connection_")) == network(levels).topology.num_connections
    assert not starting(ids, "pruned_")


def test_lines_are_as_thick_as_lambdas(tmp_path):
    block = BlockGenotype({}, ((1, 1), (1, 2)))
    topology = BlockTopology(1, OPERATIONS)
    genotype = Genotype(topology, "share", {SHARED: block}, ())
    _, texts = draw(genotype, tmp_path, lambdas={SHARED: np.array([0.25, 1.5, 0, 0])})
    widths = [
        float(re.search(r"stroke-width: ([\d.]+)", part).group(1))
        for part in (tmp_path / "structure.svg").read_text(encoding="utf-8").split('<g id="connection_')[1:]
    ]
    assert widths[0] == pytest.approx(0.6 + 3.4 / 6, abs=1e-3)
    assert widths[1] == pytest.approx(4.0)
    assert any("(0.25 to 1.5)" in text for text in texts)


def test_png_is_readable_at_a_thousand_pixels(tmp_path):
    draw(Genotype.full(network(), "share"), tmp_path)
    with Image.open(tmp_path / "structure.png") as picture:
        assert picture.size[0] == 1500
        assert 800 < picture.size[1] < 1200
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 100


def test_same_genotype_same_bytes_whatever_the_users_style(tmp_path, monkeypatch):
    genotype = random_genotype(network(2), "share", 0.5, np.random.default_rng(3))
    draw(genotype, tmp_path, title="once")
    once = [(tmp_path / name).read_bytes() for name in ("structure.svg", "structure.png")]
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 30, "svg.fonttype": "path"}):
        before = dict(matplotlib.rcParams)
        draw(genotype, tmp_path, title="once")
        assert dict(matplotlib.rcParams) == before
    assert [(tmp_path / name).read_bytes() for name in ("structure.svg", "structure.png")] == once
    assert b"<dc:date>" not in once[0]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["structure.png", "structure.svg"]


def test_unwritable_folder_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"missing/structure\.svg: cannot write the picture: No such file"):
        draw_structure(Genotype.full(network(1), "share"), str(tmp_path / "missing" / "structure"))
