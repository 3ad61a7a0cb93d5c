"""docs/recipes.md has every key as the schema has it; `python tests/docs/test_recipes_page.py` rewrites its table."""

import dataclasses
import re
from pathlib import Path

from dso_nas.recipes.rules import KindRule, SectionListRule, SectionRule
from dso_nas.recipes.schema import Recipe
from dso_nas.reporting.tables import markdown_table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "recipes.md"
MARKS = "<!-- keys -->", "<!-- end of keys -->"


def rows(section, prefix=""):
    """A row for each key: its name, what it means, what it may be, its default."""
    for field in dataclasses.fields(section):
        rule, name = field.metadata["rule"], prefix + field.name
        if isinstance(rule, SectionRule):
            yield from rows(rule.section, f"{name}.")
        elif isinstance(rule, SectionListRule):
            yield from rows(rule.section, f"{name}[].")
        elif isinstance(rule, KindRule):
            names = "one of " + ", ".join(rule.sections)
            yield f"`{name}.{rule.chooser}`", field.metadata["meaning"], names, rule.default or "constant"
            for kind, own in rule.sections.items() if rule.chooser == "space" else ():
                prefix_of_own = f"{name}." if kind == rule.default else f"{name} ({kind}) "
                yield from (row for row in rows(own, prefix_of_own) if not row[0].endswith("space`"))
        else:
            yield f"`{name}`", field.metadata["meaning"], rule.allowed, default(field)


def default(field):
    """A key's default as YAML has it."""
    value = field.default
    if value is dataclasses.MISSING:
        return "required"
    words = {None: "null", True: "true", False: "false"}
    if isinstance(value, tuple):
        return "[" + ", ".join(map(str, value)) + "]"
    return words[value] if value is None or isinstance(value, bool) else str(value)


def table():
    """All keys; schedules' own keys, which every section has alike, once."""
    schedules = next(f.metadata["rule"] for f in dataclasses.fields(Recipe) if f.name == "pretrain").section
    kinds = next(f.metadata["rule"] for f in dataclasses.fields(schedules) if f.name == "schedule").sections
    lines = list(rows(Recipe))
    for kind, section in kinds.items():
        lines += [row for row in rows(section, f"schedule ({kind}) ") if not row[0].endswith("kind`")]
    return markdown_table(("key", "meaning", "must be", "default"), lines, "llll")


def written():
    """The table that the page has now."""
    return re.search(f"{MARKS[0]}\n(.*)\n{MARKS[1]}", PAGE.read_text(), re.DOTALL)[1]


def test_the_page_has_every_key():
    assert written() == table()


if __name__ == "__main__":
    PAGE.write_text(PAGE.read_text().replace("\n".join((MARKS[0], written(), MARKS[1])),
                                             "\n".join((MARKS[0], table(), MARKS[1]))))
