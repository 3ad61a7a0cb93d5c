"""What an architecture costs: parameters, multiply-adds and memory access, with the conventions stated.

Formulas are registered per kind of layer in `FORMULAS`; a kind without one is an error, never a silent zero.
Measured latency does not belong here. Lambdas are never counted: the derived network has none.
"""

from __future__ import annotations

import dataclasses
from typing import Callable, Dict, Iterable, List, Optional, Tuple

from dso_nas.architecture.genotype import BlockGenotype, Genotype
from dso_nas.architecture.topology import NetworkSpec, Node, Unit, halved
from dso_nas.errors import UserError

Size = Tuple[int, int]

AUX_CHANNELS = (128, 768)
AUX_POOL = 5
AUX_STRIDE = {"cifar": 3, "imagenet": 2}


@dataclasses.dataclass(frozen=True)
class Conventions:
    """What counts: weights always; BatchNorm's gamma and beta, biases and the auxiliary head if asked.

    The default is weights only, by which the paper's CIFAR supernet has 9,937,296. `batch_norm` and `bias`
    add parameters and nothing else; `aux_head` adds the head's rows.
    """

    batch_norm: bool = False
    bias: bool = False
    aux_head: bool = False


@dataclasses.dataclass(frozen=True)
class Cost:
    """Parameters, multiply-adds for one image, and memory access cost (MAC) for one image in elements."""

    parameters: int = 0
    multiply_adds: int = 0
    mac: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.parameters + other.parameters,
            self.multiply_adds + other.multiply_adds,
            self.mac + other.mac,
        )


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer of a network, with whatever BatchNorm and ReLU follow it.

    `kind` is a key of FORMULAS, sizes are (height, width). `name` is the prefix of its parameters; `unit` the
    name of its unit, or 'stem', 'head', 'aux'; `node` the operation it is, or the one it takes to the output.
    """

    unit: str
    name: str
    kind: str
    in_channels: int
    channels: int
    kernel: int
    in_size: Size
    size: Size
    batch_norm: bool = True
    bias: bool = False
    node: Optional[Node] = None


@dataclasses.dataclass(frozen=True)
class CostRow:
    """A layer and what it costs."""

    layer: Layer
    cost: Cost


@dataclasses.dataclass(frozen=True)
class CostTable:
    """Costs per layer in forward order."""

    rows: Tuple[CostRow, ...]

    @property
    def total(self) -> Cost:
        """The sum over all rows."""
        return sum((row.cost for row in self.rows), Cost())

    def by_unit(self) -> Dict[str, Cost]:
        """The sum over every unit's rows, in forward order."""
        units: Dict[str, Cost] = {}
        for row in self.rows:
            units[row.layer.unit] = units.get(row.layer.unit, Cost()) + row.cost
        return units


def operation_cost(layer: Layer, conventions: Conventions) -> Cost:
    """What one layer costs.

    Multiply-adds are those of convolutions and dense layers. MAC is ShuffleNet V2's: input read, output
    written and weights read, hw(c_in + c_out) + c_in * c_out for a 1x1 convolution; a strided one reads all
    of its input, a separable one is its two convolutions. BatchNorm, ReLU and sums are taken as fused.

    Raises:
        UserError: no formula is registered for `layer.kind`.
    """
    if layer.kind not in FORMULAS:
        known = ", ".join(FORMULAS)
        raise UserError(f"cost: {layer.name}: no formula for {layer.kind!r}, there are {known}")
    norm = 2 * layer.channels if layer.batch_norm and conventions.batch_norm else 0
    bias = layer.channels if layer.bias and conventions.bias else 0
    return FORMULAS[layer.kind](layer) + Cost(parameters=norm + bias)


def block_cost(
    spec: NetworkSpec, unit: Unit, block: BlockGenotype, conventions: Optional[Conventions] = None
) -> CostTable:
    """Costs of a convolution block's layers at a unit's place, its shortcut included."""
    return cost_table(_block_layers(spec, unit, block), conventions or Conventions())


def network_cost(
    spec: NetworkSpec, genotype: Optional[Genotype] = None, conventions: Optional[Conventions] = None
) -> CostTable:
    """Costs of every layer of a genotype's network, or of the completely connected one.

    Raises:
        GenotypeError: the genotype does not fit the network.
        UserError: an auxiliary head is asked for where the network has no room for it.
    """
    conventions = conventions or Conventions()
    layers = backbone_layers(spec, genotype) + _head_layers(spec)
    if conventions.aux_head:
        layers += _aux_layers(spec)
    return cost_table(layers, conventions)


def backbone_layers(spec: NetworkSpec, genotype: Optional[Genotype] = None) -> List[Layer]:
    """Stem, blocks and reductions of a genotype's network, or of the completely connected one.

    Raises:
        GenotypeError: the genotype does not fit the network.
    """
    genotype = genotype or Genotype.full(spec, "share")
    genotype.check_fits(spec)
    layers = _stem_layers(spec)
    for unit in spec.units():
        if unit.kind == "block":
            layers += _block_layers(spec, unit, genotype.block(unit))
        else:
            layers += _reduction_layers(spec, unit, genotype.reduction(unit))
    return layers


def cost_table(layers: Iterable[Layer], conventions: Conventions) -> CostTable:
    """What each of the layers costs."""
    return CostTable(tuple(CostRow(layer, operation_cost(layer, conventions)) for layer in layers))


def _stem_layers(spec: NetworkSpec) -> List[Layer]:
    layers = []
    channels, size = spec.image_shape[0], spec.image_shape[1:]
    for index, width in enumerate(spec.stem_widths):
        out = size if spec.stem_stride == 1 else halved(size)
        layers.append(Layer("stem", f"conv{index}", "conv", channels, width, 3, size, out))
        channels, size = width, out
    return layers


def _block_layers(spec: NetworkSpec, unit: Unit, block: BlockGenotype) -> List[Layer]:
    def layer(suffix: str, kind: str, kernel: int, batch_norm: bool, node: Optional[Node] = None) -> Layer:
        name, width = f"{unit.name}_{suffix}", unit.channels
        return Layer(unit.name, name, kind, width, width, kernel, size, size, batch_norm, False, node)

    size = spec.stage_size(unit.stage)
    topology = spec.topology
    layers = [layer("id_conv", "conv", 1, True)] if unit.first else []
    for node in block.live_nodes:
        operation = topology.operation(node)
        layers.append(layer(f"{node[0]}_{operation.token}", operation.kind, operation.kernel, True, node))
    for node in block.outputs:
        layers.append(layer(f"output_conv_{1 + topology.output_index(node)}", "conv", 1, False, node))
    return layers if block.is_empty else layers + [layer("bn", "batch_norm", 1, True)]


def _reduction_layers(spec: NetworkSpec, unit: Unit, live: Iterable[str]) -> List[Layer]:
    before, after = spec.stage_size(unit.stage), spec.stage_size(unit.stage + 1)
    kernels = {"conv1x1": 1, "conv3x3": 3}
    channels = unit.in_channels, unit.channels
    return [
        Layer(unit.name, f"{unit.name}_{name}", "conv", *channels, kernels[name], before, after)
        for name in live
    ]


def _head_layers(spec: NetworkSpec) -> List[Layer]:
    width, size = spec.widths[-1], spec.stage_size(spec.stages)
    return [
        Layer("head", "final_bn", "batch_norm", width, width, 1, size, size),
        Layer("head", "global_pool", "avg_pool", width, width, size[0], size, (1, 1), batch_norm=False),
        Layer("head", "fc1", "dense", width, spec.classes, 1, (1, 1), (1, 1), batch_norm=False, bias=True),
    ]


def _aux_layers(spec: NetworkSpec) -> List[Layer]:
    if spec.stages < 3:
        raise UserError(f"aux_head: it needs 3 stages (it follows the second reduction), not {spec.stages}")
    width, size, (narrow, wide) = spec.widths[2], spec.stage_size(3), AUX_CHANNELS
    stride = AUX_STRIDE[spec.stem]
    smallest = AUX_POOL + stride
    if min(size) < smallest:
        raise UserError(f"aux_head: stage 3 is {size[0]}x{size[1]}, enlarge the images to make it {smallest}")
    pooled = (size[0] - AUX_POOL) // stride + 1, (size[1] - AUX_POOL) // stride + 1
    last = pooled[0] - 1, pooled[1] - 1
    return [
        Layer("aux", "aux_bn", "batch_norm", width, width, 1, size, size),
        Layer("aux", "aux_pool", "avg_pool", width, width, AUX_POOL, size, pooled, batch_norm=False),
        Layer("aux", "aux_conv1", "conv", width, narrow, 1, pooled, pooled),
        Layer("aux", "aux_conv2", "conv", narrow, wide, 2, pooled, last),
        Layer("aux", "aux_global_pool", "avg_pool", wide, wide, last[0], last, (1, 1), batch_norm=False),
        Layer("aux", "aux_fc", "dense", wide, spec.classes, 1, (1, 1), (1, 1), batch_norm=False, bias=True),
    ]


def _moved(layer: Layer) -> int:
    """Elements of the input read and of the output written."""
    height, width = layer.in_size
    return height * width * layer.in_channels + layer.size[0] * layer.size[1] * layer.channels


def _conv(layer: Layer) -> Cost:
    weights = layer.kernel**2 * layer.in_channels * layer.channels
    return Cost(weights, weights * layer.size[0] * layer.size[1], _moved(layer) + weights)


def _depthwise(layer: Layer) -> Cost:
    weights = layer.kernel**2 * layer.in_channels
    return Cost(weights, weights * layer.size[0] * layer.size[1], _moved(layer) + weights)


def _sep_conv(layer: Layer) -> Cost:
    depthwise = dataclasses.replace(layer, channels=layer.in_channels)
    pointwise = dataclasses.replace(layer, kernel=1, in_size=layer.size)
    return _depthwise(depthwise) + _conv(pointwise)


def _pool(layer: Layer) -> Cost:
    return Cost(mac=_moved(layer))


def _fused(layer: Layer) -> Cost:
    return Cost()


FORMULAS: Dict[str, Callable[[Layer], Cost]] = {
    "conv": _conv,
    "dense": _conv,
    "dw_conv": _depthwise,
    "sep_conv": _sep_conv,
    "max_pool": _pool,
    "avg_pool": _pool,
    "resize": _pool,
    "batch_norm": _fused,
}
