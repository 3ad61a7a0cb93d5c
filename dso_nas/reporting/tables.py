"""Aligned tables, numbers as people write them, and the report that a run ends with (paper, Table 1)."""

from __future__ import annotations

import shlex
from typing import Any, Callable, Dict, Iterator, List, Mapping, Sequence, Tuple

from dso_nas.reporting.report_schema import check_report

UNITS = ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k"))
# Errors are shown to a hundredth of a point; what differs by less than half of that is level.
LEVEL = 5e-5
# Below so many standard deviations a difference may be chance.
CERTAIN = 2.0


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
    justify: Dict[str, Callable[[str, int], str]] = {"l": str.ljust, "r": str.rjust}
    padded = [[justify[side](text, width) for text, width, side in zip(line, widths, align)] for line in lines]
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


def report_markdown(report: Mapping[str, Any]) -> str:
    """A report as Markdown for people; `report` is as `check_report` wants it.

    Raises:
        UserError: a key of the report is wrong.
    """
    check_report(report)
    sections = [
        f"# {one_line(report['title'])}",
        verdict(report),
        f"Data: {one_line(report['dataset'])}. Recipe: {one_line(report['recipe'])}.",
        "## Comparison",
        _comparison(report),
        "## What was found",
        _found(report),
        f"![The found architecture]({report['picture'].replace(' ', '%20')})",
        "## Time",
        _times(report["stages"]),
        *_listed("Warnings of the search", report["search"]["warnings"]),
        *_listed("Notes", report["notes"]),
        "## Environment",
        markdown_table(("", "value"), list(flattened(report["environment"])), "ll"),
    ]
    return "\n\n".join(sections) + "\n"


def verdict(report: Mapping[str, Any]) -> str:
    """Who won, and by how much against the spread of the random architectures: one paragraph of Markdown."""
    summary = report["summary"]
    searched = percent(summary["searched"])
    sentences = [f"**{_winner(summary)}** The searched architecture has a test error of {searched}."]
    if summary["random_mean"] is not None:
        sentences += _against_random(summary, [r for r in report["results"] if r["kind"] == "random"])
    if summary["full"] is not None:
        full, change = percent(summary["full"]), _change(summary["full"] - summary["searched"])
        sentences.append(f"The full network, narrowed, has {full}: the searched one is {change}.")
    return " ".join(sentences)


def _winner(summary: Mapping[str, Any]) -> str:
    """The lowest error's side in a sentence; errors that are written alike are a tie."""
    claims = {"searched": "The search wins.", "random_mean": "Random wins.", "full": "The full network wins."}
    errors = {name: summary[name] for name in claims if summary[name] is not None}
    if len(errors) == 1:
        return "Nothing to compare with."
    best = [name for name, error in errors.items() if error < min(errors.values()) + LEVEL]
    return claims[best[0]] if len(best) == 1 else "A tie."


def _against_random(summary: Mapping[str, Any], random: Sequence[Mapping[str, Any]]) -> List[str]:
    mean, spread = summary["random_mean"], summary["random_std"]
    gain = mean - summary["searched"]
    if spread is None:
        return [f"The one random architecture has {percent(mean)}: the searched one is {_change(gain)}."]
    sentence = (
        f"The {len(random)} random architectures of the same size have {_spread(mean, spread)} "
        f"(mean ± standard deviation): the searched one is {_change(gain)}"
    )
    sentences = [f"{sentence}{_significance(gain, spread)}."]
    best = min(random, key=lambda result: result["test_error"])
    if gain > 0 and best["test_error"] < summary["searched"]:
        sentences.append(f"The best of them, {best['name']}, beats it with {percent(best['test_error'])}.")
    return sentences


def _significance(gain: float, spread: float) -> str:
    """The gain in standard deviations, and a warning where that is not much."""
    if abs(gain) < LEVEL or spread == 0:
        return ""
    times = abs(gain) / spread
    doubt = "" if times >= CERTAIN else ", which may well be chance"
    return f", {times:.1f} times their standard deviation{doubt}"


def _change(gain: float) -> str:
    if abs(gain) < LEVEL:
        return "neither better nor worse"
    return f"{100 * abs(gain):.2f} points {'better' if gain > 0 else 'worse'}"


def _spread(mean: float, spread: float) -> str:
    return f"{100 * mean:.2f} ± {percent(spread)}"


def _comparison(report: Mapping[str, Any]) -> str:
    headers = ("architecture", "test error", "parameters", "multiply-adds", "live connections", "width")
    rows: List[Sequence[str]] = [
        (
            result["name"],
            percent(result["test_error"]),
            quantity(result["parameters"]),
            quantity(result["multiply_adds"]),
            str(result["live_connections"]),
            f"× {result['width_multiplier']:.3f}",
            duration(result["seconds"]),
        )
        for result in report["results"]
    ]
    summary = report["summary"]
    if summary["random_std"] is not None:
        mean = _spread(summary["random_mean"], summary["random_std"])
        rows.append(("random, mean ± standard deviation", mean, *[""] * 5))
    return markdown_table((*headers, "training time"), rows)


def _found(report: Mapping[str, Any]) -> str:
    search = report["search"]
    searched = next(result for result in report["results"] if result["kind"] == "searched")
    live, total = search["live_connections"], search["total_connections"]
    end = "converged" if search["converged"] else "ended at its limit, not converged,"
    parameters, multiply_adds = quantity(searched["parameters"]), quantity(searched["multiply_adds"])
    return (
        f"{live} of {total} connections live ({100 * live / total:.0f} %). As retrained, the network has "
        f"{parameters} parameters and {multiply_adds} multiply-adds. The search {end} after "
        f"{search['epochs']} epochs."
    )


def _times(stages: Sequence[Mapping[str, Any]]) -> str:
    rows = [(s["stage"], duration(s["seconds"]), str(s["epochs"]), str(s["steps"])) for s in stages]
    total = duration(sum(stage["seconds"] for stage in stages))
    return markdown_table(("stage", "wall time", "epochs", "steps"), [*rows, ("all", total, "", "")])


def _listed(title: str, lines: Sequence[str]) -> List[str]:
    return [f"## {title}", "\n".join(f"- {one_line(line)}" for line in lines)] if lines else []


def flattened(section: Mapping[str, Any], above: str = "") -> Iterator[Tuple[str, str]]:
    """Nested keys as (words, value), the rows of a table; lists as the command lines that they are, null left out."""
    for name, value in section.items():
        if isinstance(value, dict):
            yield from flattened(value, f"{above}{name} ")
        elif value == []:
            yield f"{above}{name}", "none"
        elif isinstance(value, list):
            yield f"{above}{name}", " ".join(shlex.quote(str(item)) for item in value)
        elif value is not None:
            yield f"{above}{name}", str(value)


def _cell(text: str) -> str:
    return one_line(text).replace("|", "\\|")
