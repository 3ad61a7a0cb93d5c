"""The width of a derived network: the recipe's multiplier, or the one that meets its target (paper, section 4.1)."""

from __future__ import annotations

import json
import math
from typing import Any, Dict, Tuple

from dso_nas.architecture.genotypes import AnyGenotype
from dso_nas.architecture.topology import NetworkSpec
from dso_nas.budgets.latency import measure_built
from dso_nas.budgets.width import LATENCY_TOLERANCE, TOLERANCE, fit
from dso_nas.errors import UserError
from dso_nas.recipes.schema import TARGETS
from dso_nas.stages.run import Run
from dso_nas.training.workers import workers

# Fields of `Cost`, and the words for their units.
_COUNTS = {
    "target_parameters": ("parameters", "parameters"),
    "target_flops": ("multiply_adds", "multiply-adds"),
    "target_mac": ("mac", "elements of memory access"),
}
LATENCY_FILE = "latency_width.json"


def target_spec(run: Run, spec: NetworkSpec, genotype: AnyGenotype) -> Tuple[NetworkSpec, float]:
    """`spec` at the width that the recipe's `retrain` section asks for, and the multiplier.

    Counts come within 2 % of the target, a latency measured on the run's first device within 5 %.

    Raises:
        UserError: no width meets the target; says which comes nearest.
    """
    settings = run.recipe.retrain
    name = next((name for name in TARGETS if getattr(settings, name) is not None), None)
    if name is None:
        return spec.scaled(settings.width_multiplier), settings.width_multiplier
    if name == "target_latency":
        return _latency_spec(run, spec, genotype, getattr(settings, name))
    field, unit = _COUNTS[name]
    return fit(spec, genotype, lambda wider, kept: getattr(run.space.cost(wider, kept).total, field),
               getattr(settings, name), TOLERANCE, unit)


def _latency_spec(run: Run, spec: NetworkSpec, genotype: AnyGenotype, target: float) -> Tuple[NetworkSpec, float]:
    """As `target_spec`; a run keeps the width it has once found, as no two measurements are the same."""
    found = {"target_latency": target, "genotype": {**genotype.to_json(), "source": {}}, "spec": repr(spec)}
    multiplier = workers().first(_remembered(run, found))
    if multiplier:
        return spec.scaled(multiplier), multiplier
    fitted, multiplier = fit(spec, genotype, lambda *network: milliseconds(run, *network), target, LATENCY_TOLERANCE,
                             "ms", LATENCY_TOLERANCE / 2)
    run.folder.write_json(LATENCY_FILE, {**found, "multiplier": multiplier})
    return fitted, multiplier


def _remembered(run: Run, wanted: Dict[str, Any]) -> float:
    """The multiplier that an earlier stage found for the same network and target, 0 for none."""
    path = run.folder.path / LATENCY_FILE
    if not path.exists():
        return 0.0
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        multiplier = float(content.pop("multiplier"))
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        multiplier = math.nan
    if not 0 < multiplier < math.inf:
        raise UserError(f"{path}: does not hold a width that was found; remove it")
    return multiplier if content == json.loads(json.dumps(wanted)) else 0.0


def milliseconds(run: Run, spec: NetworkSpec, genotype: AnyGenotype) -> float:
    """Measured latency of a derived network, as the recipe's `search.latency_*` keys say; all workers take the first's.

    Raises:
        UserError: the measurements' spread is too large.
    """
    settings = run.recipe.search
    latency = measure_built(lambda: run.space.derived(spec, genotype), run.contexts[0], spec.image_shape,
                            settings.latency_batch, settings.latency_statistic, settings.latency_spread)
    return workers().first(latency.value)
