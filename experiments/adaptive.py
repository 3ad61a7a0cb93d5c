"""Search with and without adaptive regularisation, at the same parameters (paper, section 4.6, Fig. 7 and 8).

    python experiments/adaptive.py flops            # adaptive FLOPs against a uniform gamma, three seeds
    python experiments/adaptive.py latency          # adaptive latency against a uniform gamma
    python experiments/adaptive.py flops --quick    # the same in minutes, on few images: that it works, no evidence

Runs the package's own stages on the embedded images, each run in a folder of its own under --work-dir; what is
finished is not run again. Writes a table to experiments/results/, as found.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Sequence

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import dso_nas  # noqa: E402, F401, I001  (before MXNet)
import mxnet as mx  # noqa: E402

from dso_nas.architecture.cost import network_cost  # noqa: E402
from dso_nas.architecture.genotype import Genotype  # noqa: E402
from dso_nas.budgets.latency import measure_built  # noqa: E402
from dso_nas.cli import report_errors  # noqa: E402
from dso_nas.data.arrays import ImageDataset  # noqa: E402
from dso_nas.errors import UserError  # noqa: E402
from dso_nas.recipes import load_recipe  # noqa: E402
from dso_nas.reporting.tables import markdown_table  # noqa: E402
from dso_nas.stages.classification import classification_run  # noqa: E402
from dso_nas.stages.pretrain import pretrain  # noqa: E402
from dso_nas.stages.retrain import retrain, retrain_spec  # noqa: E402
from dso_nas.stages.run import Run  # noqa: E402
from dso_nas.stages.search import search  # noqa: E402
from dso_nas.training.workfolder import WorkFolder, describe_environment  # noqa: E402

PARAMETERS = 40_000
# So few steps that nothing would die of the recipe's own gamma.
QUICK = ("pretrain.epochs=1", "search.epochs=2", "search.batch_size=20", "search.gamma=0.1", "retrain.epochs=1")
QUICK_IMAGES = 600


class Outcome(NamedTuple):
    """What one search came to, retrained at PARAMETERS: counts, a fraction, milliseconds."""

    flops_per_block: float
    error: float
    milliseconds: float
    connections: int


def main(arguments: Sequence[str] = ()) -> int:
    """Carry out a command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("flops", "latency"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipe", default="demo", metavar="NAME|FILE", help="on the embedded images")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--parameters", type=int, default=PARAMETERS, help="of every retrained network")
    parser.add_argument("--work-dir", default="runs/experiments", metavar="DIR")
    parser.add_argument("--out", metavar="FILE", help="default: experiments/results/adaptive_WHAT.md")
    parser.add_argument("--quick", action="store_true", help="two epochs on few images: no evidence of anything")
    options = parser.parse_args(arguments or None)
    return report_errors(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    rules = {"uniform": "uniform", "adaptive": f"adaptive_{options.what}"}
    outcomes = {name: [_outcome(options, rule, seed) for seed in options.seeds] for name, rule in rules.items()}
    name = f"adaptive_{options.what}{'_quick' if options.quick else ''}.md"
    path = Path(options.out) if options.out else ROOT / "experiments" / "results" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    text = report(options, outcomes)
    path.write_text(text, encoding="utf-8")
    print(text)


def _outcome(options: argparse.Namespace, rule: str, seed: int) -> Outcome:
    """Run the three stages, or what of them is not finished yet."""
    overrides = [*(QUICK if options.quick else ()), f"retrain.target_parameters={options.parameters}", f"seed={seed}",
                 *options.overrides, f"search.regularization={rule}"]
    recipe = load_recipe(options.recipe, None, overrides)
    place = Path(options.work_dir) / ("quick" if options.quick else "whole") / f"{rule}-{seed}"
    place.mkdir(parents=True, exist_ok=True)
    folder = WorkFolder(place)
    with folder.lock():
        run = classification_run(recipe, folder, None, [mx.cpu()], "device", resume=True)
        if options.quick:
            run.dataset = _few(run.dataset)
        _check_recipe(run)
        pretrain(run)
        genotype = search(run)
        error = retrain(run, genotype)["test_error"]
        return measured(run, genotype, error)


def _check_recipe(run: Run) -> None:
    """A folder belongs to one recipe: its results must not be taken for another's."""
    path = run.folder.recipe
    if path.exists() and path.read_text(encoding="utf-8") != run.recipe.to_yaml():
        raise UserError(f"{path}: is of other settings; give another --work-dir, or remove {path.parent}")
    run.recipe.save(path)


def _few(dataset: ImageDataset) -> ImageDataset:
    return ImageDataset.of(dataset.name, dataset.title, dataset.train.subset(range(QUICK_IMAGES)),
                           dataset.test.subset(range(QUICK_IMAGES)), dataset.classes)


def measured(run: Run, genotype: Genotype, error: float) -> Outcome:
    """What is reported of a found network at its retrained width."""
    spec, _ = retrain_spec(run, genotype)
    units = network_cost(spec, genotype).by_unit()
    blocks = [units[unit.name].multiply_adds for unit in spec.block_units() if unit.name in units]
    settings = run.recipe.search
    latency = measure_built(lambda: run.space.derived(spec, genotype), run.contexts[0], spec.image_shape,
                            settings.latency_batch, settings.latency_statistic, settings.latency_spread)
    return Outcome(sum(blocks) / len(spec.block_units()), error, latency.value, run.space.live(genotype))


def report(options: argparse.Namespace, outcomes: Dict[str, List[Outcome]]) -> str:
    """The Markdown page: a row for each rule, mean and deviation over the seeds, then every run."""
    machine = describe_environment()["machine"]
    headers = ("gamma", "multiply-adds of a block", "test error, %", "latency, ms", "live connections")
    quick = "\n\nA quick run: it shows that the script works, and nothing else." if options.quick else ""
    return (f"# Adaptive {options.what} against a uniform gamma\n\n"
            f"Recipe {options.recipe}, seeds {', '.join(map(str, options.seeds))}, every network retrained at "
            f"{options.parameters:,} parameters; {machine['processor']}, {machine['processors_usable']} processors. "
            f"Mean ± standard deviation.{quick}\n\n"
            f"{markdown_table(headers, [_mean_row(*item) for item in outcomes.items()], 'lrrrr')}\n\n"
            f"Every run:\n\n{markdown_table(('gamma, seed', *headers[1:]), list(_rows(options, outcomes)), 'lrrrr')}\n")


def _mean_row(name: str, runs: Sequence[Outcome]) -> List[str]:
    return [name, *(_spread([run[field] * factor for run in runs], digits)
                    for field, (factor, digits) in enumerate(_FORMATS))]


def _rows(options: argparse.Namespace, outcomes: Dict[str, List[Outcome]]) -> Iterator[List[str]]:
    for name, runs in outcomes.items():
        for seed, run in zip(options.seeds, runs):
            yield [f"{name}, {seed}", *(f"{value * factor:,.{digits}f}"
                                        for value, (factor, digits) in zip(run, _FORMATS))]


# Factor and digits of every field of an Outcome.
_FORMATS = ((1, 0), (100, 2), (1, 3), (1, 1))


def _spread(values: Sequence[Any], digits: int) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):,.{digits}f} ± {deviation:,.{digits}f}"


if __name__ == "__main__":
    sys.exit(main())
