"""Golden sections B and C as the Symbols that should compute them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import mxnet as mx
import numpy as np
import pytest

import symbols
from dso_nas.architecture.genotype import Genotype
from symbols.networks import network_spec

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
    symbol = symbols.get_symbol(
        f"{stem}_{kind}",
        spec.get("classes", 10),
        (3, spec["hw"], spec["hw"]),
        spec["L"],
        units,
        spec["width"],
    )
    return load(name), symbol


def full_wiring(name):
    """The genotype of a case of section B: nothing in it is pruned."""
    spec = MANIFEST[name]["spec"]
    units = spec.get("units") or [(spec["depth"] - 2) // 12] * 3
    stem = "cifar" if spec["folder"] == "Cifar" else "imagenet"
    network = network_spec(
        f"{stem}_search_share", 10, (3, spec["hw"], spec["hw"]), spec["L"], units, spec["width"]
    )
    return Genotype.full(network, "full")


def section_c(name):
    """The recorded arrays, lambdas and get_symbol's arguments of a case of section C."""
    entry, arrays = MANIFEST[name], load(name)
    cifar = entry["folder"] == "Cifar"
    # A forward pass is recorded with the lambdas of the case it names.
    lambdas = unpacked(load(name.replace("_fwd", "")), "in")
    arguments = dict(
        num_classes=10,
        image_shape=(3, 32, 32) if cifar else (3, 64, 64),
        num_layers=entry["num_layers"],
        units=entry["units"],
        filters=entry["retrain_channel"],
        load_param=lambdas,
    )
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
    arrays, statistics = (
        {name: mx.nd.array(value, dtype=dtype) for name, value in group.items()} for group in (args, aux)
    )
    gradients = {name: value.zeros_like() for name, value in arrays.items() if not name.endswith("label")}
    requests = {name: "write" if name in gradients else "null" for name in arrays}
    return symbol.bind(mx.cpu(), arrays, gradients, requests, statistics)


def difference(ours, theirs):
    return float(np.abs(ours - theirs).max() / max(float(np.abs(theirs).max()), 1e-12))


@pytest.fixture
def golden():
    """The helpers above."""
    return SimpleNamespace(
        load=load,
        full_wiring=full_wiring,
        shapes=shapes,
        unpacked=unpacked,
        group=group,
        section_b=section_b,
        section_c=section_c,
        without=without,
        bound=bound,
        difference=difference,
        manifest=MANIFEST,
    )


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


TOKENS = ("conv3x3", "conv5x5", "max_pool", "avg_pool")


class Literal:
    """A supernet or derived network written operator by operator, as an independent witness for comparison.

    Two levels, one block and a reduction a stage; every connection is a node of its own. `lambdas` are
    'share' or None, `kept` the connections by node and 'after', all by default.
    """

    def __init__(self, lambdas="share", kept=None, width=4):
        self.lambdas, self.width = lambdas, width
        self.kept = kept or {**{(2, n): range(5) for n in range(1, 5)}, "after": range(8)}
        self.shapes = {}
        self.variables = {}

    def variable(self, name, *shape):
        self.shapes[name] = shape
        return self.variables.setdefault(name, mx.sym.var(name))

    def bn_relu(self, x, prefix, width, fix=None):
        fixed = self.lambdas is not None if fix is None else fix
        for part in ("gamma", "beta"):
            self.shapes[f"{prefix}_{part}"] = (width,)
        return mx.sym.Activation(
            mx.sym.BatchNorm(x, name=prefix, eps=2e-5, momentum=0.9, fix_gamma=fixed), act_type="relu"
        )

    def conv(self, x, prefix, width, inside, kernel=1, stride=1, groups=1):
        weight = self.variable(f"{prefix}_weight", width, inside // groups, kernel, kernel)
        return mx.sym.Convolution(
            x,
            weight,
            kernel=(kernel, kernel),
            stride=(stride, stride),
            num_group=groups,
            pad=(kernel // 2,) * 2,
            num_filter=width,
            no_bias=True,
            name=prefix,
        )

    def operation(self, x, token, prefix, width):
        if token.endswith("pool"):
            x = mx.sym.Pooling(
                x, kernel=(3, 3), pad=(1, 1), stride=(1, 1), pool_type=token[:3], count_include_pad=True
            )
        else:
            x = self.conv(x, f"{prefix}_sep", width, width, int(token[-1]), groups=width)
            x = self.conv(x, prefix, width, width)
        return self.bn_relu(x, f"{prefix}_bn", width)

    def scaled(self, name, size, terms):
        """The sum of terms by index, each times its lambda."""
        if self.lambdas is None:
            return mx.sym.add_n(*terms.values())
        vector = self.variable(name, 1, size)
        return mx.sym.add_n(
            *[
                mx.sym.broadcast_mul(
                    term,
                    mx.sym.reshape(mx.sym.slice_axis(vector, axis=1, begin=i, end=i + 1), shape=(1, 1, 1, 1)),
                )
                for i, term in terms.items()
            ]
        )

    def block(self, x, unit, width):
        hidden = [self.operation(x, token, f"{unit}_1_{token}", width) for token in TOKENS]
        inputs = [x, *hidden]
        for n, token in enumerate(TOKENS, start=1):
            kept = {i: inputs[i] for i in self.kept.get((2, n), ())}
            hidden.append(
                self.operation(self.scaled(f"lambda_layer_2_{n}", 5, kept), token, f"{unit}_2_{token}", width)
                if kept
                else None
            )
        outputs = {
            k: self.conv(hidden[k], f"{unit}_output_conv_{k + 1}", width, width) for k in self.kept["after"]
        }
        out = self.bn_relu(self.scaled("lambda_after", 8, outputs), f"{unit}_bn", width, fix=False)
        return out + self.bn_relu(self.conv(x, f"{unit}_id_conv", width, width), f"{unit}_id_conv_bn", width)

    def symbol(self):
        x = self.bn_relu(
            self.conv(mx.sym.var("data"), "conv0", self.width, 3, 3), "bn0", self.width, fix=False
        )
        for stage, width in enumerate((self.width, 2 * self.width, 4 * self.width), start=1):
            x = self.block(x, f"stage{stage}_unit1", width)
            if stage < 3:
                unit = f"stage{stage}_unit2"
                parts = {
                    i: self.bn_relu(
                        self.conv(x, f"{unit}_conv{k}x{k}", 2 * width, width, k, 2),
                        f"{unit}_conv{k}x{k}_bn",
                        2 * width,
                    )
                    for i, k in enumerate((1, 3))
                }
                x = self.scaled(f"lambda_{unit}", 2, parts)
        x = self.bn_relu(x, "final_bn", 4 * self.width, fix=False)
        x = mx.sym.Flatten(mx.sym.Pooling(x, global_pool=True, kernel=(1, 1), pool_type="avg"))
        self.shapes.update(fc1_weight=(10, 4 * self.width), fc1_bias=(10,))
        return mx.sym.SoftmaxOutput(mx.sym.FullyConnected(x, num_hidden=10, name="fc1"), name="softmax")

    def save(self, prefix, epoch=100, seed=0, lambdas=None):
        """Write a checkpoint with random parameters; its lambdas are one unless `lambdas` has others."""
        symbol, rng = self.symbol(), np.random.default_rng(seed)
        args = {
            name: rng.standard_normal(self.shapes[name]) * 0.3
            for name in symbol.list_arguments()
            if name not in ("data", "softmax_label")
        }
        for name in args:
            if name.startswith("lambda_"):
                args[name] = np.reshape(
                    (lambdas or {}).get(name, np.ones(self.shapes[name])), self.shapes[name]
                )
        aux = {
            name: rng.random(self.shapes[name.rsplit("_", 2)[0] + "_gamma"]) + 0.5
            for name in symbol.list_auxiliary_states()
        }
        args, aux = ({name: mx.nd.array(value) for name, value in part.items()} for part in (args, aux))
        mx.model.save_checkpoint(prefix, epoch, symbol, args, aux)
        return symbol, args, aux


@pytest.fixture
def literal():
    """The class above."""
    return Literal
