"""`make fuzz`: thousands of hostile inputs for everything that reads a file of the user's, in bounded memory."""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import List

from tests.fuzz.fuzzing import fuzz
from tests.fuzz.targets import targets

# Room for what is loaded already and for the largest file that is read whole, many times over.
MEMORY = 6 << 30


def main() -> int:
    """Print a line for each target; 1 if anything but a one-line refusal came out."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000, help="inputs of each target (default: %(default)s)")
    parser.add_argument("targets", nargs="*", help="which (default: all)")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    failed = False
    with tempfile.TemporaryDirectory() as place:
        for name, target in targets(Path(place) / "examples").items():
            if options.targets and name not in options.targets:
                continue
            answers: List[bool] = []
            began = time.monotonic()
            try:
                fuzz(target, Path(place) / name, options.inputs, answers.append)
                end = "never a traceback"
            except BaseException:
                traceback.print_exc()
                failed, end = True, "FAILED"
            seconds = time.monotonic() - began
            counts = f"{len(answers):>6} inputs, {sum(answers):>5} accepted"
            print(f"{name:<11} {counts}, {seconds:5.0f} s: {end}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
