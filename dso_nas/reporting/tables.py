"""Aligned plain-text tables, and numbers as people write them."""

from __future__ import annotations

from typing import List, Sequence

UNITS = ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k"))


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]], align: str = "") -> str:
    """A Markdown table whose columns also line up as plain text, without a newline at the end.

    Args:
        headers: the columns' names.
        rows: as many cells each as there are headers.
        align: 'l' or 'r' for every column; by default the first is 'l' and the others are 'r'.
    """
    align = align or "l" + "r" * (len(headers) - 1)
    lines = [[_cell(text) for text in row] for row in (headers, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines)]
    rule = ["-" * (width - 1) + (":" if side == "r" else "-") for width, side in zip(widths, align)]
    padded = [
        [text.rjust(width) if side == "r" else text.ljust(width) for text, width, side in zip(line, widths, align)]
        for line in lines
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in (padded[0], rule, *padded[1:]))


def percent(fraction: float) -> str:
    """A fraction in per cent: 0.0274 is '2.74 %'."""
    return f"{100 * fraction:.2f} %"


def quantity(number: float) -> str:
    """A count with the unit that leaves one to three digits before the point: 3012345 is '3.0 M'."""
    for size, unit in UNITS:
        if number >= 0.9995 * size:
            return f"{number / size:.{0 if number >= 99.95 * size else 1}f}{unit}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    """A time in its two largest units: '42 s', '3 min 05 s', '2 h 07 min', '1 d 03 h'."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, smaller, unit, part in ((86400, 3600, "d", "h"), (3600, 60, "h", "min"), (60, 1, "min", "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller:02d} {part}"
    return f"{whole} s"


def one_line(text: str) -> str:
    """Text with every run of white space, line breaks among them, made one space."""
    return " ".join(str(text).split())


def _cell(text: str) -> str:
    return one_line(text).replace("|", "\\|")
