"""The command line of the entry scripts: options, one line for bad input, stages in order."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import Any, Callable, Optional, Sequence

import numpy as np

from dso_nas import target_flags
from dso_nas.architecture.genotypes import AnyGenotype, load_genotype
from dso_nas.errors import Stopped, UserError
from dso_nas.recipes import load_recipe, recipe_names
from dso_nas.recipes.schema import DTYPES
from dso_nas.reporting.tables import percent
from dso_nas.training.mirror import run_folder
from dso_nas.training.workers import DEVICE_STORES, WORKER_STORES, default_kvstore, joined

STAGES = ("pretrain", "search", "retrain", "evaluate", "all")


def build_parser(program: str, default_recipe: str) -> argparse.ArgumentParser:
    """The options that every entry script takes."""
    parser = argparse.ArgumentParser(
        prog=program, description="Search an architecture by direct sparse optimisation, and train what was found.",
        epilog="A stage finds the last one's results in the work folder. 'all' runs the three, trains random "
               "architectures of the same size beside the found one, and writes report.md.")
    parser.add_argument("stage", choices=STAGES, metavar="STAGE", help=", ".join(STAGES))
    parser.add_argument("--recipe", default=default_recipe, metavar="NAME|FILE",
                        help=f"one of {', '.join(recipe_names())}, or a YAML file (default: %(default)s)")
    parser.add_argument("--profile", choices=("default", "paper", "published"),
                        help="settings of the paper, of the published code, or this project's own")
    parser.add_argument("--work-dir", metavar="DIR", help="where the run is kept (default: runs/RECIPE)")
    parser.add_argument("--data-dir", metavar="DIR", help="folder of the data set")
    devices = parser.add_mutually_exclusive_group()
    devices.add_argument("--gpus", metavar="0,1", help="GPUs to use (default: all)")
    devices.add_argument("--cpus", type=int, metavar="N", help="CPU contexts to use (default without a GPU: 1)")
    parser.add_argument("--kvstore", default=default_kvstore(), choices=DEVICE_STORES + WORKER_STORES,
                        help="where gradients of several devices are summed; dist_* for workers that "
                             "'python -m dso_nas launch' started (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, metavar="N", help="images of a step, over all devices and workers")
    parser.add_argument("--epochs", type=int, metavar="N", help="epochs of the stage, or of each stage of 'all'")
    parser.add_argument("--seed", type=int, help="seed of everything random but the split of the data")
    parser.add_argument("--dtype", choices=DTYPES, help="precision of training; float16 needs a GPU (default: float32)")
    target_flags.add_arguments(parser)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoints in the work folder")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
                        help="any recipe key, such as search.gamma=0.01; may be repeated")
    parser.add_argument("--genotype", metavar="FILE", help="architecture for retrain and evaluate "
                                                           "(default: the one this run's search found)")
    return parser


def run(task: str, program: str, default_recipe: str, arguments: Optional[Sequence[str]] = None) -> int:
    """Carry out a command line of a task, 'classification' or 'segmentation'.

    The exit status is 2 after bad input, 128 + n after signal n, else 0.
    """
    options = build_parser(program, default_recipe).parse_args(arguments)
    return report_errors(lambda: _run_stage(task, options))


def report_errors(action: Callable[[], Any]) -> int:
    """Run `action`; bad input becomes one line on stderr and status 2, a signal status 128 + its number.

    A reader of standard output that leaves early, like `head`, ends it as the signal for that would.
    """
    try:
        action()
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print("stopped; the checkpoint is written, go on with --resume", file=sys.stderr)
        return 128 + stopped.signal_number
    except BrokenPipeError:
        # Python flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return 0


def _run_stage(task: str, options: argparse.Namespace) -> None:
    recipe = load_recipe(options.recipe, options.profile, _overrides(options))
    if options.genotype is not None and options.stage not in ("retrain", "evaluate"):
        raise UserError(f"--genotype: goes with retrain and evaluate, not with {options.stage}")
    genotype = load_genotype(options.genotype) if options.genotype else None
    with joined(options.kvstore) as workers, run_folder(options.work_dir or f"runs/{recipe.name}", workers) as folder:
        # MXNet is loaded by what follows, a second or two that a mistyped option should not cost.
        from dso_nas.training.parallel import choose_contexts

        contexts = choose_contexts(options.gpus, options.cpus, recipe.dtype)
        run = run_maker(task)(recipe, folder, options.data_dir, contexts, options.kvstore, options.resume)
        dataset = run.dataset
        folder.record_run()
        folder.announce_recipe(recipe)
        workers.check_same("start", {"recipe": np.frombuffer(recipe.to_yaml().encode(), np.uint8),
                                     "number of images": np.array([len(dataset.train), len(dataset.test)])})
        print(f"{dataset.title}: {len(dataset.train):,} training and {len(dataset.test):,} test images; "
              f"recipe {recipe.name} on {', '.join(map(str, contexts))}", flush=True)
        _carry_out(options.stage, run, genotype)


def run_maker(task: str) -> Callable[..., Any]:
    """What makes the `Run` of a task, 'classification' or 'segmentation'; MXNet is loaded by this."""
    if task == "segmentation":
        from dso_nas.stages.segmentation import segmentation_run

        return segmentation_run
    from dso_nas.stages.classification import classification_run

    return classification_run


def _carry_out(stage: str, run: Any, genotype: Optional[AnyGenotype]) -> None:
    from dso_nas.stages.compare import compare
    from dso_nas.stages.evaluate import evaluate
    from dso_nas.stages.pretrain import pretrain
    from dso_nas.stages.retrain import retrain
    from dso_nas.stages.search import search

    if stage in ("pretrain", "all"):
        pretrain(run.before_search())
    if stage in ("search", "all"):
        found = search(run)
        print(f"found: {run.folder.genotype}, drawn in {run.folder.search / 'structure.png'}", flush=True)
        if stage == "all":
            compare(run, found)
            print(f"{run.folder.report_md.read_text()}\n{run.folder.report_md}")
    if stage in ("retrain", "evaluate"):
        genotype = run.space.transferred(genotype) if genotype else load_genotype(run.folder.genotype)
        values = retrain(run, genotype) if stage == "retrain" else evaluate(run, genotype)
        print(", ".join(f"{name.replace('_', ' ')} {percent(value)}" for name, value in values.items()))


def _overrides(options: argparse.Namespace) -> Sequence[str]:
    """The recipe keys that flags stand for, before those of --set."""
    stages = ("pretrain", "search", "retrain") if options.stage in ("all", "evaluate") else (options.stage,)
    keys = [f"{stage}.{key}={value}" for stage in stages
            for key, value in (("batch_size", options.batch_size), ("epochs", options.epochs)) if value is not None]
    if options.seed is not None:
        keys.append(f"seed={options.seed}")
    if options.dtype is not None:
        keys.append(f"dtype={options.dtype}")
    return keys + target_flags.recipe_keys(options) + options.overrides
