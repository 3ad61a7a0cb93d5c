"""Learning rates and momenta as pure functions of the number of updates made.

A learning-rate schedule is an `mx.lr_scheduler.LRScheduler`: MXNet calls it with `num_update`, 1 at the first
update. The boundaries are those of the published code, whose recorded series the tests hold.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, Callable, Mapping, Sequence, Tuple

import mxnet as mx

from dso_nas.errors import UserError


def apg_momentum(t: int) -> float:
    """Give the momentum mu_(t) = (t - 1) / (t + 2) of accelerated proximal gradient (paper, Eq. 13)."""
    return (t - 1) / (t + 2)


class ConstantSchedule(mx.lr_scheduler.LRScheduler):
    """`base_lr` for ever."""

    def __init__(self, base_lr: float) -> None:
        """Take the rate."""
        super().__init__(base_lr)

    def __call__(self, num_update: int) -> float:
        """Give the rate of update `num_update`."""
        return self.base_lr


class StepSchedule(mx.lr_scheduler.LRScheduler):
    """`base_lr`, times `factor` for every milestone (in epochs) whose last update lies behind."""

    def __init__(
        self, base_lr: float, epoch_size: int, milestones: Sequence[int], factor: float = 0.1
    ) -> None:
        """Take the milestones in epochs and `epoch_size` in updates."""
        super().__init__(base_lr)
        self.epoch_size = epoch_size
        self.milestones = tuple(milestones)
        self.factor = factor

    def __call__(self, num_update: int) -> float:
        """Give the rate of update `num_update`: an epoch's last update still has the epoch's own rate."""
        passed = sum(num_update > milestone * self.epoch_size for milestone in self.milestones)
        return self.base_lr * self.factor**passed


class CosineSchedule(mx.lr_scheduler.LRScheduler):
    """Cosine with warm restarts, constant within an epoch (paper, section 4.1).

    The rate falls from `base_lr` towards `min_lr` over `period` epochs, then starts again from `base_lr` with
    a period `multiplier` times as long.
    """

    def __init__(
        self, base_lr: float, epoch_size: int, period: int, multiplier: int = 2, min_lr: float = 0.0
    ) -> None:
        """Take `period` in epochs and `epoch_size` in updates."""
        super().__init__(base_lr)
        self.epoch_size = epoch_size
        self.period = period
        self.multiplier = multiplier
        self.min_lr = min_lr

    def __call__(self, num_update: int) -> float:
        """Give the rate of update `num_update`: an epoch's last update already has the next epoch's rate."""
        epoch, period = num_update // self.epoch_size, self.period
        while epoch >= period:
            epoch, period = epoch - period, period * self.multiplier
        height = (1 + math.cos(math.pi * epoch / period)) / 2
        return self.min_lr + (self.base_lr - self.min_lr) * height


class _WarmupSchedule(mx.lr_scheduler.LRScheduler):
    """From `warmup_lr` linearly to `base_lr` over `warmup_epochs`; a subclass says what follows."""

    def __init__(
        self, base_lr: float, epoch_size: int, epochs: int, warmup_epochs: int = 0, warmup_lr: float = 0.0
    ) -> None:
        """Take `epochs`, the length of training with the warm-up in it, and `epoch_size` in updates."""
        super().__init__(base_lr)
        self.begin_lr = warmup_lr
        self.warmup = warmup_epochs * epoch_size
        self.total = epochs * epoch_size

    def __call__(self, num_update: int) -> float:
        """Give the rate of update `num_update`."""
        return self._rising(num_update) if num_update < self.warmup else self._falling(num_update)

    def _rising(self, num_update: int) -> float:
        return self.begin_lr + (self.base_lr - self.begin_lr) * num_update / self.warmup

    def _falling(self, num_update: int) -> float:
        raise NotImplementedError


class LinearSchedule(_WarmupSchedule):
    """Warm-up, then linear in the updates, never below zero (paper, section 4.3).

    As published, the fall is `base_lr` over the updates after the warm-up, and starts from the warm-up's last
    rate, which is not quite `base_lr`: zero is reached that much before the end.
    """

    def _falling(self, num_update: int) -> float:
        last = max(self.warmup - 1, 0)
        start = self._rising(last) if self.warmup else self.base_lr
        return max(0.0, start - self.base_lr * (num_update - last) / (self.total - self.warmup))


class PolySchedule(_WarmupSchedule):
    """Warm-up, then `base_lr` times the remaining part of training to the power `power`."""

    def __init__(
        self,
        base_lr: float,
        epoch_size: int,
        epochs: int,
        warmup_epochs: int = 0,
        warmup_lr: float = 0.0,
        power: float = 2.0,
    ) -> None:
        """Take what `LinearSchedule` takes, and the power."""
        super().__init__(base_lr, epoch_size, epochs, warmup_epochs, warmup_lr)
        self.power = power

    def _falling(self, num_update: int) -> float:
        left = (self.total - num_update) / (self.total - self.warmup)
        return self.base_lr * max(0.0, left) ** self.power


def _number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_Check = Tuple[Callable[[Any], bool], str]
_NOT_NEGATIVE: _Check = (lambda value: _number(value) and value >= 0, "a number, zero or more")
_POSITIVE: _Check = (lambda value: _number(value) and value > 0, "a number above zero")
_EPOCHS: _Check = (lambda value: _count(value) and value >= 1, "a whole number, one or more")
_WARMUP: _Check = (lambda value: _count(value) and value >= 0, "a whole number, zero or more")
_MILESTONES: _Check = (
    lambda value: isinstance(value, (list, tuple)) and all(_count(v) and v >= 1 for v in value),
    "a list of whole numbers, one or more each",
)

_KINDS: dict[str, tuple[type, dict[str, _Check], tuple[str, ...]]] = {
    "constant": (ConstantSchedule, {}, ()),
    "step": (StepSchedule, {"milestones": _MILESTONES, "factor": _POSITIVE}, ("milestones",)),
    "cosine": (
        CosineSchedule,
        {"period": _EPOCHS, "multiplier": _EPOCHS, "min_lr": _NOT_NEGATIVE},
        ("period",),
    ),
    "linear": (LinearSchedule, {"warmup_epochs": _WARMUP, "warmup_lr": _NOT_NEGATIVE}, ()),
    "poly": (
        PolySchedule,
        {"warmup_epochs": _WARMUP, "warmup_lr": _NOT_NEGATIVE, "power": _POSITIVE},
        (),
    ),
}


def make_schedule(
    config: Mapping[str, Any], base_lr: float, epoch_size: int, epochs: int
) -> mx.lr_scheduler.LRScheduler:
    """Build the schedule that a recipe describes.

    `config` holds `kind` and the keys of that kind: 'constant' has none, 'step' `milestones` and `factor`,
    'cosine' `period`, `multiplier` and `min_lr`, 'linear' `warmup_epochs` and `warmup_lr`, 'poly' these two
    and `power`. Periods, milestones and warm-up are in epochs. `base_lr` is the highest rate, `epoch_size`
    counts the updates of an epoch, `epochs` is the length of training. Anything else in `config` raises
    `UserError`.
    """
    kind = config.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise UserError(f"schedule: kind {kind!r} is none of {', '.join(_KINDS)}")
    schedule, checks, required = _KINDS[kind]
    options = {key: value for key, value in config.items() if key != "kind"}
    _check_options(kind, options, checks, required)
    if options.get("warmup_epochs", 0) >= epochs:
        raise UserError(f"schedule: warmup_epochs must be below the {epochs} epochs of training")
    for key in ("min_lr", "warmup_lr"):
        if options.get(key, 0) > base_lr:
            raise UserError(f"schedule: {key} must not be above the learning rate {base_lr:g}")
    if kind in ("linear", "poly"):
        options["epochs"] = epochs
    if kind != "constant":
        options["epoch_size"] = epoch_size
    return schedule(base_lr=base_lr, **options)


def _check_options(
    kind: str, options: Mapping[str, Any], checks: Mapping[str, _Check], required: Sequence[str]
) -> None:
    for key, value in options.items():
        if key not in checks:
            allowed = ", ".join(checks) or "none"
            raise UserError(f"schedule: kind '{kind}' has no key {key!r}; its keys: {allowed}")
        holds, allowed = checks[key]
        if not holds(value):
            raise UserError(f"schedule: {key} must be {allowed}, not {value!r}")
    for key in required:
        if key not in options:
            raise UserError(f"schedule: kind '{kind}' needs the key '{key}'")
