"""Reports of a run in which the search wins, and in which random architectures do."""

from __future__ import annotations

from typing import Any, Callable, Dict, Sequence

import pytest

from dso_nas.reporting.report_schema import summarize


def result(name: str, kind: str, error: float) -> Dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "parameters": 3_012_345,
        "multiply_adds": 512_300_000,
        "live_connections": 304,
        "width_multiplier": 1.25,
        "test_error": error,
        "seconds": 185.2,
    }


def make(
    searched: float = 0.0274, random: Sequence[float] = (0.0327, 0.0348, 0.0369), full: Any = 0.0332
) -> Dict[str, Any]:
    results = [result("searched", "searched", searched)]
    results += [result(f"random {place}", "random", error) for place, error in enumerate(random, start=1)]
    results += [] if full is None else [result("full network, narrowed", "full", full)]
    return {
        "title": "DSO-NAS on Fashion-MNIST",
        "dataset": "Fashion-MNIST: 10,000 training | 2,000 test images",
        "recipe": "demo",
        "environment": {"command": ["make", "a demo"], "commit": None, "versions": {"mxnet": "1.9.1"}},
        "stages": [
            {"stage": "pretrain", "seconds": 60.0, "epochs": 2, "steps": 312},
            {"stage": "search", "seconds": 7260.0, "epochs": 6, "steps": 936},
        ],
        "search": {
            "live_connections": 38,
            "total_connections": 124,
            "epochs": 6,
            "converged": True,
            "warnings": [],
        },
        "results": results,
        "summary": summarize(results),
        "picture": "search/structure.png",
        "notes": ["ten thousand images"],
    }


@pytest.fixture
def make_report() -> Callable[..., dict]:
    """A report with the test errors given."""
    return make
