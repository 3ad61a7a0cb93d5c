"""What a recipe's key may hold, and the words that say so.

A schema is a frozen dataclass whose fields are made by `key`; `read_section` turns a plain mapping into it.
Only single values are judged here. What two keys must not say together belongs to the section that holds
both, in its `conflicts`.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import reprlib
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterable, Iterator, Mapping, Optional, Tuple, Type, TypeVar, Union

S = TypeVar("S", bound="Section")


class KeyProblem(Exception):
    """A value that a recipe may not hold.

    Attributes:
        path: the key with its sections, as in `search.gamma`; empty for the recipe as a whole.
        message: what is wrong and what is allowed, to be read after the path.
    """

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path
        self.message = message


@dataclass(frozen=True)
class Section:
    """A part of a recipe: a frozen dataclass of keys."""

    def conflicts(self) -> Iterator[Tuple[str, str]]:
        """Yield (key, message) for every pair of values that cannot stand together."""
        return iter(())


@dataclass(frozen=True)
class Rule:
    """What one key may hold.

    Attributes:
        allowed: the words for it, to be read after "must be".
        convert: gives the value as the program uses it; raises ValueError for what is not allowed.
    """

    allowed: str
    convert: Callable[[Any], Any]

    def read(self, value: Any, path: str) -> Any:
        """The value of the key at `path`.

        Raises:
            KeyProblem: it is not allowed.
        """
        try:
            return self.convert(value)
        except (ValueError, OverflowError):
            raise KeyProblem(path, f"must be {self.allowed}, not {show(value)}") from None


@dataclass(frozen=True)
class SectionRule:
    """A key that holds a section of keys, or null where `optional`."""

    section: Type[Section]
    optional: bool = False
    allowed: str = "a section of keys"

    def read(self, value: Any, path: str) -> Optional[Section]:
        """The section at `path`; raises `KeyProblem`."""
        if value is None and self.optional:
            return None
        return read_section(self.section, value, path)


@dataclass(frozen=True)
class SectionListRule:
    """A key that holds a list of 1 to `high` sections of keys."""

    section: Type[Section]
    high: int = 16
    allowed: str = "a list of sections of keys"

    def read(self, value: Any, path: str) -> Tuple[Section, ...]:
        """The sections at `path`; raises `KeyProblem`."""
        if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= self.high:
            raise KeyProblem(path, f"must be a list of 1 to {self.high} sections of keys, not {show(value)}")
        return tuple(read_section(self.section, item, f"{path}[{place}]") for place, item in enumerate(value))


@dataclass(frozen=True)
class KindRule:
    """A key that holds one of several sections, chosen by the key `chooser` inside it, or else `default`."""

    sections: Mapping[str, Type[Section]]
    chooser: str = "kind"
    default: Optional[str] = None
    allowed: str = "a section of keys"

    def read(self, value: Any, path: str) -> Section:
        """The section at `path`; raises `KeyProblem`."""
        kind = _mapping(value, path).get(self.chooser, self.default)
        kind = choice(*self.sections).read(kind, _join(path, self.chooser))
        return read_section(self.sections[kind], value, path)


AnyRule = Union[Rule, SectionRule, SectionListRule, KindRule]


def key(rule: AnyRule, meaning: str, default: Any = dataclasses.MISSING) -> Any:
    """A field of a section, required without a default; `meaning` is one line for the documentation."""
    return dataclasses.field(default=default, metadata={"rule": rule, "meaning": meaning})


def integer(low: int, high: int) -> Rule:
    """An integer from `low` to `high`, both included."""

    def convert(value: Any) -> int:
        _require(isinstance(value, int) and not isinstance(value, bool) and low <= value <= high)
        return value

    return Rule(f"an integer from {low} to {high}", convert)


def number(low: float = 0.0, high: float = math.inf, above: bool = False, below: bool = False) -> Rule:
    """A finite number from `low` to `high`; `above` and `below` exclude the ends. Integers pass."""
    words = f"above {low:g}" if above else f"of at least {low:g}"
    if high != math.inf:
        words = f"{words} and {'below' if below else 'at most'} {high:g}"

    def convert(value: Any) -> float:
        _require(isinstance(value, (int, float)) and not isinstance(value, bool))
        value = float(value)
        _require(math.isfinite(value) and low <= value <= high)
        _require(not (above and value == low) and not (below and value == high))
        return value

    return Rule(f"a number {words}", convert)


def boolean() -> Rule:
    """True or false."""

    def convert(value: Any) -> bool:
        _require(isinstance(value, bool))
        return value

    return Rule("true or false", convert)


def text() -> Rule:
    """A text of one line, not empty, of at most 1,000 characters."""

    def convert(value: Any) -> str:
        _require(isinstance(value, str) and 0 < len(value) <= 1000 and value.isprintable())
        return value

    return Rule("a text of one line", convert)


def choice(*values: str) -> Rule:
    """One of some words."""

    def convert(value: Any) -> str:
        _require(isinstance(value, str) and value in values)
        return value

    return Rule(" or ".join(values) if len(values) < 3 else "one of " + ", ".join(values), convert)


def listing(item: Rule, low: int, high: int, distinct: bool = False) -> Rule:
    """A list of `low` to `high` items under one rule, read into a tuple; `distinct`: no item twice."""
    count = str(low) if low == high else f"{low} to {high}"

    def convert(value: Any) -> Tuple[Any, ...]:
        _require(isinstance(value, (list, tuple)) and low <= len(value) <= high)
        items = tuple(item.convert(entry) for entry in value)
        _require(not distinct or len(set(items)) == len(items))
        return items

    return Rule(f"a list of {count}{' different' if distinct else ''} items, each {item.allowed}", convert)


def either(first: Rule, second: Rule) -> Rule:
    """What the first rule allows, or else the second."""

    def convert(value: Any) -> Any:
        try:
            return first.convert(value)
        except ValueError:
            return second.convert(value)

    return Rule(f"{first.allowed}, or {second.allowed}", convert)


def optional(rule: Rule) -> Rule:
    """What the rule allows, or null."""
    return Rule(f"{rule.allowed}, or null", lambda value: None if value is None else rule.convert(value))


def read_section(section: Type[S], value: Any, path: str = "") -> S:
    """Read a plain mapping into a section.

    Args:
        section: a frozen dataclass whose fields are made by `key`.
        value: what a YAML file holds there.
        path: the section's own key with those above it; empty for the recipe.

    Raises:
        KeyProblem: a key is unknown, missing or not allowed, or two keys cannot stand together.
    """
    given = _mapping(value, path)
    fields = {field.name: field for field in dataclasses.fields(section)}
    for name in given:
        if name not in fields:
            raise KeyProblem(_join(path, name), f"unknown key; {suggest(name, fields)}")
    for name, field in fields.items():
        if name not in given and field.default is dataclasses.MISSING:
            raise KeyProblem(_join(path, name), f"missing; must be {field.metadata['rule'].allowed}")
    result = section(**{n: fields[n].metadata["rule"].read(v, _join(path, n)) for n, v in given.items()})
    for name, message in result.conflicts():
        raise KeyProblem(_join(path, name), message)
    return result


def suggest(name: Any, known: Iterable[str]) -> str:
    """Words that lead from a name that does not exist to one that does."""
    known = sorted(known)
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean {close[0]}?" if close else "known are " + ", ".join(known)


def show(value: Any) -> str:
    """A value of any size in at most 80 characters of one line."""
    words = "null" if value is None else reprlib.repr(value)
    return words if len(words) <= 80 else f"{words[:77]}..."


def _mapping(value: Any, path: str) -> Dict[Any, Any]:
    if not isinstance(value, dict):
        raise KeyProblem(path, f"must be a section of keys, not {show(value)}")
    return value


def _join(path: str, name: Any) -> str:
    name = name if isinstance(name, str) and name.isprintable() and len(name) <= 60 else show(name)
    return f"{path}.{name}" if path else name


def _require(condition: Optional[bool]) -> None:
    if not condition:
        raise ValueError
