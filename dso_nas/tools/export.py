"""`python -m dso_nas export`: a run's retrained network, or a checkpoint's, as files that need none of this package."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Optional, Tuple

from dso_nas.architecture.genotype import Genotype
from dso_nas.architecture.genotypes import load_genotype
from dso_nas.cli import run_maker
from dso_nas.errors import UserError
from dso_nas.recipes import load_recipe

Source = Tuple[Any, Tuple[int, int, int], Optional[Any]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The tool's options."""
    parser.add_argument("run", nargs="?", metavar="RUN", help="a run's folder, whose retrain has ended")
    parser.add_argument("--checkpoint", metavar="FILE", help="instead of a run: a checkpoint of classification")
    parser.add_argument("--genotype", metavar="FILE", help="its architecture (default for RUN: what its search found)")
    parser.add_argument("--out", required=True, metavar="PREFIX",
                        help="writes PREFIX-symbol.json and PREFIX-0000.params, or PREFIX.onnx besides")
    parser.add_argument("--format", choices=("symbol", "onnx"), default="symbol",
                        help="onnx needs requirements-onnx.txt (default: %(default)s)")
    parser.add_argument("--softmax", action="store_true", help="give probabilities, not logits")
    parser.add_argument("--raw", action="store_true", help="take pixels, 0 to 255: normalise inside (RUN only)")
    parser.add_argument("--data-dir", metavar="DIR", help="folder of the data set that RUN was trained on")
    parser.add_argument("--image-size", type=int, metavar="N", help="side of the images (--checkpoint only)")


def run(options: argparse.Namespace) -> None:
    """Write the files and say what the network takes and gives.

    Raises:
        UserError: there is no such network, or a file cannot be written.
    """
    _check(options)
    # MXNet is loaded by what follows, a second or two that a mistyped option should not cost.
    from dso_nas.export import export_network, export_onnx

    network, image_shape, normalisation = _of_checkpoint(options) if options.checkpoint else _of_run(options)
    files = export_network(network, image_shape, options.out, options.softmax, normalisation if options.raw else None)
    written = list(files)
    if options.format == "onnx":
        written.append(export_onnx(files, image_shape, f"{options.out}.onnx"))
    print("\n".join(map(str, written)))
    print(f"input 'data': float32 (batch, {', '.join(map(str, image_shape))}), {_taken(options, normalisation)}; "
          f"output: {'probabilities' if options.softmax else 'logits'}")


def _check(options: argparse.Namespace) -> None:
    if (options.run is None) == (options.checkpoint is None):
        raise UserError("export: give a RUN's folder or a --checkpoint, one of them")
    if options.checkpoint and not options.genotype:
        raise UserError("--checkpoint: parameters alone do not tell connections; give its --genotype")
    if options.checkpoint and options.raw:
        raise UserError("--raw: a checkpoint does not know its data's mean; give the RUN's folder instead")
    if not Path(options.out).parent.is_dir():
        raise UserError(f"--out {options.out}: there is no folder {Path(options.out).parent}; make it")
    if options.run is not None and not (Path(options.run) / "recipe.yaml").is_file():
        raise UserError(f"{options.run}: is no run's folder, it has no recipe.yaml")


def _taken(options: argparse.Namespace, normalisation: Optional[Any]) -> str:
    if options.raw:
        return "RGB pixels from 0 to 255"
    if normalisation is None:
        return "normalised as in training"
    mean, std = (", ".join(f"{value:.4f}" for value in part) for part in normalisation)
    return f"RGB, (pixel - mean) / std with mean {mean} and std {std}"


def _of_run(options: argparse.Namespace) -> Source:
    import mxnet as mx

    from dso_nas.export import Normalisation
    from dso_nas.stages.evaluate import retrained_network
    from dso_nas.training.workfolder import WorkFolder

    folder = WorkFolder(options.run)
    recipe = load_recipe(folder.recipe, overrides=["dtype=float32"])
    genotype = load_genotype(options.genotype or folder.genotype)
    task = "segmentation" if recipe.segmentation else "classification"
    made = run_maker(task)(recipe, folder, options.data_dir, [mx.cpu()], None, True)
    phase, network = retrained_network(made, genotype)
    return network, phase.space.spec.image_shape, Normalisation(phase.dataset.mean, phase.dataset.std)


def _of_checkpoint(options: argparse.Namespace) -> Source:
    from symbols.checkpoints import read_ours

    weights = read_ours(options.checkpoint, Genotype.load(options.genotype), options.image_size)
    return weights.loaded_network(), weights.spec.image_shape, None
