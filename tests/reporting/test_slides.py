"""The search by epoch, and the block that a page draws of it."""

from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.path import Path

from dso_nas.architecture.block_genotype import node_name
from dso_nas.architecture.topology import BlockTopology
from dso_nas.reporting.block_svg import block_svg, path_data
from dso_nas.reporting.run_files import RunFiles
from dso_nas.reporting.slides import make_slides
from dso_nas.reporting.wiring import connections
from tests.run_folders import EPOCHS, make_run_folder


@pytest.mark.parametrize("scope, blocks, counted", [("share", 1, 1), ("full", 3, 3)])
def test_the_last_slide_is_what_was_found(tmp_path, scope, blocks, counted):
    files = RunFiles(make_run_folder(tmp_path / "run", [f"network.scope={scope}"]))
    slides = make_slides(files.lambdas, files.layout)
    topology = files.genotype.topology
    assert (len(slides.blocks), slides.epochs, slides.topology) == (blocks, EPOCHS, topology)
    masks = [block.mask(topology) for block in files.genotype.blocks.values()]
    for mask, values in zip(masks, slides.blocks.values()):
        np.testing.assert_array_equal(values[-1] > 0, mask)
        assert (values[0] == 1).all()
    reductions = [tuple(np.array(row.operations)[row.values[-1] > 0]) for row in slides.rows]
    assert reductions == [tuple(live) for live in files.genotype.reductions]
    everything = counted * topology.num_connections + 4
    assert slides.live()[0] == everything
    assert slides.live()[-1] == sum(mask.sum() for mask in masks) + sum(map(len, reductions))


def test_other_spaces_are_rows():
    slides = make_slides({"lambda_a": np.array([[0.5, 0.0]]), "lambda_b": np.array([[0.0, 0.0, 1.0]])}, None)
    assert slides.topology is None and [row.title for row in slides.rows] == ["lambda_a", "lambda_b"]
    assert slides.live().tolist() == [5, 2] and slides.rows[1].operations[2] == "operation 3"
    assert make_slides({}, None) is None


def test_a_mobile_block_is_a_row_of_its_operations(tmp_path):
    files = RunFiles(make_run_folder(tmp_path / "run", recipe_name="mobile-demo"))
    slides = make_slides(files.lambdas, files.layout)
    assert slides.topology is None and len(slides.rows) == len(files.genotype.blocks) == 7
    assert slides.rows[1].title == "stage 1, block 2"
    for row, live in zip(slides.rows, files.genotype.blocks.values()):
        assert tuple(np.array(row.operations)[row.values[-1] > 0]) == live


@pytest.mark.parametrize("reach", ["all", "previous"])
def test_the_svg_has_every_connection_in_packed_order(reach):
    topology = BlockTopology(3, ("sep_conv_3x3", "max_pool_3x3"), reach)
    svg = ElementTree.fromstring(block_svg(topology))
    paths = [path for path in svg.iter("path") if path.get("class") == "connection"]
    assert [int(path.get("data-k")) for path in paths] == list(range(topology.num_connections))
    for path, (source, target) in zip(paths, connections(topology)):
        end = "output" if target[0] > topology.levels else node_name(target)
        assert (path.get("data-source"), path.get("data-target")) == (node_name(source), end)
    assert {group.get("data-node") for group in svg.iter("g")} == {node_name(node) for node in topology.nodes()}
    assert {mark.get("data-fixed") for mark in svg.iter("line")} == {None, "1.1", "1.2"}


def test_curves_and_lines_of_a_path():
    codes = [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4, Path.LINETO, *[Path.CURVE4] * 6]
    path = Path([(place, 0) for place in range(len(codes))], codes)
    assert path_data(path) == ("M0.0 0.0 C96.0 0.0 192.0 0.0 288.0 0.0 L384.0 0.0 C480.0 0.0 576.0 0.0 672.0 0.0 "
                               "C768.0 0.0 864.0 0.0 960.0 0.0")
