"""`python -m dso_nas diff`: what differs between two genotypes, two runs or two recipes."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Tuple

from dso_nas.architecture.genotypes import AnyGenotype, load_genotype
from dso_nas.errors import UserError
from dso_nas.recipes import Recipe, load_recipe
from dso_nas.reporting.differences import Sides, compare_genotypes, compare_lambdas, compare_mappings, jaccard
from dso_nas.reporting.run_files import RunFiles, last_values
from dso_nas.reporting.tables import markdown_table

_RUN, _GENOTYPE, _RECIPE = "a run's folder", "a genotype file", "a recipe"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The tool's options."""
    for name in "AB":
        parser.add_argument(name, help="a genotype file (.json), a run's folder, or a recipe (name or .yaml)")


def run(options: argparse.Namespace) -> None:
    """Print what differs."""
    kinds = [_kind(name) for name in (options.A, options.B)]
    if kinds[0] != kinds[1]:
        raise UserError(f"{options.B}: is {kinds[1]}, but {options.A} is {kinds[0]}; give two of a kind")
    load, compare = _BY_KIND[kinds[0]]
    lines = compare(load(options.A), load(options.B))
    print("\n".join([f"A: {options.A}", f"B: {options.B}", *lines]))


def _kind(name: str) -> str:
    path = Path(name)
    if path.is_dir():
        return _RUN
    return _GENOTYPE if path.suffix == ".json" else _RECIPE


def _run_lines(a: RunFiles, b: RunFiles) -> Iterator[str]:
    yield from _recipe_lines(a.recipe, b.recipe)
    if a.genotype is None or b.genotype is None:
        missing = " and ".join(str(files.path) for files in (a, b) if files.genotype is None)
        yield f"genotypes: not compared, {missing} found none yet"
    else:
        yield from _genotype_lines(a.genotype, b.genotype)
    yield _lambda_line(a, b)
    yield from _metric_lines(a, b)


def _recipe_lines(a: Recipe, b: Recipe) -> Iterator[str]:
    rows = [(name, str(left), str(right)) for name, left, right in compare_mappings(a.to_mapping(), b.to_mapping())]
    yield f"recipes: {len(rows)} keys differ" if rows else "recipes: the same"
    if rows:
        yield markdown_table(("key", "A", "B"), rows, "lll")


def _genotype_lines(a: AnyGenotype, b: AnyGenotype) -> Iterator[str]:
    try:
        parts = compare_genotypes(a, b)
    except UserError as error:
        yield f"genotypes: {error}"
        return
    blocks = {name: sides for name, sides in parts.items() if name.startswith("block")}
    alone = [sum(len(getattr(sides, side)) for sides in blocks.values()) for side in ("only_a", "only_b", "both")]
    yield (f"genotypes: {alone[2]} live in both, {alone[0]} only in A, {alone[1]} only in B; "
           f"Jaccard similarity {jaccard(blocks):.3f}")
    for name, sides in parts.items():
        yield from _side_lines(name, sides)


def _side_lines(name: str, sides: Sides) -> Iterator[str]:
    if sides.same:
        yield f"  {name}: the same"
        return
    yield f"  {name}: Jaccard similarity {jaccard({name: sides}):.3f}"
    for side, things in (("A", sides.only_a), ("B", sides.only_b)):
        if things:
            words = (" -> ".join(thing) if isinstance(thing, tuple) else str(thing) for thing in sorted(things))
            yield f"    only in {side}: {', '.join(words)}"


def _lambda_line(a: RunFiles, b: RunFiles) -> str:
    found = compare_lambdas(a.lambdas, b.lambdas)
    if found is None:
        return "lambdas: none to compare"
    epochs = [len(next(iter(files.lambdas.values()))) for files in (a, b)]
    return (f"lambdas after epochs {epochs[0]} and {epochs[1]}: largest difference {found.size:.4g}, {found.name} "
            f"entry {found.entry + 1}: {found.a:.4g} and {found.b:.4g}")


def _metric_lines(a: RunFiles, b: RunFiles) -> Iterator[str]:
    left, right = last_values(a.metrics), last_values(b.metrics)
    rows: List[Tuple[str, str, str, str]] = []
    for key in dict.fromkeys([*left, *right]):
        shown = [_value(values, key) for values in (left, right)]
        if shown[0] != shown[1]:
            rows.append((key[0], key[1], shown[0], shown[1]))
    if rows:
        yield "last values that differ (and their epochs):"
        yield markdown_table(("stage", "value", "A", "B"), rows, "llrr")
    else:
        yield "last values: the same"


def _value(values: Mapping[Tuple[str, str], Mapping[str, Any]], key: Tuple[str, str]) -> str:
    if key not in values:
        return "-"
    line = values[key]
    number = "nan" if math.isnan(line["value"]) else repr(line["value"])
    return f"{number} ({line['epoch'] + 1})"


_BY_KIND: Dict[str, Tuple[Callable[[str], Any], Callable[[Any, Any], Iterator[str]]]] = {
    _RUN: (RunFiles, _run_lines),
    _GENOTYPE: (load_genotype, _genotype_lines),
    _RECIPE: (load_recipe, _recipe_lines),
}
