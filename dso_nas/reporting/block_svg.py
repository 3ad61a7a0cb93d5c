"""A completely connected block as SVG for a page, on the same wiring as the pictures; a script shows what lives."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
from matplotlib.path import Path

from dso_nas.architecture.block_genotype import node_name
from dso_nas.architecture.topology import INPUT, BlockTopology, Node
from dso_nas.reporting.block_picture import readable
from dso_nas.reporting.canvas import OPERATION_COLORS, PLAIN
from dso_nas.reporting.markup import element, escape
from dso_nas.reporting.wiring import BAR, Connection, Wiring, connections, natural_width, output_node

_DOTS = 96
_SIDE = 0.1


def block_svg(topology: BlockTopology) -> str:
    """The block with every connection.

    The connection of lambda k is a path with data-k, its source's and its target's name in data-source and
    data-target; an operation is a group with data-node; the line to one of level 1 has data-fixed.
    """
    wiring = Wiring(topology, _SIDE, _SIDE, natural_width(topology))
    pairs = connections(topology)
    ports = wiring.ports(pairs)
    parts = [_shortcut(wiring)]
    parts += [_fixed(wiring, node) for node in topology.nodes() if node[0] == 1]
    parts += [_connection(wiring, place, pair, ports) for place, pair in enumerate(pairs)]
    parts += [_operation(wiring, node) for node in topology.nodes()] + _bars(wiring)
    width, height = (_round(size + 2 * _SIDE) for size in (wiring.width, wiring.height))
    return element("svg", "".join(parts), id="block", viewBox=f"0 0 {width} {height}", role="img",
                   aria_label="the block", style=f"max-width:{width}px")


def _round(inches: float) -> float:
    return round(inches * _DOTS, 1)


def path_data(path: Path) -> str:
    """An SVG path's `d` of lines and cubic curves."""
    letters = {int(Path.MOVETO): "M", int(Path.LINETO): "L", int(Path.CURVE4): "C"}
    words: List[str] = []
    before = None
    vertices, codes = np.asarray(path.vertices).tolist(), np.asarray(path.codes).tolist()
    for place, ((x, y), code) in enumerate(zip(vertices, codes)):
        curve_goes_on = code == Path.CURVE4 and before == Path.CURVE4 and _inside_curve(codes, place)
        words.append(f"{'' if curve_goes_on else letters[code]}{_round(x)} {_round(y)}")
        before = code
    return " ".join(words)


def _inside_curve(codes: Sequence[int], place: int) -> bool:
    """Whether a curve's vertex is its second or third: three of the code follow each other for one curve."""
    run = 0
    while place - run >= 0 and codes[place - run] == Path.CURVE4:
        run += 1
    return run % 3 != 1


def _name(topology: BlockTopology, node: Node) -> str:
    return "output" if node == output_node(topology) else node_name(node)


def _color(topology: BlockTopology, source: Node) -> str:
    return PLAIN if source == INPUT else OPERATION_COLORS[topology.operation(source).name]


def _connection(wiring: Wiring, place: int, pair: Connection, ports: Dict[Connection, float]) -> str:
    topology = wiring.topology
    source, target = (_name(topology, node) for node in pair)
    title = element("title", escape(f"{source} to {target}"))
    return element("path", title, d=path_data(wiring.route(pair, ports[pair])), stroke=_color(topology, pair[0]),
                   class_="connection", data_k=place, data_source=source, data_target=target)


def _fixed(wiring: Wiring, node: Node) -> str:
    y = _round(wiring.center(node))
    return element("line", x1=_round(wiring.right(0)), x2=_round(wiring.left(1)), y1=y, y2=y, stroke=PLAIN,
                   class_="fixed", data_fixed=node_name(node))


def _shortcut(wiring: Wiring) -> str:
    y = _round(wiring.shortcut)
    ends = _round(wiring.right(0)), _round(wiring.left(wiring.topology.levels + 1))
    return element("line", x1=ends[0], x2=ends[1], y1=y, y2=y, stroke=PLAIN, class_="shortcut")


def _operation(wiring: Wiring, node: Node) -> str:
    operation = wiring.topology.operation(node)
    x, y = wiring.left(node[0]), wiring.center(node)
    color, (width, height) = OPERATION_COLORS[operation.name], wiring.box
    box = _rectangle((x, y - height / 2), (width, height), fill="#ffffff") + _rectangle(
        (x, y - height / 2), (width, height), fill=color, fill_opacity=0.22, stroke=color)
    return element("g", box + _text((x + width / 2, y), readable(operation.name)), class_="operation",
                   data_node=node_name(node))


def _rectangle(corner: Tuple[float, float], size: Tuple[float, float], **looks: Any) -> str:
    return element("rect", x=_round(corner[0]), y=_round(corner[1]), width=_round(size[0]), height=_round(size[1]),
                   rx=6, **looks)


def _text(middle: Tuple[float, float], text: str, **more: Any) -> str:
    return element("text", escape(text), x=_round(middle[0]), y=_round(middle[1]), text_anchor="middle",
                   dominant_baseline="central", **more)


def _bars(wiring: Wiring) -> List[str]:
    bars = []
    for level, text in ((0, "input"), (wiring.topology.levels + 1, "output")):
        x, middle = wiring.left(level), wiring.y + wiring.height / 2
        bars.append(element("rect", x=_round(x), y=_round(wiring.y), width=_round(BAR), height=_round(wiring.height),
                            fill=PLAIN))
        place = x + BAR / 2
        turn = f"rotate(-90 {_round(place)} {_round(middle)})"
        bars.append(_text((place, middle), text, transform=turn, class_="bar"))
    return bars
