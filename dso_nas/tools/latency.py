"""`python -m dso_nas latency`: measure genotypes, or write the table of operation latencies that a search can read."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np

from dso_nas.architecture.genotypes import load_genotype
from dso_nas.architecture.spaces import space_of
from dso_nas.budgets.latency_table import GOOD_ENOUGH, Check, Entry, LatencyTable, rank_correlation
from dso_nas.errors import UserError
from dso_nas.recipes import Recipe, load_recipe
from dso_nas.reporting.tables import markdown_table
from dso_nas.training.workfolder import describe_environment

FEWEST = 3
_DENSITIES = (0.1, 1.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The tool's options."""
    parser.add_argument("--recipe", default="demo", metavar="NAME|FILE", help="whose network (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
                        help="any recipe key; network.image_size and network.classes say what data would")
    parser.add_argument("--genotype", nargs="+", default=[], metavar="FILE", help="measure these networks")
    parser.add_argument("--width", type=float, default=1.0, metavar="X", help="multiply all widths (default: 1)")
    parser.add_argument("--table", metavar="FILE", help="read this table instead of measuring one")
    parser.add_argument("--out", metavar="FILE", help="where the table is written (default without --genotype and "
                                                      "--table: latency.json)")
    parser.add_argument("--check", type=int, metavar="N", help="measure N random architectures as well (30 or more), "
                                                               "and compare the order of the table's sums")
    parser.add_argument("--batch", type=int, metavar="N", help="images of a run (default: search.latency_batch)")
    parser.add_argument("--spread", type=float, metavar="X", help="how wide the runs' middle half may be, over their "
                                                                  "median (default: search.latency_spread)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random architectures (default: 0)")
    devices = parser.add_mutually_exclusive_group()
    devices.add_argument("--gpus", metavar="0", help="the GPU to use (default: the first)")
    devices.add_argument("--cpus", type=int, metavar="1", help="measure on the CPU (default without a GPU)")


def run(options: argparse.Namespace) -> None:
    """Carry out the tool."""
    recipe = load_recipe(options.recipe, None, [*options.overrides, *_settings(options)])
    if options.check is not None and options.check < FEWEST:
        raise UserError(f"--check {options.check}: an order needs at least {FEWEST} architectures, 30 say something")
    genotypes = {path: load_genotype(path) for path in options.genotype}
    if recipe.segmentation is not None:
        raise UserError(f"--recipe {options.recipe}: is for segmentation, whose networks are not timed")
    bench = Bench(recipe, options.width, options.gpus, options.cpus)
    for genotype in genotypes.values():
        genotype.check_fits(bench.spec)
    out = options.out or (None if options.genotype or options.table else "latency.json")
    if out is not None and not Path(out).absolute().parent.is_dir():
        raise UserError(f"--out {out}: there is no such folder, make it")
    table = _table(bench, options.table, out is not None or options.check is not None)
    if table is not None and options.check is not None:
        table = dataclasses.replace(table, check=_check(bench, table, options.check, options.seed))
    if table is not None and out is not None:
        table.save(out)
        print(f"{len(table.entries)} entries in {out}")
    if genotypes:
        print(markdown_table(("genotype", "ms", "spread", "sum of the table, ms"),
                             list(_rows(bench, table, genotypes)), "lrrr"))


def _settings(options: argparse.Namespace) -> Iterator[str]:
    for key, value in (("batch", options.batch), ("spread", options.spread)):
        if value is not None:
            yield f"search.latency_{key}={value}"


class Bench:
    """A macro-structure and the device it is measured on, as the recipe's `search.latency_*` keys say."""

    def __init__(self, recipe: Recipe, width: float, gpus: Optional[str], cpus: Optional[int]) -> None:
        from dso_nas.stages.spaces import make_space
        from dso_nas.training.parallel import choose_contexts

        plain = space_of(recipe).spec
        self.space = make_space(recipe.network, plain.classes, plain.image_shape)
        self.recipe, self.spec = recipe, plain.scaled(width)
        self.context = choose_contexts(gpus, cpus)[0]
        settings = recipe.search
        self._how: Tuple[int, str, float] = (settings.latency_batch, settings.latency_statistic,
                                             settings.latency_spread)

    def layers(self) -> LatencyTable:
        """A new table of every layer."""
        from dso_nas.budgets.layer_latency import measure_layer, table_space, timed_layers

        entries: Dict[str, Entry] = {}
        for name, layer in timed_layers(self.spec).items():
            entries[name] = measure_layer(layer, self.context, *self._how)
        batch, statistic, _ = self._how
        space = table_space(self.spec)
        return LatencyTable(space, str(self.context), batch, statistic, describe_environment(), entries)

    def network(self, genotype: Any) -> Any:
        """The measured `Latency` of a genotype's network."""
        from dso_nas.budgets.latency import measure_built

        return measure_built(lambda: self.space.derived(self.spec, genotype), self.context, self.spec.image_shape,
                             *self._how)

    def sum(self, table: LatencyTable, genotype: Any) -> float:
        """The table's milliseconds for a genotype's network."""
        from dso_nas.budgets.layer_latency import layer_counts

        return table.total(layer_counts(self.spec, genotype))


def _table(bench: Bench, path: Optional[str], wanted: bool) -> Optional[LatencyTable]:
    if path is not None:
        from dso_nas.budgets.layer_latency import load_table

        return load_table(path, bench.spec, bench.recipe.search.latency_batch)
    return bench.layers() if wanted else None


def _check(bench: Bench, table: LatencyTable, count: int, seed: int) -> Check:
    """Measure random architectures from sparse to full and compare the order; say so where it is not good enough."""
    rng = np.random.default_rng(seed)
    drawn = [bench.space.random(density, rng) for density in np.linspace(*_DENSITIES, count)]
    measured = [bench.network(genotype).value for genotype in drawn]
    check = Check(count, rank_correlation([bench.sum(table, genotype) for genotype in drawn], measured))
    print(f"rank correlation of the table's sums with {count} measured random architectures: "
          f"{check.rank_correlation:.3f}")
    if not check.is_good:
        print(f"not good enough: below {GOOD_ENOUGH}, sums do not order networks as measurements do here; measure on a "
              "device free of other work, or search without the table")
    return check


def _rows(bench: Bench, table: Optional[LatencyTable], genotypes: Dict[str, Any]) -> Iterator[List[str]]:
    for path, genotype in genotypes.items():
        latency = bench.network(genotype)
        total = "" if table is None else f"{bench.sum(table, genotype):.3f}"
        yield [path, f"{latency.value:.3f}", f"{100 * latency.spread:.0f} %", total]
