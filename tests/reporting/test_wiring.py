"""Where the lines of a block's picture run."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dso_nas.architecture.topology import INPUT, BlockTopology
from dso_nas.reporting.wiring import Wiring, connections, natural_width, output_node

NAMES = ("sep_conv_3x3", "sep_conv_5x5", "sep_conv_7x7", "max_pool_3x3", "avg_pool_3x3")
SHAPES = [(1, 1), (1, 4), (2, 1), (2, 4), (3, 2), (4, 4), (5, 5), (7, 3)]


@pytest.fixture(params=SHAPES, ids=str)
def topology(request) -> BlockTopology:
    levels, operations = request.param
    return BlockTopology(levels, NAMES[:operations])


def drawn(topology: BlockTopology, scale: float) -> Wiring:
    return Wiring(topology, 1.0, 2.0, natural_width(topology) * scale)


def test_connections_are_those_of_the_packed_vector(topology):
    pairs = connections(topology)
    assert len(pairs) == len(set(pairs)) == topology.num_connections
    for position in {0, len(pairs) // 2, len(pairs) - 1}:
        (key,) = (k for k in topology.keys() if topology.slice(k).start <= position < topology.slice(k).stop)
        offset = position - topology.slice(key).start
        source, target = pairs[position]
        if key == "after":
            assert (source, target) == (topology.nodes()[offset], output_node(topology))
        else:
            assert (source, target) == (topology.predecessors(key[0])[offset], key)


@pytest.mark.parametrize("scale", [1.0, 0.24])
def test_no_line_crosses_a_box(topology, scale):
    wiring = drawn(topology, scale)
    ports = wiring.ports(connections(topology))
    half = wiring.box[1] / 2
    for pair, port in ports.items():
        points = wiring.route(pair, port).interpolated(1).to_polygons(closed_only=False)[0]
        dense = np.concatenate([np.linspace(a, b, 20) for a, b in zip(points, points[1:])])
        for node in topology.nodes():
            inside = (
                (dense[:, 0] > wiring.left(node[0]) + 1e-6)
                & (dense[:, 0] < wiring.right(node[0]) - 1e-6)
                & (abs(dense[:, 1] - wiring.center(node)) < half)
            )
            assert not inside.any(), (pair, node)


def test_lines_end_at_their_target_and_apart(topology):
    wiring = drawn(topology, 1.0)
    ports = wiring.ports(connections(topology))
    for pair, port in ports.items():
        path = wiring.route(pair, port)
        source, target = pair
        assert path.vertices[0][0] == pytest.approx(wiring.right(source[0]))
        assert tuple(path.vertices[-1]) == pytest.approx((wiring.left(target[0]), port))
        if target != output_node(topology):
            assert abs(port - wiring.center(target)) < wiring.box[1] / 2
    for (one, first), (other, second) in itertools.combinations(ports.items(), 2):
        if one[1] == other[1]:
            assert abs(first - second) > 0.01


def test_every_source_has_its_own_lane(topology):
    wiring = drawn(topology, 1.0)
    sources = [INPUT] + [node for node in topology.nodes() if node[0] < topology.levels]
    lanes = sorted(wiring.lane(source) for source in sources)
    assert min(np.diff(lanes), default=1.0) > 0.05
    assert lanes[0] > wiring.y
    assert lanes[-1] < wiring.shortcut < wiring.y + wiring.height


def test_the_parts_fit_into_the_width(topology):
    wiring = drawn(topology, 1.0)
    levels = range(topology.levels + 2)
    ends = [edge for level in levels for edge in (wiring.left(level), wiring.right(level))]
    assert ends == sorted(ends)
    assert (ends[0], ends[-1]) == pytest.approx((1.0, 1.0 + wiring.width))
