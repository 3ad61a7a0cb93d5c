"""The published full scope on ImageNet, whose blocks connect a level with the one before only."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from symbols import get_symbol
from symbols.checkpoints import weights_of
from symbols.naming import to_gluon_name

FIGURES = Path(__file__).resolve().parents[1] / "golden" / "F_params_flops.json"


def test_arguments_are_as_many_as_published():
    published = [entry for entry in json.loads(FIGURES.read_text()) if entry["folder"] == "Imagenet"]
    entry = next(entry for entry in published if entry["kind"] == "search_full")
    symbol = get_symbol("imagenet_search_full", 1000, (3, 224, 224))
    names = symbol.list_arguments()
    shapes, _, _ = symbol.infer_shape(data=(1, 3, 224, 224))
    sizes = {name: int(np.prod(shape)) for name, shape in zip(names, shapes)}
    lambdas = {name: size for name, size in sizes.items() if name.startswith("lambda")}
    assert len(names) == entry["n_arguments"] and len(lambdas) == entry["n_lambda_tensors"]
    assert sum(lambdas.values()) == entry["n_lambda_scalars"]
    assert lambdas["lambda_stage3_unit13_layer_4_1"] == 4 and lambdas["lambda_after_stage3_unit13"] == 16
    inputs = {"data", "softmax_label"}
    assert sum(size for name, size in sizes.items() if name not in inputs) == entry["params_all_args"]


def test_its_lambdas_give_an_evaluation_network_and_a_checkpoint():
    search = get_symbol("imagenet_search_full", 5, (3, 32, 32), units=(2, 2, 2, 2), filters=2)
    shapes, _, aux_shapes = search.infer_shape(data=(1, 3, 32, 32))
    rng = np.random.default_rng(0)
    needed = dict(zip(search.list_arguments(), shapes))
    arrays = {name: rng.uniform(0.1, 1, shape).astype(np.float32) for name, shape in needed.items()
              if name not in ("data", "softmax_label")}
    lambdas = {name: value for name, value in arrays.items() if name.startswith("lambda")}
    assert lambdas["lambda_stage1_unit1_layer_2_1"].shape == (1, 4)
    derived = get_symbol("imagenet_evaluation", 5, (3, 32, 32), units=(2, 2, 2, 2), filters=2, load_param=lambdas)
    assert "stage1_unit1_4_conv5x5_weight" in derived.list_arguments()
    assert not any(name.startswith("lambda") for name in derived.list_arguments())
    for name, shape in zip(search.list_auxiliary_states(), aux_shapes):
        arrays[to_gluon_name(name)] = np.ones(shape, np.float32)
    assert weights_of(arrays, "checkpoint", image_size=32).spec.topology.reach == "previous"
