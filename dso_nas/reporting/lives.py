"""The lambdas' picture at an epoch's end, of any search space."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Sequence, Tuple

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dso_nas.architecture.topology import NetworkSpec
from dso_nas.files import cannot
from dso_nas.reporting.canvas import PLAIN, house_style, save_figure
from dso_nas.reporting.plots import History, draw_lambdas

_ROW = 0.16
_WIDTH = 10.0
_LARGEST = 60.0


def epoch_picture(epoch: int) -> str:
    """Where an epoch's picture lies in the run's folder; epochs count from 1 here."""
    return f"search/lambdas/epoch-{epoch:03d}.png"


def draw_life(history: History, path: str, layout: Any) -> None:
    """Draw the life of every lambda into `path` (.svg or .png): `draw_lambdas`, or rows by parameter.

    Args:
        history: (epoch, lambda parameters by name), at least one, epochs rising.
        path: the picture's file.
        layout: a `LambdaLayout`; one of other blocks than completely connected ones, or None, makes rows by parameter.

    Raises:
        UserError: the file cannot be written.
    """
    if isinstance(getattr(layout, "spec", None), NetworkSpec):
        draw_lambdas(history, path, layout)
        return
    with house_style():
        save_figure(_figure(history), path)


def draw_epoch(folder: Path, rows: Sequence[np.ndarray], layout: Any) -> None:
    """Draw the lambdas up to an epoch's end into the run's folder: the file's number is that of the rows.

    Args:
        folder: the run's.
        rows: all lambdas in the layout's order, a vector an epoch.
        layout: their `LambdaLayout`.

    Raises:
        UserError: the picture cannot be written.
    """
    path = folder / epoch_picture(len(rows))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot(path.parent, "be made", error) from error
    draw_life(split_history(rows, layout.shapes()), str(path), layout)


def split_history(rows: Iterable[np.ndarray], shapes: Mapping[str, Sequence[int]]) -> List[Tuple[int, Dict[str, Any]]]:
    """Flat vectors, one an epoch, as (epoch from 1, arrays by parameter); `shapes` are in the vectors' order."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])[:-1]
    return [(epoch, dict(zip(shapes, np.split(np.asarray(row), ends)))) for epoch, row in enumerate(rows, start=1)]


def _figure(history: History) -> Figure:
    names = list(history[0][1])
    lives = np.concatenate([np.stack([np.ravel(values[name]) for _, values in history], axis=1) for name in names])
    ends = np.cumsum([np.size(history[0][1][name]) for name in names])
    figure = Figure(figsize=(_WIDTH, min(_LARGEST, _ROW * ends[-1] + 1.2)), layout="constrained")
    axes = figure.subplots()
    first, last = history[0][0], history[-1][0]
    columns = np.arange(len(history) + 1) * (last - first + 1) / len(history) + first - 0.5
    colors = Normalize(0, float(lives.max()) or 1.0)
    mesh = axes.pcolormesh(columns, np.arange(ends[-1] + 1), np.ma.masked_less_equal(lives, 0), norm=colors,
                           cmap=colormaps["viridis"], rasterized=True)
    axes.hlines(ends[:-1], columns[0], columns[-1], color=PLAIN, linewidth=0.4)
    axes.set_ylim(ends[-1], 0)
    axes.set_yticks(ends - np.diff(ends, prepend=0) / 2, names, fontsize=7)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")
    figure.colorbar(mesh, ax=axes, label="lambda (white: exactly zero)", shrink=0.6, aspect=40)
    figure.suptitle("The life of every lambda", fontweight="bold")
    return figure
