"""Which network a set of parameters belongs to, told from their published names and shapes alone."""

from __future__ import annotations

import re
from typing import Any, Dict, Iterable, List, Mapping, Optional, Set, Tuple

import numpy as np

from dso_nas.architecture.genotype import SHARED, BlockGenotype, Genotype
from dso_nas.architecture.lambdas import LambdaLayout
from dso_nas.architecture.topology import AFTER, REDUCTION_OPERATIONS, BlockTopology, NetworkSpec, Node, Unit
from dso_nas.errors import UserError
from symbols.networks import OPERATIONS, reach_of

Shapes = Mapping[str, Tuple[int, ...]]

IMAGE_SIZE = {"cifar": 32, "imagenet": 224}
MAX_LEVELS = 32
_UNIT = re.compile(r"(?:lambda_(?:after_)?)?stage(\d+)_unit(\d+)(?:_|$)")
_REDUCTION = re.compile(r"stage(\d+)_unit(\d+)_conv[13]x[13]_weight")
_LEVEL = re.compile(r"stage\d+_unit\d+_(\d+)_[a-z]")


def infer_spec(
    shapes: Shapes, where: str, image_size: Optional[int] = None, topology: Optional[BlockTopology] = None
) -> NetworkSpec:
    """The macro-structure of the network whose parameters have these shapes.

    Parameters do not know the images' side: `image_size`, by default 32 behind the CIFAR stem and 224 behind
    the ImageNet one. Blocks at the end of the last stage that are their shortcut alone leave no trace and are
    left out. Without `topology` the published operations are taken.

    Raises:
        UserError: beginning with `where`, a parameter that every network has is missing.
    """
    stem = "imagenet" if "conv1_weight" in shapes else "cifar"
    blocks = _blocks(shapes, where)
    widths = tuple(
        _shape(shapes, f"stage{stage}_unit1_id_conv_weight", where)[0] for stage in range(1, len(blocks) + 1)
    )
    side = image_size or IMAGE_SIZE[stem]
    image_shape = (_shape(shapes, "conv0_weight", where)[1], side, side)
    topology = topology or BlockTopology(_levels(shapes, where), OPERATIONS, reach_of(shapes))
    return NetworkSpec(topology, stem, blocks, widths, _shape(shapes, "fc1_weight", where)[0], image_shape)


def infer_structure(layout: LambdaLayout, names: Iterable[str], pruned: Genotype) -> Genotype:
    """What a supernet with parameters `names` (unknown ones are passed over) was built with.

    Between two rebuilds a network still holds operations that its lambdas have given up: those named are
    kept, besides all of `pruned`, with every connection among them.
    """
    spec, names = layout.spec, set(names)
    units = {unit.name: unit for unit in spec.block_units()}
    groups = {SHARED: list(units.values())} if layout.scope == "share" else {n: [u] for n, u in units.items()}
    blocks = {
        name: _block(spec.topology, group, names, pruned.blocks[name]) for name, group in groups.items()
    }
    reductions = tuple(_reduction(unit, names, pruned.reduction(unit)) for unit in spec.reduction_units())
    return Genotype(spec.topology, layout.scope, blocks, reductions)


def check_parameters(found: Shapes, needed: Shapes, where: str) -> None:
    """Check that the parameters `found` are those `needed`.

    Raises:
        UserError: beginning with `where`, naming all that are missing, extra or of another shape.
    """
    missing = [name for name in needed if name not in found]
    extra = [name for name in found if name not in needed]
    misshapen = [
        f"{name} is {tuple(found[name])}, not {tuple(needed[name])}"
        for name in needed
        if name in found and tuple(found[name]) != tuple(needed[name])
    ]
    lists = {"missing": missing, "extra": extra, "misshapen": misshapen}
    problems = [f"{what}: {', '.join(items)}" for what, items in lists.items() if items]
    if problems:
        raise UserError(f"{where}: does not fit the network it looks like; {'; '.join(problems)}")


def _blocks(shapes: Shapes, where: str) -> Tuple[int, ...]:
    last: Dict[int, int] = {}
    for name in shapes:
        match = _UNIT.match(name)
        if match:
            stage, unit = int(match[1]), int(match[2])
            last[stage] = max(last.get(stage, 0), unit)
    if not last or sorted(last) != list(range(1, max(last) + 1)):
        raise UserError(
            f"{where}: holds no parameters stage1_unit1_... and so on: is it a network of this kind?"
        )
    reductions = {int(match[1]): int(match[2]) for match in map(_REDUCTION.match, shapes) if match}
    missing = [stage for stage in range(1, max(last)) if stage not in reductions]
    if missing:
        raise UserError(f"{where}: missing: the reduction at the end of stage {missing[0]}")
    return tuple(reductions[stage] - 1 for stage in range(1, max(last))) + (last[max(last)],)


def _shape(shapes: Shapes, name: str, where: str) -> Tuple[int, ...]:
    if name not in shapes or len(shapes[name]) < 2:
        raise UserError(f"{where}: missing: {name}")
    return shapes[name]


def _levels(shapes: Shapes, where: str) -> int:
    reductions = {
        f"lambda_stage{match[1]}_unit{match[2]}" for match in map(_REDUCTION.match, shapes) if match
    }
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        if name.startswith("lambda_after"):
            return max(1, size // len(OPERATIONS))
        if re.fullmatch(r"lambda_stage\d+_unit\d+", name) and name not in reductions:
            fitting = [
                m for m in range(1, MAX_LEVELS + 1) if BlockTopology(m, OPERATIONS).num_connections == size
            ]
            if not fitting:
                raise UserError(f"{where}: misshapen: {name} has {size} entries, which no block has")
            return fitting[0]
    return max((int(match[1]) for match in map(_LEVEL.match, shapes) if match), default=1)


def _block(
    topology: BlockTopology, units: List[Unit], names: Set[str], pruned: BlockGenotype
) -> BlockGenotype:
    present = {
        node for unit in units for node in topology.nodes() if _is_present(topology, unit, node, names)
    }
    present |= set(pruned.live_nodes)
    outputs = {node for unit in units for node in present if _output(topology, unit, node) in names}
    vectors: Dict[Any, np.ndarray] = {}
    for node in topology.nodes():
        if node[0] > 1:
            sources = topology.predecessors(node[0])
            vectors[node] = np.array(
                [node in present and (at == 0 or source in present) for at, source in enumerate(sources)]
            )
    vectors[AFTER] = np.array([node in outputs or node in pruned.outputs for node in topology.nodes()])
    # Where nothing leads on from an operation that is there, its output convolution is what is missing.
    dead_ends = {node for node in present if not any(_feeds(node, other) for other in present)}
    for node in dead_ends:
        vectors[AFTER][topology.output_index(node)] = True
    return BlockGenotype.from_mask(topology, topology.pack(vectors))


def _feeds(node: Node, other: Node) -> bool:
    return other[0] > node[0]


def _is_present(topology: BlockTopology, unit: Unit, node: Node, names: Set[str]) -> bool:
    prefix = f"{unit.name}_{node[0]}_{topology.operation(node).token}"
    parts = ("bn_gamma", "bn_beta", "sep_weight", "weight")
    return any(f"{prefix}_{part}" in names for part in parts) or _output(topology, unit, node) in names


def _output(topology: BlockTopology, unit: Unit, node: Node) -> str:
    return f"{unit.name}_output_conv_{topology.output_index(node) + 1}_weight"


def _reduction(unit: Unit, names: Set[str], pruned: Tuple[str, ...]) -> Tuple[str, ...]:
    return tuple(
        name for name in REDUCTION_OPERATIONS if name in pruned or f"{unit.name}_{name}_weight" in names
    )
