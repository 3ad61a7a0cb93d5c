"""The drawing of one block: its operations, live connections, and what was pruned."""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, Optional, Tuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import FancyBboxPatch, PathPatch, Rectangle
from matplotlib.path import Path

from dso_nas.architecture.block_genotype import BlockGenotype, node_name
from dso_nas.architecture.topology import INPUT, OPERATIONS, BlockTopology, Node, Operation
from dso_nas.reporting.canvas import (
    FAINT,
    INK,
    OPERATION_COLORS,
    PLAIN,
    PRUNED_DASHES,
    PRUNED_LINE,
    SHORTCUT_DOTS,
)
from dso_nas.reporting.wiring import BAR, Connection, Wiring, connections, output_node

LINE, CROWDED_LINE, CROWD = 1.3, 0.8, 60
THIN, THICK = 0.6, 4.0
NAMED = 0.9
_BACKING = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}


@dataclasses.dataclass(frozen=True)
class Drawing:
    """One block to draw.

    `name` makes the elements' ids; `widths` has the live connections with their line widths in points.
    """

    name: str
    block: BlockGenotype
    wiring: Wiring
    widths: Dict[Connection, float]

    @property
    def topology(self) -> BlockTopology:
        """The completely connected block that this one is a part of."""
        return self.wiring.topology

    @property
    def named(self) -> bool:
        """Whether boxes have room for full names."""
        return self.wiring.scale > NAMED


def readable(operation: str) -> str:
    """An operation's name for people: 'sep conv 3×3'."""
    found = OPERATIONS[operation]
    return f"{found.kind.replace('_', ' ')} {found.kernel}×{found.kernel}"


def _short(operation: Operation) -> str:
    if operation.kind == "sep_conv":
        return f"{operation.kernel}×{operation.kernel}"
    return operation.kind[:3]


def live_connections(topology: BlockTopology, block: BlockGenotype) -> Tuple[Connection, ...]:
    """(source, target) of a block's live lambdas in packed order."""
    return tuple(pair for pair, live in zip(connections(topology), block.mask(topology)) if live)


def line_widths(
    topology: BlockTopology, block: BlockGenotype, vector: Optional[np.ndarray], largest: float
) -> Dict[Connection, float]:
    """Line widths in points of the live connections, by their lambdas if a packed `vector` is given.

    `largest` is the lambda that gets the thickest line.
    """
    live = live_connections(topology, block)
    if vector is None:
        return dict.fromkeys(live, LINE if len(live) < CROWD else CROWDED_LINE)
    values = np.asarray(vector, float).reshape(-1)[block.mask(topology)]
    return {pair: THIN + (THICK - THIN) * float(value) / largest for pair, value in zip(live, values)}


def draw_block(axes: Axes, drawing: Drawing) -> None:
    """Draw a block.

    Every live connection is an element with the id `connection_BLOCK_SOURCE_TARGET`, every operation one with
    `operation_BLOCK_NODE` or `pruned_operation_BLOCK_NODE`; the line to an operation of level 1, which has no
    lambda, is `fixed_BLOCK_NODE`.
    """
    _draw_shortcut(axes, drawing)
    _draw_pruned(axes, drawing)
    _draw_live(axes, drawing)
    for node in drawing.topology.nodes():
        _draw_operation(axes, drawing, node)
    _draw_bars(axes, drawing)


def draw_box(
    axes: Axes,
    corner: Tuple[float, float],
    size: Tuple[float, float],
    color: Optional[str],
    gid: str,
    thickness: float = 1.4,
) -> None:
    """A box in an operation's colour, or a faint dashed one where `color` is None: the operation was pruned.

    `corner` is the upper left one, as `size` in inches; `thickness` of the outline is in points.
    """
    rounding = 0.16 * size[1]
    box = FancyBboxPatch(
        corner,
        *size,
        boxstyle=f"round,pad=0,rounding_size={rounding}",
        facecolor="white" if color is None else tint(color),
        edgecolor=color or FAINT,
        linewidth=thickness * (0.6 if color is None else 1),
        linestyle=PRUNED_DASHES if color is None else "solid",
        zorder=3,
        gid=gid,
    )
    axes.add_patch(box)


def tint(color: str) -> Tuple[float, float, float]:
    """A light shade of a colour, on which black text reads well."""
    red, green, blue = (1 - 0.22 * (1 - part) for part in to_rgb(color))
    return red, green, blue


def _draw_shortcut(axes: Axes, drawing: Drawing) -> None:
    wiring = drawing.wiring
    y = wiring.shortcut
    axes.plot(
        [wiring.right(0), wiring.left(wiring.topology.levels + 1)],
        [y, y],
        color=PLAIN,
        linewidth=1.2 if drawing.named else 0.8,
        linestyle=SHORTCUT_DOTS,
        zorder=1,
        gid=f"shortcut_{drawing.name}",
    )
    if drawing.named:
        _write(axes, (wiring.x + wiring.width / 2, y), "shortcut", 7.5, PLAIN, bbox=_BACKING)


def _draw_pruned(axes: Axes, drawing: Drawing) -> None:
    """All pruned connections as one faint element, so that live ones stand out."""
    wiring, live = drawing.wiring, drawing.widths
    pruned = [pair for pair in connections(wiring.topology) if pair not in live]
    if pruned:
        ports = wiring.ports(connections(wiring.topology))
        path = Path.make_compound_path(*[wiring.route(pair, ports[pair]) for pair in pruned])
        _stroke(axes, path, PRUNED_LINE, 0.5 if drawing.named else 0.25, 0, f"pruned_{drawing.name}")


def _draw_live(axes: Axes, drawing: Drawing) -> None:
    wiring, topology = drawing.wiring, drawing.topology
    factor = 1.0 if drawing.named else 0.5
    ports = wiring.ports(drawing.widths)
    for pair, width in drawing.widths.items():
        gid = f"connection_{drawing.name}_{node_name(pair[0])}_{_target_name(topology, pair[1])}"
        _stroke(axes, wiring.route(pair, ports[pair]), _color(topology, pair[0]), width * factor, 2, gid)
    for node in drawing.block.live_nodes:
        if node[0] == 1:
            y = wiring.center(node)
            path = Path([(wiring.right(0), y), (wiring.left(1), y)])
            _stroke(axes, path, PLAIN, LINE * factor, 2, f"fixed_{drawing.name}_{node_name(node)}")


def _draw_operation(axes: Axes, drawing: Drawing, node: Node) -> None:
    wiring = drawing.wiring
    live = node in drawing.block.live_nodes
    operation = wiring.topology.operation(node)
    corner = wiring.left(node[0]), wiring.center(node) - wiring.box[1] / 2
    gid = f"{'' if live else 'pruned_'}operation_{drawing.name}_{node_name(node)}"
    color = OPERATION_COLORS[operation.name] if live else None
    draw_box(axes, corner, wiring.box, color, gid, 1.4 if drawing.named else 0.8)
    middle = corner[0] + wiring.box[0] / 2, wiring.center(node)
    if drawing.named:
        _write(axes, middle, readable(operation.name), 9, INK if live else FAINT)
    elif live:
        _write(axes, middle, _short(operation), min(max(6.0, 16 * wiring.scale), 9.0), INK)


def _draw_bars(axes: Axes, drawing: Drawing) -> None:
    wiring = drawing.wiring
    for level, text in ((0, "input"), (wiring.topology.levels + 1, "output")):
        corner, width = (wiring.left(level), wiring.y), BAR * wiring.scale
        gid = f"{text}_{drawing.name}"
        axes.add_patch(Rectangle(corner, width, wiring.height, facecolor=PLAIN, zorder=3, gid=gid))
        if drawing.named:
            middle = corner[0] + width / 2, wiring.y + wiring.height / 2
            _write(axes, middle, text, 9, "white", rotation=90)


def _stroke(axes: Axes, path: Path, color: str, width: float, zorder: float, gid: str) -> None:
    patch = PathPatch(path, facecolor="none", edgecolor=color, linewidth=width, zorder=zorder, gid=gid)
    patch.set_capstyle("butt")
    axes.add_patch(patch)


def _write(
    axes: Axes, middle: Tuple[float, float], text: str, size: float, color: str, **more: Any
) -> None:
    axes.text(*middle, text, fontsize=size, color=color, ha="center", va="center", zorder=4, **more)


def _color(topology: BlockTopology, source: Node) -> str:
    return PLAIN if source == INPUT else OPERATION_COLORS[topology.operation(source).name]


def _target_name(topology: BlockTopology, target: Node) -> str:
    return "output" if target == output_node(topology) else node_name(target)
