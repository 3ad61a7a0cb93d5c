"""Curves and heat maps of a search: how connections and error went, and the life of every lambda."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Dict, Iterable, List, Mapping, Sequence, Tuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from dso_nas.architecture.block_genotype import node_name
from dso_nas.architecture.lambdas import LambdaLayout
from dso_nas.architecture.topology import AFTER, REDUCTION_OPERATIONS, BlockTopology, Key
from dso_nas.reporting.block_picture import readable
from dso_nas.reporting.canvas import PLAIN, house_style, save_figure

History = Sequence[Tuple[int, Mapping[str, Any]]]
Groups = Tuple[Tuple[str, int], ...]

WIDTH = 10.0
COLUMNS = 4
LARGE, SMALL = 8.0, 2.6
LINE_HEIGHT = 0.22
SERIES_COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00")
_OUTPUT = "output"


@dataclasses.dataclass(frozen=True)
class _Panel:
    """Some lambdas over epochs: `lives` is (lambdas, epochs), `groups` are (label, how many) in order."""

    title: str
    lives: np.ndarray
    groups: Groups


def draw_lambdas(history: History, path: str, layout: LambdaLayout) -> None:
    """Draw the life of every lambda: a row each, epochs to the right, white from where it is exactly zero.

    Args:
        history: (epoch, lambda parameters by name), at least one, epochs rising.
        path: the picture's file, .svg or .png.
        layout: whose parameters they are; scope 'share' gives one panel, 'full' one a block.

    Raises:
        UserError: a lambda is missing or of another shape, or the file cannot be written.
    """
    units = [layout.to_units(values) for _, values in history]
    lives = {name: np.stack([entry[name] for entry in units], axis=1) for name in units[0]}
    edges = _edges([epoch for epoch, _ in history])
    blocks, reductions = _block_panels(layout, lives), _reduction_panel(layout, lives)
    with house_style():
        save_figure(_lambda_figure(blocks, reductions, edges), path)


def draw_search(metrics: Iterable[Mapping[str, Any]], path: str) -> None:
    """Draw the live connections and the errors of a search by epoch.

    Args:
        metrics: lines of metrics.jsonl (stage, epoch, step, name, value). Of stage 'search', those called
            'live_connections' and those whose name ends in 'error' (fractions) are drawn: an epoch's last
            value that is finite.
        path: the picture's file, .svg or .png.

    Raises:
        UserError: the file cannot be written.
    """
    series: Dict[str, Dict[int, float]] = {}
    for line in metrics:
        if line["stage"] == "search" and line["value"] is not None and math.isfinite(line["value"]):
            series.setdefault(line["name"], {})[line["epoch"]] = line["value"]
    errors = {name: values for name, values in sorted(series.items()) if name.endswith("error")}
    with house_style():
        figure = Figure(figsize=(WIDTH * 0.8, 6), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True)
        _draw_connections(upper, series.get("live_connections", {}))
        _draw_errors(lower, errors)
        save_figure(figure, path)


def _draw_connections(axes: Axes, values: Mapping[int, float]) -> None:
    axes.plot(list(values), list(values.values()), color=SERIES_COLORS[1], marker="o", markersize=3)
    axes.set_ylim(bottom=0, top=1.05 * max(values.values(), default=1))
    axes.set_ylabel("live connections")
    axes.set_title("The search by epoch", loc="left", fontweight="bold")
    _tidy(axes)


def _draw_errors(axes: Axes, errors: Mapping[str, Mapping[int, float]]) -> None:
    axes.set_prop_cycle(color=SERIES_COLORS)
    for name, values in errors.items():
        axes.plot(list(values), list(values.values()), marker="o", markersize=3, label=name.replace("_", " "))
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")
    axes.set_ylabel("error")
    if errors:
        axes.legend(frameon=False)
    _tidy(axes)


def _tidy(axes: Axes) -> None:
    axes.grid(color="#E6E6E6")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _block_panels(layout: LambdaLayout, lives: Mapping[str, np.ndarray]) -> List[_Panel]:
    units, topology = layout.spec.block_units(), layout.spec.topology
    if layout.scope == "share":
        title = "The block, by the operation that a connection leads to"
        return [_Panel(title, lives[units[0].name], _targets(topology))]
    levels = _levels(topology)
    return [_Panel(f"stage {unit.stage}, block {unit.unit}", lives[unit.name], levels) for unit in units]


def _reduction_panel(layout: LambdaLayout, lives: Mapping[str, np.ndarray]) -> _Panel:
    units = layout.spec.reduction_units()
    rows = [lives[unit.name] for unit in units]
    names = [name.replace("conv", "conv ").replace("x", "×") for name in REDUCTION_OPERATIONS]
    groups = tuple((f"after stage {unit.stage}, {name}", 1) for unit in units for name in names)
    return _Panel("Reductions", np.concatenate(rows or [np.zeros((0, 1))]), groups)


def _targets(topology: BlockTopology) -> Groups:
    """The parts of a packed vector by what they lead to: every operation, then the output."""
    nodes = topology.nodes()
    labels: Dict[Key, str] = {node: f"{node_name(node)} {readable(topology.operation(node).name)}" for node in nodes}
    return tuple((labels.get(key, _OUTPUT), topology.size(key)) for key in topology.keys())


def _levels(topology: BlockTopology) -> Groups:
    """The parts of a packed vector by the level they lead to."""
    sizes: Dict[str, int] = {}
    for key in topology.keys():
        label = _OUTPUT if key == AFTER else f"level {key[0]}"
        sizes[label] = sizes.get(label, 0) + topology.size(key)
    return tuple(sizes.items())


def _edges(epochs: Sequence[int]) -> np.ndarray:
    """Where each epoch's column begins and ends: shape (epochs + 1,)."""
    middles = (np.asarray(epochs[1:]) + np.asarray(epochs[:-1])) / 2
    ahead = middles[0] - epochs[0] if len(middles) else 0.5
    behind = epochs[-1] - middles[-1] if len(middles) else 0.5
    return np.concatenate([[epochs[0] - ahead], middles, [epochs[-1] + behind]])


def _lambda_figure(blocks: Sequence[_Panel], reductions: _Panel, edges: np.ndarray) -> Figure:
    columns = min(COLUMNS, len(blocks))
    rows = math.ceil(len(blocks) / columns)
    heights = [LARGE if columns == 1 else SMALL] * rows
    if reductions.groups:
        heights.append(LINE_HEIGHT * len(reductions.groups) + 0.6)
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.8), layout="constrained")
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    colors = _colors([*blocks, reductions])
    for place, panel in enumerate(blocks):
        _draw_panel(figure.add_subplot(grid[divmod(place, columns)]), panel, edges, colors)
    if reductions.groups:
        _draw_panel(figure.add_subplot(grid[rows, :]), reductions, edges, colors)
    figure.axes[-1].set_xlabel("epoch")
    figure.colorbar(colors, ax=figure.axes, label="lambda (white: exactly zero)", shrink=0.6, aspect=40)
    figure.suptitle("The life of every lambda", fontweight="bold")
    return figure


def _colors(panels: Iterable[_Panel]) -> ScalarMappable:
    """Dark for a small lambda, bright for a large one, and for zero a white that no lambda has."""
    largest = max(float(panel.lives.max()) for panel in panels if panel.groups)
    return ScalarMappable(Normalize(0, max(largest, 0) or 1.0), matplotlib.colormaps["viridis"])


def _draw_panel(axes: Axes, panel: _Panel, edges: np.ndarray, colors: ScalarMappable) -> None:
    labels, sizes = [label for label, _ in panel.groups], np.array([size for _, size in panel.groups])
    ends = np.cumsum(sizes)
    alive = np.ma.masked_less_equal(panel.lives, 0)
    rows = np.arange(ends[-1] + 1)
    axes.pcolormesh(edges, rows, alive, cmap=colors.cmap, norm=colors.norm, rasterized=True)
    axes.hlines(ends[:-1], edges[0], edges[-1], color=PLAIN, linewidth=0.4)
    axes.set_ylim(ends[-1], 0)
    axes.set_title(panel.title, loc="left", fontsize=9)
    axes.set_yticks(ends - sizes / 2, labels)
    axes.tick_params(left=False, labelsize=8)
    axes.label_outer()
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
