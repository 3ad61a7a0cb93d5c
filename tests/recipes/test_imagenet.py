"""The ImageNet recipes: what paper and published code agree on, and every row in which they do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dso_nas.architecture.cost import network_cost
from dso_nas.architecture.lambdas import LambdaLayout
from dso_nas.architecture.spaces import space_of
from dso_nas.architecture.topology import NetworkSpec
from dso_nas.recipes import Recipe, load_recipe
from dso_nas.recipes.schedules import LinearSchedule

FIGURES = Path(__file__).resolve().parents[1] / "golden" / "F_params_flops.json"
NAMES = ("imagenet-share", "imagenet-full")
PROFILES = (None, "paper", "published")
WARM_UP = LinearSchedule("linear", warmup_epochs=5, warmup_lr=0.1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("profile", PROFILES)
def test_what_all_profiles_have(name: str, profile: Any) -> None:
    recipe = load_recipe(name, profile)
    for stage in (recipe.pretrain, recipe.search, recipe.retrain):
        assert (stage.momentum, stage.weight_decay) == (0.9, 4e-5)
    for stage in (recipe.pretrain, recipe.search):
        assert (stage.epochs, stage.learning_rate, stage.schedule.kind) == (30, 0.1, "constant")
    search, retrain = recipe.search, recipe.retrain
    assert (search.gamma, search.clip_gradient, search.prune_every) == (0.01, 2, 1)
    assert recipe.data.ratio == search.ratio == (4, 1)
    assert (recipe.pretrain.batch_size, retrain.batch_size, retrain.epochs) == (256, 1024, 240)
    assert (retrain.learning_rate, retrain.schedule.kind) == (0.5, "linear")
    assert (retrain.label_smoothing, retrain.auxiliary_weight) == (0.1, 0.4)
    assert (recipe.data.dataset, recipe.network.image_size, recipe.network.classes) == ("records", 224, 1000)


def rows(recipe: Recipe) -> Any:
    """The keys of the rows in which paper and code differ, the adaptive ones aside."""
    search, retrain = recipe.search, recipe.retrain
    settings = (
        search.lambda_momentum, search.batch_size, search.patience is None, recipe.data.validation,
        retrain.decay_gamma, retrain.widths,
    )  # fmt: skip
    return settings, retrain.schedule


@pytest.mark.parametrize("name", NAMES)
def test_profiles_differ_where_paper_and_code_do(name: str) -> None:
    ours, paper, published = (load_recipe(name, profile) for profile in PROFILES)
    assert rows(ours) == ((0.9, 256, False, "test", False, None), WARM_UP)
    assert rows(paper) == (("apg", 256, False, "test", False, None), LinearSchedule("linear"))
    widths = (36, 72, 144, 288)
    assert rows(published) == ((0.9, 1024, True, "lambda_split", True, widths), WARM_UP)
    target = {"imagenet-share": 4_700_000, "imagenet-full": 4_600_000}[name]
    assert [recipe.retrain.target_parameters for recipe in (ours, paper, published)] == [target, target, None]


def test_latency_is_for_share_and_the_reach_for_full() -> None:
    def chosen(name: str, profile: Any) -> Any:
        recipe = load_recipe(name, profile)
        network, search = recipe.network, recipe.search
        return network.scope, network.packed, network.reach, search.regularization, search.regularization_rule

    share, full = ([chosen(name, profile) for profile in PROFILES] for name in NAMES)
    statistics = [load_recipe("imagenet-share", profile).search.latency_statistic for profile in PROFILES]
    assert statistics == ["median", "paper", "published"]
    assert share == [
        ("share", False, "all", "adaptive_latency", rule) for rule in ("published", "equation", "published")
    ]
    assert full == [
        ("full", False, "all", "adaptive_flops", "equation"),
        ("full", False, "all", "adaptive_flops", "equation"),
        ("full", False, "previous", "uniform", "published"),
    ]


def figures(kind: str) -> Any:
    entries = [entry for entry in json.loads(FIGURES.read_text()) if entry["folder"] == "Imagenet"]
    return next(entry for entry in entries if entry["kind"] == kind)


def lambdas(spec: NetworkSpec, scope: str) -> int:
    return sum(size for _, size in LambdaLayout(spec, scope).shapes().values())


@pytest.mark.parametrize(("name", "kind"), list(zip(NAMES, ("search_share", "search_full"))))
def test_the_published_supernets_come_out(name: str, kind: str) -> None:
    recipe, entry = load_recipe(name, "published"), figures(kind)
    spec = space_of(recipe).spec
    total = network_cost(spec).total
    assert (total.parameters, total.multiply_adds) == (entry["params_weights_only"], entry["flops_mult_adds"])
    assert lambdas(spec, recipe.network.scope) == entry["n_lambda_scalars"]


def test_the_paper_s_full_scope_has_every_earlier_level() -> None:
    assert lambdas(space_of(load_recipe("imagenet-full", "paper")).spec, "full") == 23 * 124 + 3 * 2


def test_the_demo_is_the_share_recipe_in_small() -> None:
    demo, share = load_recipe("imagenet-demo"), load_recipe("imagenet-share")
    assert (demo.network.stem, demo.network.scope) == (share.network.stem, share.network.scope)
    assert len(demo.network.blocks) == len(share.network.blocks)
    assert (demo.data.ratio, demo.search.ratio) == (share.data.ratio, share.search.ratio)
    for key in ("regularization", "regularization_rule", "prune_every", "clip_gradient"):
        assert getattr(demo.search, key) == getattr(share.search, key)
    assert demo.retrain.schedule.kind == "linear" and demo.retrain.label_smoothing == 0.1
