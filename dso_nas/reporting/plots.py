"""Curves and heat maps of a search: how connections and error went, and the life of every lambda."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Dict, Iterable, List, Mapping, Sequence, Tuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from dso_nas.architecture.lambdas import LambdaLayout
from dso_nas.architecture.topology import AFTER, REDUCTION_OPERATIONS, BlockTopology
from dso_nas.reporting.canvas import PLAIN, house_style, save_figure
from dso_nas.reporting.tables import readable_key

History = Sequence[Tuple[int, Mapping[str, Any]]]

WIDTH = 10.0
COLUMNS = 4
LARGE, SMALL = 7.0, 2.4
SERIES_COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00")
ZERO = "white"


@dataclasses.dataclass(frozen=True)
class _Panel:
    """Some lambdas over epochs: `lives` is (lambdas, epochs); `groups` are (label, number of lambdas), from the top."""

    title: str
    lives: np.ndarray
    groups: Tuple[Tuple[str, int], ...]


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
    with house_style():
        save_figure(_lambda_figure(_block_panels(layout, lives), _reduction_panel(layout, lives), edges), path)


def draw_search(metrics: Iterable[Mapping[str, Any]], path: str) -> None:
    """Draw the live connections and the errors of a search by epoch.

    Args:
        metrics: lines of metrics.jsonl (stage, epoch, step, name, value); of stage 'search', those called
            'live_connections' and those whose name ends in 'error' (fractions) are drawn, an epoch's last value.
        path: the picture's file, .svg or .png.

    Raises:
        UserError: the file cannot be written.
    """
    series: Dict[str, Dict[int, float]] = {}
    for line in metrics:
        if line["stage"] == "search":
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
    for place, (name, values) in enumerate(errors.items()):
        color = SERIES_COLORS[place % len(SERIES_COLORS)]
        axes.plot(list(values), list(values.values()), color=color, marker="o", markersize=3, label=name)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel("error")
    if errors:
        axes.legend(frameon=False)
    _tidy(axes)


def _tidy(axes: Axes) -> None:
    axes.grid(color="#E6E6E6")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
