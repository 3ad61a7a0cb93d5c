"""`python -m dso_nas show`: a genotype file, or a run's folder, in plain text, in pictures, or as a page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping

import numpy as np

from dso_nas.architecture.block_genotype import BlockGenotype
from dso_nas.architecture.genotype import SHARED, Genotype
from dso_nas.architecture.genotypes import AnyGenotype, load_genotype
from dso_nas.architecture.lambdas import LambdaLayout
from dso_nas.architecture.topology import INPUT, BlockTopology, Node
from dso_nas.errors import UserError
from dso_nas.files import write_durably
from dso_nas.reporting.html import report_html
from dso_nas.reporting.lives import draw_life
from dso_nas.reporting.mobile_picture import draw_mobile
from dso_nas.reporting.plots import draw_search
from dso_nas.reporting.run_files import RunFiles, lambda_history, last_values
from dso_nas.reporting.structure import draw_structure
from dso_nas.reporting.tables import flattened, markdown_table, verdict


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The tool's options."""
    parser.add_argument("path", metavar="RUN|FILE", help="a run's folder, or a genotype file")
    parser.add_argument("--draw", metavar="DIR|STEM", help="of a run: draw the search into this folder; of a genotype: "
                                                           "draw it into STEM.svg and STEM.png")
    parser.add_argument("--html", metavar="FILE", help="of a run: write it as one page that needs no network")


def run(options: argparse.Namespace) -> None:
    """Print what is there."""
    path = Path(options.path)
    if path.is_dir():
        _show_run(RunFiles(path), options)
        return
    if options.html:
        raise UserError(f"--html: {path} is no run's folder; give the --work-dir of a run")
    genotype = load_genotype(options.path)
    print("\n".join(genotype_lines(genotype)))
    if options.draw:
        if not isinstance(genotype, Genotype):
            raise UserError(f"--draw: {path} does not say its macro-structure; give its run's folder instead")
        draw_structure(genotype, options.draw)


def _show_run(files: RunFiles, options: argparse.Namespace) -> None:
    print("\n".join(run_lines(files)))
    if options.draw:
        for picture in draw_run(files, Path(options.draw)):
            print(f"drawn: {picture}")
    if options.html:
        write_durably(options.html, [report_html(files.path).encode("utf-8")])
        print(f"written: {options.html}")


def run_lines(files: RunFiles) -> Iterator[str]:
    """What it takes to repeat a run and what it came to: starts, the last value of everything, the architecture."""
    yield f"recipe: {files.recipe.name}, profile {files.recipe.profile}, seed {files.recipe.seed}"
    for number, entry in enumerate(files.starts, start=1):
        yield f"start {number}:"
        yield from (f"  {name}: {value}" for name, value in flattened(entry))
    rows = [(stage, str(line["epoch"] + 1), name, f"{line['value']:.6g}")
            for (stage, name), line in last_values(files.metrics).items()]
    if rows:
        yield markdown_table(("stage", "epoch", "value", "last"), rows, "lrlr")
    if files.report is not None:
        yield verdict(files.report).replace("**", "")
    if files.genotype is not None:
        yield from genotype_lines(files.genotype)


def draw_run(files: RunFiles, folder: Path) -> Iterator[Path]:
    """Draw a run's search into `folder`: connections and error by epoch, lambdas' lives, the block before and after.

    Raises:
        UserError: the search has not ended an epoch, or a picture cannot be written.
    """
    if not files.lambdas:
        raise UserError(f"{files.path}: no epoch of a search has ended here, there is nothing to draw")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made: {error.strerror or error}; choose another --draw") from None
    draw_search(files.metrics, str(folder / "search.png"))
    yield folder / "search.png"
    history = lambda_history(files.lambdas)
    draw_life(history, str(folder / "lambdas.png"), files.layout)
    yield folder / "lambdas.png"
    if files.layout is not None:
        _draw_blocks(files, files.layout, folder, history[-1][1])
        yield from (folder / "before.png", folder / "after.png")


def _draw_blocks(files: RunFiles, layout: LambdaLayout, folder: Path, last: Mapping[str, np.ndarray]) -> None:
    found = files.genotype or files.space.prune(last).genotype
    titles = {"before": "Before the search", "after": f"After epoch {_epochs(files)}"}
    for (name, title), genotype in zip(titles.items(), (files.space.full(), found)):
        if isinstance(genotype, Genotype):
            lambdas = _by_block(layout, last) if genotype is found else None
            draw_structure(genotype, str(folder / name), lambdas, title)
        else:
            draw_mobile(genotype, files.space.spec, str(folder / name), title)


def _epochs(files: RunFiles) -> int:
    return len(next(iter(files.lambdas.values())))


def _by_block(layout: LambdaLayout, values: Mapping[str, Any]) -> Dict[str, np.ndarray]:
    """Packed lambda vectors under the keys of a genotype's blocks."""
    vectors, units = layout.to_units(values), layout.spec.block_units()
    if layout.scope == "share":
        return {SHARED: vectors[units[0].name]}
    return {unit.name: vectors[unit.name] for unit in units}


def genotype_lines(genotype: AnyGenotype) -> Iterator[str]:
    """A line for each live operation: its inputs, and whether it goes to the output; of mobile, one for each block."""
    if not isinstance(genotype, Genotype):
        for name, live in genotype.blocks.items():
            yield f"block {name}: {' + '.join(live) or 'its shortcut alone'}"
        return
    for name, block in genotype.blocks.items():
        yield f"block {name}: {block.num_connections} of {genotype.topology.num_connections} connections"
        yield from (f"  {_operation_line(genotype.topology, block, node)}" for node in block.live_nodes)
    for stage, operations in enumerate(genotype.reductions, start=1):
        yield f"reduction after stage {stage}: {' + '.join(operations)}"


def _operation_line(topology: BlockTopology, block: BlockGenotype, node: Node) -> str:
    inputs = ", ".join(_name(topology, source) for source in block.connections.get(node, (INPUT,)))
    return f"{_name(topology, node)} <- {inputs}{'; to the output' if node in block.outputs else ''}"


def _name(topology: BlockTopology, node: Node) -> str:
    return "input" if node == INPUT else f"{node[0]}.{node[1]} {topology.operation(node).name}"
