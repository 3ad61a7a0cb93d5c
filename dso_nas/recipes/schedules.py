"""The keys of a recipe's `schedule`, of the kind that its key `kind` names: how the learning rate goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple, Union

from dso_nas.recipes.network import Conflicts
from dso_nas.recipes.rules import Section, choice, integer, key, listing, number, optional

EPOCHS = integer(1, 100_000)
_WARMUP = integer(0, 100_000)


@dataclass(frozen=True)
class ConstantSchedule(Section):
    """The learning rate as it stands."""

    kind: str = key(choice("constant"), "the schedule's name", "constant")


@dataclass(frozen=True)
class StepSchedule(Section):
    """The learning rate times `factor` after each of some epochs."""

    kind: str = key(choice("step"), "the schedule's name")
    milestones: Tuple[int, ...] = key(
        listing(EPOCHS, 1, 1000, distinct=True), "epochs after which the rate changes"
    )
    factor: float = key(number(0, 1, above=True, below=True), "what the rate is multiplied by", 0.1)

    def conflicts(self) -> Conflicts:
        """Epochs that go back."""
        if list(self.milestones) != sorted(self.milestones):
            yield "milestones", "must grow from each to the next"


@dataclass(frozen=True)
class CosineSchedule(Section):
    """From the learning rate down to `min_lr` along half a cosine, again and again (SGDR)."""

    kind: str = key(choice("cosine"), "the schedule's name")
    min_lr: float = key(number(), "the rate at the end of a period", 0.0)
    period: int = key(optional(EPOCHS), "epochs of the first period; null: all, without a restart", None)
    multiplier: int = key(integer(1, 100), "how many times longer each period is than the one before", 1)


@dataclass(frozen=True)
class LinearSchedule(Section):
    """From `warmup_lr` up to the learning rate, then down to zero, both linearly."""

    kind: str = key(choice("linear"), "the schedule's name")
    warmup_epochs: int = key(_WARMUP, "epochs of the way up", 0)
    warmup_lr: float = key(number(), "the rate at which the way up starts", 0.0)


@dataclass(frozen=True)
class PolySchedule(Section):
    """From `warmup_lr` up to the learning rate linearly, then to zero as a power of the share of training left."""

    kind: str = key(choice("poly"), "the schedule's name")
    power: float = key(number(above=True), "the power", 2.0)
    warmup_epochs: int = key(_WARMUP, "epochs of the way up", 0)
    warmup_lr: float = key(number(), "the rate at which the way up starts", 0.0)


Schedule = Union[ConstantSchedule, StepSchedule, CosineSchedule, LinearSchedule, PolySchedule]
SCHEDULES = {
    "constant": ConstantSchedule,
    "step": StepSchedule,
    "cosine": CosineSchedule,
    "linear": LinearSchedule,
    "poly": PolySchedule,
}
