"""Schedules against the series recorded from the published code."""

from __future__ import annotations

import dso_nas  # noqa: F401  prepares the process before MXNet is loaded

# isort: split
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from dso_nas.errors import UserError
from dso_nas.optimizers import ConstantSchedule, CosineSchedule, LinearSchedule, apg_momentum, make_schedule

GOLDEN = Path(__file__).resolve().parents[1] / "golden"

COSINE = {"kind": "cosine", "multiplier": 2}
LINEAR = {"kind": "linear", "warmup_epochs": 5, "warmup_lr": 0.1}
PUBLISHED = {
    "D_cifar_cosine_e390": ({**COSINE, "period": 10, "min_lr": 1e-4}, 0.05, 390, 630),
    "D_cifar_cosine_e7": ({**COSINE, "period": 4, "min_lr": 1e-3}, 0.1, 7, 200),
    "D_cifar_multifactor": ({"kind": "step", "milestones": [120, 180, 220]}, 0.1, 390, 240),
    "D_imagenet_linear_e10": (LINEAR, 0.5, 10, 240),
    "D_imagenet_linear_e1251": (LINEAR, 0.5, 1251, 240),
    "D_imagenet_poly_e10": ({**LINEAR, "kind": "poly", "power": 2}, 0.5, 10, 120),
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_equals_the_published_series(name):
    config, base_lr, epoch_size, epochs = PUBLISHED[name]
    schedule = make_schedule(config, base_lr, epoch_size, epochs)
    golden = np.load(GOLDEN / f"{name}.npz", allow_pickle=False)
    rates = [schedule(int(update)) for update in golden["num_update"]]
    np.testing.assert_allclose(rates, golden["lr"], rtol=1e-6, atol=1e-6 * base_lr)


def test_is_pure():
    schedule = CosineSchedule(0.1, epoch_size=3, period=2)
    rates = [schedule(update) for update in range(1, 40)]
    assert rates == [schedule(update) for update in reversed(range(1, 40))][::-1]


def test_constant():
    schedule = make_schedule({"kind": "constant"}, 0.3, epoch_size=10, epochs=2)
    assert {schedule(update) for update in range(1, 100)} == {0.3}


def test_linear_without_warmup_ends_at_zero():
    schedule = LinearSchedule(0.5, epoch_size=10, epochs=4)
    np.testing.assert_allclose([schedule(update) for update in (10, 20, 40, 41)], [0.375, 0.25, 0.0, 0.0])


def test_poly_stays_at_zero_after_the_end():
    schedule = make_schedule({"kind": "poly", "power": 3}, 0.5, epoch_size=10, epochs=4)
    np.testing.assert_allclose([schedule(update) for update in (20, 40, 41)], [0.0625, 0.0, 0.0])


def test_an_optimizer_takes_its_rate_from_the_schedule():
    optimizer = mx.optimizer.create("sgd", learning_rate=0.5, lr_scheduler=LinearSchedule(0.5, 1, 4))
    weight = mx.nd.zeros((1,))
    updater = mx.optimizer.get_updater(optimizer)
    for expected in (-0.375, -0.625, -0.75, -0.75):
        updater(0, mx.nd.ones((1,)), weight)
        assert weight.asscalar() == pytest.approx(expected)


def test_a_learning_rate_given_to_the_optimizer_as_well_wins():
    schedule = ConstantSchedule(0.1)
    mx.optimizer.create("sgd", learning_rate=0.4, lr_scheduler=schedule)
    assert schedule(1) == 0.4


def test_apg_momentum_is_that_of_equation_13():
    assert [apg_momentum(t - 1) for t in (2, 3, 8)] == [(t - 2) / (t + 1) for t in (2, 3, 8)]


@pytest.mark.parametrize(
    "config, named",
    [
        ({}, "kind None"),
        ({"kind": "exponential"}, "'exponential'"),
        ({"kind": ["cosine"]}, "cosine"),
        ({"kind": "constant", "period": 3}, "'period'"),
        ({"kind": "cosine"}, "'period'"),
        ({"kind": "cosine", "peroid": 3}, "'peroid'"),
        ({"kind": "cosine", "period": 0}, "period"),
        ({"kind": "cosine", "period": 2.5}, "period"),
        ({"kind": "cosine", "period": True}, "period"),
        ({"kind": "cosine", "period": 3, "multiplier": 0}, "multiplier"),
        ({"kind": "cosine", "period": 3, "min_lr": -1e-3}, "min_lr"),
        ({"kind": "cosine", "period": 3, "min_lr": float("nan")}, "min_lr"),
        ({"kind": "cosine", "period": 3, "min_lr": 0.2}, "min_lr"),
        ({"kind": "step", "milestones": 3}, "milestones"),
        ({"kind": "step", "milestones": [3, "4"]}, "milestones"),
        ({"kind": "step", "milestones": [3], "factor": 0}, "factor"),
        ({"kind": "linear", "warmup_epochs": 10}, "warmup_epochs"),
        ({"kind": "linear", "warmup_epochs": -1}, "warmup_epochs"),
        ({"kind": "linear", "warmup_lr": "low"}, "warmup_lr"),
        ({"kind": "poly", "power": 0}, "power"),
    ],
)
def test_a_bad_config_is_one_line_that_names_the_key(config, named):
    with pytest.raises(UserError, match=named) as caught:
        make_schedule(config, 0.1, epoch_size=5, epochs=10)
    assert "\n" not in str(caught.value)
