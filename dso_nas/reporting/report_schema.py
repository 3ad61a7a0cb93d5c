"""What report.json holds, checked before it is written and whenever it is read."""

from __future__ import annotations

import math
import reprlib
import statistics
from typing import Any, Callable, Dict, Mapping, NamedTuple, Optional, Sequence

from dso_nas.errors import UserError

KINDS = ("searched", "random", "full")


class Rule(NamedTuple):
    """What a key may hold: `allowed` is read after 'must be', `holds` says whether a value is that."""

    allowed: str
    holds: Callable[[Any], bool]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value) and value >= 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_inside(path: Any) -> bool:
    return _is_text(path) and not set(path) & set("\\:()<>") and not {"", ".."} & set(path.split("/"))


def _or_null(rule: Rule) -> Rule:
    return Rule(f"{rule.allowed}, or null", lambda value: value is None or rule.holds(value))


_TEXT = Rule("a text", _is_text)
_TEXTS = Rule("a list of texts", _is_texts)
_WHOLE = Rule("a whole number of at least 0", _is_whole)
_COUNT = Rule("a whole number of at least 1", lambda value: _is_whole(value) and value > 0)
_NUMBER = Rule("a number of at least 0", _is_number)
_ABOVE = Rule("a number above 0", lambda value: _is_number(value) and value > 0)
_FRACTION = Rule("a fraction from 0 to 1", lambda value: _is_number(value) and value <= 1)
_YES_NO = Rule("true or false", lambda value: isinstance(value, bool))
_KIND = Rule("one of " + ", ".join(KINDS), lambda value: value in KINDS)
_SECTION = Rule("a section of keys", lambda value: isinstance(value, dict))
_LIST = Rule("a list of at least one section", lambda value: isinstance(value, list) and bool(value))

_REPORT = {
    "title": _TEXT,
    "dataset": _TEXT,
    "recipe": _TEXT,
    "environment": _SECTION,
    "stages": _LIST,
    "search": _SECTION,
    "results": _LIST,
    "summary": _SECTION,
    "picture": Rule("a path inside the run's folder, with slashes", _is_inside),
    "notes": _TEXTS,
}
_STAGE = {"stage": _TEXT, "seconds": _NUMBER, "epochs": _WHOLE, "steps": _WHOLE}
_SEARCH = {
    "live_connections": _WHOLE,
    "total_connections": _COUNT,
    "epochs": _WHOLE,
    "converged": _YES_NO,
    "warnings": _TEXTS,
}
_RESULT = {
    "name": _TEXT,
    "kind": _KIND,
    "parameters": _COUNT,
    "multiply_adds": _COUNT,
    "live_connections": _WHOLE,
    "width_multiplier": _ABOVE,
    "test_error": _FRACTION,
    "seconds": _NUMBER,
}
_SUMMARY = {
    "random_mean": _or_null(_FRACTION),
    "random_std": _or_null(_FRACTION),
    "searched": _FRACTION,
    "full": _or_null(_FRACTION),
}


def check_report(report: Any) -> None:
    """Check a report (the content of report.json) key by key, and that its summary is what its results give.

    Raises:
        UserError: naming the key and what it must be.
    """
    _check(report, _REPORT, "")
    _check(report["search"], _SEARCH, "search")
    _check(report["summary"], _SUMMARY, "summary")
    for name, rules in (("stages", _STAGE), ("results", _RESULT)):
        for place, entry in enumerate(report[name]):
            _check(entry, rules, f"{name}[{place}]")
    search = report["search"]
    if search["live_connections"] > search["total_connections"]:
        raise _problem("search.live_connections", f"must be at most {search['total_connections']}")
    _check_summary(report)


def summarize(results: Sequence[Mapping[str, Any]]) -> Dict[str, Optional[float]]:
    """The report's summary of its results: test errors as fractions, null for what was not compared.

    `random_std` is the sample's standard deviation, null for fewer than two random architectures.

    Raises:
        UserError: not exactly one result is the searched one, or more than one is the full network.
    """
    errors = {kind: [float(r["test_error"]) for r in results if r["kind"] == kind] for kind in KINDS}
    if len(errors["searched"]) != 1:
        raise _problem("results", f"must have one of kind searched, not {len(errors['searched'])}")
    if len(errors["full"]) > 1:
        raise _problem("results", f"must have at most one of kind full, not {len(errors['full'])}")
    random = errors["random"]
    return {
        "random_mean": statistics.mean(random) if random else None,
        "random_std": statistics.stdev(random) if len(random) > 1 else None,
        "searched": errors["searched"][0],
        "full": errors["full"][0] if errors["full"] else None,
    }


def _check_summary(report: Mapping[str, Any]) -> None:
    for name, expected in summarize(report["results"]).items():
        found = report["summary"][name]
        agree = found is expected
        if found is not None and expected is not None:
            agree = math.isclose(found, expected, abs_tol=1e-9)
        if not agree:
            raise _problem(f"summary.{name}", f"must be {expected}, as the results give, not {found}")


def _check(section: Any, rules: Mapping[str, Rule], path: str) -> None:
    if not isinstance(section, dict):
        raise _problem(path, f"must be a section of keys, not {reprlib.repr(section)}")
    for name in section:
        if name not in rules:
            shown = reprlib.repr(name).strip("'")
            raise _problem(_join(path, shown), f"unknown key; known are {', '.join(rules)}")
    for name, rule in rules.items():
        if name not in section:
            raise _problem(_join(path, name), f"missing; must be {rule.allowed}")
        if not rule.holds(section[name]):
            raise _problem(_join(path, name), f"must be {rule.allowed}, not {reprlib.repr(section[name])}")


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _problem(path: str, message: str) -> UserError:
    return UserError(f"report: {path}: {message}" if path else f"report: {message}")
