"""A sheet of segmented pictures: input, truth, prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

IGNORED = 255
_TITLES = ("input", "truth", "prediction")


def draw_sheet(path: Path, images: Sequence[np.ndarray], truths: Sequence[np.ndarray],
               predictions: Sequence[np.ndarray], classes: Sequence[str]) -> None:
    """Write a PNG with a row for each picture.

    Args:
        path: the file.
        images: uint8 (H, W, 3) each.
        truths: masks (H, W); 255 is drawn white.
        predictions: masks (H, W).
        classes: a name for each label, the background, drawn black, first.
    """
    colors = class_colors(len(classes))
    shown = sorted({int(label) for mask in (*truths, *predictions) for label in np.unique(mask)} - {IGNORED})
    rows = len(images)
    figure = Figure(figsize=(6, 2 * rows + 0.4 * (1 + len(shown) // 4)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 3, squeeze=False)
    for row, pictures in zip(axes, zip(images, truths, predictions)):
        for axis, picture in zip(row, (pictures[0], colors[pictures[1]], colors[pictures[2]])):
            axis.imshow(picture, interpolation="nearest")
            axis.axis("off")
    for axis, title in zip(axes[0], _TITLES):
        axis.set_title(title)
    patches = [Patch(color=colors[label] / 255, label=classes[label]) for label in shown]
    figure.legend(handles=patches, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def class_colors(count: int) -> np.ndarray:
    """uint8 (256, 3): black for the background, a colour for each other class, white for ignored pixels."""
    colors = np.full((256, 3), 255, np.uint8)
    spread = colormaps["turbo"](np.linspace(0.05, 0.95, max(count - 1, 1)))[:, :3]
    colors[0] = 0
    colors[1:count] = np.round(255 * spread[: count - 1])
    return colors
