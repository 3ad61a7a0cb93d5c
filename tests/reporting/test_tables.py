"""What a reader of the report is told."""

from __future__ import annotations

import pytest

from dso_nas.errors import UserError
from dso_nas.reporting.tables import (
    duration,
    flattened,
    markdown_table,
    percent,
    quantity,
    report_markdown,
    verdict,
)


def test_tables_line_up_and_escape():
    table = markdown_table(("name", "n"), [("a|b", "1"), ("two\nlines", "1000")])
    assert table.splitlines() == [
        "| name      |    n |",
        "| --------- | ---: |",
        "| a\\|b      |    1 |",
        "| two lines | 1000 |",
    ]
    assert markdown_table(("a", "b"), [], "rl").splitlines() == ["|   a | b   |", "| --: | --- |"]


@pytest.mark.parametrize(
    "number, text",
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.0 k"),
        (99_949, "99.9 k"),
        (99_950, "100 k"),
        (999_499, "999 k"),
        (999_500, "1.0 M"),
        (3_012_345, "3.0 M"),
        (9_937_296, "9.9 M"),
        (512_300_000, "512 M"),
        (1.5e9, "1.5 G"),
        (2e12, "2.0 T"),
    ],
)
def test_quantities_have_at_most_three_digits(number, text):
    assert quantity(number) == text


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185.2, "3 min 05 s"),
        (7619, "2 h 06 min"),
        (97200, "1 d 03 h"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_percent():
    assert (percent(0.0274), percent(1)) == ("2.74 %", "100.00 %")


def test_report_when_the_search_wins(make_report):
    text = report_markdown(make_report())
    assert text.startswith("# DSO-NAS on Fashion-MNIST\n\n**The search wins.** The searched architecture")
    assert "has a test error of 2.74 %." in text
    assert "The 3 random architectures of the same size have 3.48 ± 0.21 % (mean ± standard dev" in text
    assert "the searched one is 0.74 points better, 3.5 times their standard deviation." in text
    assert "The full network, narrowed, has 3.32 %: the searched one is 0.58 points better." in text
    assert "chance" not in text
    assert "![The found architecture](search/structure.png)" in text
    assert "38 of 124 connections live (31 %)" in text
    assert "3.0 M parameters and 512 M multiply-adds. The search converged after 6 epochs." in text
    assert "- ten thousand images" in text and "## Warnings" not in text


def test_report_when_random_wins(make_report):
    text = report_markdown(make_report(searched=0.0360, full=0.05))
    assert "**Random wins.** The searched architecture has a test error of 3.60 %." in text
    assert "0.12 points worse, 0.6 times their standard deviation, which may well be chance." in text
    assert "the searched one is 1.40 points better" in text


def test_report_when_the_full_network_wins(make_report):
    text = verdict(make_report(searched=0.03, full=0.02))
    assert text.startswith("**The full network wins.**")
    assert "the searched one is 1.00 points worse." in text


def test_a_single_random_architecture_that_is_better_is_named(make_report):
    text = verdict(make_report(random=(0.02, 0.05, 0.05), full=None))
    assert text.startswith("**The search wins.**")
    assert text.endswith("which may well be chance. The best of them, random 1, beats it with 2.00 %.")


@pytest.mark.parametrize(
    "errors, begins, contains",
    [
        ({"random": (), "full": None}, "**Nothing to compare with.**", "a test error of 2.74 %."),
        ({"random": (0.0274,), "full": None}, "**A tie.**", "neither better nor worse"),
        ({"random": (0.0274,) * 3, "full": None}, "**A tie.**", "neither better nor worse."),
        ({"random": (0.03,), "full": None}, "**The search wins.**", "The one random architecture has 3.00 %"),
        ({"random": (0.03, 0.03), "full": None}, "**The search wins.**", "0.26 points better."),
    ],
)
def test_few_or_equal_comparisons(make_report, errors, begins, contains):
    text = verdict(make_report(**errors))
    assert text.startswith(begins) and contains in text


def test_the_comparison_has_a_row_for_everybody(make_report):
    lines = report_markdown(make_report()).splitlines()
    rows = [line for line in lines if line.startswith(("| searched", "| random", "| full"))]
    assert [row.split("|")[1].strip() for row in rows] == [
        "searched",
        "random 1",
        "random 2",
        "random 3",
        "full network, narrowed",
        "random, mean ± standard deviation",
    ]
    cells = [cell.strip() for cell in rows[0].strip("|").split("|")]
    assert cells == ["searched", "2.74 %", "3.0 M", "512 M", "304", "× 1.250", "3 min 05 s"]
    assert "3.48 ± 0.21 %" in rows[-1]
    assert len({len(row) for row in rows}) == 1


def test_times_warnings_and_environment_are_told(make_report):
    report = make_report()
    report["search"].update(converged=False, warnings=["lambda_stage1_unit9: both\nlambdas are zero"])
    text = report_markdown(report)
    assert "The search ended at its limit, not converged, after 6 epochs." in text
    assert "- lambda_stage1_unit9: both lambdas are zero" in text
    assert "| search   | 2 h 01 min |      6 |   936 |" in text
    assert "| all      | 2 h 02 min |        |       |" in text
    assert "| command        | make 'a demo' |" in text
    assert "| versions mxnet | 1.9.1         |" in text
    assert "commit" not in text


def test_a_wrong_report_is_not_written_about(make_report):
    report = make_report()
    report["results"][0]["test_error"] = 2.74
    with pytest.raises(UserError, match="test_error"):
        report_markdown(report)


def test_a_command_is_one_that_can_be_pasted():
    entry = {"command": ["a", "b c"], "commit": None, "machine": {"name": "x", "gpus": []}}
    assert dict(flattened(entry)) == {"command": "a 'b c'", "machine name": "x", "machine gpus": "none"}
