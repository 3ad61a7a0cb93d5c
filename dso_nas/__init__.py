"""Direct sparse optimisation NAS (DSO-NAS) on MXNet.

Import this package before MXNet, or instead of it: importing it prepares the process so that MXNet computes
right gradients and finds its CUDA libraries (`dso_nas.environment`). It does not import MXNet itself.
"""

from __future__ import annotations

from dso_nas.environment import prepare

__version__ = "0.1.0"

prepare()
