"""The Symbol-API face of the networks: the published names, checkpoints, and comparison with them."""

from __future__ import annotations

import dso_nas  # noqa: F401  (prepares the process before MXNet is imported)
import dso_nas.optimizers  # noqa: F401  (registers 'apgnag' for Module)
from symbols.networks import NAMES, get_symbol

__all__ = ["NAMES", "get_symbol"]
