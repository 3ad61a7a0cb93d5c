"""The supernet as the published code has it, connection by connection: what ours is measured against.

Every connection is a multiplication by its lambda, an operation's input a sum of them, and every operation has an
output convolution of its own. Parameters, and so names and shapes, are those of `dso_nas.networks.supernet.SuperNet`.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Tuple

import mxnet as mx
from mxnet import autograd
from mxnet.gluon import HybridBlock, Parameter

from dso_nas.architecture.genotype import Genotype
from dso_nas.architecture.lambdas import REDUCTION, LambdaLayout
from dso_nas.architecture.topology import AFTER, INPUT, REDUCTION_OPERATIONS, Node
from dso_nas.networks.blocks import ReductionBlock, SearchBlock, total
from dso_nas.networks.network import Network
from dso_nas.networks.operations import AvgPool


def scaled(F: Any, x: Any, vector: Any, position: int) -> Any:
    """`x` (B, C, H, W) times entry `position` of the lambda vector (1, k)."""
    entry = F.slice_axis(vector, axis=1, begin=position, end=position + 1)
    return F.broadcast_mul(x, entry.reshape((1, 1, 1, 1)))


class LiteralBlock(SearchBlock):
    """A completely connected block (scope 'share' or 'full', lambdas not packed)."""

    def hybrid_forward(self, F: Any, x: Any, **parameters: Any) -> Any:
        """(B, C, H, W) -> (B, C, H, W)."""
        hidden: Dict[Node, Any] = {INPUT: x}
        for _level, nodes in self._levels():
            new = {node: self._operate(F, node, self._input(F, node, hidden, parameters)) for node in nodes}
            hidden.update(new)
        after = parameters[self._lambda_names[AFTER]]
        outputs = []
        for index, node in enumerate(self.topology.nodes()):
            weight = parameters[f"output_{node[0]}_{node[1]}"]
            outputs.append(self._output(F, scaled(F, hidden[node], after, index), weight))
        return self._finish(F, x, outputs)

    def _input(self, F: Any, node: Node, hidden: Dict[Node, Any], parameters: Dict[str, Any]) -> Any:
        if node[0] == 1:
            return hidden[INPUT]
        vector = parameters[self._lambda_names[node]]
        sources = self.topology.predecessors(node[0])
        return total(F, [scaled(F, hidden[source], vector, index) for index, source in enumerate(sources)])

    def _operate(self, F: Any, node: Node, x: Any) -> Any:
        operation = self._operations[node]
        if isinstance(operation, AvgPool):
            pooled = F.Pooling(x, kernel=(3, 3), pad=(1, 1), pool_type="avg", count_include_pad=True)
            return F.relu(operation.bn(pooled))
        return F.relu(operation(x))


class LiteralReduction(ReductionBlock):
    """Both operations of a reduction, each times its lambda, summed."""

    def hybrid_forward(self, F: Any, x: Any, scales: Any = None) -> Any:
        """(B, C, H, W) -> (B, C', H/2, W/2)."""
        return total(F, [scaled(F, branch(x), scales, index) for index, branch in enumerate(self._branches)])


class LiteralNet(Network):
    """All connections of `layout.spec`; `lambdas` holds the lambda parameters by name."""

    def __init__(self, layout: LambdaLayout) -> None:
        spec, genotype = layout.spec, Genotype.full(layout.spec, layout.scope)
        lambdas = {name: Parameter(name, shape=shape, init=mx.init.One())
                   for name, shape in layout.shapes().items()}
        units: List[HybridBlock] = []
        for unit in spec.units():
            own = {key: lambdas[name] for key, name in layout.names_of(unit).items()}
            if unit.kind == "reduction":
                units.append(LiteralReduction(unit, REDUCTION_OPERATIONS, own[REDUCTION]))
            else:
                units.append(LiteralBlock(unit, spec.topology, genotype.block(unit), own))
        super().__init__(spec, units)
        self.lambdas = lambdas


def forward_backward(network: Any, data: Any, labels: Any, loss: Callable[[Any, Any], Any]) -> Tuple[Any, Any]:
    """(outputs, loss per image) of any network, recorded operator by operator; every gradient is computed."""
    with autograd.record():
        outputs = network(data)
        losses = loss(outputs, labels)
    losses.backward()
    return outputs, losses
