"""A run as one HTML page that needs no network: numbers, curves, the block at every epoch, environment and command.

It is made of the run's files alone, whatever of them is there; all that comes from them is escaped.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

import numpy as np

from dso_nas.errors import UserError
from dso_nas.reporting.block_svg import block_svg
from dso_nas.reporting.charts import FRACTIONS, curves
from dso_nas.reporting.markup import element, escape, json_script, markdown_sections, table
from dso_nas.reporting.run_files import RunFiles, last_values
from dso_nas.reporting.slides import Row, Slides, make_slides
from dso_nas.reporting.tables import flattened, percent, report_markdown

REPORT = "report.html"
_PAGE = Path(__file__).parent / "page"
_DIGITS = 4
_LARGEST_PICTURE = 8 << 20

Sections = List[Tuple[str, str]]


def report_html(folder: Union[str, Path]) -> str:
    """The page of a run's folder; a file of it that is damaged is named on the page instead of what it would give.

    Raises:
        UserError: it is no run's folder.
    """
    files = RunFiles(folder)
    parts: Sections = []
    for make in (_result, _search, _curves, _pictures, _details, _environment):
        parts += [part for part in _guarded(make, files) if part not in parts]
    title = _guarded_title(files)
    anchors = {name: f"part-{place}" for place, (name, _) in enumerate(parts)}
    links = "".join(element("a", escape(name), href=f"#{anchor}") for name, anchor in anchors.items())
    body = element("h1", escape(title)) + element("nav", links) + "".join(
        element("section", element("h2", escape(name)) + content, id=anchors[name]) for name, content in parts)
    head = '<meta charset="utf-8">' + '<meta name="viewport" content="width=device-width, initial-scale=1">' + element(
        "title", escape(title)) + element("style", _asset("report.css"))
    script = element("script", _asset("report.js"))
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>{body}\n{script}</body></html>\n'


def _asset(name: str) -> str:
    return (_PAGE / name).read_text(encoding="utf-8")


def _guarded(make: Callable[[RunFiles], Sections], files: RunFiles) -> Sections:
    try:
        return make(files)
    except UserError as error:
        return [("Missing", element("p", escape(error), class_="bad"))]


def _guarded_title(files: RunFiles) -> str:
    try:
        return files.report["title"] if files.report else f"DSO-NAS, recipe {files.recipe.name}"
    except UserError:
        return f"DSO-NAS, {files.path.resolve().name}"


def _result(files: RunFiles) -> Sections:
    found = _report_sections(files)
    if found:
        return [("Result", found[""] + found["Comparison"]), ("What was found", found["What was found"])]
    rows = [(stage, str(line["epoch"] + 1), name.replace("_", " "), _shown(name, line["value"]))
            for (stage, name), line in last_values(files.metrics).items()]
    if not rows:
        return [("Result", element("p", "No epoch has ended yet."))]
    note = element("p", "The run has not been compared with others: these are the last values of every stage.")
    return [("Result", note + table(("stage", "epoch", "value", "last"), rows, "lrlr"))]


def _details(files: RunFiles) -> Sections:
    shown = ("", "Comparison", "What was found", "Environment")
    return [(name, content) for name, content in _report_sections(files).items() if name not in shown]


def _report_sections(files: RunFiles) -> Dict[str, str]:
    return markdown_sections(report_markdown(files.report)) if files.report is not None else {}


def _shown(name: str, value: float) -> str:
    return percent(value) if name.endswith(FRACTIONS) else f"{value:.6g}"


def _search(files: RunFiles) -> Sections:
    slides = make_slides(files.lambdas, files.layout) if files.lambdas else None
    if slides is None:
        return []
    block = block_svg(slides.topology) if slides.topology else ""
    hint = element("p", "A line is as strong as its lambda, against the largest of the block at that epoch; what is "
                        "dead vanishes. Point at a line to read its lambda.", class_="hint")
    rows = "".join(_row(place, row) for place, row in enumerate(slides.rows))
    still = element("noscript", element("p", "The slider needs JavaScript.", class_="bad"))
    return [("The search, epoch by epoch", _controls(slides) + still + block + rows + hint + _data(slides))]


def _controls(slides: Slides) -> str:
    slider = f'<input type="range" id="epoch" min="0" max="{slides.epochs}" value="{slides.epochs}" aria-label="epoch">'
    options = "".join(element("option", escape(title), value=place) for place, title in enumerate(slides.blocks))
    choice = element("select", options, id="which", aria_label="block") if len(slides.blocks) > 1 else ""
    play = element("button", "▶ play", id="play", type="button")
    return element("div", play + slider + element("output", "", id="position") + choice, class_="controls")


def _row(number: int, row: Row) -> str:
    chips = "".join(element("span", escape(name), class_="chip", data_row=number, data_place=place)
                    for place, name in enumerate(row.operations))
    return element("div", element("b", escape(row.title)) + chips, class_="row")


def _data(slides: Slides) -> str:
    arrays = [*slides.blocks.values(), *(row.values for row in slides.rows)]
    return json_script("search-data", {
        "live": slides.live().tolist(), "total": sum(array.shape[1] for array in arrays),
        "blocks": [_rounded(array) for array in slides.blocks.values()],
        "rows": [_rounded(row.values) for row in slides.rows],
    })


def _rounded(array: np.ndarray) -> List[List[float]]:
    """Numbers to some digits, of which none becomes zero."""
    return [[float(f"{value:.{_DIGITS}g}") for value in row] for row in array.tolist()]


def _curves(files: RunFiles) -> Sections:
    charts = curves(files.metrics)
    return [("Curves", charts)] if charts else []


def _pictures(files: RunFiles) -> Sections:
    """Segmented pictures, inside the page."""
    found = sorted(files.path.glob("retrain/**/pictures.png"))
    images = [element("figure", f'<img alt="" src="data:image/png;base64,{_base64(path)}">') for path in found
              if path.stat().st_size <= _LARGEST_PICTURE]
    return [("Pictures", "".join(images))] if images else []


def _base64(path: Path) -> str:
    try:
        return base64.b64encode(path.read_bytes()).decode("ascii")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def _environment(files: RunFiles) -> Sections:
    entry: Optional[Dict[str, Any]] = files.starts[-1] if files.starts else (files.report or {}).get("environment")
    shown = "".join([
        element("div", table(("", ""), flattened(entry)), class_="values") if entry else element("p", "Not recorded."),
        element("p", f"Started {len(files.starts)} times; this is the last.") if len(files.starts) > 1 else "",
        element("details", element("summary", "The resolved recipe") + element("pre", escape(files.recipe.to_yaml()))),
    ])
    return [("Environment and command", shown)]

