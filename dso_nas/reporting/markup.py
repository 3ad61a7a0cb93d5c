"""HTML of values that come from files: everything that is not markup of our own is escaped."""

from __future__ import annotations

import html
import json
import re
from typing import Any, Dict, Iterable, List, Sequence

_CELLS = re.compile(r"(?<!\\)\|")
_BOLD = re.compile(r"\*\*(.+?)\*\*")


def escape(value: Any) -> str:
    """A value as text between tags or inside an attribute's quotes."""
    return html.escape(str(value), quote=True)


def element(tag: str, content: str = "", **attributes: Any) -> str:
    """An element whose `content` is markup already; attributes are escaped, `_` in their names is `-`."""
    words = "".join(f' {name.strip("_").replace("_", "-")}="{escape(value)}"' for name, value in attributes.items()
                    if value is not None)
    return f"<{tag}{words}>{content}</{tag}>"


def json_script(name: str, content: Any) -> str:
    """JSON for the page's script to read, which no text inside it can end."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" id="{escape(name)}">{text}</script>'


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], align: str = "") -> str:
    """A table of texts, which are escaped; `align` has 'l' or 'r' for every column (default: all left)."""
    align = align or "l" * len(headers)
    head = "".join(_cell("th", text, side) for text, side in zip(headers, align))
    body = "".join(element("tr", "".join(_cell("td", text, side) for text, side in zip(row, align))) for row in rows)
    header = element("thead", element("tr", head)) if any(headers) else ""
    return element("div", element("table", header + element("tbody", body)), class_="table")


def _cell(tag: str, text: str, side: str) -> str:
    return element(tag, escape(text), class_="number" if side == "r" else None)


def markdown_sections(text: str) -> Dict[str, str]:
    """The HTML of Markdown as this project's reports have it, by second-level heading; what is before one is under ''.

    Known are headings, paragraphs, bold, lists and tables; pictures are left out.
    """
    sections: Dict[str, str] = {}
    title = ""
    for block in re.split(r"\n{2,}", text.strip()):
        if block.startswith("## "):
            title = block[3:].strip()
            sections.setdefault(title, "")
        elif not block.startswith(("# ", "!")):
            sections[title] = sections.get(title, "") + _block(block)
    return sections


def _block(block: str) -> str:
    lines = block.split("\n")
    if block.startswith("| "):
        return _table(lines)
    if block.startswith("- "):
        return element("ul", "".join(element("li", _inline(line[2:])) for line in lines))
    return element("p", _inline(" ".join(lines)))


def _table(lines: Sequence[str]) -> str:
    head, rule, *rows = [_cells(line) for line in lines]
    return table(head, rows, "".join("r" if cell.endswith(":") else "l" for cell in rule))


def _cells(line: str) -> List[str]:
    return [cell.strip().replace("\\|", "|") for cell in _CELLS.split(line.strip())[1:-1]]


def _inline(text: str) -> str:
    return _BOLD.sub(r"<strong>\1</strong>", escape(text))
