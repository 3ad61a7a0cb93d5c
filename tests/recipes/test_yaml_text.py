"""YAML: the scalars that recipes need, and no way to harm who reads it."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dso_nas.recipes.yaml_text import MAX_BYTES, YamlError, dump_yaml, parse_yaml

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(min_codepoint=32, max_codepoint=0xD7FF), max_size=20),
    st.sampled_from(
        ["1e-4", "null", "~", "", "true", "yes", "0x10", "4:1", "2001-01-01", "010", "1_000", "<<"]
    ),
)
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc=~", max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("-2.5E+3", -2500.0),
        (".5", 0.5),
        ("3.", 3.0),
        ("12", 12),
        ("null", None),
        ("~", None),
        ("", None),
        ("true", True),
        ("yes", "yes"),
        ("010", "010"),
        ("4:1", "4:1"),
        ("2001-01-01", "2001-01-01"),
        ("'1e-4'", "1e-4"),
        ("[1, 2]", [1, 2]),
    ],
)
def test_scalars(text: str, value: object) -> None:
    parsed = parse_yaml(text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a: &x [1]\nb: *x", "aliases"),
        ("a: &x [*x]", "aliases"),
        ("a: 1\na: 2", "line 2: key 'a' stands twice"),
        ("a: [1", "line 1"),
        ("a: !!python/object/apply:os.system [echo]", "line 1: aliases and tags"),
        ("a: !!int ''", "line 1: aliases and tags"),
        ("- ! word", "line 1: aliases and tags"),
        ("? [a]\n: 1", "unhashable"),
        ("a: \x00", "special characters"),
        ('"\\U00110000"', "character that cannot be held"),
        ("[" * 20_000, "nested too deeply"),
        ("x" * (MAX_BYTES + 1), "longer than 64 KiB"),
        ("a: 1\n---\nb: 2", "line 2: expected a single document"),
    ],
)
def test_refused(text: str, word: str) -> None:
    with pytest.raises(YamlError, match=word) as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=200))
def test_any_text_is_a_value_or_a_yaml_error(text: str) -> None:
    try:
        parse_yaml(text)
    except YamlError as error:
        assert "\n" not in str(error)


@given(st.text("!&*[]{}:-#|>'\"%@`?, \n\tab0.e<=~", max_size=60))
def test_any_punctuation_is_a_value_or_a_yaml_error(text: str) -> None:
    test_any_text_is_a_value_or_a_yaml_error.hypothesis.inner_test(text)


@example("\x85 \u2028")
@given(TREES)
def test_what_is_written_is_read_back(tree: object) -> None:
    assert parse_yaml(dump_yaml(tree)) == tree
