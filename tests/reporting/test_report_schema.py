"""A report is checked key by key before anything is written."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest

from dso_nas.errors import UserError
from dso_nas.reporting.report_schema import check_report, summarize


def change(report: dict, path: str, value) -> dict:
    changed = copy.deepcopy(report)
    *above, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    place = changed
    for key in above:
        place = place[key]
    if value is KeyError:
        del place[last]
    else:
        place[last] = value
    return changed


def test_a_right_report_passes_and_survives_json(make_report):
    for report in (make_report(), make_report(random=(), full=None), make_report(random=(0.1,))):
        check_report(report)
        check_report(json.loads(json.dumps(report, allow_nan=False)))


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("title", " ", "report: title: must be a text"),
        ("title", "", "report: title: must be a text"),
        ("dataset", KeyError, "report: dataset: missing; must be a text"),
        ("extra", 1, "report: extra: unknown key; known are title,"),
        ("environment", [], "report: environment: must be a section of keys"),
        ("stages", [], "report: stages: must be a list of at least one section"),
        ("stages.0", 3, r"report: stages\[0\]: must be a section of keys, not 3"),
        ("stages.1.seconds", -1, r"report: stages\[1\].seconds: must be a number of at least 0, not -1"),
        ("stages.1.steps", True, r"report: stages\[1\].steps: must be a whole number"),
        ("search.converged", 1, "report: search.converged: must be true or false"),
        ("search.live_connections", 125, "report: search.live_connections: must be at most 124"),
        ("search.warnings", "none", "report: search.warnings: must be a list of texts"),
        ("results.0.kind", "found", r"report: results\[0\].kind: must be one of searched, random, full"),
        ("results.0.kind", "random", "report: results: must have one of kind searched, not 0"),
        ("results.1.kind", "full", "report: results: must have at most one of kind full, not 2"),
        ("results.2.test_error", 3.48, r"results\[2\].test_error: must be a fraction from 0 to 1, not 3.48"),
        ("results.2.test_error", math.nan, r"report: results\[2\].test_error: must be a fraction"),
        ("results.2.test_error", np.float32(0.1), r"report: results\[2\].test_error: must be a fraction"),
        ("results.3.parameters", 0, r"report: results\[3\].parameters: must be a whole number of at least 1"),
        ("results.3.width_multiplier", 0, r"report: results\[3\].width_multiplier: must be a number above 0"),
        ("summary.random_mean", 0.01, "report: summary.random_mean: must be 0.0348"),
        ("summary.full", None, "report: summary.full: must be 0.0332, as the results give, not None"),
        ("picture", "/etc/structure.png", "report: picture: must be a path inside the run's folder"),
        ("picture", "../structure.png", "report: picture: must be a path inside the run's folder"),
        ("picture", "https://example.org/x.png", "report: picture: must be a path inside the run's folder"),
        ("notes", [""], "report: notes: must be a list of texts"),
    ],
)
def test_a_wrong_key_is_named(make_report, path, value, message):
    with pytest.raises(UserError, match=message) as caught:
        check_report(change(make_report(), path, value))
    assert "\n" not in str(caught.value)


def test_not_a_report():
    with pytest.raises(UserError, match=r"report: must be a section of keys, not \[\]"):
        check_report([])


def test_summary_is_the_samples_mean_and_standard_deviation(make_report):
    assert summarize(make_report()["results"]) == {
        "random_mean": pytest.approx(0.0348),
        "random_std": pytest.approx(0.0021),
        "searched": 0.0274,
        "full": 0.0332,
    }
    alone = summarize(make_report(random=(0.03,), full=None)["results"])
    assert alone == {"random_mean": 0.03, "random_std": None, "searched": 0.0274, "full": None}
