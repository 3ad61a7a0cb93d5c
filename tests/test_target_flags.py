"""Budgets on the command line."""

import pytest

from dso_nas.cli import _overrides, build_parser
from dso_nas.errors import UserError
from dso_nas.recipes import load_recipe

ALL = ("target_parameters", "target_flops", "target_mac", "target_latency")


def recipe_of(*words, recipe="demo"):
    options = build_parser("train_cifar.py", "demo").parse_args(words)
    return load_recipe(recipe, None, _overrides(options))


@pytest.mark.parametrize("flag, text, key, value", [
    ("params", "4.7M", "target_parameters", 4_700_000),
    ("params", "600000", "target_parameters", 600_000),
    ("flops", "571M", "target_flops", 571_000_000),
    ("flops", "1.25G", "target_flops", 1_250_000_000),
    ("mac", "900k", "target_mac", 900_000),
    ("latency", "12.5", "target_latency", 12.5),
])
@pytest.mark.parametrize("stage", ["retrain", "evaluate", "all"])
def test_a_flag_takes_the_place_of_the_recipes_own_target(stage, flag, text, key, value):
    """Two of these recipes have a target, the third a multiplier from --set, which comes last."""
    for recipe in ("demo", "cifar10-share"):
        settings = recipe_of(stage, f"--target-{flag}", text, recipe=recipe).retrain
        assert {name: getattr(settings, name) for name in ALL} == {**dict.fromkeys(ALL), key: value}


@pytest.mark.parametrize("stage", ["search", "all"])
def test_a_share_steers_the_search(stage):
    assert recipe_of(stage, "--target-flops", "40%").search.target_flops_share == 0.4
    assert recipe_of("all", "--target-flops", "12.5%", "--target-params", "60k").search.target_flops_share == 0.125


@pytest.mark.parametrize("words, said", [
    (("retrain", "--target-flops", "40%"), "--target-flops 40%: a share goes with search and all, not with retrain"),
    (("search", "--target-flops", "571M"), "not with search, which takes a share"),
    (("search", "--target-params", "3M"), "--target-params 3M: goes with retrain"),
    (("pretrain", "--target-latency", "3"), "--target-latency 3: goes with retrain"),
    (("retrain", "--target-latency", "3M"), "must be milliseconds such as 12.5"),
    (("retrain", "--target-params", "40%"), "must be a number such as 600000 or 4.7M"),
    (("retrain", "--target-mac", "-3"), "must be a number"),
    (("retrain", "--target-flops", "nan"), "or a share such as 40%"),
    (("retrain", "--target-mac", "1M", "--target-params", "1M"), "--target-params chooses the width already"),
    (("search", "--target-flops", "140%"), "search.target_flops_share: must be a number above 0 and below 1"),
    (("search", "--target-flops", "0%"), "search.target_flops_share: must be a number above 0 and below 1"),
    (("retrain", "--target-params", "0"), "retrain.target_parameters: must be an integer from 1"),
    (("retrain", "--target-latency", "0"), "retrain.target_latency: must be a number above 0"),
])
def test_what_it_refuses(words, said):
    stage, *rest = words
    pairs = [f"{flag}={value}" for flag, value in zip(rest[::2], rest[1::2])]
    with pytest.raises(UserError) as caught:
        recipe_of(stage, *pairs)
    assert said in str(caught.value) and "\n" not in str(caught.value)
