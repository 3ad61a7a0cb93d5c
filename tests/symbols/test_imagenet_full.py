"""The published full scope on ImageNet, whose blocks connect a level with the one before only."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from symbols import get_symbol

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
