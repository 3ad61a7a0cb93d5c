"""What a run's folder holds, for those who only look: nothing is written, and what is not there yet is absent.

What the values mean, or how they are shown, does not belong here.
"""

from __future__ import annotations

import functools
import json
import math
import zipfile
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

import numpy as np

from dso_nas.architecture.genotypes import AnyGenotype, load_genotype
from dso_nas.architecture.lambdas import LambdaLayout
from dso_nas.architecture.spaces import NormalSpace, space_of
from dso_nas.errors import UserError
from dso_nas.recipes import Recipe, load_recipe
from dso_nas.reporting.report_schema import check_report
from dso_nas.training.monitor import METRICS, Metric, read_metrics

# A lambda for every connection of 24 blocks over a thousand epochs is 12 MB.
MAX_BYTES = 256 << 20


class RunFiles:
    """A run's folder.

    Every property raises `UserError`, naming the file, when its file is there and is not what it should be.

    Raises:
        UserError: it is no run's folder.
    """

    def __init__(self, path: Union[str, Path]) -> None:
        self.path = Path(path)
        if not any((self.path / name).is_file() for name in ("recipe.yaml", METRICS)):
            raise UserError(f"{path}: is no run's folder, it has no recipe.yaml; give the --work-dir of a run")

    @functools.cached_property
    def recipe(self) -> Recipe:
        """The resolved recipe."""
        return load_recipe(self.path / "recipe.yaml")

    @functools.cached_property
    def starts(self) -> List[Dict[str, Any]]:
        """What the run was started on, an entry a start, oldest first."""
        content = self._json("run.json")
        if content is None:
            return []
        if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
            raise UserError(f"{self.path / 'run.json'}: is not a list of starts; move it away")
        return content

    @functools.cached_property
    def metrics(self) -> List[Metric]:
        """The lines of metrics.jsonl."""
        path = self.path / METRICS
        return read_metrics(path) if path.exists() else []

    @functools.cached_property
    def report(self) -> Optional[Dict[str, Any]]:
        """The content of report.json."""
        content = self._json("report.json")
        if content is not None:
            try:
                check_report(content)
            except UserError as error:
                raise UserError(f"{self.path / 'report.json'}: {error}; move it away") from None
        return content

    @functools.cached_property
    def genotype(self) -> Optional[AnyGenotype]:
        """The architecture found."""
        path = self.path / "search" / "genotype.json"
        return load_genotype(str(path)) if path.exists() else None

    @functools.cached_property
    def lambdas(self) -> Dict[str, np.ndarray]:
        """The lambdas at every epoch's end of the search: float (epochs, entries) by parameter, in forward order."""
        path = self.path / "search" / "lambdas.npz"
        return read_lambdas(path) if path.exists() else {}

    @functools.cached_property
    def space(self) -> NormalSpace:
        """The search space; its images and classes are the data's only where the recipe says which."""
        return space_of(self.recipe)

    @functools.cached_property
    def layout(self) -> Optional[LambdaLayout]:
        """How the lambdas lie in blocks; None where those in the file are not the recipe's."""
        layout = self.space.layout
        found = {name: array.shape[1:] for name, array in self.lambdas.items()}
        return layout if {name: shape[1:] for name, shape in layout.shapes().items()} == found else None

    def _json(self, name: str) -> Any:
        path = self.path / name
        try:
            if not path.exists():
                return None
            if path.stat().st_size > MAX_BYTES:
                raise UserError(f"{path}: larger than {MAX_BYTES >> 20} MB, no run writes that; move it away")
            return json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror or error}; allow it") from None
        except (ValueError, RecursionError):
            raise UserError(f"{path}: is not JSON; move it away") from None


def read_lambdas(path: Union[str, Path]) -> Dict[str, np.ndarray]:
    """A search's `lambdas.npz`: finite numbers (epochs, entries) by parameter, as many epochs each.

    Raises:
        UserError: the file cannot be read or holds something else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(_array_bytes(archive, member) for member in archive.infolist()) > MAX_BYTES:
                raise UserError(f"{path}: holds more than {MAX_BYTES >> 20} MB, no search does; move it away")
        with np.load(str(path), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UserError:
        raise
    except Exception:  # Damaged headers bring nearly every exception out of NumPy's reader.
        raise UserError(f"{path}: is damaged; `search --resume` writes it anew") from None
    epochs = {array.shape[0] if array.ndim == 2 else -1 for array in arrays.values()}
    if len(epochs) > 1 or -1 in epochs or not all(_is_finite(array) for array in arrays.values()):
        raise UserError(f"{path}: is not a search's lambdas by epoch; `search --resume` writes it anew")
    return {name: array.astype(np.float64) for name, array in arrays.items()} if epochs != {0} else {}


def _array_bytes(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
    """Bytes that an array would take in memory, or that it takes in the file if they are more."""
    with archive.open(member) as stream:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError("not an array as NumPy writes small ones")
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    return max(member.file_size, math.prod(shape) * dtype.itemsize)


def _is_finite(array: np.ndarray) -> bool:
    return array.dtype.kind == "f" and bool(np.isfinite(array).all())


def lambda_history(lambdas: Mapping[str, np.ndarray]) -> List[Tuple[int, Dict[str, np.ndarray]]]:
    """Arrays (epochs, entries) as pairs (epoch from 1, entries by parameter); epoch 0 is before the search, all one."""
    epochs = len(next(iter(lambdas.values()))) if lambdas else -1
    before = {name: np.ones_like(array[0]) for name, array in lambdas.items()}
    return [(epoch, {name: array[epoch - 1] for name, array in lambdas.items()} if epoch else before)
            for epoch in range(epochs + 1)]


def last_values(metrics: List[Metric]) -> Dict[Tuple[str, str], Metric]:
    """The last line of every value, by (stage, name), in the order they first came."""
    return {(line["stage"], line["name"]): line for line in metrics}
