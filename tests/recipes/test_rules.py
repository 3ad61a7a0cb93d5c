"""The rules of single values: what passes, what does not, and the words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Iterator, Tuple

import pytest

from dso_nas.recipes import rules
from dso_nas.recipes.rules import KeyProblem, Section, SectionRule, key, read_section


@dataclass(frozen=True)
class Inner(Section):
    size: int = key(rules.integer(1, 9), "a size")
    word: str = key(rules.choice("up", "down"), "a word", "up")

    def conflicts(self) -> Iterator[Tuple[str, str]]:
        if self.size == 9 and self.word == "down":
            yield "word", "must be up where size is 9"


@dataclass(frozen=True)
class Outer(Section):
    inner: Inner = key(SectionRule(Inner), "a section")


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (rules.integer(1, 9), [1, 9], [0, 10, 1.0, "1", True, None, [1]]),
        (rules.number(), [0, 0.5, 10**9], [-1, "1", True, None, float("nan"), float("inf"), 10**400]),
        (rules.number(0, 1, above=True, below=True), [0.5], [0, 1]),
        (rules.number(0, 1), [0, 1], [-0.1, 1.1]),
        (rules.boolean(), [True, False], [0, 1, "true", None]),
        (rules.text(), ["a", "a b"], ["", "a\nb", "a" * 1001, 1, None]),
        (rules.choice("a", "b"), ["a"], ["c", "", None, ["a"]]),
        (rules.listing(rules.integer(1, 9), 1, 2), [[1], [1, 1]], [[], [1, 1, 1], [0], 1, "11", None]),
        (rules.listing(rules.integer(1, 9), 1, 2, distinct=True), [[1, 2]], [[1, 1]]),
        (rules.optional(rules.integer(1, 9)), [None, 3], [0, "null"]),
        (rules.either(rules.number(0, 1), rules.choice("apg")), [0.5, "apg"], [2, "nag", None]),
    ],
)
def test_what_passes(rule: rules.Rule, good: Any, bad: Any) -> None:
    for value in good:
        read = rule.read(value, "a.key")
        assert read == (tuple(value) if isinstance(value, list) else value)
    for value in bad:
        with pytest.raises(KeyProblem, match=r"^a\.key: must be ") as caught:
            rule.read(value, "a.key")
        assert caught.value.path == "a.key"


def test_an_integer_becomes_a_float_where_a_number_is_asked_for() -> None:
    assert type(rules.number().read(2, "a")) is float


@pytest.mark.parametrize(
    ("rule", "allowed"),
    [
        (rules.integer(1, 9), "an integer from 1 to 9"),
        (rules.number(above=True), "a number above 0"),
        (rules.number(0, 1, below=True), "a number of at least 0 and below 1"),
        (rules.optional(rules.boolean()), "true or false, or null"),
        (rules.choice("a", "b", "c"), "one of a, b, c"),
        (rules.listing(rules.integer(1, 9), 2, 2), "a list of 2 items, each an integer from 1 to 9"),
    ],
)
def test_words(rule: rules.Rule, allowed: str) -> None:
    assert rule.allowed == allowed


@pytest.mark.parametrize(
    ("tree", "path", "message"),
    [
        ([], "", "must be a section of keys, not []"),
        ({"inner": 3}, "inner", "must be a section of keys, not 3"),
        ({}, "inner", "missing; must be a section of keys"),
        ({"inner": {}}, "inner.size", "missing; must be an integer from 1 to 9"),
        ({"inner": {"size": 0}}, "inner.size", "must be an integer from 1 to 9, not 0"),
        ({"inner": {"size": 1, "wrod": "up"}}, "inner.wrod", "unknown key; did you mean word?"),
        ({"inner": {"size": 1, 7: "up"}}, "inner.7", "unknown key; known are size, word"),
        ({"inner": {"size": 9, "word": "down"}}, "inner.word", "must be up where size is 9"),
    ],
)
def test_read_section_names_key_and_what_is_allowed(tree: Any, path: str, message: str) -> None:
    with pytest.raises(KeyProblem) as caught:
        read_section(Outer, tree)
    assert (caught.value.path, caught.value.message) == (path, message)


def test_read_section_gives_the_dataclass() -> None:
    assert read_section(Outer, {"inner": {"size": 2}}) == Outer(Inner(2, "up"))


def test_a_huge_value_is_shown_in_few_words() -> None:
    with pytest.raises(KeyProblem) as caught:
        read_section(
            Outer,
            {
                "inner": {"size": [["x\n" * 1000] * 1000] * 1000},
            },
        )
    assert len(caught.value.message) < 300
    assert "\n" not in caught.value.message
