"""The picture of a genotype in the manner of the paper's Fig. 6: what lives in each block, what does not."""

from __future__ import annotations

import math
import re
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from dso_nas.architecture.genotype import SHARED, Genotype
from dso_nas.architecture.topology import REDUCTION_OPERATIONS
from dso_nas.reporting.block_picture import (
    Drawing,
    draw_block,
    draw_box,
    line_widths,
    readable,
    tint,
)
from dso_nas.reporting.canvas import (
    FAINT,
    INK,
    OPERATION_COLORS,
    PLAIN,
    PRUNED_DASHES,
    PRUNED_LINE,
    REDUCTION_COLOR,
    SHORTCUT_DOTS,
    house_style,
    save_figure,
)
from dso_nas.reporting.wiring import Wiring, natural_width

SIDE = 0.2
BETWEEN = 0.25
COLUMNS = 4
LEGEND_COLUMNS = 3
REDUCTION_BOX = (0.75, 0.3)


def draw_structure(
    genotype: Genotype,
    path_stem: str,
    lambdas: Optional[Mapping[str, np.ndarray]] = None,
    title: str = "Found architecture",
) -> None:
    """Draw a genotype into `path_stem`.svg and `path_stem`.png.

    Columns are levels, boxes operations, lines live connections in their source's colour; pruned operations
    are dashed, pruned connections faint. Scope 'share' is one large block with the reductions below, 'full'
    all blocks, stage by stage.

    Args:
        genotype: what to draw.
        path_stem: the two files' path without suffix.
        lambdas: a packed vector (num_connections,) for every key of `genotype.blocks`; lines then are as
            thick as their lambdas are large.
        title: the heading.

    Raises:
        UserError: a file cannot be written.
    """
    with house_style():
        figure = _Page(genotype, lambdas).draw(title)
        for suffix in (".svg", ".png"):
            save_figure(figure, f"{path_stem}{suffix}")


class _Page:
    """A page in inches, filled from the top; `y` is how far."""

    def __init__(self, genotype: Genotype, lambdas: Optional[Mapping[str, np.ndarray]]) -> None:
        self.genotype = genotype
        self.topology = genotype.topology
        self.lambdas = lambdas
        self.largest = max((float(np.max(vector)) for vector in (lambdas or {}).values()), default=1.0) or 1.0
        self.width = natural_width(self.topology) + 2 * SIDE
        self.figure = Figure()
        self.axes: Axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()
        self.y = 0.9

    def draw(self, title: str) -> Figure:
        self.write((SIDE, 0.3), title, 14, weight="bold")
        self.write((SIDE, 0.6), _summary(self.genotype), 10, color=PLAIN)
        if self.genotype.scope == "share":
            self.draw_shared()
        else:
            self.draw_stages()
        self.draw_legend()
        self.axes.set_xlim(0, self.width)
        self.axes.set_ylim(self.y, 0)
        self.figure.set_size_inches(self.width, self.y)
        return self.figure

    def draw_shared(self) -> None:
        wiring = Wiring(self.topology, SIDE, self.y + 0.15, self.width - 2 * SIDE)
        for level in range(1, self.topology.levels + 1):
            middle = (wiring.left(level) + wiring.right(level)) / 2
            self.write((middle, self.y), f"level {level}", 9, color=PLAIN, ha="center")
        self.draw_block(SHARED, wiring)
        self.y = wiring.y + wiring.height + BETWEEN + 0.08
        for stage in range(1, len(self.genotype.reductions) + 1):
            self.draw_reduction(stage)

    def draw_stages(self) -> None:
        stages = _stages(self.genotype)
        columns = min(COLUMNS, max(map(len, stages.values())))
        for stage, names in stages.items():
            self.write((SIDE, self.y), f"Stage {stage}", 11, weight="bold")
            self.y += 0.28
            for start in range(0, len(names), columns):
                self.draw_row(names[start : start + columns], columns)
            if stage <= len(self.genotype.reductions):
                self.draw_reduction(stage)
            self.y += 0.1

    def draw_row(self, names: Sequence[str], columns: int) -> None:
        """Blocks side by side, each under its number and how much of it lives."""
        width = (self.width - 2 * SIDE - (columns - 1) * BETWEEN) / columns
        for column, name in enumerate(names):
            wiring = Wiring(self.topology, SIDE + column * (width + BETWEEN), self.y + 0.13, width)
            self.write((wiring.x, self.y), self.caption(name), 8.5)
            self.draw_block(name, wiring)
        self.y = wiring.y + wiring.height + BETWEEN

    def caption(self, name: str) -> str:
        block = self.genotype.blocks[name]
        number = f"block {_place(name)[1]}: "
        if block.is_empty:
            return f"{number}only the shortcut"
        return f"{number}{block.num_connections} of {self.topology.num_connections}"

    def draw_block(self, name: str, wiring: Wiring) -> None:
        block = self.genotype.blocks[name]
        vector = None if self.lambdas is None else self.lambdas[name]
        widths = line_widths(self.topology, block, vector, self.largest)
        draw_block(self.axes, Drawing(name, block, wiring, widths))

    def draw_reduction(self, stage: int) -> None:
        """The reduction at a stage's end: its operations in a line, pruned ones dashed."""
        self.write((SIDE, self.y), f"Reduction after stage {stage}", 9)
        for place, name in enumerate(REDUCTION_OPERATIONS):
            live = name in self.genotype.reductions[stage - 1]
            x = SIDE + 1.75 + place * (REDUCTION_BOX[0] + 0.12)
            gid = f"{'' if live else 'pruned_'}reduction_{stage}_{name}"
            corner = (x, self.y - REDUCTION_BOX[1] / 2)
            draw_box(self.axes, corner, REDUCTION_BOX, REDUCTION_COLOR if live else None, gid)
            middle = (x + REDUCTION_BOX[0] / 2, self.y)
            text = name.replace("conv", "conv ").replace("x", "×")
            self.write(middle, text, 9, color=INK if live else FAINT, ha="center", zorder=4)
        self.y += REDUCTION_BOX[1] + 0.1

    def draw_legend(self) -> None:
        handles = _legend_handles(self.genotype, self.lambdas)
        legend = self.axes.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(SIDE, self.y - 0.05),
            bbox_transform=self.axes.transData,
            ncol=LEGEND_COLUMNS,
            fontsize=9,
            frameon=False,
            borderpad=0,
            borderaxespad=0,
        )
        legend.set_zorder(5)
        self.y += 0.21 * math.ceil(len(handles) / LEGEND_COLUMNS) + 0.1

    def write(self, place: Tuple[float, float], text: str, size: float, **more: Any) -> None:
        self.axes.text(*place, text, fontsize=size, va="center", **more)


def _legend_handles(genotype: Genotype, lambdas: Optional[Mapping[str, np.ndarray]]) -> List[Artist]:
    """What every kind of line and box means, with the counts of what was pruned."""
    live, total, operations, all_operations = _counts(genotype)
    kinds = genotype.topology.operations
    own = OPERATION_COLORS[kinds[0]]
    lines = [
        Line2D([], [], color=own, linewidth=2, label=f"live, its source's colour{_thickness(lambdas)}"),
        Line2D([], [], color=PLAIN, linewidth=2, label="live, from the input (to level 1: always)"),
        Line2D([], [], color=PLAIN, linestyle=SHORTCUT_DOTS, label="shortcut, never pruned"),
        Line2D([], [], color=PRUNED_LINE, label=f"pruned connections: {total - live} of {total}"),
    ]
    absent = f"pruned operations: {all_operations - operations} of {all_operations}"
    dashed = Patch(facecolor="white", edgecolor=FAINT, linestyle=PRUNED_DASHES, label=absent)
    return [*lines, dashed] + ([_swatch(kind) for kind in kinds] if genotype.scope == "full" else [])


def _swatch(operation: str) -> Patch:
    color = OPERATION_COLORS[operation]
    return Patch(facecolor=tint(color), edgecolor=color, label=readable(operation))


def _thickness(lambdas: Optional[Mapping[str, np.ndarray]]) -> str:
    live = np.concatenate([np.ravel(vector) for vector in (lambdas or {}).values()] or [np.zeros(0)])
    live = live[live > 0]
    return f"; thicker: larger lambda ({live.min():.2g} to {live.max():.2g})" if live.size else ""


def _summary(genotype: Genotype) -> str:
    live, total, operations, all_operations = _counts(genotype)
    shared = genotype.scope == "share"
    where = "one block, the same everywhere" if shared else f"{len(genotype.blocks)} blocks"
    return f"{where}: {live} of {total} connections live, {operations} of {all_operations} operations live"


def _counts(genotype: Genotype) -> Tuple[int, int, int, int]:
    """Live and all connections, live and all operations of the genotype's blocks, each counted once."""
    topology, blocks = genotype.topology, genotype.blocks.values()
    live = sum(block.num_connections for block in blocks)
    operations = sum(len(block.live_nodes) for block in blocks)
    return live, len(blocks) * topology.num_connections, operations, len(blocks) * topology.num_nodes


def _stages(genotype: Genotype) -> Dict[int, List[str]]:
    """The blocks' names by stage, in forward order."""
    stages: Dict[int, List[str]] = {}
    for name in sorted(genotype.blocks, key=_place):
        stages.setdefault(_place(name)[0], []).append(name)
    return stages


def _place(name: str) -> Tuple[int, int]:
    """Stage and number of a block by its name, stageS_unitU."""
    stage, unit = re.findall(r"\d+", name)
    return int(stage), int(unit)
