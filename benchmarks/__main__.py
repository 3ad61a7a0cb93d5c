"""`python -m benchmarks [--quick]`: measure, print the tables, write benchmarks/results.json."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple, TypeVar

import numpy as np

from benchmarks.cases import CASES, DEPTHS, LIVE, SIZES, WARM_UP, WAYS, environment, timing
from benchmarks.tables import tables

RESULTS = Path(__file__).with_name("results.json")
OUTPUT_TOLERANCE, GRADIENT_TOLERANCE = 1e-4, 1e-2
Name = TypeVar("Name")


def command(task: str, **options: Any) -> List[str]:
    """What runs one task of `benchmarks.worker`."""
    return [sys.executable, "-m", "benchmarks.worker", task, json.dumps(options)]


def measure(task: str, published: bool = False, exact: bool = False, **options: Any) -> Dict[str, Any]:
    """Run one task of `benchmarks.worker` in a fresh process.

    Raises:
        RuntimeError: it failed; the message is the end of what it wrote.
    """
    print(f"{task} {' '.join(str(value) for value in options.values())}", file=sys.stderr, flush=True)
    done = subprocess.run(command(task, **options), env=environment(published, exact), capture_output=True, text=True,
                          check=False)
    if done.returncode:
        raise RuntimeError(f"{task} {options}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Euclidean distance relative to the length of `theirs`."""
    length = np.linalg.norm(theirs)
    return float(np.linalg.norm(ours - theirs) / length) if length > 1e-6 else float(np.linalg.norm(ours - theirs))


def agreement(case: str) -> Dict[str, float]:
    """How far our outputs and gradients are from the literal graph's; 'worst' is the worst single parameter's.

    The tolerance is on the whole gradient: what is left of a parameter's that nearly cancels is rounding.

    Raises:
        RuntimeError: further than the tolerance.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for way in ("plain", "literal"):
            measure("gradients", case=case, way=way, path=f"{folder}/{way}.npz")
            with np.load(f"{folder}/{way}.npz") as arrays:
                found.append(dict(arrays))
    ours, theirs = found
    outputs = difference(ours.pop("outputs"), theirs.pop("outputs"))
    worst = max(difference(ours[name], theirs[name]) for name in theirs)
    whole = [np.concatenate([arrays[name].ravel() for name in theirs]) for arrays in found]
    gradients = difference(*whole)
    if outputs > OUTPUT_TOLERANCE or gradients > GRADIENT_TOLERANCE:
        raise RuntimeError(f"{case}: outputs differ by {outputs:.1e}, gradients by {gradients:.1e}")
    return {"outputs": outputs, "gradients": gradients, "worst": worst}


def medians(found: Sequence[Mapping[str, float]]) -> Dict[str, float]:
    """Of each figure the median over several processes."""
    return {name: float(np.median([one[name] for one in found])) for name in found[0]}


def in_turn(jobs: Mapping[Name, Tuple[int, Callable[[], Dict[str, float]]]]) -> Dict[Name, Dict[str, float]]:
    """Each job as often as it says, one after the other and then all again; medians of what they give, by name."""
    found: Dict[Name, List[Dict[str, float]]] = {name: [] for name in jobs}
    for turn in range(max(times for times, _ in jobs.values())):
        for name, (times, job) in jobs.items():
            if turn < times:
                found[name].append(job())
    return {name: medians(several) for name, several in found.items()}


def speeds(case: str, runs: Mapping[str, Tuple[str, bool]], quick: bool) -> Dict[str, Dict[str, float]]:
    """Seconds of a step by run: each is a way and whether the process is left as MXNet finds it; they take turns."""
    jobs = {}
    for name, (way, published) in runs.items():
        times = timing(case, way, quick)
        jobs[name] = times.processes, partial(measure, "speed", published, case=case, way=way, warm_up=times.warm_up,
                                              repetitions=times.repetitions)
    return in_turn(jobs)


def compare(case: str, quick: bool) -> Dict[str, Any]:
    """One size: agreement, and every way's speed and memory."""
    # The literal graph is run as published, in a process whose settings are left as they are.
    runs = {way: (way, way == "literal") for way in WAYS}
    if case in ("demo", "cifar"):
        runs.update({"literal, our settings": ("literal", False), "plain, default settings": ("plain", True)})
    result: Dict[str, Any] = {"title": CASES[case].title, "batch": CASES[case].batch, "agreement": agreement(case),
                              **speeds(case, runs, quick)}
    for way in WAYS:
        result[way].update(measure("memory", way == "literal", True, case=case, way=way))
        result[way].update(measure("planned", way == "literal", case=case, way=way))
    return result


def machine() -> Dict[str, Any]:
    """Where and with what the numbers were taken."""
    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.processor())
    versions = {name: metadata.version(name) for name in ("mxnet", "numpy")}
    return {"cpu": cpu, "cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version(),
            **versions, "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "load_before": os.getloadavg()[0]}


def run(sizes: List[str], quick: bool) -> Dict[str, Any]:
    """Everything, as it is written to `results.json`."""
    results: Dict[str, Any] = {"machine": machine(), "limits": measure("limits", case="block")}
    results["sizes"] = {case: compare(case, quick) for case in sizes}
    results["live"] = live("demo" if quick else "cifar", 1 if quick else 2)
    results["depth"] = {blocks: depth(f"depth{blocks}", quick) for blocks in DEPTHS}
    return results


def live(case: str, turns: int) -> Dict[int, Dict[str, float]]:
    """Speed by the share of connections left, and the seconds of a rebuild."""
    return in_turn({percent: (turns, partial(measure, "live", case=case, percent=percent, warm_up=WARM_UP,
                                             repetitions=2)) for percent in LIVE})


def depth(case: str, quick: bool) -> Dict[str, Any]:
    """Memory and speed of a chain of equal blocks; 'ratio' is mirrored to plain."""
    ways = ("plain", "mirrored")
    seconds = by_turns(case, ways, 1 if quick else 25)
    pairs = zip(*(seconds[way] for way in ways))
    return {"ratio": float(np.median([mirrored / plain for plain, mirrored in pairs])),
            **{way: {**measure("memory", exact=True, case=case, way=way), "weights": float(np.median(seconds[way]))}
               for way in ways}}


def by_turns(case: str, ways: Sequence[str], rounds: int) -> Dict[str, List[float]]:
    """Seconds of weight steps by way, each in a process of its own; the processes make one step each in every round.

    So the machine's slow minutes slow all of them down.
    """
    print(f"steps {case} {' '.join(ways)}", file=sys.stderr, flush=True)
    with contextlib.ExitStack() as stack:
        processes = {}
        for way in ways:
            processes[way] = stack.enter_context(subprocess.Popen(
                command("steps", case=case, way=way, warm_up=WARM_UP), env=environment(False, False), text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL))
        found: Dict[str, List[float]] = {way: [] for way in ways}
        # The first round does not count: a process may still make its first steps while the other one is timed.
        for counts in [False] + [True] * rounds:
            for way, process in processes.items():
                process.stdin.write("step\n")
                process.stdin.flush()
                seconds = float(process.stdout.readline())
                found[way] += [seconds] * counts
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the two small sizes, one repetition, nothing written")
    arguments = parser.parse_args()
    results = run(["block", "demo"] if arguments.quick else list(SIZES), arguments.quick)
    print(tables(results))
    if not arguments.quick:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
