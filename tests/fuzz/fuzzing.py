"""Give a target hostile inputs: it reads them, or refuses them with one line."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Callable

from hypothesis import HealthCheck, given, settings

from dso_nas.errors import UserError
from tests.fuzz.targets import Target, clear


def fuzz(target: Target, folder: Path, count: int, seen: Callable[[bool], Any] = lambda accepted: None) -> None:
    """Read `count` inputs in `folder`; `seen` is told of each whether it was accepted.

    Raises:
        Exception: whatever came out that is no UserError of one line; Hypothesis prints the smallest such input.
    """
    inside = folder / "input"

    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(target.inputs)
    def check(lay: Callable[[Path], Any]) -> None:
        clear(inside)
        lay(inside)
        before = {path for path in folder.rglob("*")} | {inside / "again.json"}
        seen(_accepted(target, inside))
        assert {path for path in folder.rglob("*")} <= before, "reading wrote files"

    check()


def _accepted(target: Target, folder: Path) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.read(folder)
    except UserError as error:
        line = str(error)
        assert line and "\n" not in line and len(line) < 5000, line[:300]
        line.encode("utf-8")
        return False
    return True
