"""A table of layer latencies: its file, its sum, and the order it gives."""

import dataclasses
import json

import numpy as np
import pytest

from dso_nas.budgets.latency_table import Check, Entry, LatencyTable, rank_correlation
from dso_nas.errors import UserError

TABLE = LatencyTable({"name": "toy", "widths": [4]}, "cpu(0)", 2, "median", {"machine": {"name": "here"}},
                     {"stem": Entry(1.5, 0.1), "sum": Entry(0.25, 0.0)}, Check(30, 0.95))


@pytest.fixture
def content(tmp_path):
    """A file's content, and how to have it changed and loaded."""
    path = tmp_path / "table.json"
    TABLE.save(path)

    def load(**changes):
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
        return LatencyTable.load(path)

    return load


def test_what_is_saved_is_loaded(tmp_path):
    for table in (TABLE, dataclasses.replace(TABLE, check=None)):
        table.save(tmp_path / "table.json")
        assert LatencyTable.load(tmp_path / "table.json") == table


def test_the_sum():
    assert TABLE.total({"stem": 1, "sum": 6}) == 3 and TABLE.total({}) == 0


def test_another_space_is_one_line():
    TABLE.check_fits({"name": "toy", "widths": [4]}, ["stem"], "t.json")
    for space, names, said in [({"name": "toy", "widths": [5]}, [], r"t.json: .* widths is \[4\] .* network's \[5\]"),
                               ({"name": "toy"}, [], "its widths is"),
                               ({"name": "other", "widths": [4]}, [], "its name is"),
                               ({"name": "toy", "widths": [4]}, ["head"], "no entry 'head'")]:
        with pytest.raises(UserError, match=said) as caught:
            TABLE.check_fits(space, names, "t.json")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("changes, said", [
    ({"format": "dso-nas-genotype"}, "format: 'dso-nas-genotype' is not"),
    ({"version": 2}, "version: 2 is not 1"),
    ({"version": True}, "version: True is not 1"),
    ({"batch": 0}, "batch: 0 is not a whole number"),
    ({"batch": 1.5}, "batch: 1.5 is not a whole number"),
    ({"device": 3}, "device: 3 is not a text"),
    ({"space": []}, r"space: \[\] is not an object"),
    ({"more": 1}, "'more' is no key"),
    ({"entries": {"stem": 1.0}}, "entries.stem: 1.0 is not an object"),
    ({"entries": {"stem": {"milliseconds": 1.0}}}, "entries.stem: 'spread' is missing"),
    ({"entries": {"stem": {"milliseconds": -1.0, "spread": 0}}}, "entries.stem.milliseconds: -1.0 is not a finite"),
    ({"entries": {"stem": {"milliseconds": float("nan"), "spread": 0}}}, "milliseconds: nan is not a finite"),
    ({"entries": {"stem": {"milliseconds": "1", "spread": 0}}}, "milliseconds: '1' is not a finite"),
    ({"entries": {"stem": {"milliseconds": 10**400, "spread": 0}}}, "milliseconds: 1000+ is not a finite"),
    ({"check": {"architectures": 30}}, "check: 'rank_correlation' is missing"),
])
def test_a_damaged_file_names_the_key(content, changes, said):
    with pytest.raises(UserError, match=f"table.json: .*{said}") as caught:
        content(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("raw, said", [(b"{", "not a latency table's JSON"), (b"\xff", "not a latency table's JSON"),
                                       (b"[" * 100_000, "not a latency table's JSON"), (b"[]", "is not an object"),
                                       (b" " * (2**20 + 1), "larger than 1 MB")])
def test_what_is_no_table(tmp_path, raw, said):
    path = tmp_path / "table.json"
    path.write_bytes(raw)
    with pytest.raises(UserError, match=said):
        LatencyTable.load(path)
    with pytest.raises(UserError, match="cannot read the latency table"):
        LatencyTable.load(tmp_path / "none.json")


def test_rank_correlation_by_hand():
    assert rank_correlation([1, 2, 3, 4], [10, 20, 50, 400]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    # Differences of the ranks: 0, 1, -1, 0; 1 - 6 * 2 / (4 * 15).
    assert rank_correlation([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)
    # Ranks with a tie: 1, 2.5, 2.5, 4 against 1, 2, 3, 4.
    assert rank_correlation([1, 5, 5, 9], [1, 2, 3, 4]) == pytest.approx(
        np.corrcoef([1, 2.5, 2.5, 4], [1, 2, 3, 4])[0, 1])
    assert rank_correlation([1, 1, 1], [1, 2, 3]) == 0
    assert Check(30, 0.9).is_good and not Check(30, 0.89).is_good
