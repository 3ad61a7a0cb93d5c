"""The schema: every key documented, conflicts between keys, and the way to YAML and back."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Dict, Iterator, Tuple, Type

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dso_nas.errors import UserError
from dso_nas.recipes import schema
from dso_nas.recipes.rules import KeyProblem, KindRule, Rule, Section, SectionRule, read_section
from dso_nas.recipes.schema import Recipe
from dso_nas.recipes.yaml_text import parse_yaml

STAGE = {"epochs": 4, "batch_size": 8, "learning_rate": 0.1}


def smallest() -> Dict[str, Any]:
    return {
        "name": "smallest",
        "data": {"dataset": "cifar10"},
        "network": {"stem": "cifar", "blocks": [1], "widths": [4]},
        "pretrain": dict(STAGE),
        "search": dict(STAGE),
        "retrain": dict(STAGE),
    }


def change(path: str, value: Any) -> Dict[str, Any]:
    tree = smallest()
    *sections, name = path.split(".")
    node = tree
    for section in sections:
        node = node.setdefault(section, {})
    node[name] = value
    return tree


def fields_of(section: Type[Section], path: str = "") -> Iterator[Tuple[str, Any]]:
    for field in dataclasses.fields(section):
        rule, name = field.metadata["rule"], f"{path}{field.name}"
        yield name, field
        if isinstance(rule, SectionRule):
            yield from fields_of(rule.section, f"{name}.")
        for kind in rule.sections.values() if isinstance(rule, KindRule) else ():
            yield from fields_of(kind, f"{name}.")


FIELDS = list(fields_of(Recipe))


@pytest.mark.parametrize(("name", "field"), FIELDS, ids=[name for name, _ in FIELDS])
def test_every_key_says_what_it_means_and_has_an_allowed_default(name: str, field: Any) -> None:
    meaning, rule = field.metadata["meaning"], field.metadata["rule"]
    assert 5 < len(meaning) < 110 and not meaning.endswith(".")
    if isinstance(rule, Rule) and field.default is not dataclasses.MISSING:
        assert rule.read(field.default, name) == field.default


def test_defaults_of_a_recipe_have_no_conflicts() -> None:
    recipe = read_section(Recipe, smallest())
    assert recipe.search.schedule == schema.ConstantSchedule()
    assert recipe.network.levels == 4
    assert hash(recipe) == hash(read_section(Recipe, smallest()))


CONFLICTS = [
    ("network.widths", [4, 8], "network.widths"),
    ("network.packed", True, "network.packed"),
    ("memory.mirroring", "auto", "memory.limit_mb"),
    ("memory.limit_mb", 100, "memory.limit_mb"),
    ("pretrain.schedule", {"kind": "step", "milestones": [3, 2]}, "pretrain.schedule.milestones"),
    ("pretrain.schedule", {"kind": "cosine", "min_lr": 0.2}, "pretrain.schedule.min_lr"),
    ("search.schedule", {"kind": "linear", "warmup_epochs": 5}, "search.schedule.warmup_epochs"),
    ("retrain.schedule", {"kind": "poly", "warmup_epochs": 5}, "retrain.schedule.warmup_epochs"),
    ("search.schedule", {"kind": "sine"}, "search.schedule.kind"),
    ("search.schedule", {"kind": "constant", "power": 2}, "search.schedule.power"),
    ("search.gamma_base", 0.1, "search.gamma_base"),
    ("retrain.widths", [4, 8], "retrain.widths"),
]


@pytest.mark.parametrize(("path", "value", "named"), CONFLICTS, ids=[f"{p}={v}" for p, v, _ in CONFLICTS])
def test_what_does_not_go_together(path: str, value: Any, named: str) -> None:
    with pytest.raises(KeyProblem) as caught:
        read_section(Recipe, change(path, value))
    assert caught.value.path == named


def test_target_parameters_choose_the_width() -> None:
    tree = change("retrain.target_parameters", 1000)
    tree["retrain"]["width_multiplier"] = 2
    with pytest.raises(KeyProblem, match="target_parameters"):
        read_section(Recipe, tree)


def test_gamma_base_is_of_the_equation() -> None:
    tree = change("search.gamma_base", 0.1)
    tree["search"]["regularization"] = "adaptive_latency"
    assert read_section(Recipe, tree).search.gamma_base == 0.1
    tree["search"]["regularization_rule"] = "published"
    with pytest.raises(KeyProblem, match="by the equation"):
        read_section(Recipe, tree)


def test_only_pretraining_may_be_left_out() -> None:
    assert read_section(Recipe, change("pretrain.epochs", 0)).pretrain.epochs == 0
    with pytest.raises(KeyProblem, match="from 1"):
        read_section(Recipe, change("search.epochs", 0))


@given(
    name=st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=20),
    gamma=st.floats(0, 1e300),
    rate=st.floats(1e-300, 1e6),
    momentum=st.one_of(st.just("apg"), st.floats(0, 0.999)),
    seed=st.integers(0, 2**31 - 1),
)
def test_any_recipe_survives_its_yaml(name: str, gamma: float, rate: float, momentum: Any, seed: int) -> None:
    tree = {**smallest(), "name": name, "seed": seed}
    tree["search"].update(gamma=gamma, learning_rate=rate, lambda_momentum=momentum)
    recipe = read_section(Recipe, tree)
    assert read_section(Recipe, parse_yaml(recipe.to_yaml())) == recipe


def test_saving_where_nothing_can_be_saved_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written") as caught:
        read_section(Recipe, smallest()).save(tmp_path / "file" / "recipe.yaml")
    assert "\n" not in str(caught.value)


def test_saving_leaves_one_file(tmp_path: Path) -> None:
    recipe = read_section(Recipe, smallest())
    recipe.save(tmp_path / "recipe.yaml")
    recipe.save(tmp_path / "recipe.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]
    assert read_section(Recipe, parse_yaml((tmp_path / "recipe.yaml").read_text())) == recipe
