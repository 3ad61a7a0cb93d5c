"""Measurements of the supernet on this machine: `python -m benchmarks` (see docs/performance.md)."""

import dso_nas  # noqa: F401  (prepares the process before MXNet is imported)
