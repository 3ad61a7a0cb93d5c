"""Figures without pyplot: the same drawing gives the same file, whatever style or backend is set."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from typing import Any, Dict, Iterator

import matplotlib
from matplotlib.figure import Figure

from dso_nas.errors import UserError

DPI = 150

# Okabe and Ito's palette, which people with any kind of colour vision can tell apart.
# An operation that has no colour of its own yet is grey.
OPERATION_COLORS: Dict[str, str] = defaultdict(lambda: "#8C8C8C")
OPERATION_COLORS.update({
    "sep_conv_3x3": "#0072B2",
    "sep_conv_5x5": "#009E73",
    "sep_conv_7x7": "#56B4E9",
    "max_pool_3x3": "#D55E00",
    "avg_pool_3x3": "#E69F00",
})
REDUCTION_COLOR = "#CC79A7"
INK = "#222222"
PLAIN = "#555555"
FAINT = "#A0A0A0"
PRUNED_LINE = "#E6E6E6"
PRUNED_DASHES = (0, (3, 2))
SHORTCUT_DOTS = (0, (1, 1.5))

_STYLE: Dict[str, Any] = {
    "font.family": ["DejaVu Sans", "sans-serif"],
    "svg.fonttype": "none",
    "svg.hashsalt": "dso_nas",
    "text.color": INK,
    "axes.edgecolor": PLAIN,
    "axes.labelcolor": INK,
}


@contextlib.contextmanager
def house_style() -> Iterator[None]:
    """Draw and save inside this: Matplotlib's defaults with the project's style, undone at the end."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def save_figure(figure: Figure, path: str) -> None:
    """Write a figure as its suffix says, 'svg' (dateless) or 'png' (150 dots an inch), whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    kind = os.path.splitext(path)[1].lstrip(".")
    temporary = f"{path}.{os.getpid()}.tmp"
    metadata = {"Date": None} if kind == "svg" else None
    try:
        figure.savefig(temporary, format=kind, dpi=DPI, facecolor="white", metadata=metadata)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot write the picture: {error.strerror}") from error
