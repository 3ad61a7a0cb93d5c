"""Recipes: everything that decides what a run computes, in one validated, frozen value.

`schema`, `network` and `schedules` say which keys there are, `rules` what a key may hold, `loading` how a file, its
base, a profile and `--set` become one recipe, `yaml_text` how YAML is read from people one does not trust. Devices,
folders and whether to resume do not belong here: they are on the command line.
"""

from __future__ import annotations

from dso_nas.recipes.loading import RECIPE_FOLDER, load_recipe, recipe_names
from dso_nas.recipes.schedules import (
    ConstantSchedule,
    CosineSchedule,
    LinearSchedule,
    PolySchedule,
    Schedule,
    StepSchedule,
)
from dso_nas.recipes.schema import (
    Checkpoint,
    Compare,
    Data,
    Memory,
    Network,
    Pretrain,
    Recipe,
    Retrain,
    Search,
    Training,
)

__all__ = [
    "RECIPE_FOLDER",
    "Checkpoint",
    "Compare",
    "ConstantSchedule",
    "CosineSchedule",
    "Data",
    "LinearSchedule",
    "Memory",
    "Network",
    "PolySchedule",
    "Pretrain",
    "Recipe",
    "Retrain",
    "Schedule",
    "Search",
    "StepSchedule",
    "Training",
    "load_recipe",
    "recipe_names",
]
