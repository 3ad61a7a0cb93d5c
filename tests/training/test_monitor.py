from __future__ import annotations

import json
import math
import os
import struct
import sys
import warnings

import numpy as np
import pytest

from dso_nas.errors import UserError
from dso_nas.training.monitor import Monitor, read_metrics


def lines(folder):
    return (folder / "metrics.jsonl").read_bytes()


def play(monitor, epochs, steps=5):
    """What an uninterrupted loop records: values that depend on the position alone."""
    for epoch in epochs:
        monitor.record(epoch, steps, loss=np.float32(1.1) / (epoch + 1), connections=124 - epoch)


def events(folder):
    """Every event under a folder, in the order TensorBoard reads them."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event()
            event.ParseFromString(data[12 : 12 + length])
            found.append(event)
            data = data[16 + length :]
    return found


def scalars(folder):
    return [(e.step, v.tag, v.simple_value) for e in events(folder) for v in e.summary.value]


# ---- metrics


def test_one_object_a_line(tmp_path):
    with Monitor(tmp_path, "search", tensorboard=False) as monitor:
        monitor.record(
            0, 7, loss=np.float32(0.1), connections=np.int64(124), error=np.array([0.25]), done=True
        )
        written = [json.loads(line) for line in lines(tmp_path).splitlines()]
    assert written == [
        {"stage": "search", "epoch": 0, "step": 7, "name": name, "value": value}
        for name, value in (
            ("loss", float(np.float32(0.1))),
            ("connections", 124),
            ("error", 0.25),
            ("done", 1),
        )
    ]
    assert [type(metric["value"]) for metric in written] == [float, int, float, int]
    assert read_metrics(tmp_path / "metrics.jsonl") == written
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_values_that_json_lacks_become_null_and_are_read_as_nan(tmp_path):
    with Monitor(tmp_path, "search") as monitor:
        monitor.record(0, 1, loss=math.nan, bound=math.inf)
    assert lines(tmp_path).count(b": null}") == 2
    assert all(math.isnan(metric["value"]) for metric in read_metrics(tmp_path / "metrics.jsonl"))


def test_names_are_escaped(tmp_path):
    with Monitor(tmp_path, "search", tensorboard=False) as monitor:
        monitor.record(0, 1, **{'a\n"b\r\x85': 1.0})
    assert [m["name"] for m in read_metrics(tmp_path / "metrics.jsonl")] == ['a\n"b\r\x85']


def test_stages_share_the_file(tmp_path):
    for stage in ("pretrain", "search"):
        with Monitor(tmp_path, stage, tensorboard=False) as monitor:
            play(monitor, range(2))
    assert [m["stage"] for m in read_metrics(tmp_path / "metrics.jsonl")] == ["pretrain"] * 4 + ["search"] * 4


def finished(folder, epochs=6):
    with Monitor(folder, "pretrain", tensorboard=False) as monitor:
        play(monitor, range(3))
    with Monitor(folder, "search", tensorboard=False) as monitor:
        play(monitor, range(epochs))
    return lines(folder)


@pytest.mark.parametrize("resumed", range(7))
def test_a_resumed_run_ends_with_the_same_file(tmp_path, resumed):
    expected = finished(tmp_path)
    with Monitor(tmp_path, "search", tensorboard=False) as monitor:
        monitor.rewind(resumed, 0)
        assert len(lines(tmp_path).splitlines()) == 6 + 2 * resumed
        play(monitor, range(resumed, 6))
    assert lines(tmp_path) == expected
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("recorded_before_checkpoint", [True, False])
def test_a_record_at_the_checkpoints_own_position_is_there_once(tmp_path, recorded_before_checkpoint):
    expected = finished(tmp_path)
    with Monitor(tmp_path, "search", tensorboard=False) as monitor:
        monitor.rewind(2, 5)
        play(monitor, range(3 if recorded_before_checkpoint else 2, 6))
    assert lines(tmp_path) == expected


def test_half_of_the_values_of_a_position_are_completed(tmp_path):
    expected = finished(tmp_path)
    cut = expected.index(b'"search", "epoch": 2')
    (tmp_path / "metrics.jsonl").write_bytes(expected[: expected.index(b"\n", cut) + 1])
    with Monitor(tmp_path, "search", tensorboard=False) as monitor:
        monitor.rewind(2, 5)
        play(monitor, range(2, 6))
    assert lines(tmp_path) == expected


def test_what_was_dropped_is_recorded_again(tmp_path):
    with Monitor(tmp_path, "search", tensorboard=False) as monitor:
        play(monitor, range(3))
        expected = lines(tmp_path)
        monitor.rewind(2, 5)
        monitor.rewind(-1, 0)
        assert lines(tmp_path) == b""
        play(monitor, range(3))
    assert lines(tmp_path) == expected


def test_a_line_torn_at_any_place_is_dropped(tmp_path):
    expected = finished(tmp_path)
    start = expected[:-1].rindex(b"\n") + 1
    for cut in range(start, len(expected)):
        (tmp_path / "metrics.jsonl").write_bytes(expected[:cut])
        assert len(read_metrics(tmp_path / "metrics.jsonl")) == 17
        with Monitor(tmp_path, "search", tensorboard=False) as monitor:
            monitor.rewind(5, 0)
            play(monitor, [5])
        assert lines(tmp_path) == expected


def test_a_torn_line_of_any_length_is_dropped(tmp_path):
    for length in (1, 2**16 - 1, 2**16, 2**16 + 1, 200_000):
        for whole in (b"", b'{"whole": 1}\n'):
            (tmp_path / "metrics.jsonl").write_bytes(whole + b"x" * length)
            Monitor(tmp_path, "search", tensorboard=False).close()
            assert lines(tmp_path) == whole


BAD = [b"{}\n", b"[1]\n", b"\0\0\0\n", b"\xff\n", b"\n", b"[" * 100_000 + b"\n"]
BAD += [json.dumps({"stage": "search", "epoch": "1", "step": 1, "name": "a", "value": 1}).encode() + b"\n"]


@pytest.mark.parametrize("bad", BAD, ids=lambda line: repr(line[:20]))
def test_a_damaged_line_is_told(tmp_path, bad):
    expected = finished(tmp_path)
    middle = expected.index(b"\n") + 1
    (tmp_path / "metrics.jsonl").write_bytes(expected[:middle] + bad + expected[middle:])
    with pytest.raises(UserError, match="metrics.jsonl: line 2 "):
        read_metrics(tmp_path / "metrics.jsonl")
    with Monitor(tmp_path, "search", tensorboard=False) as monitor:
        with pytest.warns(UserWarning, match="line 2 "):
            monitor.rewind(6, 0)
    assert lines(tmp_path) == expected


def test_a_disk_that_is_full_is_one_line(tmp_path, monkeypatch):
    monitor = Monitor(tmp_path, "search", tensorboard=False)
    play(monitor, range(1))
    before = lines(tmp_path)
    write = os.write

    def only_ten_bytes(descriptor, data):
        if len(lines(tmp_path)) > len(before):
            raise OSError(28, "No space left on device")
        return write(descriptor, data[:10])

    with monkeypatch.context() as patch, pytest.raises(UserError, match="No space left on device") as caught:
        patch.setattr(os, "write", only_ten_bytes)
        play(monitor, range(1, 2))
    assert "\n" not in str(caught.value) and "metrics.jsonl" in str(caught.value)
    monitor.close()
    Monitor(tmp_path, "search", tensorboard=False).close()
    assert lines(tmp_path) == before


def test_short_writes_are_completed(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:10]))
    with Monitor(tmp_path, "search", tensorboard=False) as monitor:
        play(monitor, range(2))
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 4


def test_files_that_cannot_be_opened_are_one_line(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_metrics(tmp_path / "metrics.jsonl")
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match="Is a directory"):
        Monitor(tmp_path, "search")


def test_closing_twice_is_fine(tmp_path):
    monitor = Monitor(tmp_path, "search")
    play(monitor, range(1))
    monitor.close()
    monitor.close()


def test_progress_goes_through(tmp_path, capsys):
    with Monitor(tmp_path, "search", tensorboard=False) as monitor:
        assert list(monitor.progress(range(3), 3, "x")) == [0, 1, 2]
    assert "x: 3/3" in capsys.readouterr().err


# ---- TensorBoard


def test_scalars_and_histograms_are_events(tmp_path):
    with Monitor(tmp_path, "search") as monitor:
        monitor.record(4, 9, loss=0.5)
        monitor.scalar(4, "rate", 100.0)
        monitor.histogram(4, "lambda_stage1", np.array([0.0, 0.0, 1.0, np.nan, np.inf], np.float32))
        monitor.histogram(4, "none", np.array([np.nan]))
    found = events(tmp_path / "tensorboard" / "search")
    values = [(event.step, value) for event in found for value in event.summary.value]
    assert [(step, value.tag) for step, value in values] == [(4, "loss"), (4, "rate"), (4, "lambda_stage1")]
    assert [value.simple_value for _, value in values[:2]] == [0.5, 100.0]
    histogram = values[2][1].histo
    assert (histogram.num, histogram.min, histogram.max, sum(histogram.bucket)) == (3, 0, 1, 3)
    assert [metric["name"] for metric in read_metrics(tmp_path / "metrics.jsonl")] == ["loss"]


def test_events_can_be_seen_while_the_run_goes(tmp_path):
    with Monitor(tmp_path, "search") as monitor:
        monitor.record(0, 9, loss=0.5)
        assert scalars(tmp_path / "tensorboard" / "search") == [(0, "loss", 0.5)]


def test_after_a_rewind_a_new_file_takes_the_later_events_back(tmp_path):
    for start in (0, 1):
        with Monitor(tmp_path, "search") as monitor:
            if start:
                monitor.rewind(start, 0)
            for epoch in range(start, 3):
                monitor.record(epoch, 9, loss=epoch + 10 * start)
    folder = tmp_path / "tensorboard" / "search"
    assert len(list(folder.iterdir())) == 2
    kept = []
    for event in events(folder):
        if event.HasField("session_log"):
            kept = [value for value in kept if value[0] < event.step]
        kept += [(event.step, value.simple_value) for value in event.summary.value]
    assert kept == [(0, 0.0), (1, 11.0), (2, 12.0)]


def test_a_run_goes_on_when_events_cannot_be_written(tmp_path):
    (tmp_path / "tensorboard").write_text("in the way")
    with Monitor(tmp_path, "search") as monitor:
        with pytest.warns(UserWarning, match="no more events") as warned:
            play(monitor, range(3))
        monitor.histogram(0, "h", np.zeros(3))
    assert len(warned) == 1
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 6


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_disk_that_fills_up_while_events_are_written(tmp_path, monkeypatch):
    from tensorboardX.event_file_writer import EventsWriter

    def full(_):
        raise OSError(28, "No space left on device")

    monitor = Monitor(tmp_path, "search")
    monitor.record(0, 1, loss=1.0)
    monkeypatch.setattr(EventsWriter, "flush", full)
    with pytest.warns(UserWarning, match="No space left"):
        monitor.record(1, 1, loss=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitor.record(2, 1, loss=1.0)
        monitor.close()


def test_without_tensorboard_nothing_of_it_is_imported(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with Monitor(tmp_path, "search", tensorboard=False) as monitor:
        monitor.record(0, 1, loss=1.0)
        monitor.scalar(0, "rate", 1.0)
        monitor.histogram(0, "h", np.zeros(3))
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_arrays_are_histograms_and_no_metrics(tmp_path):
    with Monitor(tmp_path, "search") as monitor:
        monitor.record(2, 1, loss=0.5, **{"lambdas/a": np.array([[0.0, 1.0, 3.0]]), "lambdas/b": np.zeros((0, 2))})
    assert [metric["name"] for metric in read_metrics(tmp_path / "metrics.jsonl")] == ["loss"]
    found = {v.tag: (e.step, v) for e in events(tmp_path / "tensorboard" / "search") for v in e.summary.value}
    assert set(found) == {"loss", "lambdas/a"}
    step, value = found["lambdas/a"]
    assert (step, value.histo.num, value.histo.sum, value.histo.max) == (2, 3, 4, 3)


def test_the_rate_of_steps_is_for_tensorboard_alone(tmp_path, monkeypatch):
    from types import SimpleNamespace

    now = [100.0]
    monkeypatch.setattr("dso_nas.training.monitor.time.monotonic", lambda: now[0])

    def steps():
        for images in (30, 20):
            now[0] += 2.0
            yield "weights", SimpleNamespace(images=images)

    with Monitor(tmp_path, "search") as monitor:
        assert len(list(monitor.progress(steps(), 2, "search"))) == 2
        now[0] += 6.0
        monitor.record(0, 2, loss=0.5)
        monitor.record(1, 2, loss=0.25)
    assert [metric["name"] for metric in read_metrics(tmp_path / "metrics.jsonl")] == ["loss", "loss"]
    assert scalars(tmp_path / "tensorboard" / "search") == [
        (0, "loss", 0.5), (0, "epoch_seconds", 10.0), (0, "images_per_second", 12.5), (1, "loss", 0.25)]


@pytest.mark.parametrize("key", ["epoch", "step", "value"])
def test_a_number_that_no_run_writes_is_no_metric(tmp_path, key):
    metric = {"stage": "search", "epoch": 0, "step": 1, "name": "loss", "value": 1, key: 10**400}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(metric) + "\n")
    with pytest.raises(UserError, match="line 1"):
        read_metrics(tmp_path / "metrics.jsonl")
