"""Curves of a page."""

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dso_nas.reporting.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, chart, curves, ticks_over


def line(stage, epoch, name, value):
    return {"stage": stage, "epoch": epoch, "step": 1, "name": name, "value": value}


@given(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9))
def test_ticks_span_what_they_are_to_span(a, b):
    low, high = min(a, b), max(a, b)
    ticks = ticks_over(low, high)
    slack = 1e-8 * max(abs(low), abs(high), 1)
    assert 2 <= len(ticks) <= 12 and ticks[0] <= low + slack and ticks[-1] >= high - slack
    steps = [after - before for before, after in zip(ticks, ticks[1:])]
    assert min(steps) > 0 and max(steps) == pytest.approx(min(steps), rel=1e-6)


def test_a_small_rate_is_not_flattened():
    assert ticks_over(0, 1e-4) == pytest.approx([0, 2.5e-5, 5e-5, 7.5e-5, 1e-4])


@pytest.mark.parametrize("value", [1e308, -1e308, 10**400, 5e-324])
def test_values_out_of_all_bounds_do_no_harm(value):
    curves([line("search", 0, "x_loss", value), line("search", 1, "x_loss", 1.0)])


def test_ticks_are_round():
    assert ticks_over(0, 0.93) == [0, 0.25, 0.5, 0.75, 1.0]
    assert ticks_over(0, 204) == [0, 100, 200, 300]


def test_a_point_stands_where_its_value_says():
    svg = ElementTree.fromstring(chart("loss", {"x": [(1, 0.0), (3, 2.0), (5, 4.0)]}))
    points = [tuple(map(float, pair.split(","))) for pair in svg.find(".//polyline").get("points").split()]
    assert points == [(LEFT, HEIGHT - BOTTOM), ((LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2),
                      (WIDTH - RIGHT, TOP)]
    assert [title.text for title in svg.iter("title")] == [f"x, epoch {e}: {v}" for e, v in ((1, 0), (3, 2), (5, 4))]


def test_stages_kinds_and_contenders_are_told_apart():
    found = curves([
        line("search", 0, "weights_loss", 1.0), line("search", 0, "lambdas_loss", 2.0),
        line("search", 0, "validation_error", 0.5), line("search", 0, "live_connections", 68),
        line("search", 1, "live_connections", math.nan), line("compare/random-1", 0, "test_error", 0.25),
        line("compare/full", 0, "test_error", 0.5), line("search", 0, "weights_loss", 1.5),
    ])
    assert re.findall("<h3>(.*?)</h3>", found) == ["search", "compare"]
    assert re.findall("<figcaption>(.*?)</figcaption>", found) == ["loss", "error", "live connections", "error"]
    assert "full: test error, epoch 1: 50.00 %" in found and "weights loss, epoch 1: 1.5" in found
    assert "nan" not in found and "epoch 1: 1</title>" not in found


def test_names_are_escaped():
    found = curves([line("<i>", 0, "<b>_loss", 1.0), line("<i>", 0, "<u>", 1.0)])
    assert not re.search("<[iub]>", found)
    ElementTree.fromstring(f"<x>{found}</x>")


def test_nothing_gives_nothing():
    assert curves([]) == ""
