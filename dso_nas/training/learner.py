"""A network under training: which parameters a step moves, how gradients come about, and all that a checkpoint holds.

What a step is taken on and how often does not belong here: the stages decide.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import mxnet as mx
import numpy as np
from mxnet import gluon

from dso_nas.errors import UserError
from dso_nas.training.losses import Loss
from dso_nas.training.memory import Chain, Group
from dso_nas.training.parallel import GradientExchange, share_out

# What the names of parameters begin with in a checkpoint.
PARAMETER = "parameter/"

# What the mean loss of a float16 network is multiplied by, lest small gradients become zero; optimizers divide by it.
LOSS_SCALE = 128.0
# Of one type, and no more: beyond, multi_all_finite crashes the process.
_MOST_ARRAYS = 200


class StepResult(NamedTuple):
    """Sums over a batch, one per device and still on it: loss, wrong predictions; and the batch's size."""

    losses: List[Any]
    errors: List[Any]
    images: int


class _Movable(NamedTuple):
    """Parameters, their optimizer, and on each device what it keeps of them, their gradients and their values."""

    parameters: List[gluon.Parameter]
    optimizer: mx.optimizer.Optimizer
    updaters: List[mx.optimizer.Updater]
    gradients: List[List[Any]]
    values: List[List[Any]]

    def update(self) -> None:
        """Make the optimizer's step on every device, from the gradients that are there."""
        for updater, gradients, values in zip(self.updaters, self.gradients, self.values):
            updater(list(range(len(self.parameters))), gradients, values)


class Learner:
    """Trains `network` on `contexts`; each named group of parameters has an optimizer of its own.

    `groups` are the memory groups of `dso_nas.training.memory`, None to keep everything. The network's parameters must
    be initialised and in the precision that they are trained in. For every group, and every shape of what a step is
    given, a static graph is made at the first step (`dso_nas.training.programs`).

    A network that was cast to float16 gets float16 data. Its optimizers move float32 copies of the float16 parameters;
    the copies are the parameters' values here and in a checkpoint, which looks the same in both precisions. Values are
    to be set by `set_values` or `load_state`, not in the network alone.
    """

    def __init__(self, network: Any, contexts: Sequence[mx.Context], loss: Loss, kvstore: Optional[str] = None,
                 groups: Optional[Sequence[Group]] = None) -> None:
        self.network = network
        self.contexts = list(contexts)
        self._loss = loss
        self._groups = groups
        self._exchange = GradientExchange(kvstore, contexts)
        self._agreed = False
        self._movable: Dict[str, _Movable] = {}
        self._places: Dict[str, Tuple[_Movable, int]] = {}
        self._chains: Dict[Tuple[Any, ...], Chain] = {}
        self._half = any(map(_is_half, network.collect_params().values()))
        self._dtype = np.float16 if self._half else np.float32
        self._trained = [p for p in network.collect_params().values() if p.grad_req != "null"]

    def add_group(self, name: str, parameters: Sequence[gluon.Parameter], optimizer: mx.optimizer.Optimizer) -> None:
        """Let steps called `name` move `parameters` (those that get gradients at all) by `optimizer`."""
        optimizer.multi_precision = True
        chosen = [p for p in parameters if p.grad_req != "null"]
        optimizer.param_dict = dict(enumerate(chosen))
        movable = _Movable(chosen, optimizer, [mx.optimizer.get_updater(optimizer) for _ in self.contexts],
                           [[p.grad(context) for p in chosen] for context in self.contexts],
                           [[p.data(context) for p in chosen] for context in self.contexts])
        self._movable[name] = movable
        self._places.update({p.name: (movable, index) for index, p in enumerate(chosen)})

    def step(self, name: str, data: np.ndarray, labels: np.ndarray, learning_rate: float,
             paths: Optional[np.ndarray] = None, images: Optional[int] = None) -> StepResult:
        """One step of group `name` on a batch (B, C, H, W), (B,), its mean loss's gradient.

        `paths` (B, num_paths) are drop-path multipliers. No other group's gradients are computed. Every worker gives
        the whole batch, and takes its part of it; or its own part only, and the size of the whole as `images`. Where a
        gradient is not finite, neither are the losses in the result.
        """
        group = self._movable[name]
        self._agree()
        inputs = [array for array in (data, labels, paths) if array is not None]
        own = inputs if images is not None else [self._exchange.own_part(array) for array in inputs]
        total = images or len(data)
        scale = LOSS_SCALE / total if self._half else None
        parts = list(zip(*(share_out(array, self.contexts) for array in own)))
        # All of them before the first runs: a device may wait in its pass for the others.
        chains = [self._chain(name, part[:1] + part[2:]) for part in parts]
        results = [self._run(name, chain, scale, *part) for chain, part in zip(chains, parts)]
        self._exchange.sum_gradients(group.parameters)
        group.optimizer.set_learning_rate(learning_rate)
        group.optimizer.rescale_grad = 1 / (LOSS_SCALE if self._half else total)
        group.update()
        losses, errors = map(list, zip(*results))
        # The loss can be finite where a gradient is not: ReLU makes zero of NaN, and a lambda that an infinite gradient
        # has made minus infinity would pass for one that died.
        losses[0] = losses[0] / _all_finite(group.gradients[0])
        return StepResult(losses, errors, total)

    def prepare(self, name: str, data: np.ndarray) -> None:
        """Make what the first step of group `name` on images like `data`, without multipliers, would make."""
        for part in share_out(data, self.contexts):
            self._chain(name, [part])

    def _agree(self) -> None:
        """Before the first forward pass, and after values were set: all workers start from the first one's."""
        if not self._agreed:
            self._exchange.agree(list(self.network.collect_params().values()))
            self._agreed = True

    def _run(self, group: str, chain: Chain, scale: Optional[float], data: Any, labels: Any,
             *paths: Any) -> Tuple[Any, Any]:
        """Loss and wrong predictions of one device's part, on which gradients of a group are computed."""
        inputs = [self._cast(array) for array in (data, *paths)]
        outputs = chain.forward(group, *inputs)
        losses, heads = self._loss.gradients(outputs, labels, scale)
        # Before the backward pass, whose runs overwrite the outputs.
        errors = self._loss.errors(outputs, labels)
        chain.backward(group, heads)
        return losses.sum(), errors

    def _chain(self, group: str, inputs: Sequence[Any]) -> Chain:
        """The chain for inputs like these, on the device they are on, with what steps of a group need."""
        key = (inputs[0].context, *(array.shape for array in inputs))
        if key not in self._chains:
            roots = [chain.root for (context, *_), chain in self._chains.items() if context == inputs[0].context]
            like = [self._cast(array) for array in inputs]
            self._chains[key] = Chain(self.network, like, self._groups, roots[0] if roots else None)
        if not self._chains[key].has_group(group):
            self._chains[key].add_group(group, {p.name for p in self._movable[group].parameters})
            # MXNet sets up the graphs of all CPU devices on the first one's thread, which may have to wait later.
            mx.nd.waitall()
        return self._chains[key]

    def _cast(self, array: Any) -> Any:
        """A network's input in its precision; the same array in float32."""
        return array.astype(self._dtype, copy=False)

    def _masters(self, parameter: gluon.Parameter) -> List[Any]:
        """The optimizer's float32 copies of a float16 parameter, one per device; none before its first step."""
        if not _is_half(parameter) or parameter.name not in self._places:
            return []
        movable, index = self._places[parameter.name]
        return [updater.states[index][0] for updater in movable.updaters if index in updater.states]

    def _singles(self, parameter: gluon.Parameter) -> List[Any]:
        """A parameter's value on each device, in float32."""
        return self._masters(parameter) or [copy.astype(np.float32, copy=False) for copy in parameter.list_data()]

    def state(self) -> Dict[str, np.ndarray]:
        """Every parameter and optimizer state by name; statistics of devices beyond the first have a suffix '@d'.

        Several workers ask for it at the same step; their statistics are averaged first.
        """
        _wait_for_statistics()
        if self._exchange.workers.count > 1:
            self.average_statistics()
        arrays: Dict[str, np.ndarray] = {}
        for name, parameter in self.network.collect_params().items():
            copies = self._singles(parameter) if "running" in name else self._singles(parameter)[:1]
            for device, copy in enumerate(copies):
                arrays[f"{PARAMETER}{name}" + (f"@{device}" if device else "")] = copy.asnumpy()
        for group, movable in self._movable.items():
            for index, parameter in enumerate(movable.parameters):
                for part, state in enumerate(_state_arrays(parameter, movable.updaters[0].states.get(index))):
                    arrays[f"optimizer/{group}/{part}/{parameter.name}"] = state.asnumpy()
        return arrays

    def load_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take over what `state` gave, from this network or from one with more parameters that was pruned to it.

        Raises:
            UserError: a parameter of the network is not among the arrays or has another shape.
        """
        load_parameters(self.network, arrays)
        self._agreed = False
        for group, movable in self._movable.items():
            for index, parameter in enumerate(movable.parameters):
                self._load_optimizer_state(group, movable, index, parameter, arrays)

    def _load_optimizer_state(self, group: str, movable: _Movable, index: int, parameter: gluon.Parameter,
                              arrays: Mapping[str, np.ndarray]) -> None:
        known, half = f"optimizer/{group}/0/{parameter.name}" in arrays, _is_half(parameter)
        if not (known or half):
            return
        for updater, weight in zip(movable.updaters, parameter.list_data()):
            state = movable.optimizer.create_state_multi_precision(index, weight)
            if half:
                state[0][:] = arrays[PARAMETER + parameter.name]
            for part, array in enumerate(_state_arrays(parameter, state) if known else ()):
                array[:] = arrays[f"optimizer/{group}/{part}/{parameter.name}"]
            updater.states[index] = state
            updater.states_synced[index] = True

    def values(self, parameters: Mapping[str, gluon.Parameter]) -> Dict[str, np.ndarray]:
        """Copies of parameters' values by name."""
        return {name: self._singles(parameter)[0].asnumpy() for name, parameter in parameters.items()}

    def set_values(self, values: Mapping[str, np.ndarray]) -> None:
        """Give trained parameters other values, by name; what optimizers keep of them stays."""
        for parameter in self._trained:
            if parameter.name in values:
                parameter.set_data(values[parameter.name])
                for master in self._masters(parameter):
                    master[:] = values[parameter.name]

    def average_statistics(self) -> None:
        """Give every device the mean of all devices' running statistics, before evaluating or handing on.

        Raises:
            UserError: the workers' other parameters are not the same, bit for bit.
        """
        self._agree()
        _wait_for_statistics()
        self._exchange.workers.check_same("training", self.values({p.name: p for p in self._trained}))
        self._exchange.average(list(self.network.collect_params(".*running_(mean|var)").values()))

    def error(self, batches: Any) -> float:
        """Share of wrong predictions over an iterable of (data, labels), in evaluation mode.

        Workers that all have the same batches take turns.
        """
        self._agree()
        _wait_for_statistics()
        workers = self._exchange.workers
        wrong, images = 0.0, 0
        for data, labels in itertools.islice(batches, workers.rank, None, workers.count):
            wrong += self._wrong(data, labels)
            images += len(data)
            workers.alive()
        wrong, images = workers.sum("errors", np.array([wrong, images])).tolist()
        return wrong / images

    def _wrong(self, data: np.ndarray, labels: np.ndarray) -> float:
        contexts = self.contexts[: len(data)]
        shares = zip(share_out(data, contexts), share_out(labels, contexts))
        results = [self._loss.errors(self.network(self._cast(x)), y) for x, y in shares]
        return sum(float(result.asscalar()) for result in results)


def load_parameters(network: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """Set every parameter of an initialised network from the 'parameter/...' entries of a learner's state.

    Raises:
        UserError: a parameter is missing or has another shape.
    """
    for name, parameter in network.collect_params().items():
        if PARAMETER + name not in arrays:
            raise UserError(f"checkpoint: has no parameter {name}, was it made by another recipe?")
        value = arrays[PARAMETER + name]
        if tuple(value.shape) != tuple(parameter.shape):
            raise UserError(f"checkpoint: {name} has shape {value.shape}, this recipe's network {parameter.shape}")
        parameter.set_data(mx.nd.array(value))
        for device, copy in enumerate(parameter.list_data()[1:], start=1):
            if f"{PARAMETER}{name}@{device}" in arrays:
                copy[:] = arrays[f"{PARAMETER}{name}@{device}"]


def _wait_for_statistics() -> None:
    """Let steps end: MXNet's engine does not know that a static graph writes running statistics."""
    mx.nd.waitall()


def _is_half(parameter: gluon.Parameter) -> bool:
    return np.dtype(parameter.dtype) == np.float16


def _all_finite(arrays: Sequence[Any]) -> Any:
    """(1,) on the arrays' device: 1 where every number in them is finite, else 0."""
    flags = []
    for dtype in (np.float16, np.float32):
        same = [array for array in arrays if array.dtype == dtype]
        parts = [same[start : start + _MOST_ARRAYS] for start in range(0, len(same), _MOST_ARRAYS)]
        flags += [mx.nd.multi_all_finite(*part, num_arrays=len(part)) for part in parts]
    return functools.reduce(mx.nd.minimum, flags)


def _state_arrays(parameter: gluon.Parameter, state: Any) -> List[Any]:
    """What an optimizer keeps of a parameter, without a float32 copy of the parameter itself."""
    if state is None:
        return []
    if _is_half(parameter):
        state = state[1]
    return list(state) if isinstance(state, (list, tuple)) else [state]
