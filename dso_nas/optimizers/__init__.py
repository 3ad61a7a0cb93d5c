"""The optimiser of the search (APG-NAG, registered with MXNet as 'apgnag') and the schedules of its rates."""

from __future__ import annotations

from dso_nas.optimizers.apg_nag import APGNAG
from dso_nas.optimizers.schedules import (
    ConstantSchedule,
    CosineSchedule,
    LinearSchedule,
    PolySchedule,
    StepSchedule,
    apg_momentum,
    make_schedule,
)

__all__ = [
    "APGNAG",
    "ConstantSchedule",
    "CosineSchedule",
    "LinearSchedule",
    "PolySchedule",
    "StepSchedule",
    "apg_momentum",
    "make_schedule",
]
