"""Names and shapes of lambda parameters in the published code's three layouts, and one view of them."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Tuple

import numpy as np

from dso_nas.architecture.topology import AFTER, REDUCTION_OPERATIONS, Key, NetworkSpec, Unit
from dso_nas.errors import UserError

SCOPES = ("share", "full")
PACKED = "packed"
REDUCTION = "reduction"


class LambdaLayout:
    """Which lambda parameters a network has.

    Scope 'share' has one set for all blocks, 'full' one per block, and 'full' with `packed` one vector of
    shape (1, num_connections) per block, as the published adaptive-FLOPs code keeps it. Every reduction has
    a vector of two of its own.

    Raises:
        UserError: unknown scope, or `packed` with scope 'share'.
    """

    def __init__(self, spec: NetworkSpec, scope: str, packed: bool = False) -> None:
        if scope not in SCOPES:
            raise UserError(f"scope: unknown {scope!r}, allowed are {', '.join(SCOPES)}")
        if packed and scope == "share":
            raise UserError("scope: packed lambdas exist in scope 'full' only")
        self.spec = spec
        self.scope = scope
        self.packed = packed

    def shapes(self) -> Dict[str, Tuple[int, int]]:
        """Shape (1, k) of every lambda parameter by name, in forward order."""
        return {
            name: (1, self._size(key))
            for unit in self.spec.units()
            for key, name in self.names_of(unit).items()
        }

    def names_of(self, unit: Unit) -> Dict[Key, str]:
        """Names of a unit's lambda parameters, by `BlockTopology` key or by 'packed' or 'reduction'."""
        if unit.kind == "reduction":
            return {REDUCTION: f"lambda_{unit.name}"}
        if self.packed:
            return {PACKED: f"lambda_{unit.name}"}
        infix, suffix = ("", "") if self.scope == "share" else (f"{unit.name}_", f"_{unit.name}")
        return {
            key: f"lambda_after{suffix}" if key == AFTER else f"lambda_{infix}layer_{key[0]}_{key[1]}"
            for key in self.spec.topology.keys()
        }

    def to_units(self, values: Mapping[str, Any]) -> Dict[str, np.ndarray]:
        """One vector per unit by its name: packed (num_connections,) for a block, (2,) for a reduction.

        In scope 'share' every block gets the same vector. Names that are no lambda of this layout are
        skipped.

        Raises:
            UserError: a parameter is missing or has the wrong number of entries.
        """
        return {unit.name: self._unit_vector(unit, values) for unit in self.spec.units()}

    def from_units(self, vectors: Mapping[str, Any]) -> Dict[str, np.ndarray]:
        """Parameters by name, float32 of shape (1, k), from one vector per unit: the inverse of `to_units`.

        Raises:
            UserError: a unit is missing, a vector has the wrong length, or blocks differ in scope 'share'.
        """
        values: Dict[str, np.ndarray] = {}
        for unit in self.spec.units():
            for name, part in self._parameters(unit, vectors).items():
                if name in values and not np.array_equal(values[name], part):
                    raise UserError(f"{unit.name}: lambdas differ from the first block's in scope 'share'")
                values[name] = part
        return values

    def _size(self, key: Key) -> int:
        if key == REDUCTION:
            return len(REDUCTION_OPERATIONS)
        return self.spec.topology.num_connections if key == PACKED else self.spec.topology.size(key)

    def _unit_vector(self, unit: Unit, values: Mapping[str, Any]) -> np.ndarray:
        names = self.names_of(unit)
        parts = {key: self._entries(name, values, self._size(key)) for key, name in names.items()}
        if PACKED in parts or REDUCTION in parts:
            return next(iter(parts.values()))
        return self.spec.topology.pack(parts)

    def _parameters(self, unit: Unit, vectors: Mapping[str, Any]) -> Dict[str, np.ndarray]:
        names = self.names_of(unit)
        whole = REDUCTION if unit.kind == "reduction" else PACKED
        vector = self._entries(unit.name, vectors, self._size(whole)).astype(np.float32)
        parts: Mapping[Key, np.ndarray] = {whole: vector} if whole in names else self.spec.topology.unpack(vector)
        return {name: parts[key].reshape(1, -1) for key, name in names.items()}

    @staticmethod
    def _entries(name: str, values: Mapping[str, Any], size: int) -> np.ndarray:
        if name not in values:
            raise UserError(f"{name}: missing; the lambdas must be of this scope and network")
        entries = np.asarray(values[name]).reshape(-1)
        if entries.size != size:
            raise UserError(f"{name}: {entries.size} entries where the search space has {size}")
        return entries
