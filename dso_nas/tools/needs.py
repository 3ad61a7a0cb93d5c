"""What a recipe needs of a machine, as `doctor` says it: memory on each device, and data."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Iterator, Optional, Sequence, Tuple

from dso_nas import machine
from dso_nas.architecture.spaces import NormalSpace, space_of
from dso_nas.data import sample
from dso_nas.data.classification import load_dataset
from dso_nas.data.record_folders import FILES
from dso_nas.errors import UserError
from dso_nas.recipes import Recipe
from dso_nas.tools.doctor import CROWDED, FAIL, OK, WARN, Finding

SCENES = "fashion-scenes"


def memory(recipe: Recipe, gpus: Sequence[machine.Gpu]) -> Finding:
    """The planned memory of the stage that takes most, on the smallest of the GPUs or else on the CPU.

    Raises:
        UserError: the recipe's own limit cannot be met.
    """
    devices = max(1, len(gpus))
    plans = {stage: space.plan(space.spec, None, -(-batch // devices), recipe.memory.mirroring,
                               recipe.memory.limit_mb, recipe.dtype, tuned=not gpus)
             for stage, space, batch in _steps(recipe)}
    stage, plan = max(plans.items(), key=lambda item: item[1].total_mb)
    total = min(gpu.memory_mb for gpu in gpus) if gpus else machine.memory_mb()
    free = total if gpus else machine.available_mb()
    place = f"each of {devices} GPUs" if gpus else "the CPU"
    found = f"{recipe.name}: {stage} plans {plan.total_mb:,.0f} MB on {place}, which has {total:,} MB"
    cure = f"lower {stage}.batch_size (--batch-size), or --set memory.mirroring=block, or use more devices"
    if plan.total_mb > total:
        return Finding(FAIL, "memory", found, cure)
    if plan.total_mb > CROWDED * total or plan.total_mb > free:
        return Finding(WARN, "memory", f"{found}, {free:,} MB free: that may be too little", cure)
    return Finding(OK, "memory", found)


def _steps(recipe: Recipe) -> Iterator[Tuple[str, NormalSpace, int]]:
    """Stage, space and batch size of the supernet's steps; pre-training is on classification."""
    if recipe.pretrain.epochs:
        yield "pretrain", space_of(dataclasses.replace(recipe, segmentation=None)), recipe.pretrain.batch_size
    yield "search", space_of(recipe), recipe.search.batch_size


def data(recipe: Recipe, data_dir: Optional[str]) -> Finding:
    """Whether the recipe's data is where it is looked for.

    Raises:
        UserError: it is not, or it is damaged; the line says what to do.
    """
    if recipe.segmentation is None:
        return Finding(OK, "data", _classification(recipe.data.dataset, data_dir or recipe.data.root))
    first, settings = _classification(recipe.data.dataset, recipe.data.root), recipe.segmentation
    return Finding(OK, "data", f"{first}; {_segmentation(settings.dataset, data_dir or settings.root)}")


def _classification(name: str, root: Optional[str]) -> str:
    if name == "records" and root is not None:
        return _records(Path(root))
    dataset = load_dataset(name, root)
    place = "embedded" if name == sample.NAME else f"in {root}"
    return f"{dataset.title}, {place}: {len(dataset.train):,} training and {len(dataset.test):,} test images"


def _records(root: Path) -> str:
    """Record files by their names alone: reading through ImageNet's takes minutes."""
    there = {part for part, name in FILES.items() if (root / name).is_file()}
    if "test" not in there or not ("train" in there or {"weights", "lambdas"} <= there):
        wanted = "train1.rec and train2.rec, or train.rec; and val.rec"
        raise UserError(f"{root}: has not all of {wanted}; `python -m dso_nas prepare` makes them, or give --data-dir")
    return f"record files in {root}: {', '.join(FILES[part] for part in FILES if part in there)}"


def _segmentation(name: str, root: Optional[str]) -> str:
    if name == SCENES and root is None:
        return f"{name}: made when needed"
    from dso_nas.data.segmentation import load_segmentation

    dataset = load_segmentation(name, root)
    return f"{dataset.title} in {root}: {len(dataset.train):,} training and {len(dataset.test):,} test pictures"
