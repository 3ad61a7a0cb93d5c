"""The one difference between our parameter names and the published ones; a network as a Symbol.

Gluon calls BatchNorm's statistics running_mean and running_var, Symbol files moving_mean and moving_var.
"""

from __future__ import annotations

import json
from typing import Any, Dict, List

import mxnet as mx

_STATISTICS = {"_running_mean": "_moving_mean", "_running_var": "_moving_var"}
_OPERATOR_SUFFIX = "_fwd"
# Gluon writes every parameter's multipliers into its variable, where they would override Module's own rule
# that weight decay is not for biases and beta.
_MULTIPLIERS = ("__lr_mult__", "__wd_mult__", "__storage_type__")


def to_symbol_name(name: str) -> str:
    """The published code's name of a Gluon parameter."""
    for ours, theirs in _STATISTICS.items():
        if name.endswith(ours):
            return name[: -len(ours)] + theirs
    return name


def to_gluon_name(name: str) -> str:
    """The Gluon parameter that the published code calls `name`: the inverse of `to_symbol_name`."""
    for ours, theirs in _STATISTICS.items():
        if name.endswith(theirs):
            return name[: -len(theirs)] + ours
    return name


def is_statistic(name: str) -> bool:
    """Whether `name`, of either kind, is a BatchNorm statistic: auxiliary in a Symbol, not an argument."""
    return name.endswith(tuple(_STATISTICS) + tuple(_STATISTICS.values()))


def trace(network: Any) -> List[mx.sym.Symbol]:
    """The network's outputs as Symbols of the variable 'data', under the published names.

    The names of operators within depend on the network alone, not on what was traced before.
    """
    with mx.name.NameManager():
        outputs = network(mx.sym.var("data"))
    outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    graph = json.loads(mx.sym.Group(outputs).tojson())
    for node in graph["nodes"]:
        _rename(node)
    return list(mx.sym.load_json(json.dumps(graph)))


def _rename(node: Dict[str, Any]) -> None:
    if node["op"] == "null":
        node["name"] = to_symbol_name(node["name"])
        attributes = node.get("attrs", {})
        node["attrs"] = {key: value for key, value in attributes.items() if key not in _MULTIPLIERS}
    elif node["name"].endswith(_OPERATOR_SUFFIX):
        node["name"] = node["name"][: -len(_OPERATOR_SUFFIX)]
