"""The tools around a search: `python -m dso_nas TOOL`. Each is a pair `add_arguments(parser)`, `run(options)`."""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import NamedTuple, Optional, Sequence


class Tool(NamedTuple):
    """A tool's module, imported only when it is called, and what it does."""

    module: str
    summary: str


TOOLS = {
    "show": Tool("dso_nas.tools.show", "what a run's folder or a genotype file holds"),
    "diff": Tool("dso_nas.tools.diff", "what differs between two genotypes, two runs or two recipes"),
    "doctor": Tool("dso_nas.tools.doctor", "whether this machine can run a recipe, and what to do if not"),
    "prepare": Tool("dso_nas.tools.prepare", "record files out of a folder of images, ImageNet's archives or CIFAR-10"),
    "cost": Tool("dso_nas.tools.cost", "parameters, multiply-adds and memory access of a genotype or a recipe"),
    "latency": Tool("dso_nas.tools.latency", "measured latency of genotypes, and the table of operations for a search"),
    "launch": Tool("dso_nas.tools.launch", "a command on several workers, on this machine or on many, watched"),
    "export": Tool("dso_nas.tools.export", "a trained network for MXNet without this package, or as ONNX"),
    "convert": Tool("symbols.checkpoints", "a checkpoint of the published code to ours, or back"),
    "compare": Tool("symbols.comparison", "a published checkpoint's own symbol against our network, number for number"),
}


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Carry out a command line; exit status 2 after bad input."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="python -m dso_nas", formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"  {name:<9} {tool.summary}" for name, tool in TOOLS.items()))
    parser.add_argument("tool", choices=TOOLS, metavar="TOOL", help=", ".join(TOOLS))
    name = parser.parse_args(words[:1]).tool
    module = importlib.import_module(TOOLS[name].module)
    own = argparse.ArgumentParser(prog=f"python -m dso_nas {name}", description=TOOLS[name].summary)
    module.add_arguments(own)
    options = own.parse_args(words[1:])
    if name == "doctor":
        # It runs where what is below cannot be imported, and its status is what it found.
        return module.run(options)
    from dso_nas.cli import report_errors

    return report_errors(lambda: module.run(options))


if __name__ == "__main__":
    sys.exit(main())
