"""Hypothesis strategies that damage valid files: blindly, with each format's dangerous words, or in their structure."""

from __future__ import annotations

import copy
import json
from typing import Any, Callable, List, Sequence, Tuple

from hypothesis import strategies as st

Change = Callable[[bytes], bytes]

JSON_WORDS = (
    b"[" * 3000, b'{"a":' * 3000, b"NaN", b"Infinity", b"-1e999", b"9" * 5000, b"1e308", b"\\ud800", b"\xff", b"\0",
    b"null", b"true", b"-1", b"0.5", b'""', b"[]", b"{}", b",", b'"', b"18446744073709551616",
)
YAML_WORDS = JSON_WORDS + (
    b"&a [", b"*a", b"\na: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n", b"!!python/object/apply:os.system ['true']",
    b"!!binary x", b"!!set {a}", b"<<: {a: b}", b"? ", b"- " * 3000, b": ", b"---\n", b"...\n", b"%YAML 9.9\n",
    b"| \n", b"> \n", b"\t", b"\r", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"2001-01-01", b"0x1F", b"1_000", b"12:30:45",
    b".inf", b".nan", b"~", b"\n  ", b"#", b"extends: recipe.yaml\n", b"extends: /dev/zero\n",
)
BINARY_WORDS = (
    b"\0" * 8, b"\xff" * 4, b"\xff" * 8, b"\x7f\xff\xff\xff", b"\0\0\0\x80", b"\x0a\x23\xd7\xce", b"\0\0\0\x40",
)
PICKLE_WORDS = BINARY_WORDS + (
    b"cos\nsystem\n", b"cbuiltins\neval\n", *(bytes([code]) for code in b"()Rb20N]}uas.\x81\x93"),
    b"\x8e" + b"\xff" * 8, b"h\0", b"T\xff\xff\xff\x7f", b"(" * 3000, b"]" * 3000, b"\x80\x04\x95",
    b"L" + b"9" * 5000 + b"L\n", b"\x8b\xff\xff\xff\x7f", b"q\0", b"r\xff\xff\xff\xff", b"X\xff\xff\xff\x7f",
)


@st.composite
def damages(draw: Any, words: Sequence[bytes]) -> Change:
    """One to four changes of bytes, each at a place given as a share of the file."""
    changes = draw(st.lists(_changes(words), min_size=1, max_size=4))

    def apply(content: bytes) -> bytes:
        for kind, share, amount, word in changes:
            content = _changed(content, kind, int(share * len(content)), amount, word)
        return content

    return apply


def _changes(words: Sequence[bytes]) -> st.SearchStrategy[Tuple[str, float, int, bytes]]:
    kinds = st.sampled_from(["flip", "cut", "remove", "repeat", "insert", "replace", "swap"])
    return st.tuples(kinds, st.floats(0, 1, exclude_max=True), st.integers(1, 64),
                     st.sampled_from(list(words)) | st.binary(min_size=1, max_size=8))


def _changed(content: bytes, kind: str, at: int, amount: int, word: bytes) -> bytes:
    before, after = content[:at], content[at:]
    if kind == "flip":
        return before + bytes([(after[0] if after else 0) ^ 1 << amount % 8]) + after[1:]
    if kind == "cut":
        return before
    if kind == "remove":
        return before + after[amount:]
    if kind == "repeat":
        return before + after[:amount] * 3 + after[amount:]
    if kind == "insert":
        return before + word + after
    if kind == "replace":
        return before + word + after[len(word) :]
    return after + before


known = st.sampled_from(["shared", "input", "1.1", "stage1_unit1", "share", "full", "x" * 5000])
scalars = (known | st.none() | st.booleans() | st.integers() | st.integers(-(10**40), 10**40) | st.floats()
           | st.text(max_size=6))
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8)


@st.composite
def grafts(draw: Any) -> Callable[[Any], Any]:
    """A change of a tree of lists and mappings: a value put, taken away, added or moved at a random place."""
    kinds = st.sampled_from(["put", "drop", "add", "copy"])
    steps = draw(st.lists(st.tuples(st.integers(0, 10**6), kinds, values), min_size=1, max_size=3))

    def apply(tree: Any) -> Any:
        tree = copy.deepcopy(tree)
        for number, kind, value in steps:
            places = list(_places(tree))
            if places:
                _graft(places[number % len(places)], kind, value, places[number // 7 % len(places)])
        return tree

    return apply


def _places(tree: Any) -> List[Tuple[Any, Any]]:
    """(container, key) of every entry."""
    waiting, found = [tree], []
    while waiting:
        node = waiting.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for key in keys:
            found.append((node, key))
            waiting.append(node[key])
    return found


def _graft(place: Tuple[Any, Any], kind: str, value: Any, other: Tuple[Any, Any]) -> None:
    node, key = place
    if kind == "put":
        node[key] = value
    elif kind == "drop":
        del node[key]
    elif kind == "copy":
        node[key] = copy.deepcopy(other[0][other[1]])
    elif isinstance(node, dict):
        node[str(value)[:9]] = value
    else:
        node.insert(key, value)


def as_json(tree: Any) -> bytes:
    """A tree as JSON text, with what JSON has not (NaN, lone surrogates) as Python writes it."""
    return json.dumps(tree).encode("utf-8")
