"""Loading recipes: layers, profiles, `--set`, the shipped files, and one line for all that is wrong."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dso_nas.errors import UserError
from dso_nas.recipes import Recipe, load_recipe, recipe_names
from dso_nas.recipes.loading import RECIPE_FOLDER
from dso_nas.recipes.schedules import ConstantSchedule, CosineSchedule

BASE = """
data: {dataset: cifar10}
network: {stem: cifar, blocks: [1], widths: [4]}
pretrain: {epochs: 4, batch_size: 8, learning_rate: 0.1}
search: {epochs: 4, batch_size: 8, learning_rate: 0.1, gamma: 0.5}
retrain: {epochs: 4, batch_size: 8, learning_rate: 0.1, schedule: {kind: cosine, min_lr: 1e-3}}
profiles:
  paper: {search: {gamma: 0.25}}
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def refuse(path: Any, profile: Any = None, overrides: Sequence[str] = ()) -> str:
    with pytest.raises(UserError) as caught:
        load_recipe(path, profile, overrides)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    return message


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write(tmp_path, "base.yaml", BASE)


@pytest.mark.parametrize("name", recipe_names())
@pytest.mark.parametrize("profile", [None, "default", "paper", "published"])
def test_shipped_recipes_load_and_their_resolved_form_is_equal(
    name: str, profile: Any, tmp_path: Path
) -> None:
    if profile in ("paper", "published") and f"  {profile}:" not in whole_text(name):
        assert "has no profile" in refuse(name, profile)
        return
    recipe = load_recipe(name, profile)
    recipe.save(tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "recipe.yaml") == recipe
    assert load_recipe(tmp_path / "recipe.yaml", profile) == recipe


def values(recipe: Recipe) -> Sequence[Any]:
    search, retrain = recipe.search, recipe.retrain
    return (
        search.lambda_momentum,
        search.weight_decay,
        recipe.pretrain.learning_rate,
        retrain.schedule.min_lr,
        retrain.dropout,
        retrain.drop_path_rule,
        search.regularization_rule,
        recipe.data.validation,
        retrain.decay_gamma,
    )


@pytest.mark.parametrize("name", ["cifar10-share", "cifar10-full"])
def test_profiles_differ_where_paper_and_code_do(name: str) -> None:
    ours, paper, published = (load_recipe(name, profile) for profile in (None, "paper", "published"))
    assert values(ours) == (0.9, 3e-4, 0.1, 1e-3, 0.4, "published", "equation", "test", False)
    assert values(paper) == ("apg", 3e-4, 0.1, 1e-3, 0.6, "uniform", "equation", "test", False)
    assert values(published) == (
        0.9, 1e-4, 0.05, 1e-4, 0.4, "published", "published", "lambda_split", True
    )  # fmt: skip
    for recipe in (ours, paper, published):
        assert recipe.retrain.epochs == 630
        assert recipe.retrain.schedule == CosineSchedule(
            "cosine", recipe.retrain.schedule.min_lr, period=10, multiplier=2
        )
        assert recipe.network.blocks == (8, 8, 8) and recipe.network.widths == (48, 96, 192)


def test_full_has_adaptive_flops_and_share_has_not() -> None:
    share, full = load_recipe("cifar10-share"), load_recipe("cifar10-full")
    assert (share.network.scope, share.search.regularization) == ("share", "uniform")
    assert (full.network.scope, full.search.regularization) == ("full", "adaptive_flops")
    assert load_recipe("cifar10-full", "published").network.packed


def whole_text(name: str) -> str:
    """A shipped recipe's file, with that of the one it extends."""
    text = (RECIPE_FOLDER / f"{name}.yaml").read_text()
    base = re.search(r"^extends: (\S+)", text, re.MULTILINE)
    return text + (whole_text(base[1]) if base else "")


@pytest.mark.parametrize("name", ["demo", "imagenet-demo"])
def test_a_demo_takes_a_gamma_of_the_order_of_one_over_its_lambda_steps(name: str) -> None:
    demo = load_recipe(name)
    weights, lambdas = demo.data.ratio
    lambda_steps = demo.search.epochs * 10_000 * lambdas // (weights + lambdas) // demo.search.batch_size
    assert 0.5 < demo.search.gamma * lambda_steps < 10


def test_later_layers_win(base: Path) -> None:
    assert load_recipe(base).search.gamma == 0.5
    assert load_recipe(base, "paper").search.gamma == 0.25
    assert load_recipe(base, "paper", ["search.gamma=1e-4", "search.gamma=2e-4"]).search.gamma == 2e-4


def test_a_name_is_the_file_s_unless_given(base: Path) -> None:
    assert load_recipe(base).name == "base"
    child = write(base.parent, "child.yaml", "extends: base.yaml\nsearch: {epochs: 9}")
    assert load_recipe(child).name == "child"


def test_extends_merges_sections_and_profiles(base: Path) -> None:
    child = write(
        base.parent,
        "child.yaml",
        "extends: base.yaml\nsearch: {epochs: 9}\n"
        "profiles: {paper: {search: {epochs: 8}}, published: {seed: 3}}",
    )
    recipe = load_recipe(child)
    assert (recipe.search.epochs, recipe.search.gamma) == (9, 0.5)
    recipe = load_recipe(child, "paper")
    assert (recipe.search.epochs, recipe.search.gamma) == (8, 0.25)
    assert load_recipe(child, "published").seed == 3


def test_a_file_may_choose_its_profile(base: Path) -> None:
    child = write(base.parent, "child.yaml", "extends: base.yaml\nprofile: paper")
    assert load_recipe(child).search.gamma == 0.25
    assert load_recipe(child).profile == "paper"


def test_a_schedule_of_another_kind_leaves_nothing_of_the_old(base: Path) -> None:
    assert load_recipe(base).retrain.schedule == CosineSchedule(min_lr=1e-3, kind="cosine")
    changed = load_recipe(base, None, ["retrain.schedule.kind=constant"])
    assert changed.retrain.schedule == ConstantSchedule()
    same = load_recipe(base, None, ["retrain.schedule.period=2"])
    assert same.retrain.schedule == CosineSchedule("cosine", 1e-3, 2)


def test_overrides_take_lists_null_and_words(base: Path) -> None:
    recipe = load_recipe(
        base, None, ["search.ratio=[4, 1]", "search.clip_gradient=null", "network.scope=full", "seed=7"]
    )
    assert (recipe.search.ratio, recipe.search.clip_gradient) == ((4, 1), None)
    assert (recipe.network.scope, recipe.seed) == ("full", 7)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.gama=1", "--set search.gama: unknown key; did you mean gamma?"),
        ("search.gamma=high", "--set search.gamma: must be a number of at least 0, not 'high'"),
        ("search.gamma", "--set 'search.gamma': must look like KEY=VALUE"),
        ("search..gamma=1", "must look like KEY=VALUE"),
        ("=1", "must look like KEY=VALUE"),
        ("search.ratio=[4", "--set search.ratio: the value is not YAML"),
        ("search=3", "--set search: must be a section of keys, not 3"),
        ("search.gamma.x=3", "--set search.gamma: must be a number of at least 0, not {'x': 3}"),
        ("extends=demo", "--set extends: unknown key"),
        ("profile=paper", "use --profile"),
    ],
)
def test_a_wrong_override_names_the_flag(base: Path, override: str, message: str) -> None:
    assert message in refuse(base, None, [override])


def test_an_error_names_the_layer_that_said_it(base: Path) -> None:
    child = write(base.parent, "child.yaml", "extends: base.yaml\nprofiles: {paper: {search: {gamma: -1}}}")
    base.write_text(BASE.replace("gamma: 0.5", "gamma: -2"))
    assert refuse(child).startswith(f"{base}: search.gamma: must be")
    assert refuse(child, "paper").startswith(f"{child}: profiles.paper: search.gamma: must be")
    base.write_text(BASE.replace("learning_rate: 0.1}", "}"))
    assert refuse(child).startswith(f"{child}: pretrain.learning_rate: missing; must be a number above 0")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be a section of keys, not null"),
        ("[1]", "must be a section of keys, not [1]"),
        ("a: [", "not a YAML file"),
        ("extends: 3", "extends: must be a recipe's name or file, not 3"),
        ("extends: nobody", "extends: no recipe is called 'nobody'"),
        ("extends: nobody.yaml", "nobody.yaml: there is no such recipe file"),
        ("extends: recipe.yaml", "a circle"),
        ("profiles: 3", "profiles: must be a section"),
        ("profiles: {papr: {}}", "unknown profile 'papr'; known are paper, published"),
        ("profiles: {paper: 3}", "profiles.paper: must be a section"),
        ("profile: papr", "profile: must be one of default, paper, published, not 'papr'"),
        ("extends: base.yaml\ndata: null", "data: must be a section of keys, not null"),
        ("extends: base.yaml\n? {}\n: 1", "not a YAML file"),
    ],
)
def test_a_wrong_file_is_one_line(base: Path, text: str, message: str) -> None:
    assert message in refuse(write(base.parent, "recipe.yaml", text))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "did you mean demo?" in refuse("demoo")
    assert "there is no such recipe file" in refuse(tmp_path / "absent.yaml")
    (tmp_path / "folder.yaml").mkdir()
    assert "there is no such recipe file" in refuse(tmp_path / "folder.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9")
    assert "not UTF-8" in refuse(tmp_path / "latin.yaml")
    (tmp_path / "long.yaml").write_text("#" * 70_000)
    assert "longer than" in refuse(tmp_path / "long.yaml")


def test_a_profile_that_is_not_there(base: Path) -> None:
    assert "--profile: must be one of" in refuse(base, "papr")
    assert "has no profile published" in refuse(base, "published")
    assert load_recipe(base, "default") == load_recipe(base)


def test_a_resolved_recipe_does_not_take_another_profile(base: Path) -> None:
    resolved = base.with_name("resolved.yaml")
    load_recipe(base, "paper").save(resolved)
    assert "has no profile published" in refuse(resolved, "published")
    assert "has no profile default" in refuse(resolved, "default")


@given(st.text(max_size=60), st.text("=.[]{}:, searchgm01-", max_size=40))
def test_any_override_is_a_recipe_or_one_line(text: str, shaped: str) -> None:
    for override in (text, f"search.{shaped}", f"search.gamma={text}"):
        try:
            load_recipe("demo", None, [override])
        except UserError as error:
            assert len(str(error).split(os.linesep)) == 1
