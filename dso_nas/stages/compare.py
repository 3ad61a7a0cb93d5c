"""The found architecture against random ones and the full network, all of one size (paper, Table 1, last rows)."""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, NamedTuple, Tuple

import numpy as np

from dso_nas.architecture.genotypes import AnyGenotype
from dso_nas.architecture.topology import NetworkSpec
from dso_nas.budgets.width import fit
from dso_nas.errors import UserError
from dso_nas.reporting.html import REPORT, report_html
from dso_nas.reporting.report_schema import check_report, summarize
from dso_nas.reporting.tables import report_markdown
from dso_nas.stages.retrain import retrain_spec, train_derived
from dso_nas.stages.run import Run, finished_checkpoint
from dso_nas.training.workfolder import describe_environment

_DRAWS = 100


class Contender(NamedTuple):
    """A network to train and where."""

    name: str
    kind: str
    genotype: AnyGenotype
    spec: NetworkSpec
    multiplier: float
    folder: str


def contenders(run: Run, genotype: AnyGenotype) -> List[Contender]:
    """The found architecture, and those the recipe compares it with at the same parameters.

    Raises:
        UserError: one cannot be brought to the same parameters within the recipe's tolerance.
    """
    settings = run.recipe.compare
    spec, multiplier = retrain_spec(run, genotype)
    found = [Contender("searched", "searched", genotype, spec, multiplier, "retrain")]
    target = run.space.cost(spec, genotype).total.parameters
    base = run.space.widened(run.recipe.retrain.widths)
    for index in range(1, settings.random_architectures + 1):
        drawn, fitted, factor = _random_fit(run, genotype, base, target, index)
        found.append(Contender(f"random {index}", "random", drawn, fitted, factor, f"compare/random-{index}"))
    if settings.full_network:
        full = run.space.full()
        fitted, factor = fit_parameters(run, base, full, target)
        found.append(Contender("full network, narrowed", "full", full, fitted, factor, "compare/full"))
    return found


def _random_fit(run: Run, genotype: AnyGenotype, base: NetworkSpec, target: int,
                index: int) -> Tuple[AnyGenotype, NetworkSpec, float]:
    """A random architecture as dense as the found one that some width brings to `target` parameters."""
    density = run.space.live(genotype) / run.space.live(run.space.full())
    rng = np.random.default_rng(np.random.SeedSequence(run.recipe.seed, spawn_key=(index,)))
    for _ in range(_DRAWS):
        drawn = run.space.random(min(1.0, max(density, 0.05)), rng)
        try:
            return (drawn, *fit_parameters(run, base, drawn, target))
        except UserError:
            continue
    raise UserError(f"compare.tolerance: none of {_DRAWS} random architectures comes within "
                    f"{run.recipe.compare.tolerance:g} of {target:,} parameters; raise it")


def fit_parameters(run: Run, base: NetworkSpec, genotype: AnyGenotype, target: int) -> Tuple[NetworkSpec, float]:
    """`base` at the width that gives a genotype `target` parameters, and the multiplier.

    Raises:
        UserError: none comes within the recipe's `compare.tolerance`.
    """
    return fit(base, genotype, lambda spec, kept: run.space.cost(spec, kept).total.parameters, target,
               run.recipe.compare.tolerance, "parameters")


def compare(run: Run, genotype: AnyGenotype) -> Dict[str, Any]:
    """Train every contender alike, write `report.json` and `report.md`, and return the report."""
    results = []
    for number, contender in enumerate(contenders(run, genotype)):
        epochs = None if contender.kind == "searched" else run.recipe.compare.epochs
        values = train_derived(run, contender.spec, contender.genotype, number, epochs, contender.folder)
        results.append(_result(run, contender, values["test_error"]))
    report = {**_report_head(run, genotype), "results": results, "summary": summarize(results),
              "notes": run.notes(results)}
    check_report(report)
    run.folder.write_json("report.json", report)
    run.folder.write_text("report.md", report_markdown(report))
    run.folder.write_text(REPORT, report_html(run.folder.path))
    return report


def _result(run: Run, contender: Contender, error: float) -> Dict[str, Any]:
    total = run.space.cost(contender.spec, contender.genotype).total
    seconds = sum(_position(run, place)["seconds"] for _, place in run.phases(contender.folder))
    return {
        "name": contender.name, "kind": contender.kind, "parameters": total.parameters,
        "multiply_adds": total.multiply_adds, "width_multiplier": contender.multiplier, "test_error": error,
        "live_connections": run.space.live(contender.genotype), "seconds": seconds,
    }


def _report_head(run: Run, genotype: AnyGenotype) -> Dict[str, Any]:
    full = run.space.full()
    source = genotype.source
    return {
        "title": f"DSO-NAS on {run.dataset.title}", "dataset": run.dataset.title, "recipe": run.recipe.name,
        "environment": describe_environment(), "stages": list(_stages(run)),
        "search": {
            "live_connections": run.space.live(genotype),
            "total_connections": run.space.live(full), "epochs": source.get("epochs", 0),
            "converged": bool(source.get("converged", False)), "warnings": list(source.get("warnings", [])),
        },
        "picture": "search/structure.png",
    }


def _stages(run: Run) -> Iterator[Dict[str, Any]]:
    for stage in ("pretrain", "search", "retrain"):
        if stage == "pretrain" and not run.recipe.pretrain.epochs:
            continue
        places = [place for _, place in run.phases(stage)] if stage == "retrain" else [stage]
        for place in places:
            position = _position(run, place)
            yield {"stage": place, "seconds": position["seconds"], "epochs": position["epoch"],
                   "steps": position["steps"]}


def _position(run: Run, place: str) -> Dict[str, Any]:
    return finished_checkpoint(run.folder.path / place, place).meta["position"]
