"""The folder of a run: where each file lies, files whole or absent, one run at a time, what it ran on.

What the files mean does not belong here: the stages and the reports know.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Set, Union

import numpy as np

from dso_nas import __version__, machine
from dso_nas.errors import UserError
from dso_nas.files import cannot, write_durably
from dso_nas.recipes import Recipe

_STAGES = ("pretrain", "search", "retrain")
_DISTRIBUTIONS = ("numpy", "mxnet", "mxnet-cu112", "gluoncv")
_VARIABLES = tuple(
    "MXNET_ NNVM_ DSO_NAS_ DMLC_ PS_ NCCL_ CUDA_ CUDNN_ NVIDIA_ OMP_ KMP_ GOMP_ MKL_ DNNL_ ONEDNN_ OPENBLAS_ OPENCV_ "
    "LD_ PYTHONHASHSEED PYTHONPATH".split()
)

_held: Set[int] = set()


def _let_go_in_child() -> None:
    """A lock belongs to all processes that have its file open; a worker may outlive the run."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go_in_child)


class WorkFolder:
    """A run's folder, made if need be, with the paths of what lies in it.

    Attributes:
        path: the folder itself.
        pretrain, search, retrain: the stages' folders; they exist.
        recipe: the resolved recipe (YAML).
        genotype: the architecture found, in `search`.
        metrics: values by epoch and step, one JSON object a line (`dso_nas.training.monitor`).
        report_json, report_md: the comparison at the end.
        run: what the run ran on (`record_run`).
    """

    def __init__(self, path: Union[str, Path]) -> None:
        """Make the folder and those of the stages.

        Raises:
            UserError: it is no folder, or nothing can be written into it.
        """
        self.path = Path(path)
        self.pretrain, self.search, self.retrain = (self.path / stage for stage in _STAGES)
        self.recipe = self.path / "recipe.yaml"
        self._recipe: Optional[Recipe] = None
        self.genotype = self.search / "genotype.json"
        self.metrics = self.path / "metrics.jsonl"
        self.report_json = self.path / "report.json"
        self.report_md = self.path / "report.md"
        self.run = self.path / "run.json"
        try:
            for folder in (self.pretrain, self.search, self.retrain):
                folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise cannot(self.path, "be used as the work folder", error) from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other runs out while the block runs. The lock ends with the process, however that ends.

        Raises:
            UserError: another run, which the line names, is using the folder.
        """
        descriptor = self._acquire()
        _held.add(descriptor)
        try:
            yield
        finally:
            if descriptor in _held:
                _held.remove(descriptor)
                os.close(descriptor)

    def _acquire(self) -> int:
        path = self.path / ".lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise cannot(path, "be locked", error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        except OSError as error:
            owner = os.pread(descriptor, 300, 0).decode(errors="replace")
            os.close(descriptor)
            if not isinstance(error, BlockingIOError):
                raise cannot(path, "be locked", error) from error
            raise UserError(
                f"{self.path}: another run is using this folder ({owner or 'it is just starting'}); wait "
                "until it ends, or choose another --work-dir"
            ) from None
        return descriptor

    def write_text(self, name: str, text: str) -> Path:
        """Write `text` to the file `name` (relative to the folder), whole or not at all; returns its path.

        Raises:
            UserError: it cannot be written.
        """
        path = self.path / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot(path, "be written", error) from error
        write_durably(path, [text.encode("utf-8")])
        return path

    def write_json(self, name: str, content: Any) -> Path:
        """Write `content` as indented JSON, like `write_text`.

        Raises:
            UserError: it cannot be written.
            ValueError: a number in it is not finite: JSON has none such.
        """
        return self.write_text(name, json.dumps(content, indent=2, allow_nan=False) + "\n")

    def write_arrays(self, name: str, arrays: Mapping[str, np.ndarray]) -> Path:
        """Write arrays as an `.npz` file, like `write_text`.

        Raises:
            UserError: it cannot be written.
        """
        stream = io.BytesIO()
        np.savez_compressed(stream, **arrays)
        path = self.path / name
        write_durably(path, [stream.getvalue()])
        return path

    def announce_recipe(self, recipe: Recipe) -> None:
        """Note a run's resolved recipe: it is written when training begins, so that a refused run keeps the old one."""
        self._recipe = recipe

    def keep_recipe(self) -> None:
        """Write the announced recipe, if there is one.

        Raises:
            UserError: the file cannot be written.
        """
        if self._recipe is not None:
            self._recipe.save(self.recipe)

    def record_run(self) -> None:
        """Add `describe_environment()` to `run.json`, a list with an entry for every start in this folder.

        Raises:
            UserError: the file holds something else, or cannot be written.
        """
        self.write_json(self.run.name, [*self.runs(), describe_environment()])

    def runs(self) -> List[Dict[str, Any]]:
        """The entries of `run.json`, oldest first; none if there is no such file.

        Raises:
            UserError: the file cannot be read or holds something else.
        """
        try:
            content = json.loads(self.run.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise cannot(self.run, "be read", error) from error
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
            raise UserError(f"{self.run}: is not a list of runs; move it away")
        return content


def describe_environment() -> Dict[str, Any]:
    """What it takes to repeat this process, as JSON values: versions, commit, machine, command, environment.

    MXNet is not imported; a distribution that is not installed has the version None. Only variables that
    change what is computed, or where, are kept.
    """
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": list(getattr(sys, "orig_argv", None) or [sys.executable, *sys.argv]),
        "folder": os.getcwd(),
        "versions": {
            "python": platform.python_version(),
            "dso_nas": __version__,
            **{name: _version(name) for name in _DISTRIBUTIONS},
        },
        "commit": _commit(Path(__file__).resolve().parents[2]),
        "machine": {
            "name": platform.node(),
            "system": platform.platform(),
            "processor": _processor(),
            "processors": os.cpu_count(),
            "processors_usable": len(os.sched_getaffinity(0)),
            "memory_mb": machine.memory_mb(),
            "gpus": machine.gpu_names(),
        },
        "environment": {
            key: value for key, value in sorted(os.environ.items()) if key.startswith(_VARIABLES)
        },
    }


def _version(distribution: str) -> Optional[str]:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _commit(checkout: Path) -> Optional[str]:
    """The checkout's commit, then '-dirty' if files differ; None outside of a checkout or without git."""
    if shutil.which("git") is None or not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None


def _processor() -> str:
    """The processor's model: oneDNN chooses its kernels by it, and with them the last bits of a result."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
