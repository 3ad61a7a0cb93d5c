from __future__ import annotations

import io
import sys

import pytest

from dso_nas.training import progress as module
from dso_nas.training.progress import progress


class Clock:
    now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def lines(capsys, clock, seconds, count, total):
    for _ in progress(range(count), total, "search epoch 1/2"):
        clock.now += seconds
    output = capsys.readouterr()
    assert output.out == ""
    return output.err.splitlines()


def test_plain_lines_tell_count_rate_and_the_rest(capsys, clock):
    shown = lines(capsys, clock, 1.0, 100, 100)
    assert len(shown) == 10
    assert shown[0] == "search epoch 1/2: 10/100 (10%), 1.0/s, 01:30 left"
    assert shown[-1] == "search epoch 1/2: 100/100 (100%), 1.0/s, 00:00 left"


def test_a_quick_loop_has_one_line(capsys, clock):
    assert lines(capsys, clock, 0.01, 100, 100) == ["search epoch 1/2: 100/100 (100%), 100.0/s, 00:00 left"]


def test_a_slow_loop_has_a_line_a_minute(capsys, clock):
    shown = lines(capsys, clock, 30.0, 100, 100)
    assert len(shown) == 50
    assert shown[0] == "search epoch 1/2: 2/100 (2%), 30.0 s each, 49:00 left"


def test_lines_keep_their_distance(capsys, clock):
    assert len(lines(capsys, clock, 0.2, 100, 100)) == 4


def test_a_total_that_nobody_knows(capsys, clock):
    assert lines(capsys, clock, 40.0, 3, None) == [
        "search epoch 1/2: 2, 40.0 s each",
        "search epoch 1/2: 3, 40.0 s each",
    ]


def test_nothing_to_do_says_nothing(capsys, clock):
    assert lines(capsys, clock, 1.0, 0, 0) == []


def test_a_loop_left_early_closes_its_source(capsys, clock):
    closed = []

    def source():
        try:
            yield from range(10)
        finally:
            closed.append(True)

    items = progress(source(), 10, "x")
    next(items)
    items.close()
    assert closed == [True]
    assert capsys.readouterr().err == ""


def test_a_log_on_a_full_disk_does_not_end_training(monkeypatch, clock):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    assert list(progress(range(3), 3, "x")) == [0, 1, 2]


def test_a_terminal_gets_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(progress(iter(range(30)), 30, "retrain")) == list(range(30))
    text = terminal.getvalue()
    assert "\r" in text and "retrain" in text and "30/30" in text and "<" in text
