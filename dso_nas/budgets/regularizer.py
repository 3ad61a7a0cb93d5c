"""What every rule for gamma has in common, whatever the search space; rules are in `dso_nas.budgets.regularization`."""

from __future__ import annotations

from typing import Any, Callable, Dict, Mapping, Type, Union

import numpy as np

from dso_nas.architecture.lambdas import LambdaLayout
from dso_nas.budgets.latency import Measure, RemovalLatencies

Gamma = Union[float, Dict[str, np.ndarray]]


class Regularizer:
    """Gamma of every lambda entry from the lambdas before the step; this one is the same for all.

    `changes` says whether gamma depends on the lambdas, so that it must be asked for at every step.
    """

    changes = False

    def __init__(self, layout: LambdaLayout, gamma: float) -> None:
        self.layout = layout
        self.base = gamma

    def gamma(self, values: Mapping[str, Any]) -> Gamma:
        """One number for all, or arrays of the lambdas' shapes by name."""
        return self.base

    def epoch_begins(self, values: Mapping[str, Any]) -> None:
        """Renew what gamma has for a whole epoch, from the lambdas at its start."""

    def state(self) -> Dict[str, np.ndarray]:
        """What a resumed search could not compute again."""
        return {}

    def load_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take over what `state` gave."""


class LatencyRegularizer(Regularizer):
    """A rule that is renewed at each epoch's start from latencies without each live connection.

    Before the first epoch all connections have the same gamma, `gamma` + `gamma_base`. `factors` gives the share of
    gamma that follows from latencies, not a number for a dead connection; `removals` makes what measures them.
    """

    factors: Callable[[np.ndarray], np.ndarray]
    removals: Type[RemovalLatencies] = RemovalLatencies

    def __init__(self, layout: LambdaLayout, gamma: float, gamma_base: float, measure: Measure) -> None:
        super().__init__(layout, gamma)
        self._removals = self.removals(layout.spec, measure)
        self._gamma_base = gamma_base
        self._gamma: Gamma = gamma + gamma_base

    def gamma(self, values: Mapping[str, Any]) -> Gamma:
        """See Regularizer."""
        return self._gamma

    def state(self) -> Dict[str, np.ndarray]:
        """See Regularizer: this epoch's gamma, and every latency measured so far."""
        gamma = self._gamma if isinstance(self._gamma, dict) else {}
        return {**self._removals.state(), **{f"gamma/{name}": array for name, array in gamma.items()}}

    def load_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        """See Regularizer."""
        self._removals.load_state(arrays)
        gamma = {name[len("gamma/"):]: array for name, array in arrays.items() if name.startswith("gamma/")}
        self._gamma = gamma or self._gamma
