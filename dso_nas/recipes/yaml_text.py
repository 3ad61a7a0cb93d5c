"""YAML as recipes need it: safe, small, and without YAML 1.1's surprises.

`1e-4` is a number, `4:1` and `on` are text, a key may not stand twice, and there are neither
aliases nor tags: a short file cannot unfold into a huge one or into anything but plain values.
"""

from __future__ import annotations

import re
from typing import Any, Type

import yaml

MAX_BYTES = 64 * 1024
_MAX_DEPTH = 50
_TAG = "tag:yaml.org,2002:"
_EXPONENT = "(?:[eE][-+]?[0-9]+)"
# Tried in this order; the characters are those that such a scalar can begin with.
_SCALARS = (
    ("null", r"(?:~|null|)", ["~", "n", ""]),
    ("bool", r"(?:true|false)", ["t", "f"]),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", rf"[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*){_EXPONENT}?|[0-9]+{_EXPONENT})", list("-+.0123456789")),
)


class YamlError(Exception):
    """The text is not YAML, or not of the kind that is read here; the message is one line."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict = {}

    def fetch_flow_collection_start(self, token: Any) -> Any:
        # The scanner's work grows with the square of the depth: seconds for a few thousand brackets.
        if self.flow_level == _MAX_DEPTH:
            raise yaml.scanner.ScannerError(None, None, "nested too deeply", self.get_mark())
        return super().fetch_flow_collection_start(token)

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) is not None:
            problem = "aliases and tags are not allowed"
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if isinstance(key.value, str) and key.value in seen:
                problem = f"key {key.value!r} stands twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.update([key.value] if isinstance(key.value, str) else [])
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict = {}

    def represent_flow(self, values: Any) -> Any:
        return self.represent_sequence(_TAG + "seq", values, flow_style=True)


def _register(cls: Type[Any]) -> None:
    for name, pattern, first in _SCALARS:
        cls.add_implicit_resolver(_TAG + name, re.compile(pattern + r"\Z"), first)


_register(_Loader)
_register(_Dumper)
for _sequence in (list, tuple):
    _Dumper.add_representer(_sequence, _Dumper.represent_flow)


def parse_yaml(text: str) -> Any:
    """Read one YAML document.

    Raises:
        YamlError: it is malformed, too long, too deep, has an alias or a tag, or says a key twice.
    """
    if len(text) > MAX_BYTES:
        raise YamlError(f"longer than {MAX_BYTES // 1024} KiB")
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}:" if error.problem_mark else None
        raise YamlError(" ".join(filter(None, (line, error.context, error.problem)))) from None
    except yaml.YAMLError as error:
        raise YamlError(" ".join(str(error).split())) from None
    except ValueError:
        raise YamlError("a number or a character that cannot be held") from None
    except RecursionError:
        raise YamlError("nested too deeply") from None


def dump_yaml(value: Any) -> str:
    """The text of mappings, sequences and scalars that `parse_yaml` reads back (tuples as lists)."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=110)
