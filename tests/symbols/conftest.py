"""Golden sections B and C as the Symbols that should compute them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import mxnet as mx
import numpy as np
import pytest

import symbols

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
MANIFEST = json.loads((GOLDEN / "manifest.json").read_text())


def load(name):
    return dict(np.load(GOLDEN / f"{name}.npz", allow_pickle=False))


def shapes(arrays, prefix, kind):
    rows = zip(arrays[f"{prefix}/{kind}_names"], arrays[f"{prefix}/{kind}_shapes"])
    return {str(name): tuple(int(size) for size in shape if size) for name, shape in rows}


def unpacked(arrays, prefix):
    flat, start, found = arrays[f"{prefix}/flat"], 0, {}
    for name, shape in zip(arrays[f"{prefix}/names"], arrays[f"{prefix}/shapes"]):
        shape = tuple(int(size) for size in shape if size)
        found[str(name)] = flat[start : start + np.prod(shape)].reshape(shape)
        start += np.prod(shape)
    return found


def group(arrays, prefix):
    return {key[len(prefix) + 1 :]: value for key, value in arrays.items() if key.startswith(prefix + "/")}


def section_b(name):
    """The recorded arrays and get_symbol's Symbol of a case of section B."""
    spec = MANIFEST[name]["spec"]
    folder, kind = spec["folder"].lower(), spec["kind"]
    stem = folder if folder == "cifar" else "imagenet"
    units = spec.get("units") or ([(spec["depth"] - 2) // 12] * 3 if spec["depth"] else None)
    symbol = symbols.get_symbol(f"{stem}_{kind}", spec.get("classes", 10), (3, spec["hw"], spec["hw"]), spec["L"],
                                units, spec["width"])
    return load(name), symbol


def section_c(name):
    """The recorded arrays, lambdas and get_symbol's arguments of a case of section C."""
    entry, arrays = MANIFEST[name], load(name)
    cifar = entry["folder"] == "Cifar"
    # A forward pass is recorded with the lambdas of the case it names.
    lambdas = unpacked(load(name.replace("_fwd", "")), "in")
    arguments = dict(num_classes=10, image_shape=(3, 32, 32) if cifar else (3, 64, 64),
                     num_layers=entry["num_layers"], units=entry["units"], filters=entry["retrain_channel"],
                     load_param=lambdas)
    return arrays, "cifar" if cifar else "imagenet", arguments


def without(symbol, operator, **attributes):
    """`symbol` with other attributes on every `operator`."""
    graph = json.loads(symbol.tojson())
    for node in graph["nodes"]:
        if node["op"] == operator:
            node["attrs"].update({key: str(value) for key, value in attributes.items()})
    return mx.sym.load_json(json.dumps(graph))


def in_float64(symbol):
    """`symbol` for arrays of float64."""
    graph = json.loads(symbol.tojson())
    for node in graph["nodes"]:
        attributes = node.get("attrs", {})
        attributes.pop("__dtype__", None)
        if node["op"] in ("_full", "_zeros"):
            attributes["dtype"] = "float64"
    return mx.sym.load_json(json.dumps(graph))


def bound(symbol, args, aux, dtype="float32"):
    """An executor that holds the given arrays, and gradients of everything but labels."""
    symbol = in_float64(symbol) if dtype == "float64" else symbol
    assert set(args) == set(symbol.list_arguments()) and set(aux) == set(symbol.list_auxiliary_states())
    arrays, statistics = ({name: mx.nd.array(value, dtype=dtype) for name, value in group.items()}
                          for group in (args, aux))
    gradients = {name: value.zeros_like() for name, value in arrays.items() if not name.endswith("label")}
    requests = {name: "write" if name in gradients else "null" for name in arrays}
    return symbol.bind(mx.cpu(), arrays, gradients, requests, statistics)


def difference(ours, theirs):
    return float(np.abs(ours - theirs).max() / max(float(np.abs(theirs).max()), 1e-12))


@pytest.fixture
def golden():
    """The helpers above."""
    return SimpleNamespace(load=load, shapes=shapes, unpacked=unpacked, group=group, section_b=section_b,
                           section_c=section_c, without=without, bound=bound, difference=difference,
                           manifest=MANIFEST)


def pytest_generate_tests(metafunc):
    groups = {
        "named_case": [n for n in MANIFEST if n.startswith("B_")],
        "computed_case": [n for n in MANIFEST if n.startswith("B_") and not n.startswith("B_names")],
        "evaluation_case": [n for n in MANIFEST if n.startswith("C_") and "eval_symbol" in MANIFEST[n]],
        "pruned_case": [n for n in MANIFEST if n.startswith("C_") and "search_prune_symbol" in MANIFEST[n]],
        "forward_case": [n for n in MANIFEST if n.startswith("C_") and "_fwd_" in n],
    }
    for argument, names in groups.items():
        if argument in metafunc.fixturenames:
            metafunc.parametrize(argument, names)
