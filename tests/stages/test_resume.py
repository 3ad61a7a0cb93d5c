"""A run killed anywhere and resumed ends with the bits of one that was not (`make torture` does it more often)."""

import signal

import pytest

from tests.torture.runs import differences, finish, nth, stop_at


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "work"
    finish(folder)
    return folder


def test_sigkill_in_every_stage_changes_nothing(uninterrupted, tmp_path):
    folder = tmp_path / "work"
    moments = (nth(3, "pretrain", "checkpoint-", True), nth(4, "search", "checkpoint-", False),
               nth(1, "search", "genotype", False), nth(5, "retrain", "checkpoint-", True))
    for moment in moments:
        found, status = stop_at(folder, moment)
        assert found is not None and status == -signal.SIGKILL
    finish(folder, "--resume")
    assert differences(uninterrupted, folder) == []


def test_sigterm_writes_a_checkpoint_first(uninterrupted, tmp_path):
    folder = tmp_path / "work"
    found, status = stop_at(folder, nth(2, "search", "checkpoint-", True), signal.SIGTERM)
    assert found is not None and status == 128 + signal.SIGTERM
    finish(folder, "--resume")
    assert differences(uninterrupted, folder) == []
