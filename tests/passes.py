"""One forward and backward pass of a network, in the two ways there are: recorded, and as a static graph."""

from __future__ import annotations

from typing import Any, Callable, Collection, Dict, Optional, Sequence

import mxnet as mx
import numpy as np

from dso_nas.training.memory import Chain, Group


def recorded(network: Any, inputs: Sequence[Any], labels: Any, loss: Callable[[Any, Any], Any]) -> Dict[str, np.ndarray]:
    """Outputs, losses, gradients and running statistics of a pass that Gluon records operator by operator."""
    with mx.autograd.record():
        outputs = network(*inputs)
        losses = loss(outputs, labels)
    losses.backward()
    return _arrays(network, outputs, losses)


def compiled(network: Any, inputs: Sequence[Any], labels: Any, loss: Callable[[Any, Any], Any],
             groups: Optional[Sequence[Group]] = None, names: Optional[Collection[str]] = None) -> Dict[str, np.ndarray]:
    """The same of static graphs with mirrored `groups`, and gradients of `names`, by default of all parameters."""
    trained = [name for name, parameter in network.collect_params().items() if parameter.grad_req != "null"]
    chain = Chain(network, inputs, trained if names is None else names, groups)
    outputs = [output.copy() for output in chain.forward(*inputs)]
    for output in outputs:
        output.attach_grad()
    with mx.autograd.record():
        losses = loss(outputs if len(outputs) > 1 else outputs[0], labels)
    losses.backward()
    chain.backward([output.grad for output in outputs])
    return _arrays(network, outputs if len(outputs) > 1 else outputs[0], losses)


def _arrays(network: Any, outputs: Any, losses: Any) -> Dict[str, np.ndarray]:
    several = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    arrays = {f"outputs {index}": output.asnumpy() for index, output in enumerate(several)}
    for name, parameter in network.collect_params().items():
        arrays[name] = (parameter.data() if parameter.grad_req == "null" else parameter.grad()).asnumpy()
    return {**arrays, "losses": losses.asnumpy()}


def assert_alike(found: Dict[str, np.ndarray], expected: Dict[str, np.ndarray], relative: float = 1e-5) -> None:
    """Every array within `relative` of the largest number of the expected one."""
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=relative * np.abs(array).max(), err_msg=name)
