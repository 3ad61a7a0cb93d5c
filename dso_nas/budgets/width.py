"""The global width multiplier that brings a network to a budget (paper, section 4.1)."""

from __future__ import annotations

from typing import Any, Callable, Dict, Protocol, Tuple, TypeVar

from dso_nas.errors import UserError

# What a network of a macro-structure and a genotype costs; it grows with the widths.
CostOf = Callable[[Any, Any], float]
Spec = TypeVar("Spec", bound="Scalable")

LARGEST = 64.0
# The widest stage a recipe may have, 65,536 channels, is one channel wide at this.
SMALLEST = 2.0**-17
TOLERANCE = 0.02
LATENCY_TOLERANCE = 0.05
_HALVINGS = 40


class Scalable(Protocol):
    """A macro-structure that is to be had at other widths."""

    def scaled(self, multiplier: float) -> Any:
        """The same with every width times `multiplier`."""


def fit(spec: Spec, genotype: Any, cost: CostOf, target: float, tolerance: float, what: str,
        enough: float = 0.0) -> Tuple[Spec, float]:
    """The multiple of `spec` whose network of `genotype` costs nearest to `target`, and its multiplier.

    Any macro-structure with `scaled(multiplier)` will do. `cost` gives what a network of one costs and is asked once
    for every width; `what` names its unit. Widths are whole numbers, so not every cost can be had: `tolerance` is the
    relative difference allowed. A cost that comes within `enough` of the target ends the search for a nearer one,
    where asking is dear or the answer is not exact.

    Raises:
        UserError: no multiplier up to 64 comes within the tolerance; says which is nearest.
    """
    widths = _Widths(spec, genotype, cost, target, enough)
    low, high = _bracket(widths)
    for _ in range(_HALVINGS):
        if widths.done or low == high:
            break
        middle = (low * high) ** 0.5
        low, high = (middle, high) if widths.cost(middle) < target else (low, middle)
    best, found = widths.nearest()
    if abs(found - target) > tolerance * target:
        raise UserError(f"target of {_said(target)} {what}: the nearest width has {_said(found)}, more than "
                        f"{100 * tolerance:g} % away; choose another target or a larger tolerance")
    return spec.scaled(best), best


class _Widths:
    """What every multiplier asked for costs; those that round to the same widths are asked once."""

    def __init__(self, spec: Any, genotype: Any, cost: CostOf, target: float, enough: float) -> None:
        self._spec, self._genotype, self._cost = spec, genotype, cost
        self.target, self._enough = target, enough
        self._known: Dict[Any, Tuple[float, float]] = {}

    def cost(self, multiplier: float) -> float:
        """The cost at a multiplier."""
        scaled = self._spec.scaled(multiplier)
        if scaled not in self._known:
            self._known[scaled] = multiplier, self._cost(scaled, self._genotype)
        return self._known[scaled][1]

    def nearest(self) -> Tuple[float, float]:
        """The multiplier and the cost nearest to the target of all that were asked for."""
        return min(self._known.values(), key=lambda known: abs(known[1] - self.target))

    @property
    def done(self) -> bool:
        """Whether a cost is near enough to ask no further."""
        return abs(self.nearest()[1] - self.target) <= self._enough * self.target


def _bracket(widths: _Widths) -> Tuple[float, float]:
    """Multipliers a factor of two apart with the target between them, both the same at an end of what is allowed."""
    low = high = 1.0
    while widths.cost(low) >= widths.target and low > SMALLEST:
        low, high = low / 2, low
    while widths.cost(high) < widths.target and high < LARGEST:
        low, high = high, high * 2
    return (low, high) if widths.cost(low) < widths.target <= widths.cost(high) else (low, low)


def _said(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
