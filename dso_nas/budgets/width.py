"""The global width multiplier that brings a network to a budget (paper, section 4.1)."""

from __future__ import annotations

from typing import Tuple

from dso_nas.architecture.cost import network_cost
from dso_nas.architecture.genotype import Genotype
from dso_nas.architecture.topology import NetworkSpec
from dso_nas.errors import UserError

LARGEST = 64.0


def fit_parameters(spec: NetworkSpec, genotype: Genotype, target: int, tolerance: float) -> Tuple[NetworkSpec, float]:
    """The multiple of `spec` whose network of `genotype` comes nearest to `target` parameters, and its multiplier.

    Widths are whole numbers, so not every count can be had; `tolerance` is the relative difference allowed.

    Raises:
        UserError: no multiplier up to 64 comes within the tolerance; says which is nearest.
    """
    def parameters(multiplier: float) -> int:
        return network_cost(spec.scaled(multiplier), genotype).total.parameters

    low, high = 0.0, LARGEST
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if parameters(middle) < target else (low, middle)
    # The two sides of the step at which the count passes the target; a multiplier of zero is none.
    best = min(filter(None, (low, high)), key=lambda multiplier: abs(parameters(multiplier) - target))
    found = parameters(best)
    if abs(found - target) > tolerance * target:
        raise UserError(f"target of {target:,} parameters: the nearest width has {found:,}, more than "
                        f"{100 * tolerance:g} % away; choose another target or a larger tolerance")
    return spec.scaled(best), best
