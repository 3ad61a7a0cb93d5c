"""One forward and backward pass of a network, in the two ways there are: recorded, and as a static graph."""

from __future__ import annotations

from typing import Any, Callable, Collection, Dict, List, Optional, Sequence

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock

from dso_nas.training.memory import Chain, Group

Loss = Callable[[Any, Any], Any]


class OfLearned(HybridBlock):
    """A block of the parameter 'input', so that its input's gradient is among those of parameters."""

    def __init__(self, block: HybridBlock, x: Any) -> None:
        super().__init__(prefix="")
        self.block = block
        self.input = self.params.get("input", shape=x.shape, init=mx.init.Constant(x))
        self.input.initialize()

    def hybrid_forward(self, F: Any, data: Any, input: Any) -> Any:
        return self.block(input)


def recorded(network: Any, inputs: Sequence[Any], labels: Any, loss: Loss) -> Dict[str, np.ndarray]:
    """Outputs, losses, gradients and running statistics of a pass that Gluon records operator by operator."""
    with mx.autograd.record():
        outputs = network(*inputs)
        losses = loss(outputs, labels)
    losses.backward()
    return _arrays(network, outputs, losses)


def compiled(network: Any, inputs: Sequence[Any], labels: Any, loss: Loss, groups: Optional[Sequence[Group]] = None,
             names: Optional[Collection[str]] = None) -> Dict[str, np.ndarray]:
    """The same of static graphs with mirrored `groups`, and gradients of `names`, by default of all parameters."""
    chain = Chain(network, inputs, groups)
    chain.add_group("wanted", trained(network) if names is None else names)
    return stepped(network, chain, "wanted", inputs, labels, loss)


def trained(network: Any) -> List[str]:
    """Names of the parameters that get gradients."""
    return [name for name, parameter in network.collect_params().items() if parameter.grad_req != "null"]


def stepped(network: Any, chain: Chain, group: str, inputs: Sequence[Any], labels: Any,
            loss: Loss) -> Dict[str, np.ndarray]:
    """The same of a step of a group of a chain."""
    outputs = [output.copy() for output in chain.forward(group, *inputs)]
    for output in outputs:
        output.attach_grad()
    with mx.autograd.record():
        losses = loss(outputs if len(outputs) > 1 else outputs[0], labels)
    losses.backward()
    chain.backward(group, [output.grad for output in outputs])
    return _arrays(network, outputs if len(outputs) > 1 else outputs[0], losses)


def _arrays(network: Any, outputs: Any, losses: Any) -> Dict[str, np.ndarray]:
    # The engine does not know that a static graph's backward pass writes statistics.
    mx.nd.waitall()
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
