"""APG-NAG for the lambdas, NAG for everything else, as one MXNet optimizer (paper, section 3.3, Eq. 14-16).

What a connection costs, and so its gamma, does not belong here: `set_gamma` is told.
"""

from __future__ import annotations

from itertools import chain
from numbers import Real
from typing import Any, Callable, Mapping, NoReturn, Sequence, Union

import mxnet as mx
import numpy as np
from mxnet.ndarray import NDArray

from dso_nas.errors import UserError
from dso_nas.optimizers.schedules import apg_momentum

Momentum = Union[float, str, Callable[[int], float]]
Gamma = Union[float, Mapping[str, Any]]

# MXNet's fused kernel holds 60 weights and crashes the process beyond; 30 were the fastest.
_GROUP = 30


@mx.optimizer.Optimizer.register
class APGNAG(mx.optimizer.Optimizer):
    """Optimizer 'apgnag': soft-thresholded, non-negative lambdas and Nesterov-accelerated weights.

    A parameter whose name begins with `lambda_name` makes, with g the rescaled and clipped gradient,

        z = S_{lr*gamma}(w - lr*g);   v = z - w + mu_(t-1)*v;   w = max(0, z + mu_(t)*v)

    and no weight decay. Every other parameter makes, with weight decay in g,

        v = mu*v + g;   w = w - lr*(g + mu*v)

    The learning rate stays out of v, unlike in MXNet 1.9's NAG, so a new rate acts on all of the momentum. A
    parameter's state is its v, one array of its shape; with `multi_precision` and float16 it is the pair
    (float32 weight, float32 v). Names come from `param_dict` (Trainer) or `param_idx2name` (Module).

    Attributes:
        update_lambdas: False leaves the lambdas and their v as they are, but for the clamp at zero.
        update_weights: False leaves every other parameter and its v as they are.
        thresholded_entries: lambda entries that went through a soft-threshold above zero, added up over all
            steps and devices.
    """

    def __init__(
        self,
        momentum: Momentum = 0.9,
        gamma: Gamma | None = None,
        lambda_name: str = "lambda",
        weight_momentum: float | None = None,
        decay_gamma: bool = False,
        begin_lambda_step: int = 0,
        **kwargs: Any,
    ) -> None:
        """Make the optimizer; `kwargs` are those of `mx.optimizer.Optimizer`.

        `momentum` is a number in [0, 1), or a callable that gives mu_(t) after t = 0, 1, 2, ... steps of a
        lambda, or 'apg' for the callable (t - 1) / (t + 2). NAG takes `weight_momentum`: if None, `momentum`
        where that is a number, else 0.9. `gamma` is what `set_gamma` takes. Weight decay acts on names in
        `_weight`, with `decay_gamma` on names in `_gamma` too (the published search does the first, the
        published retraining the second). `begin_lambda_step` is the t from which a resumed search goes on. A
        bad value raises `UserError`.
        """
        super().__init__(**kwargs)
        self.aggregate_num = _GROUP
        self.lambda_name = lambda_name
        self.momentum = _momentum_schedule(momentum)
        if weight_momentum is None:
            weight_momentum = momentum if isinstance(momentum, Real) else 0.9
        self.weight_momentum = _checked_momentum(weight_momentum)
        self.update_lambdas = True
        self.update_weights = True
        self.thresholded_entries = 0
        self._decayed = ("_weight", "_gamma") if decay_gamma else ("_weight",)
        self._begin_lambda_step = begin_lambda_step
        self._lambda_steps: dict[tuple[int, Any], int] = {}
        self._failure: UserError | None = None
        self._gamma: float | dict[str, float | np.ndarray] | None = None
        self._gamma_arrays: dict[tuple[str, str], NDArray] = {}
        if gamma is not None:
            self.set_gamma(gamma)

    @property
    def lambda_step(self) -> int:
        """The number of steps the lambdas have made, what `begin_lambda_step` takes to resume."""
        return max(self._lambda_steps.values(), default=self._begin_lambda_step)

    def set_gamma(self, gamma: Gamma) -> None:
        """Set the regularization weight from the next update on.

        `gamma` is one number for all lambdas, or a mapping from every lambda's name to a number or an array
        of the lambda's shape. Negative or non-finite values raise `UserError`; so does, at its update, a
        lambda that is missing or of another shape.
        """
        if isinstance(gamma, Mapping):
            self._gamma = {name: _checked_gamma(value, f" of '{name}'") for name, value in gamma.items()}
        else:
            checked = _checked_gamma(gamma, "")
            if isinstance(checked, np.ndarray):
                raise UserError("gamma: one array cannot serve all lambdas, map each name to its array")
            self._gamma = checked
        self._gamma_arrays = {}

    def assert_thresholded(self) -> None:
        """Raise `UserError` if no lambda went through the soft-threshold: none could become zero."""
        if self._failure is not None:
            raise self._failure
        if self.thresholded_entries == 0:
            raise UserError(
                "apgnag: no lambda went through the soft-threshold, so none can become zero: it takes a "
                f"parameter whose name begins with '{self.lambda_name}', a gamma above zero, and lambda steps"
            )

    def create_state(self, index: Any, weight: NDArray) -> NDArray:
        """Give the initial v of a parameter: zeros of its shape, precision and device."""
        return mx.nd.zeros(weight.shape, weight.context, dtype=weight.dtype)

    def update(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
        """Make one step of a parameter, or of a list of parameters, in the precision of the weights."""
        if isinstance(index, (list, tuple)):
            self._step(index, weight, grad, state)
        else:
            self._step([index], [weight], [grad], [state])

    def update_multi_precision(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
        """Make one step as `update` does, of float16 weights with `multi_precision` in float32.

        MXNet calls this one, never `update`.
        """
        if not isinstance(index, (list, tuple)):
            index, weight, grad, state = [index], [weight], [grad], [state]
        if not (self.multi_precision and weight[0].dtype == np.float16):
            return self.update(index, weight, grad, state)
        masters, velocities = zip(*state)
        self.update(index, masters, [g.astype(np.float32) for g in grad], velocities)
        for master, low in zip(masters, weight):
            mx.nd.cast(master, dtype=low.dtype, out=low)

    def _step(
        self,
        indices: Sequence[Any],
        weights: Sequence[NDArray],
        grads: Sequence[NDArray],
        states: Sequence[NDArray],
    ) -> None:
        self._update_count(indices)
        lambdas: list[tuple[Any, ...]] = []
        others: list[tuple[Any, ...]] = []
        for parameter in zip(indices, weights, grads, states):
            is_lambda = self._name(parameter[0]).startswith(self.lambda_name)
            (lambdas if is_lambda else others).append(parameter)
        if self.update_weights:
            _in_groups(self._nag, others)
        if self.update_lambdas:
            _in_groups(self._apg_nag, lambdas)
        else:
            for _, weight, _, _ in lambdas:
                mx.nd.relu(weight, out=weight)

    def _apg_nag(
        self, indices: list[Any], weights: list[NDArray], grads: list[NDArray], velocities: list[NDArray]
    ) -> None:
        lrs, one = self._get_lrs(indices), [1.0] * len(indices)
        steps = [self._count_lambda_step(*pair) for pair in zip(indices, weights)]
        points = _descend(weights, grads, lrs, _empty_like(weights), **self._scaling())
        _descend(points, [self._cut(*each) for each in zip(points, indices, lrs)], one)
        moves = _descend(points, weights, one, _empty_like(weights))
        _descend(moves, velocities, [-self.momentum(step - 1) for step in steps], velocities)
        _descend(points, velocities, [-self.momentum(step) for step in steps])
        for point, weight in zip(points, weights):
            mx.nd.relu(point, out=weight)

    def _cut(self, point: NDArray, index: Any, lr: float) -> NDArray:
        """Give what the soft-threshold takes off: S_a(x) is x - clip(x, -a, a)."""
        name = self._name(index)
        gamma = self._gamma_of(name, point)
        if isinstance(gamma, float):
            self.thresholded_entries += point.size if gamma > 0 else 0
            return mx.nd.clip(point, -lr * gamma, lr * gamma)
        self.thresholded_entries += np.count_nonzero(gamma)
        bound = lr * self._gamma_array(name, gamma, point)
        return mx.nd.maximum(mx.nd.minimum(point, bound), -bound)

    def _nag(
        self, indices: list[Any], weights: list[NDArray], grads: list[NDArray], velocities: list[NDArray]
    ) -> None:
        # In place, by one kernel: new arrays, and more kernels, take longer in Python's thread. MXNet's nag_mom_update
        # has the rate in v and, in place, decays with the weight that it has just written.
        lrs, wds, mu = self._get_lrs(indices), self._get_wds(indices), self.weight_momentum
        # v + g + (mu - 1)*v, where 1 + (mu - 1) is mu as float32 has it.
        keep = float(np.float32(mu)) - 1
        _descend(velocities, grads, [-1.0] * len(lrs), wds=[keep] * len(lrs), **self._scaling())
        _descend(velocities, weights, [-wd for wd in wds])
        _descend(weights, grads, lrs, wds=wds, **self._scaling())
        _descend(weights, velocities, [mu * lr for lr in lrs])

    def _scaling(self) -> dict[str, Any]:
        return {"rescale_grad": self.rescale_grad, "clip_gradient": self.clip_gradient or -1.0}

    def _get_wds(self, indices: Sequence[Any]) -> list[float]:
        wds = super()._get_wds(indices)
        return [wd if self._name(index).endswith(self._decayed) else 0.0 for index, wd in zip(indices, wds)]

    def _name(self, index: Any) -> str:
        if isinstance(index, str):
            return index
        if index in self.param_dict:
            return self.param_dict[index].name
        if index in self.idx2name:
            return self.idx2name[index]
        raise UserError(f"apgnag: parameter {index} has no name, give the optimizer param_idx2name")

    def _count_lambda_step(self, index: Any, weight: NDArray) -> int:
        key = (weight.context.device_id, index)
        self._lambda_steps[key] = self._lambda_steps.get(key, self._begin_lambda_step) + 1
        return self._lambda_steps[key]

    def _gamma_of(self, name: str, point: NDArray) -> float | np.ndarray:
        gamma = self._gamma.get(name) if isinstance(self._gamma, dict) else self._gamma
        if gamma is None:
            self._fail(f"gamma: none is given for '{name}', set a number or a mapping with this name")
        if isinstance(gamma, np.ndarray) and gamma.shape != point.shape:
            self._fail(f"gamma of '{name}': its shape is {gamma.shape}, the lambda's {point.shape}")
        return gamma

    def _fail(self, message: str) -> NoReturn:
        # On a kvstore this runs in a callback from C++ that drops exceptions: assert_thresholded repeats it.
        self._failure = UserError(message)
        raise self._failure

    def _gamma_array(self, name: str, gamma: np.ndarray, like: NDArray) -> NDArray:
        key = (name, str(like.context))
        if key not in self._gamma_arrays:
            self._gamma_arrays[key] = mx.nd.array(gamma, ctx=like.context, dtype=like.dtype)
        return self._gamma_arrays[key]


def _in_groups(make: Callable[..., None], parameters: list[tuple[Any, ...]]) -> None:
    for start in range(0, len(parameters), _GROUP):
        make(*map(list, zip(*parameters[start : start + _GROUP])))


def _empty_like(arrays: list[NDArray]) -> list[NDArray]:
    return [mx.nd.empty(array.shape, array.context, array.dtype) for array in arrays]


def _descend(
    starts: list[NDArray],
    directions: list[NDArray],
    lrs: list[float],
    out: list[NDArray] | None = None,
    wds: list[float] | None = None,
    **scaling: float,
) -> list[NDArray]:
    """Write start - lr * (scaled direction + wd * start), in place unless `out` is given, for a whole list at once."""
    pairs, out = chain.from_iterable(zip(starts, directions)), out or starts
    mx.nd.multi_sgd_update(*pairs, out=out, num_weights=len(lrs), lrs=lrs, wds=wds or [0.0] * len(lrs), **scaling)
    return out


class _ConstantMomentum:
    """A constant as a schedule; a class so that the optimizer can be pickled, as Trainer.save_states does."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, t: int) -> float:
        return self.value


def _momentum_schedule(momentum: Momentum) -> Callable[[int], float]:
    if isinstance(momentum, str):
        if momentum != "apg":
            raise UserError(f"momentum: must be a number, a callable or 'apg', not {momentum!r}")
        return apg_momentum
    return momentum if callable(momentum) else _ConstantMomentum(_checked_momentum(momentum))


def _checked_momentum(value: Any) -> float:
    if not isinstance(value, Real) or not 0 <= float(value) < 1:
        raise UserError(f"momentum: must be a number from 0 to below 1, not {value!r}")
    return float(value)


def _checked_gamma(value: Any, whose: str) -> float | np.ndarray:
    if isinstance(value, NDArray):
        value = value.asnumpy()
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(f"gamma{whose}: must be a number or an array of numbers, not {value!r}") from None
    if not np.all(np.isfinite(array)) or np.any(array < 0):
        raise UserError(f"gamma{whose}: must be finite and zero or more")
    return float(array) if array.ndim == 0 else array
