"""Gamma steered so that a search ends at the asked share of the supernet's FLOPs.

FLOPs themselves say nothing for most of a search: no lambda is zero for long, then many are at once. What is steered
is the *level*: the value that all lambdas up to it would have to fall by for the target to be met. It is held to a
straight line from where it begins to zero at `DEADLINE` of the search, by a factor on gamma that a window's observed
fall is compared with. What gamma itself follows is `dso_nas.budgets.regularization`'s business.
"""

from __future__ import annotations

from typing import Callable, Dict, List, Mapping, Optional

import numpy as np

from dso_nas.budgets.regularization import Gamma
from dso_nas.errors import UserError

Values = Mapping[str, np.ndarray]
# Multiply-adds of what lambdas leave alive, over the supernet's.
ShareOf = Callable[[Values], float]

KEY = "search.target_flops_share"
TOLERANCE = 0.05
# The rest is for a search that is late.
DEADLINE = 0.8
WINDOWS = 40
# With fewer steps momentum still hides what the last factor did.
SHORTEST_WINDOW = 3
LARGEST_CHANGE = 2.0
LARGEST_FACTOR = 1e4


class Steering:
    """Brings a search of `steps` lambda steps to `target`, a share within 5 % of which it ends.

    Attributes:
        factor: what gamma has to be multiplied by from the next step on.
        share: the share after the last step that changed it.
    """

    def __init__(self, share_of: ShareOf, target: float, steps: int, values: Values) -> None:
        """Take the lambdas' first `values`, of any scope, by name.

        Raises:
            UserError: the network with no connection at all has more than `target` of the supernet's FLOPs.
        """
        smallest = share_of({name: np.zeros_like(value) for name, value in values.items()})
        if smallest > (1 + TOLERANCE) * target:
            raise UserError(f"{KEY}: {target:g} is below the smallest network, which has {smallest:.3f}; ask for more")
        self.factor = 1.0
        self.share = 1.0
        self._share_of, self._target = share_of, target
        self._steps = steps
        self._window = max(SHORTEST_WINDOW, steps // WINDOWS)
        self._deadline = DEADLINE * steps
        self._level: Optional[float] = None

    @property
    def reached(self) -> bool:
        """Whether the share is within 5 % of the target, where the search ends."""
        return self._error(self.share) <= TOLERANCE

    def _error(self, share: float) -> float:
        return abs(share - self._target) / self._target

    def after_step(self, step: int, before: Values, after: Values) -> Dict[str, np.ndarray]:
        """Look at lambda step number `step`, from 1, and renew `factor` at the end of every window.

        Lambdas that the step killed and that would carry the share past the target stay as they were, but at the last
        step where past it is nearer. Parameters with such lambdas are returned, to be set; others are as in `after`.
        """
        corrected: Dict[str, np.ndarray] = {}
        if any(((value == 0) != (before[name] == 0)).any() for name, value in after.items()):
            corrected = self._accept(before, after, step >= self._steps)
        if step % self._window == 0 and not self.reached:
            self._renew(step, {**after, **corrected})
        return corrected

    def _accept(self, before: Values, after: Values, last: bool) -> Dict[str, np.ndarray]:
        self.share = self._share_of(after)
        if self.share >= (1 - TOLERANCE) * self._target:
            return {}
        lambdas, old = _Flat(after), _Flat(before).vector
        dying = np.flatnonzero((lambdas.vector == 0) & (old > 0))
        lambdas.vector[dying] = old[dying]
        self.share = self._share_of(lambdas.values())
        # The smallest die first; one whose death would go too far is passed over for the next.
        for entry in dying[np.argsort(old[dying], kind="stable")]:
            if self.reached:
                break
            lambdas.vector[entry] = 0
            share = self._share_of(lambdas.values())
            if share >= (1 - TOLERANCE) * self._target or (last and self._error(share) < self._error(self.share)):
                self.share = share
            else:
                lambdas.vector[entry] = old[entry]
        values = lambdas.values()
        return {name: value for name, value in values.items() if (value != after[name]).any()}

    def _renew(self, step: int, values: Values) -> None:
        level, previous = self._find_level(values), self._level
        self._level = level
        if previous is None:
            return
        windows_left = max(1.0, (self._deadline - step) / self._window)
        wanted, fallen = level / windows_left, previous - level
        # The root, because a factor shows only after momentum has followed it.
        change = (wanted / fallen) ** 0.5 if fallen > 0 else LARGEST_CHANGE
        change = min(max(change, 1 / LARGEST_CHANGE), LARGEST_CHANGE)
        self.factor = min(max(self.factor * change, 1 / LARGEST_FACTOR), LARGEST_FACTOR)

    def _find_level(self, values: Values) -> float:
        """The smallest lambda with which, and with all below it, the share would be at most the target."""
        lambdas = _Flat(values)
        levels = np.unique(lambdas.vector[lambdas.vector > 0])
        low, high = 0, len(levels) - 1
        while low < high:
            middle = (low + high) // 2
            below = {name: np.where(value <= levels[middle], 0, value) for name, value in values.items()}
            low, high = (low, middle) if self._share_of(below) <= self._target else (middle + 1, high)
        return float(levels[low]) if len(levels) else 0.0

    def verdict(self) -> Optional[str]:
        """What there is to say at the end of a search that has not come near enough."""
        if self.reached:
            return None
        return (f"{KEY}: the search ended at {self.share:.3f} of the supernet's multiply-adds, the nearest to "
                f"{self._target:g} that it came; give it more search.epochs or a larger search.gamma, or ask for a "
                "share that single connections can tell apart")

    def state(self) -> Dict[str, np.ndarray]:
        """All that a resumed search goes on from."""
        level = -1.0 if self._level is None else self._level
        return {"steering": np.array([self.factor, self.share, level], np.float64)}

    def load_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take over what `state` gave.

        Raises:
            UserError: the checkpoint is of a search that was not steered.
        """
        if "steering" not in arrays:
            raise UserError(f"{KEY}: the checkpoint is of a search without it; start it anew, or set it to null")
        self.factor, self.share, level = (float(value) for value in arrays["steering"])
        self._level = None if level < 0 else level


def scaled_gamma(gamma: Gamma, factor: float) -> Gamma:
    """Every gamma, one number or arrays by name, times a factor."""
    if factor == 1.0:
        return gamma
    return gamma * factor if isinstance(gamma, float) else {name: array * factor for name, array in gamma.items()}


class _Flat:
    """Lambdas as one vector, in the order of their names' mapping."""

    def __init__(self, values: Values) -> None:
        self.vector = np.concatenate([value.ravel() for value in values.values()])
        self._shapes = {name: value.shape for name, value in values.items()}

    def values(self) -> Dict[str, np.ndarray]:
        """Copies of the lambdas by name."""
        sizes: List[int] = [int(np.prod(shape)) for shape in self._shapes.values()]
        parts = np.split(self.vector.copy(), np.cumsum(sizes)[:-1])
        return {name: part.reshape(shape) for (name, shape), part in zip(self._shapes.items(), parts)}
