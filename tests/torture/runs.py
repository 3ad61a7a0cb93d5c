"""A tiny run of all stages as a process of its own: started, killed at a chosen moment, compared bit for bit."""

from __future__ import annotations

import ctypes
import io
import json
import os
import select
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np
from PIL import Image

from dso_nas.training.checkpoint import CheckpointFolder
from tests.data.builders import image_record

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("pretrain", "search", "retrain")
RECIPE = """
name: tiny
data: {dataset: records, padding: 2}
network: {stem: cifar, blocks: [1, 1, 1], widths: [2, 2, 2], levels: 2, operations: [sep_conv_3x3, avg_pool_3x3]}
memory: {mirroring: block}
pretrain: {epochs: 2, batch_size: 20, learning_rate: 0.1}
search: {epochs: 3, batch_size: 20, learning_rate: 0.1, clip_gradient: 2, gamma: 0.08, prune_every: 1}
retrain: {epochs: 2, batch_size: 40, learning_rate: 0.1, drop_path: 0.3, dropout: 0.2, cutout: 8}
compare: {random_architectures: 0, full_network: false}
checkpoint: {every_steps: 2}
"""
TIMEOUT = 600


def command(folder: Path, *options: str) -> List[str]:
    """What runs all stages in `folder`; the recipe lies beside it."""
    recipe = folder.parent / "tiny.yaml"
    recipe.parent.mkdir(parents=True, exist_ok=True)
    if not recipe.exists():
        recipe.write_text(RECIPE)
        write_images(recipe.parent / "images")
    script = str(ROOT / "train_cifar.py")
    return [sys.executable, script, "all", "--recipe", str(recipe), "--data-dir", str(recipe.parent / "images"),
            "--work-dir", str(folder), *options]


def write_images(folder: Path) -> None:
    """Record files of a few small images, so that a step takes milliseconds."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, count in (("train1", 200), ("train2", 200), ("val", 60)):
        records = [image_record(n % 4, _png(rng.integers(0, 60, (16, 16, 3)) + 60 * (n % 4))) for n in range(count)]
        (folder / f"{name}.rec").write_bytes(b"".join(records))


def _png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def start(folder: Path, *options: str) -> subprocess.Popen:
    """Begin a run, or go on with it where `options` say so; its process."""
    return subprocess.Popen(command(folder, *options), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                            env={**os.environ, "OMP_NUM_THREADS": "1"})


def finish(folder: Path, *options: str) -> str:
    """Run to the end; what it said on stderr.

    Raises:
        RuntimeError: it failed.
    """
    process = start(folder, *options)
    said = process.communicate(timeout=TIMEOUT)[1]
    if process.returncode:
        raise RuntimeError(f"exit status {process.returncode}: {said[-1500:]}")
    return said


class Event(NamedTuple):
    """A file of a run's folder came to be under a temporary name (`written` false) or under its own."""

    stage: str
    name: str
    written: bool


class Watch:
    """The kernel's notices of files made in the stages' folders: they come within microseconds, unlike a poll's."""

    _CREATE, _MOVED_TO = 0x100, 0x80
    _HEAD = struct.Struct("iIII")

    def __init__(self, folder: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.inotify_init1(os.O_NONBLOCK)
        self._stages: Dict[int, str] = {}
        for stage in STAGES:
            (folder / stage).mkdir(parents=True, exist_ok=True)
            path = os.fsencode(folder / stage)
            self._stages[self._libc.inotify_add_watch(self._descriptor, path, self._CREATE | self._MOVED_TO)] = stage

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def events(self, seconds: float) -> Iterator[Event]:
        """What has happened, after waiting for it at most so long."""
        if not select.select([self._descriptor], [], [], seconds)[0]:
            return
        data, place = os.read(self._descriptor, 2**16), 0
        while place < len(data):
            watch, mask, _, length = self._HEAD.unpack_from(data, place)
            place += self._HEAD.size + length
            name = data[place - length : place].rstrip(b"\0").decode()
            yield Event(self._stages[watch], name, bool(mask & self._MOVED_TO))


Moment = Callable[[Event], bool]


def nth(count: int, stage: str, name: str, written: bool) -> Moment:
    """The moment of the `count`th file of a stage whose name holds `name`."""
    left = [count]

    def reached(event: Event) -> bool:
        if event.stage == stage and name in event.name and event.written == written:
            left[0] -= 1
        return left[0] <= 0

    return reached


def stop_at(folder: Path, moment: Moment, how: int = signal.SIGKILL, delay: float = 0.0) -> Tuple[Optional[Event], int]:
    """Start or resume a run and send it the signal `how`, `delay` seconds after `moment`.

    Returns:
        The event at which that was, None if the run had ended before; and the exit status.
    """
    with Watch(folder) as watch:
        process = start(folder, "--resume")
        found = None
        deadline = time.monotonic() + TIMEOUT
        while found is None and process.poll() is None and time.monotonic() < deadline:
            found = next((event for event in watch.events(0.2) if moment(event)), None)
        if found is not None:
            time.sleep(delay)
        process.send_signal(how)
        process.communicate(timeout=TIMEOUT)
    return found, process.returncode


def differences(one: Path, two: Path) -> List[str]:
    """What is not the same, bit for bit, in the folders of two runs that have ended; empty if nothing is."""
    found = [name for name in ("metrics.jsonl", "search/genotype.json", "recipe.yaml", "split.json")
             if (one / name).read_bytes() != (two / name).read_bytes()]
    with np.load(one / "search" / "lambdas.npz") as first, np.load(two / "search" / "lambdas.npz") as second:
        found += [f"lambdas.npz {name}" for name in _unequal(dict(first), dict(second))]
    for stage in STAGES:
        first, second = (CheckpointFolder(folder / stage).latest() for folder in (one, two))
        found += [f"{stage} {name}" for name in _unequal(first.arrays, second.arrays)]
        if _timeless(first.meta) != _timeless(second.meta):
            found.append(f"{stage} meta")
    reports = [json.loads((folder / "report.json").read_text())["summary"] for folder in (one, two)]
    return found + ["report.json"] * (reports[0] != reports[1])


def _unequal(one: Dict[str, np.ndarray], two: Dict[str, np.ndarray]) -> List[str]:
    odd = sorted(one.keys() ^ two.keys())
    return odd + [name for name in sorted(one.keys() & two.keys()) if _bits(one[name]) != _bits(two[name])]


def _bits(array: np.ndarray) -> Tuple[str, Tuple[int, ...], bytes]:
    return array.dtype.str, array.shape, array.tobytes()


def _timeless(meta: Dict[str, object]) -> str:
    """A checkpoint's meta without what the clock decides."""
    position = {key: value for key, value in meta["position"].items() if key != "seconds"}
    return json.dumps({**meta, "position": position}, sort_keys=True)
