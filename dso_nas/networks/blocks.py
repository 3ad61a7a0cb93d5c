"""Convolution and reduction blocks, of the supernet and of derived networks (paper, Eq. 1-2 and 8).

Every block is one HybridBlock from (B, C, H, W) to (B, C', H', W'). A search block scales its connections by lambdas, a
derived block does not; both are built from a `BlockGenotype` and hold only what it keeps.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from mxnet.gluon import HybridBlock, Parameter

from dso_nas.architecture.genotype import BlockGenotype
from dso_nas.architecture.lambdas import PACKED
from dso_nas.architecture.topology import AFTER, INPUT, REDUCTION_OPERATIONS, BlockTopology, Key, Node, Unit
from dso_nas.networks.operations import ConvBNReLU, batch_norm, constant, convolved, into_blocks, make_operation, relu
from dso_nas.training.programs import in_rows, learns


def runs(flags: Sequence[bool]) -> Iterator[Tuple[int, int, bool]]:
    """(begin, end, flag) of every run of equal flags."""
    end = 0
    for flag, run in groupby(flags):
        begin, end = end, end + len(list(run))
        yield begin, end, flag


def side_by_side(F: Any, parts: Sequence[Any]) -> Any:
    """One or more arrays (r, k, 1) joined along axis 1.

    Not of two or four axes: there every backward pass of MXNet's concat on the CPU leaves 900 bytes behind for each.
    """
    return parts[0] if len(parts) == 1 else F.concat(*parts, dim=1)


def stacked(F: Any, parts: Sequence[Any]) -> Any:
    """Arrays (B, C, H, W) side by side in a new one: (B, parts x C, H, W); nothing is kept for its backward pass.

    Also of a single one, if its shape is changed afterwards: a static executor would do that in place, in oneDNN's
    layout where an operation has left it so, and gradients would come out wrong.
    """
    return F.stack(*parts, axis=1).reshape((0, -3, 0, 0))


def columns(F: Any, rows: Any, positions: Sequence[int], total: int) -> Any:
    """Columns `positions` (ascending) of `rows` (r, total, 1)."""
    if len(positions) == total:
        return rows
    wanted = [position in positions for position in range(total)]
    return side_by_side(F, [F.slice_axis(rows, axis=1, begin=begin, end=end)
                            for begin, end, keep in runs(wanted) if keep])


def split(F: Any, x: Any, parts: int, axis: int) -> List[Any]:
    """`x` cut into `parts` equal pieces along `axis`."""
    return [x] if parts == 1 else list(F.split(x, num_outputs=parts, axis=axis))


def total(F: Any, terms: Sequence[Any]) -> Any:
    """Sum of one or more arrays of the same shape."""
    return terms[0] if len(terms) == 1 else F.add_n(*terms)


def contraction(F: Any, values: Any, matrix: Any, shape: Tuple[int, int], learned: bool) -> Any:
    """Weighted sums of arrays: `values` (B, k, ...) and `matrix` (n, k, 1), of shape (n, k), give (B, n, ...).

    As a 1x1 convolution, whose backward is the fastest that MXNet has on the CPU. `learned` is whether the matrix is.
    """
    return convolved(F, values, matrix.reshape((*shape, 1, 1)), learned, kernel=(1, 1), num_filter=shape[0])


def weighted_total(F: Any, terms: Sequence[Any], row: Any, learned: bool) -> Any:
    """The sum of arrays (B, C, H, W), each times its entry of `row` (1, k, 1), which is learned or not."""
    stacked = F.stack(*terms, axis=1).reshape((0, 0, -3, 0))
    return F.reshape_like(contraction(F, stacked, row, (1, len(terms)), learned), terms[0])


def passed_on(F: Any, x: Any) -> Any:
    """`x` itself, as an operation: a compiled block that returns its very input gives it no gradient."""
    return F.identity(x)


def _output_name(node: Node) -> str:
    return f"output_{node[0]}_{node[1]}"


class Block(HybridBlock):
    """What search and derived blocks share: the kept operations, output weights, BatchNorm and shortcut.

    A block whose every output is dead is its shortcut alone (paper, section 3.1: "in case all operations are pruned").
    """

    def __init__(self, unit: Unit, topology: BlockTopology, genotype: BlockGenotype, fix_gamma: bool,
                 dilation: int = 1, activate: bool = True) -> None:
        super().__init__(prefix="")
        self.unit = unit
        self.topology = topology
        self.genotype = genotype
        self._operations: Dict[Node, HybridBlock] = {}
        for node in genotype.live_nodes:
            self._operations[node] = self._child(f"op_{node[0]}_{node[1]}", make_operation(
                topology.operation(node), unit.channels, f"{unit.name}_{node[0]}", fix_gamma, dilation, activate))
            if node in genotype.outputs:
                index = topology.output_index(node) + 1
                shape = (unit.channels, unit.channels, 1, 1)
                setattr(self, _output_name(node), self.params.get(
                    f"{unit.name}_output_conv_{index}_weight", shape=shape))
        if genotype.outputs:
            self.bn = batch_norm(unit.channels, f"{unit.name}_bn")
        if unit.first:
            self.id_conv = ConvBNReLU(unit.channels, unit.in_channels, 1, f"{unit.name}_id_conv", fix_gamma=fix_gamma)

    def _child(self, name: str, block: HybridBlock) -> HybridBlock:
        self.register_child(block, name)
        return block

    def _shortcut(self, x: Any) -> Any:
        return self.id_conv(x) if self.unit.first else x

    def _levels(self) -> List[Tuple[int, List[Node]]]:
        live = self.genotype.live_nodes
        return [(level, [node for node in live if node[0] == level]) for level in range(1, self.topology.levels + 1)]

    def _output(self, F: Any, x: Any, weight: Any) -> Any:
        """The 1x1 convolution from one operation to the block's output."""
        return F.Convolution(x, weight, kernel=(1, 1), num_filter=self.unit.channels, no_bias=True)

    def _finish(self, F: Any, x: Any, outputs: Sequence[Any]) -> Any:
        # add_n, because the gradient of + is copied by an operator that oneDNN does not have.
        return F.add_n(relu(F, self.bn(total(F, outputs))), self._shortcut(x))


class SearchBlock(Block):
    """A block of the supernet: every kept connection scaled by its lambda (Eq. 8), outputs by `after`.

    `lambdas` maps the topology's keys (or 'packed') to parameters of shape (1, k), shared with other blocks in scope
    'share'. Rather than one multiplication per connection, the operations of a level lie side by side in one array: a
    later level takes its inputs from it by one contraction with the lambda matrix between the two levels, and the block
    its outputs by one 1x1 convolution whose weights the output lambdas are multiplied into. BatchNorm scales of the
    operations are fixed at one (section 4.1).
    """

    def __init__(self, unit: Unit, topology: BlockTopology, genotype: BlockGenotype, lambdas: Mapping[Key, Parameter],
                 dilation: int = 1) -> None:
        super().__init__(unit, topology, genotype, fix_gamma=True, dilation=dilation, activate=False)
        self._dtype = "float32"
        self._lambda_names: Dict[Key, str] = {}
        if not genotype.outputs:
            return
        for key, parameter in lambdas.items():
            if key in (AFTER, PACKED) or key in genotype.connections:
                name = f"lambda_{key}" if isinstance(key, str) else f"lambda_{key[0]}_{key[1]}"
                self._lambda_names[key] = name
                setattr(self, name, parameter)
                self.params.update({parameter.name: parameter})

    @property
    def _learns_lambdas(self) -> bool:
        return any(learns(getattr(self, name).name) for name in self._lambda_names.values())

    def hybrid_forward(self, F: Any, x: Any, **parameters: Any) -> Any:
        """(B, C, H, W) -> (B, C, H, W)."""
        if not self.genotype.outputs:
            return passed_on(F, self._shortcut(x))
        own = stacked(F, [in_rows(F, into_blocks(F, x, self.unit.in_channels))])
        bundles: Dict[Tuple[Node, ...], Any] = {(INPUT,): own}
        results: List[Tuple[Tuple[Node, ...], Any]] = []
        for level, nodes in self._levels():
            inputs = self._inputs(F, x, level, nodes, parameters, bundles)
            values = {node: self._operations[node](entry) for node, entry in zip(nodes, inputs)}
            bundle, apart, whole = self._bundled(nodes)
            values.update({node: relu(F, values[node]) for node in apart})
            results += [((node,), values[node]) for node in apart]
            if bundle:
                # One ReLU over all of them: only its result is kept for the backward pass.
                bundles[bundle] = relu(F, stacked(F, [in_rows(F, values[node]) for node in bundle]))
                results += [(bundle, bundles[bundle])] * whole
        return self._finish(F, x, self._scaled_outputs(F, results, parameters))

    def _bundled(self, nodes: Sequence[Node]) -> Tuple[Tuple[Node, ...], Tuple[Node, ...], bool]:
        """Which of a level's operations lie side by side, for later levels to read, and which go to the output alone.

        Last, whether those that lie side by side go to the output as they lie, with zeros for any that does not. Where
        half of them do not, the others go alone.
        """
        read = {source for sources in self.genotype.connections.values() for source in sources}
        bundle = tuple(node for node in nodes if node in read)
        both = read.intersection(nodes, self.genotype.outputs)
        whole = len(both) > len(bundle) // 2
        apart = tuple(node for node in nodes if node in self.genotype.outputs and not (whole and node in read))
        return bundle, apart, whole

    def _row(self, F: Any, key: Key, parameters: Mapping[str, Any]) -> Any:
        """The lambda vector (1, k, 1) of a key."""
        if PACKED not in self._lambda_names:
            return parameters[self._lambda_names[key]].expand_dims(2)
        span, packed = self.topology.slice(key), parameters[self._lambda_names[PACKED]]
        return F.slice_axis(packed, axis=1, begin=span.start, end=span.stop).expand_dims(2)

    def _matrix(self, F: Any, nodes: Sequence[Node], parameters: Mapping[str, Any]) -> Any:
        """The lambdas (n, k, 1) of n operations' inputs, zeros, which get no gradient, at what is pruned."""
        rows = [self._row(F, node, parameters) for node in nodes]
        matrix = F.concat(*rows, dim=0) if len(rows) > 1 else rows[0]
        predecessors = self.topology.predecessors(nodes[0][0])
        kept = np.array([[[source in self.genotype.connections[node]] for source in predecessors] for node in nodes])
        return matrix if kept.all() else matrix * constant(F, kept.astype(self._dtype))

    def _inputs(self, F: Any, x: Any, level: int, nodes: Sequence[Node], parameters: Mapping[str, Any],
                bundles: Mapping[Tuple[Node, ...], Any]) -> List[Any]:
        """Inputs of a level's n operations, each (B, C, H, W): lambda matrices times the bundles they read."""
        if level == 1 or not nodes:
            return [x] * len(nodes)
        predecessors = self.topology.predecessors(level)
        matrix = self._matrix(F, nodes, parameters)
        read = {source for node in nodes for source in self.genotype.connections[node]}
        terms = []
        for bundle, values in bundles.items():
            if read.intersection(bundle):
                part = columns(F, matrix, [predecessors.index(node) for node in bundle], len(predecessors))
                terms.append(contraction(F, values.reshape((0, len(bundle), -1, 0)), part, (len(nodes), len(bundle)),
                                         self._learns_lambdas))
        inputs = total(F, terms).reshape((0, len(nodes) * self.unit.channels, -1, 0))
        return [in_rows(F, part) for part in split(F, inputs, len(nodes), axis=1)]

    def _scaled_outputs(self, F: Any, results: Sequence[Tuple[Tuple[Node, ...], Any]],
                        parameters: Mapping[str, Any]) -> List[Any]:
        """lambda_k * conv1x1(h_k) of the operations that go to the output, of those that lie side by side at once."""
        nodes = self.genotype.outputs
        channels = self.unit.channels
        positions = [self.topology.output_index(node) for node in nodes]
        after = self._row(F, AFTER, parameters)
        scales = columns(F, after, positions, self.topology.num_nodes).reshape((-1, 1, 1))
        weights = F.stack(*[parameters[_output_name(node)] for node in nodes], axis=0)
        weights = weights.reshape((0, 1, -1))
        # batch_dot, because the backward of broadcast_mul by a scalar is slow on the CPU.
        parts = split(F, F.batch_dot(scales, weights), len(nodes), axis=0)
        scaled = {node: part.reshape((channels, channels, 1, 1)) for node, part in zip(nodes, parts)}
        nothing = F.zeros_like(scaled[nodes[0]])
        return [self._output(F, values, stacked(F, [scaled.get(node, nothing) for node in bundle]))
                for bundle, values in results]

    def cast(self, dtype: Any) -> None:
        """See Block; the constants that lambdas are multiplied by follow."""
        super().cast(dtype)
        self._dtype = dtype


class DerivedBlock(Block):
    """A block of a derived network: kept connections are plain sums, lambdas are not multiplied (Eq. 6).

    With `drop_path`, forward takes (B, `num_paths`) multipliers, one column per path that can be dropped: first the
    inputs of each operation that has more than one, in level order, then every output convolution.
    """

    def __init__(self, unit: Unit, topology: BlockTopology, genotype: BlockGenotype, drop_path: bool = False,
                 dilation: int = 1, fix_gamma: bool = False) -> None:
        super().__init__(unit, topology, genotype, fix_gamma=fix_gamma, dilation=dilation)
        self._drop_path = drop_path

    @property
    def num_paths(self) -> int:
        """Columns of the drop-path multipliers this block takes; 0 without drop path."""
        if not self._drop_path:
            return 0
        inputs = sum(len(nodes) for nodes in self.genotype.connections.values() if len(nodes) > 1)
        return inputs + len(self.genotype.outputs)

    def hybrid_forward(self, F: Any, x: Any, paths: Optional[Any] = None, **parameters: Any) -> Any:
        """(B, C, H, W) and, with drop path, (B, num_paths) -> (B, C, H, W)."""
        if not self.genotype.outputs:
            return passed_on(F, self._shortcut(x))
        columns_left = iter(() if paths is None else split(F, paths, self.num_paths, axis=1))
        hidden: Dict[Node, Any] = {INPUT: x}
        for level, nodes in self._levels():
            for node in nodes:
                sources = self.genotype.connections[node] if level > 1 else (INPUT,)
                inputs = [hidden[source] for source in sources]
                if len(inputs) > 1:
                    inputs = [self._dropped(F, term, columns_left, paths) for term in inputs]
                hidden[node] = self._operations[node](total(F, inputs))
        outputs = [self._output(F, hidden[node], parameters[_output_name(node)]) for node in self.genotype.outputs]
        outputs = [self._dropped(F, term, columns_left, paths) for term in outputs]
        return self._finish(F, x, outputs)

    @staticmethod
    def _dropped(F: Any, term: Any, multipliers: Any, paths: Optional[Any]) -> Any:
        if paths is None:
            return term
        return F.broadcast_mul(term, next(multipliers).reshape((0, 1, 1, 1)))


class ReductionBlock(HybridBlock):
    """Halves the map: the kept ones of conv1x1 and conv3x3 of stride 2, summed (section 3.1).

    With a parameter `scales` of shape (1, 2) each is multiplied by its lambda (a supernet), without they are summed.
    `stride` 1 keeps the map's size, for a backbone whose output stride is bounded; `dilation` is that of conv3x3.
    """

    def __init__(self, unit: Unit, operations: Sequence[str], scales: Optional[Parameter] = None,
                 stride: int = 2, fix_gamma: bool = False, dilation: int = 1) -> None:
        super().__init__(prefix="")
        self.unit = unit
        self._kept = [name for name in REDUCTION_OPERATIONS if name in operations]
        self._branches = []
        for name in self._kept:
            branch = ConvBNReLU(unit.channels, unit.in_channels, int(name[-1]), f"{unit.name}_{name}", stride,
                                fix_gamma=fix_gamma or scales is not None, dilation=dilation)
            self.register_child(branch, name)
            self._branches.append(branch)
        if scales is not None:
            self.scales = scales
            self.params.update({scales.name: scales})

    def hybrid_forward(self, F: Any, x: Any, scales: Optional[Any] = None) -> Any:
        """(B, C, H, W) -> (B, C', H/stride, W/stride), sizes rounded up."""
        branches = [branch(x) for branch in self._branches]
        if scales is None:
            return total(F, branches)
        positions = [REDUCTION_OPERATIONS.index(name) for name in self._kept]
        row = columns(F, scales.expand_dims(2), positions, len(REDUCTION_OPERATIONS))
        return weighted_total(F, branches, row, learns(self.scales.name))
