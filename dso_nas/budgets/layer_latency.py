"""How long each layer of a macro-structure takes by itself: the entries of a latency table, of every space.

An entry is one layer's share of `COPIES` that run in one compiled graph, each on inputs of its own: what a call costs
would hide a small layer. Levels and the numbers of blocks change no entry: a table serves all networks of its sizes.
In the mobile space a stage's first block has entries of its own, it has another input and stride than the rest.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Callable, Dict, Mapping, NamedTuple, Tuple

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock

from dso_nas.architecture.block_genotype import BlockGenotype
from dso_nas.architecture.genotype import Genotype
from dso_nas.architecture.mobile import MOBILE_OPERATIONS, MobileSpec, MobileUnit
from dso_nas.architecture.mobile_genotype import MobileGenotype
from dso_nas.architecture.topology import OPERATIONS, REDUCTION_OPERATIONS, NetworkSpec, Unit
from dso_nas.budgets.latency import LARGEST_SPREAD, compiled, timed
from dso_nas.budgets.latency_table import Entry, LatencyTable
from dso_nas.errors import UserError
from dso_nas.networks.blocks import ReductionBlock, total
from dso_nas.networks.mobile import ConvBNReLU6, FirstBlock, MBConv, MobileHead
from dso_nas.networks.network import Head, Stem
from dso_nas.networks.operations import ConvBNReLU, batch_norm, convolution, make_operation, relu

COPIES = 8
_TERMS = 5

Shape = Tuple[int, int, int]


class TimedLayer(NamedTuple):
    """How a layer is built; shape (channels, height, width) and number of its inputs; how many entries it makes up."""

    build: Callable[[], HybridBlock]
    shape: Shape
    inputs: int = 1
    entries: int = 1


class _Sum(HybridBlock):
    """The sum of its inputs."""

    def hybrid_forward(self, F: Any, x: Any, *others: Any) -> Any:
        return total(F, [x, *others])


class _BlockEnd(HybridBlock):
    """What follows a block's output convolutions: BatchNorm, ReLU, the shortcut added."""

    def __init__(self, channels: int) -> None:
        super().__init__(prefix="")
        self.bn = batch_norm(channels, "bn")

    def hybrid_forward(self, F: Any, x: Any, shortcut: Any) -> Any:
        return relu(F, self.bn(x)) + shortcut


class _Copies(HybridBlock):
    """One layer on several inputs, or on as many neighbouring ones as it takes."""

    def __init__(self, layer: TimedLayer) -> None:
        super().__init__(prefix="")
        self.layer = layer.build()
        self._inputs = layer.inputs

    def hybrid_forward(self, F: Any, x: Any, *others: Any) -> Any:
        arrays = [x, *others]
        return [self.layer(*[arrays[(first + n) % COPIES] for n in range(self._inputs)]) for first in range(COPIES)]


def table_space(spec: Any) -> Dict[str, Any]:
    """What the entries of a table for `spec`, the macro-structure of any space, depend on, as JSON values."""
    common = {"widths": list(spec.widths), "classes": spec.classes, "image_shape": list(spec.image_shape)}
    if isinstance(spec, MobileSpec):
        return {"name": "mobile", **common, "stem_width": spec.stem_width, "first_width": spec.first_width,
                "strides": [stride for _, _, stride in spec.groups], "feature_width": spec.feature_width,
                "operations": sorted(spec.operations)}
    return {"name": "normal", **common, "stem": spec.stem, "operations": sorted(spec.topology.operations)}


def timed_layers(spec: Any) -> Dict[str, TimedLayer]:
    """Every layer a network of `spec` may have, by its entry's name."""
    return _mobile_layers(spec) if isinstance(spec, MobileSpec) else _normal_layers(spec)


def _normal_layers(spec: NetworkSpec) -> Dict[str, TimedLayer]:
    layers = {"stem": TimedLayer(lambda: Stem(spec), spec.image_shape)}
    for stage, width in enumerate(spec.widths, start=1):
        shape = (width, *spec.stage_size(stage))
        for name in spec.topology.operations:
            layers[f"stage{stage}/{name}"] = TimedLayer(_operation(name, width), shape)
        layers[f"stage{stage}/output"] = TimedLayer(_output(width), shape)
        layers[f"stage{stage}/shortcut"] = TimedLayer(_shortcut(width), shape)
        layers[f"stage{stage}/block end"] = TimedLayer(_block_end(width), shape, inputs=2)
        layers[f"stage{stage}/sum"] = TimedLayer(_sum, shape, inputs=_TERMS, entries=_TERMS - 1)
    for unit in spec.reduction_units():
        shape = (unit.in_channels, *spec.stage_size(unit.stage))
        for name in REDUCTION_OPERATIONS:
            layers[f"stage{unit.stage}/reduction {name}"] = TimedLayer(_reduction(unit, name), shape)
    shape = (spec.widths[-1], *spec.stage_size(spec.stages))
    return {**layers, "head": TimedLayer(lambda: Head(spec.widths[-1], spec.classes), shape)}


def _mobile_layers(spec: MobileSpec) -> Dict[str, TimedLayer]:
    first, colors = spec.first_unit, spec.image_shape[0]
    layers = {"stem": TimedLayer(lambda: ConvBNReLU6(spec.stem_width, colors, 3, "timed", 2), spec.image_shape),
              "first": TimedLayer(lambda: FirstBlock(first), (first.in_channels, *first.in_size))}
    for unit in spec.units():
        shape = (unit.channels, *unit.size)
        for name in spec.operations:
            layers[_place(unit) + name] = TimedLayer(_mbconv(unit, name), (unit.in_channels, *unit.in_size))
        layers[f"stage{unit.stage}/sum"] = TimedLayer(_sum, shape, inputs=_TERMS, entries=_TERMS - 1)
        layers[f"stage{unit.stage}/shortcut"] = TimedLayer(_sum, shape, inputs=2)
    shape = (spec.widths[-1], *spec.units()[-1].size)
    return {**layers, "head": TimedLayer(lambda: MobileHead(spec), shape)}


def layer_counts(spec: Any, genotype: Any) -> Mapping[str, int]:
    """How many of each entry a genotype's network has; of a sum, the terms beyond the first.

    Raises:
        GenotypeError: the genotype does not fit the network.
    """
    genotype.check_fits(spec)
    return (_mobile_counts if isinstance(spec, MobileSpec) else _normal_counts)(spec, genotype)


def _normal_counts(spec: NetworkSpec, genotype: Genotype) -> Mapping[str, int]:
    counts = Counter(("stem", "head"))
    for unit in spec.block_units():
        counts.update(_block_counts(spec, unit, genotype.block(unit)))
    for unit in spec.reduction_units():
        live = genotype.reduction(unit)
        counts.update(f"stage{unit.stage}/reduction {name}" for name in live)
        counts[f"stage{unit.stage + 1}/sum"] += len(live) - 1
    return counts


def _mobile_counts(spec: MobileSpec, genotype: MobileGenotype) -> Mapping[str, int]:
    counts = Counter(("stem", "first", "head"))
    for unit in spec.units():
        live = genotype.block(unit)
        counts.update(_place(unit) + name for name in live)
        # A block without an operation is its shortcut, which then adds nothing.
        counts.update({f"stage{unit.stage}/sum": max(len(live) - 1, 0),
                       f"stage{unit.stage}/shortcut": int(unit.shortcut and bool(live))})
    return counts


def load_table(path: str, spec: Any, batch: int) -> LatencyTable:
    """A table's file, checked to serve networks of `spec` for batches of `batch` images.

    Raises:
        UserError: it cannot be read, or is of another space or batch; names the file and what differs.
    """
    table = LatencyTable.load(path)
    table.check_fits(table_space(spec), list(timed_layers(spec)), path)
    if table.batch != batch:
        raise UserError(f"{path}: the latency table is for batches of {table.batch}, search.latency_batch is {batch}")
    return table


def measure_layer(layer: TimedLayer, context: mx.Context, batch: int, protocol: str,
                  largest_spread: float = LARGEST_SPREAD) -> Entry:
    """One entry: the milliseconds of a layer in evaluation mode, for a batch, and their relative spread.

    Raises:
        UserError: the measurements' spread is too large.
    """
    with mx.autograd.pause(train_mode=False):
        network = compiled(_Copies(layer), context)
        draws = np.random.default_rng(0)
        arrays = [mx.nd.array(draws.normal(size=(batch, *layer.shape)), ctx=context) for _ in range(COPIES)]

        def run() -> None:
            for output in network(*arrays):
                output.wait_to_read()

        latency = timed(run, context, protocol, largest_spread)
    return Entry(latency.value / (COPIES * layer.entries), latency.spread)


def _block_counts(spec: NetworkSpec, unit: Unit, block: BlockGenotype) -> Mapping[str, int]:
    topology, stage = spec.topology, f"stage{unit.stage}/"
    counts = Counter(stage + topology.operation(node).name for node in block.live_nodes)
    sums = [*block.connections.values(), *([block.outputs] if block.outputs else [])]
    counts.update({stage + "output": len(block.outputs), stage + "sum": sum(len(terms) - 1 for terms in sums),
                   stage + "shortcut": int(unit.first), stage + "block end": int(not block.is_empty)})
    return counts


def _place(unit: MobileUnit) -> str:
    return f"stage{unit.stage}/first " if unit.unit == 1 else f"stage{unit.stage}/"


def _mbconv(unit: MobileUnit, name: str) -> Callable[[], HybridBlock]:
    return lambda: MBConv(unit, MOBILE_OPERATIONS[name], "timed")


def _operation(name: str, width: int) -> Callable[[], HybridBlock]:
    return lambda: make_operation(OPERATIONS[name], width, "timed")


def _output(width: int) -> Callable[[], HybridBlock]:
    return lambda: convolution(width, width, 1, "timed")


def _shortcut(width: int) -> Callable[[], HybridBlock]:
    return lambda: ConvBNReLU(width, width, 1, "timed")


def _block_end(width: int) -> Callable[[], HybridBlock]:
    return lambda: _BlockEnd(width)


def _sum() -> HybridBlock:
    return _Sum(prefix="")


def _reduction(unit: Unit, name: str) -> Callable[[], HybridBlock]:
    return lambda: ReductionBlock(unit, [name])
