"""The table of differences, with networks written operator by operator as the other side."""

from __future__ import annotations

import argparse
import json
import re

import numpy as np
import pytest

from symbols.comparison import add_arguments, compare, run

PRUNED = {(2, 1): (0, 3), (2, 2): (0, 1), (2, 3): (2,), (2, 4): (4,), "after": range(8)}


def largest(table, row):
    return float(re.search(rf"\| {row} .*at most ([0-9.e+-]+) ", table)[1])


@pytest.mark.parametrize("lambdas, kept", [("share", None), (None, PRUNED), ("share", PRUNED)])
def test_a_network_written_out_agrees(lambdas, kept, literal, tmp_path):
    prefix = str(tmp_path / "theirs")
    values = None
    if lambdas and kept:
        values = {f"lambda_layer_2_{n}": [1.0 * (i in kept[2, n]) for i in range(5)] for n in range(1, 5)}
    literal(lambdas, kept).save(prefix, lambdas=values)
    table = compare(prefix, 100, image_size=16)
    for row in ("outputs, evaluation mode", "outputs, training mode", "BatchNorm statistics"):
        assert largest(table, row) < 1e-4
    assert largest(table, r"\d+ gradients") < 1e-2
    for row in ("parameters, lambdas not counted", "multiply-adds of one image", "inputs, parameters"):
        assert re.search(rf"\| {row}[^|]*\| ([0-9,]+) \| \1 \| 0 \|", table), table
    found = re.search(r"\| connections \| (\d+) \| (\d+) \|", table)
    assert found[1] == str(3 * (28 if kept is None else 14) + 4)
    assert found[2] == found[1]


def test_a_wrong_operator_shows(literal, tmp_path):
    prefix = str(tmp_path / "theirs")
    literal().save(prefix)
    path = tmp_path / "theirs-symbol.json"
    path.write_text(path.read_text().replace('"pool_type": "max"', '"pool_type": "avg"'))
    table = compare(prefix, 100, image_size=16)
    assert largest(table, "outputs, training mode") > 1e-3
    assert largest(table, r"\d+ gradients") > 1e-1


def test_an_operator_mxnet_does_not_have_is_said_and_the_rest_compared(literal, tmp_path):
    prefix = str(tmp_path / "theirs")
    literal(None, PRUNED).save(prefix)
    path = tmp_path / "theirs-symbol.json"
    graph = json.loads(path.read_text())
    for node in graph["nodes"]:
        if node["op"] == "Activation":
            node["op"] = "Droppath"
    path.write_text(json.dumps(graph))
    table = compare(prefix, 100, image_size=16)
    assert "needs Droppath, which this MXNet does not have" in table
    assert "| connections | 46 | 46 | 0 |" in table and "outputs," not in table


def test_the_command_prints_the_table(literal, tmp_path, capsys):
    prefix = str(tmp_path / "theirs")
    literal().save(prefix)
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert run(parser.parse_args([prefix, "100", "--image-size", "16"])) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n| ") > 10 and np.all(
        [line.count("|") == 5 for line in printed.splitlines() if "|" in line]
    )
