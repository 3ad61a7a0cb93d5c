"""Curves as SVG inside a page: small, without a library, readable in print."""

from __future__ import annotations

import math
from typing import Any, Callable, Dict, Iterable, List, Mapping, Sequence, Tuple

from dso_nas.reporting.markup import element, escape
from dso_nas.reporting.tables import percent, quantity

Points = List[Tuple[int, float]]
Series = Dict[str, Points]

WIDTH, HEIGHT = 380, 210
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 10, 32
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")
# What values that are fractions end in.
FRACTIONS = ("error", "miou", "accuracy")
_STEPS = (1, 2, 2.5, 5, 10)
_TICKS = 4
# Differences that count, relative to the values or to one, and values too large to be one's.
_LEAST, _LARGEST = 1e-9, 1e100


def curves(metrics: Iterable[Mapping[str, Any]]) -> str:
    """Every stage's curves by epoch: its losses in one chart, its errors in another, each other value in its own.

    Args:
        metrics: lines of metrics.jsonl; of an epoch's values the last that is finite counts. The networks that a
            search is compared with (stages compare/...) share charts.
    """
    charts: Dict[str, Dict[str, Series]] = {}
    for line in metrics:
        if line["value"] is None or not abs(line["value"]) <= _LARGEST:
            continue
        stage, label = _place(line["stage"], line["name"])
        points = charts.setdefault(stage, {}).setdefault(_kind(line["name"]), {}).setdefault(label, [])
        if points and points[-1][0] == line["epoch"] + 1:
            points.pop()
        points.append((line["epoch"] + 1, line["value"]))
    return "".join(element("h3", escape(stage)) + element("div", "".join(
        chart(kind, series) for kind, series in found.items()), class_="charts") for stage, found in charts.items())


def _place(stage: str, name: str) -> Tuple[str, str]:
    """Under which heading a value stands, and what its line is called."""
    words = name.replace("_", " ")
    above, _, contender = stage.partition("/")
    return ("compare", f"{contender}: {words}") if above == "compare" and contender else (stage, words)


def _kind(name: str) -> str:
    return next((kind for kind in ("loss", "error") if name.endswith(kind)), name.replace("_", " "))


def chart(title: str, series: Series) -> str:
    """One chart: a line for every entry of `series`, whose points are (epoch from 1, value), and a legend."""
    epochs = [epoch for points in series.values() for epoch, _ in points]
    values = [value for points in series.values() for _, value in points]
    ticks = ticks_over(min(0.0, min(values)), max(values))
    across = _scale(min(epochs), max(max(epochs), min(epochs) + 1), LEFT, WIDTH - RIGHT)
    down = _scale(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP)
    shown = _formatter(title, ticks)
    parts = [_grid(ticks, down, shown), _epochs(min(epochs), max(epochs), across)]
    for place, (label, points) in enumerate(series.items()):
        parts.append(_line(label, points, COLORS[place % len(COLORS)], across, down, shown))
    svg = element("svg", "".join(parts), viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=title)
    legend = "" if list(series) == [title] else _legend(series)
    return element("figure", element("figcaption", escape(title)) + svg + legend, class_="chart")


def ticks_over(low: float, high: float) -> List[float]:
    """Round numbers at equal steps, the first at most `low` and the last at least `high`; they differ."""
    if high - low <= _LEAST * max(abs(low), abs(high), 1.0):
        high = low + max(abs(low), 1.0)
    rough = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in _STEPS if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [place * step for place in range(first, last + 1)]


def _formatter(title: str, ticks: Sequence[float]) -> Callable[[float], str]:
    if title.endswith(FRACTIONS):
        return percent
    return (lambda value: quantity(value)) if ticks[-1] >= 1000 else (lambda value: f"{value:.4g}")


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: round(start + (value - low) / (high - low) * (end - start), 2)


def _grid(ticks: Sequence[float], down: Callable[[float], float], shown: Callable[[float], str]) -> str:
    lines = [element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=down(tick), y2=down(tick), class_="grid") for tick in ticks]
    texts = [element("text", escape(shown(tick).replace(".00 ", " ")), x=LEFT - 6, y=down(tick) + 3.5,
                     text_anchor="end") for tick in ticks]
    return "".join(lines + texts)


def _epochs(first: int, last: int, across: Callable[[float], float]) -> str:
    step = max(1, math.ceil((last - first) / 6))
    texts = [element("text", str(epoch), x=across(epoch), y=HEIGHT - BOTTOM + 14, text_anchor="middle")
             for epoch in range(first, last + 1, step)]
    name = element("text", "epoch", x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 4, text_anchor="middle")
    return "".join(texts) + name


def _line(label: str, points: Points, color: str, across: Callable[[float], float], down: Callable[[float], float],
          shown: Callable[[float], str]) -> str:
    places = [(across(epoch), down(value)) for epoch, value in points]
    line = element("polyline", points=" ".join(f"{x},{y}" for x, y in places), stroke=color, class_="curve")
    dots = [element("circle", element("title", escape(f"{label}, epoch {epoch}: {shown(value)}")), cx=x, cy=y,
                    r=2.6, fill=color) for (x, y), (epoch, value) in zip(places, points)]
    return line + "".join(dots)


def _legend(series: Series) -> str:
    """What each line is."""
    entries = [element("li", element("span", style=f"background:{COLORS[place % len(COLORS)]}") + escape(label))
               for place, label in enumerate(series)]
    return element("ul", "".join(entries), class_="legend")
