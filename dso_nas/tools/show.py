"""`python -m dso_nas show`: a genotype file, or a run's folder, in plain text."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Iterator

from dso_nas.architecture.block_genotype import BlockGenotype
from dso_nas.architecture.genotype import Genotype
from dso_nas.architecture.topology import INPUT, BlockTopology, Node
from dso_nas.errors import UserError
from dso_nas.reporting.structure import draw_structure
from dso_nas.training.monitor import read_metrics
from dso_nas.training.workfolder import WorkFolder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The tool's options."""
    parser.add_argument("path", metavar="RUN|FILE", help="a run's folder, or a genotype file")
    parser.add_argument("--draw", metavar="STEM", help="draw the genotype into STEM.svg and STEM.png")


def run(options: argparse.Namespace) -> None:
    """Print what is there."""
    path = Path(options.path)
    if path.is_dir():
        _show_run(path)
        path = path / "search" / "genotype.json"
        if not path.exists():
            return
    genotype = Genotype.load(path)
    print("\n".join(genotype_lines(genotype)))
    if options.draw:
        draw_structure(genotype, options.draw)


def _show_run(path: Path) -> None:
    if not (path / "recipe.yaml").exists():
        raise UserError(f"{path}: is no run's folder, it has no recipe.yaml")
    folder = WorkFolder(path)
    for number, entry in enumerate(folder.runs(), start=1):
        print(f"start {number}:")
        for key, value in entry.items():
            print(f"  {key}: {value}")
    if folder.metrics.exists():
        latest = {(line["stage"], line["name"]): line for line in read_metrics(folder.metrics)}
        for (stage, name), line in latest.items():
            print(f"{stage} epoch {line['epoch'] + 1}: {name} {line['value']:g}")


def genotype_lines(genotype: Genotype) -> Iterator[str]:
    """A line for each live operation: its inputs, and whether it goes to the output."""
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
