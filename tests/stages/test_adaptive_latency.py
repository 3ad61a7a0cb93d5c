"""Adaptive latency in the search stage: measured at an epoch's start, held for the epoch and through a checkpoint."""

import itertools

import numpy as np
import pytest

from dso_nas.budgets.latency import Latency
from dso_nas.stages import targets
from dso_nas.stages.search import SearchTask

ADAPTIVE = ("search.regularization=adaptive_latency", "search.gamma=0.02")


@pytest.fixture
def measured(monkeypatch):
    """Every measurement's arguments; no two give the same latency."""
    calls, clock = [], itertools.count(1.0)

    def measure_built(*arguments):
        calls.append(arguments)
        return Latency.of([next(clock)], "mean")

    monkeypatch.setattr(targets, "measure_built", measure_built)
    return calls


def gamma_of(task):
    return {name: np.array(value) for name, value in task._apg_nag._gamma.items()}


def assert_equal(one, two):
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name], err_msg=name)


def test_the_settings_reach_the_measurement(make_run, measured):
    run = make_run(*ADAPTIVE, "search.latency_batch=4", "search.latency_statistic=published",
                   "search.latency_spread=0.5")
    next(SearchTask(run).train(0, 0))
    assert len(measured) == 3 * 4 + 6
    assert {arguments[1:] for arguments in measured} == {(run.contexts[0], run.spec.image_shape, 4, "published", 0.5)}
    assert all(arguments[0]().spec == run.spec for arguments in measured)


def test_gamma_changes_between_epochs_and_not_within(make_run, measured):
    task = SearchTask(make_run(*ADAPTIVE))
    seen = []
    for epoch in range(2):
        steps = task.train(epoch, 0)
        next(steps)
        seen.append(gamma_of(task))
        for _ in steps:
            pass
        assert_equal(gamma_of(task), seen[-1])
        task.network.lambdas["lambda_after"].list_data()[0][0, 0] = 0
        task.end_epoch(epoch)
    assert seen[1]["lambda_after"][0, 0] == np.float32(0.02)
    assert (seen[0]["lambda_layer_2_1"] != seen[1]["lambda_layer_2_1"]).any()


@pytest.mark.parametrize("rule", ["equation", "published"])
def test_a_search_resumed_within_an_epoch_keeps_its_gamma(make_run, measured, rule):
    settings = (*ADAPTIVE, f"search.regularization_rule={rule}")
    whole, resumed = (SearchTask(make_run(*settings, name=name)) for name in ("whole", "resumed"))
    steps = whole.train(0, 0)
    for _ in range(3):
        next(steps)
    resumed.restore(*whole.state())
    before = len(measured)
    for iterator in (steps, resumed.train(0, 3)):
        for _ in iterator:
            pass
    assert len(measured) == before
    assert_equal(gamma_of(whole), gamma_of(resumed))
    for task in (whole, resumed):
        task.end_epoch(0)
    assert_equal(whole.state()[0], resumed.state()[0])
