"""Measurements of the supernet on this machine: `python -m benchmarks` (see docs/performance.md)."""
