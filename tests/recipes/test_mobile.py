"""Recipes of the mobile space, and what their keys must not say together."""

from __future__ import annotations

import pytest

from dso_nas.architecture.mobile import MobileSpec
from dso_nas.errors import UserError
from dso_nas.recipes import load_recipe
from dso_nas.recipes.rules import read_section
from dso_nas.recipes.schema import Recipe
from dso_nas.recipes.yaml_text import parse_yaml

GPU, CPU, DEMO = "imagenet-mobile-gpu", "imagenet-mobile-cpu", "mobile-demo"


def spec_of(recipe):
    network = recipe.network
    return MobileSpec.of(network, network.classes or 10, (3,) + (network.image_size or 32,) * 2)


@pytest.mark.parametrize("name, macro, batch", [(GPU, "gpu", 8), (CPU, "cpu", 1)])
@pytest.mark.parametrize("profile", ["default", "paper"])
def test_imagenet(name, macro, batch, profile):
    recipe = load_recipe(name, profile)
    assert spec_of(recipe) == MobileSpec.named(macro)
    assert (recipe.search.regularization, recipe.search.latency_batch) == ("adaptive_latency", batch)
    assert (recipe.pretrain.epochs, recipe.pretrain.batch_size, recipe.pretrain.learning_rate) == (30, 256, 0.1)
    assert (recipe.retrain.epochs, recipe.retrain.batch_size, recipe.retrain.learning_rate) == (240, 1024, 0.5)
    assert recipe.search.patience is None and recipe.data.ratio == (4, 1)


def test_the_training_is_that_of_imagenet_share():
    share, mobile = load_recipe("imagenet-share", "paper"), load_recipe(GPU, "paper")
    assert (mobile.data, mobile.pretrain, mobile.retrain.schedule) == (share.data, share.pretrain,
                                                                       share.retrain.schedule)
    for key in ("batch_size", "learning_rate", "weight_decay", "gamma", "ratio", "lambda_momentum",
                "latency_statistic"):
        assert getattr(mobile.search, key) == getattr(share.search, key)


def test_nothing_was_published():
    with pytest.raises(UserError, match="--profile: .* has no profile published"):
        load_recipe(GPU, "published")


def test_the_twin():
    recipe = load_recipe(DEMO)
    spec = spec_of(recipe)
    assert len(spec.groups) == 4 and recipe.data.dataset == "fashion-mnist"
    assert any(not unit.shortcut for unit in spec.units()) and any(unit.shortcut for unit in spec.units())


@pytest.mark.parametrize("name", [GPU, CPU, DEMO])
def test_a_recipe_survives_its_yaml(name):
    recipe = load_recipe(name)
    assert read_section(Recipe, parse_yaml(recipe.to_yaml())) == recipe


@pytest.mark.parametrize("name, override, key", [
    (GPU, "network.stem_width=8", "network.stem_width"),
    (GPU, "network.macro=custom", "network.stem_width"),
    (GPU, "network.macro=tpu", "network.macro"),
    (GPU, "network.space=micro", "network.space"),
    (GPU, "network.operations=[mb3_3x3, sep_conv_3x3]", "network.operations"),
    (GPU, "network.levels=4", "network.levels"),
    (GPU, "retrain.widths=[8, 8]", "retrain.widths"),
    (GPU, "retrain.auxiliary_weight=0.4", "retrain.auxiliary_weight"),
    (GPU, "retrain.drop_path=0.1", "retrain.drop_path"),
    (GPU, "search.regularization=adaptive_mac", "search.regularization_rule"),
    (DEMO, "network.blocks=[1, 1]", "network.blocks"),
    (DEMO, "network.strides=[2, 2, 3, 1]", "network.strides"),
    (DEMO, "network.feature_width=null", "network.feature_width"),
    (DEMO, "network.macro=gpu", "network.stem_width"),
])
def test_what_does_not_go_together(name, override, key):
    with pytest.raises(UserError) as refusal:
        load_recipe(name, None, [override])
    assert f" {key}: " in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_latency_table_may_stand_for_measuring():
    recipe = load_recipe(GPU, None, ["search.latency_table=table.json"])
    assert recipe.search.latency_table == "table.json" and recipe.search.regularization == "adaptive_latency"


def test_another_space_replaces_the_section(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: demo\nnetwork:\n  space: mobile\n  macro: mobile\n")
    recipe = load_recipe(path)
    assert spec_of(recipe) == MobileSpec.named("mobile", 10, (3, 32, 32))
    path.write_text("extends: demo\nnetwork:\n  space: normal\n  levels: 3\n")
    assert load_recipe(path).network.levels == 3 and load_recipe(path).network.widths == (8, 16, 32)
