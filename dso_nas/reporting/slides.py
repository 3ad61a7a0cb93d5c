"""The states that a search went through, as the report's slider shows them: blocks, and rows of operations."""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, List, Mapping, Optional, Tuple

import numpy as np

from dso_nas.architecture.lambdas import LambdaLayout
from dso_nas.architecture.topology import REDUCTION_OPERATIONS, BlockTopology, NetworkSpec
from dso_nas.reporting.run_files import lambda_history


@dataclasses.dataclass(frozen=True)
class Row:
    """Lambdas that are one operation each: `values` is (epochs + 1, operations), its first row before the search."""

    title: str
    operations: Tuple[str, ...]
    values: np.ndarray


@dataclasses.dataclass(frozen=True)
class Slides:
    """A search by epoch; epoch 0 is before the first.

    `blocks` has packed lambda vectors (epochs + 1, num_connections) under the blocks' titles, all of `topology`;
    `rows` are what else there is. Without completely connected blocks, `topology` is None and all are rows.
    """

    epochs: int
    topology: Optional[BlockTopology]
    blocks: Mapping[str, np.ndarray]
    rows: Tuple[Row, ...]

    def live(self) -> np.ndarray:
        """Live lambdas by epoch, blocks' and rows' together, each counted once: (epochs + 1,)."""
        arrays = [*self.blocks.values(), *(row.values for row in self.rows)]
        return sum(((array > 0).sum(axis=1) for array in arrays), np.zeros(self.epochs + 1, int))


def make_slides(lambdas: Mapping[str, np.ndarray], layout: Optional[LambdaLayout]) -> Optional[Slides]:
    """The slides of a run's lambdas (`RunFiles.lambdas`, `RunFiles.layout`); None before the first epoch's end."""
    history = [values for _, values in lambda_history(lambdas)]
    if not history:
        return None
    if layout is None:
        rows = [Row(name, _numbers(array.shape[1]), _over(history, name)) for name, array in lambdas.items()]
        return Slides(len(history) - 1, None, {}, tuple(rows))
    units = [layout.to_units(values) for values in history]
    if not isinstance(layout.spec, NetworkSpec):
        rows = [Row(_title(unit), layout.spec.operations, _over(units, unit.name)) for unit in layout.spec.units()]
        return Slides(len(history) - 1, None, {}, tuple(rows))
    blocks = {name: _over(units, unit) for name, unit in _blocks(layout).items()}
    reductions = [Row(f"reduction after stage {unit.stage}", REDUCTION_OPERATIONS, _over(units, unit.name))
                  for unit in layout.spec.reduction_units()]
    return Slides(len(history) - 1, layout.spec.topology, blocks, tuple(reductions))


def _blocks(layout: LambdaLayout) -> Dict[str, str]:
    """A unit for every block that has lambdas of its own, by the block's title."""
    units = layout.spec.block_units()
    if layout.scope == "share":
        return {"the block, the same everywhere": units[0].name}
    return {_title(unit): unit.name for unit in units}


def _title(unit: Any) -> str:
    return f"stage {unit.stage}, block {unit.unit}"


def _over(history: List[Dict[str, Any]], name: str) -> np.ndarray:
    return np.stack([np.ravel(values[name]) for values in history])


def _numbers(count: int) -> Tuple[str, ...]:
    return tuple(f"operation {place}" for place in range(1, count + 1))
