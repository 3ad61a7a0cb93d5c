"""What stages share."""

import pytest

from dso_nas.errors import UserError
from dso_nas.recipes import load_recipe
from dso_nas.stages.run import learning_rates


def retrain_rates(*overrides):
    recipe = load_recipe("demo", None, ("retrain.epochs=3", "retrain.learning_rate=0.1", *overrides))
    rates = learning_rates(recipe.retrain, 10)
    return [rates(step) for step in range(1, 31)]


def test_one_cosine_does_not_start_again_at_its_last_step():
    rates = retrain_rates("retrain.schedule.kind=cosine")
    assert rates == sorted(rates, reverse=True) and rates[-1] < 0.03


def test_a_cosine_with_a_period_does():
    rates = retrain_rates("retrain.schedule.kind=cosine", "retrain.schedule.period=1")
    assert rates[9] == pytest.approx(0.1)


def test_a_split_of_another_recipe_is_refused(make_run):
    assert make_run().split
    with pytest.raises(UserError, match="split.json.*data.split_seed"):
        assert make_run("data.split_seed=7").split


def test_too_few_classes(make_run):
    with pytest.raises(UserError, match="network.classes"):
        assert make_run("network.classes=3").spec
