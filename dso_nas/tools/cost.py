"""`python -m dso_nas cost`: the cost of every unit of a recipe's supernet, or of a genotype in its macro-structure."""

from __future__ import annotations

import argparse
from typing import Any, List

from dso_nas.architecture.cost import Conventions, Cost
from dso_nas.architecture.genotypes import load_genotype
from dso_nas.architecture.spaces import NormalSpace, space_of
from dso_nas.recipes import Recipe, load_recipe
from dso_nas.reporting.tables import markdown_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The tool's options."""
    parser.add_argument("--recipe", default="demo", metavar="NAME|FILE", help="whose network (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
                        help="any recipe key; network.image_size and network.classes say what data would")
    parser.add_argument("--genotype", metavar="FILE", help="count this architecture instead of all connections")
    parser.add_argument("--width", type=float, default=1.0, metavar="X", help="multiply all widths (default: 1)")
    parser.add_argument("--devices", type=int, default=1, metavar="N", help="devices that share a batch (default: 1)")
    parser.add_argument("--batch-norm", action="store_true", help="count BatchNorm's scales and shifts")
    parser.add_argument("--bias", action="store_true", help="count biases")
    parser.add_argument("--aux-head", action="store_true", help="count the auxiliary head")


def run(options: argparse.Namespace) -> None:
    """Print the table."""
    recipe = load_recipe(options.recipe, None, options.overrides)
    space = space_of(recipe)
    spec = space.spec.scaled(options.width)
    genotype = load_genotype(options.genotype) if options.genotype else None
    table = space.cost(spec, genotype, Conventions(options.batch_norm, options.bias, options.aux_head))
    rows = [_row(name, cost) for name, cost in table.by_unit().items()] + [_row("total", table.total)]
    if options.genotype is None:
        _print_memory(recipe, space, spec, options.devices)
    print(markdown_table(("unit", "parameters", "multiply-adds", "memory access"), rows, "lrrr"))


def _print_memory(recipe: Recipe, space: NormalSpace, spec: Any, devices: int) -> None:
    """The planned memory of pre-training in the macro-structure `spec`, or of a segmentation's search, per device."""
    batch = recipe.search.batch_size if recipe.segmentation else recipe.pretrain.batch_size
    images = -(-batch // devices)
    gpu, cpu = (space.plan(spec, None, images, recipe.memory.mirroring, recipe.memory.limit_mb, recipe.dtype, tuned)
                for tuned in (False, True))
    print(f"planned memory per device: {gpu.total_mb:,.0f} MB on a GPU, {cpu.total_mb:,.0f} MB on the CPU, "
          f"for {images} images, memory.mirroring {recipe.memory.mirroring}\n")


def _row(name: str, cost: Cost) -> List[str]:
    return [name, f"{cost.parameters:,}", f"{cost.multiply_adds:,}", f"{cost.mac:,}"]
