"""Runs' folders made without training, as the stages would leave them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Dict, Sequence

import numpy as np

from dso_nas.architecture.spaces import NormalSpace, space_of
from dso_nas.recipes import load_recipe

EPOCHS = 4
ENTRY = {"started": "2026-01-02T03:04:05Z", "command": ["python", "train_cifar.py", "all", "--set", "name=a b"],
         "folder": "/home/me", "versions": {"python": "3.9.1", "mxnet": "1.9.1", "numpy": "1.23.5"}, "commit": "abc123",
         "machine": {"name": "node7", "processor": "AMD EPYC", "processors": 2},
         "environment": {"OMP_NUM_THREADS": "1", "MXNET_EXEC_INPLACE_GRAD_SUM_CAP": "1000000"}}


def falling(space: NormalSpace, seed: int = 0, epochs: int = EPOCHS) -> Dict[str, np.ndarray]:
    """Lambdas (epochs, entries) that fall from one at rates of their own, pruned at every epoch's end."""
    rng = np.random.default_rng(seed)
    shapes = space.layout.shapes()
    rates = {name: rng.uniform(0.05, 0.6, shape[1]) for name, shape in shapes.items()}
    values = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    rows = []
    for _ in range(epochs):
        fallen = {name: np.maximum(value - rates[name].astype(np.float32), 0) for name, value in values.items()}
        values = space.prune(fallen, values).values
        rows.append(values)
    return {name: np.concatenate([row[name] for row in rows]) for name in values}


def metric_lines(stage: str, epochs: int, **values: Sequence[float]) -> str:
    lines = ({"stage": stage, "epoch": epoch, "step": 9, "name": name, "value": of_epoch[epoch]}
             for epoch in range(epochs) for name, of_epoch in values.items())
    return "".join(json.dumps(line) + "\n" for line in lines)


def make_run_folder(path: Path, overrides: Sequence[str] = (), seed: int = 0, recipe_name: str = "demo") -> Path:
    """A run of a recipe that has pre-trained, searched and retrained, and has no report."""
    recipe = load_recipe(recipe_name, None, [f"search.epochs={EPOCHS}", *overrides])
    (path / "search").mkdir(parents=True)
    recipe.save(path / "recipe.yaml")
    (path / "run.json").write_text(json.dumps([ENTRY]))
    space = space_of(recipe)
    lambdas = falling(space, seed)
    np.savez_compressed(path / "search" / "lambdas.npz", **lambdas)
    found = space.prune({name: array[-1:] for name, array in lambdas.items()}).genotype
    dataclasses.replace(found, source={"epochs": EPOCHS}).save(str(path / "search" / "genotype.json"))
    live = [int(sum((array[epoch] > 0).sum() for array in lambdas.values())) for epoch in range(EPOCHS)]
    text = metric_lines("pretrain", 2, train_loss=[2.3, 1.9], validation_error=[0.9, 0.5])
    text += metric_lines("search", EPOCHS, weights_loss=[1.9, 1.8, None, 1.6], validation_error=[0.5, 0.4, 0.3, 0.25],
                         live_connections=live)
    text += metric_lines("retrain", 1, train_loss=[0.8], test_error=[0.2])
    (path / "metrics.jsonl").write_text(text)
    return path
