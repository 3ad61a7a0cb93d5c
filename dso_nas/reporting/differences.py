"""What differs between two architectures, recipes, or runs."""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, FrozenSet, Iterator, List, Mapping, NamedTuple, Optional, Tuple

import numpy as np

from dso_nas.architecture.block_genotype import BlockGenotype, node_name
from dso_nas.architecture.genotype import SHARED, Genotype
from dso_nas.architecture.genotypes import AnyGenotype
from dso_nas.errors import UserError

Edge = Tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Sides:
    """Things that only A has, only B has, and both have."""

    only_a: FrozenSet[Any]
    only_b: FrozenSet[Any]
    both: FrozenSet[Any]

    @classmethod
    def of(cls, a: Any, b: Any) -> Sides:
        """The sides of two collections."""
        a, b = frozenset(a), frozenset(b)
        return cls(a - b, b - a, a & b)

    @property
    def same(self) -> bool:
        """Whether both have the same."""
        return not self.only_a and not self.only_b


class LambdaDifference(NamedTuple):
    """The largest difference of two searches' last lambdas, and the entry of a parameter that has it."""

    size: float
    name: str
    entry: int
    a: float
    b: float


def compare_genotypes(a: AnyGenotype, b: AnyGenotype) -> Dict[str, Sides]:
    """Live connections by block, as (source, target) names, and live operations by reduction; of mobile, by block.

    Scope 'share' beside 'full' stands for each of the other's blocks.

    Raises:
        UserError: their search spaces have other nodes, so that no connection is another's.
    """
    if _space(a) != _space(b):
        raise UserError(f"the genotypes are of different search spaces: {_describe(a)} and {_describe(b)}")
    if not isinstance(a, Genotype) or not isinstance(b, Genotype):
        return {f"block {name}": Sides.of(a.blocks.get(name, ()), b.blocks.get(name, ())) for name in _names(a, b)}
    found = {f"block {name}": Sides.of(edges(_block(a, name)), edges(_block(b, name))) for name in _names(a, b)}
    for stage in range(1, max(len(a.reductions), len(b.reductions)) + 1):
        live = [genotype.reductions[stage - 1] if stage <= len(genotype.reductions) else () for genotype in (a, b)]
        found[f"reduction after stage {stage}"] = Sides.of(*live)
    return found


def edges(block: Optional[BlockGenotype]) -> FrozenSet[Edge]:
    """A block's live connections as (source, target) names, 'input' and 'output' among them; none of no block."""
    if block is None:
        return frozenset()
    inner = [(node_name(source), node_name(node)) for node, sources in block.connections.items() for source in sources]
    return frozenset(inner + [(node_name(node), "output") for node in block.outputs])


def jaccard(parts: Mapping[str, Sides]) -> float:
    """What both have over what either has, of all parts' connections; 1 if neither has any."""
    both = sum(len(part.both) for part in parts.values())
    either = both + sum(len(part.only_a) + len(part.only_b) for part in parts.values())
    return both / either if either else 1.0


def compare_mappings(a: Mapping[str, Any], b: Mapping[str, Any]) -> List[Tuple[str, Any, Any]]:
    """(dotted key, A's value, B's value) of every key of nested mappings that differs; None where there is no key."""
    left, right = dict(_leaves(a)), dict(_leaves(b))
    names = list(dict.fromkeys([*left, *right]))
    return [(name, left.get(name), right.get(name)) for name in names if left.get(name) != right.get(name)]


def compare_lambdas(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> Optional[LambdaDifference]:
    """The largest difference of the last epochs' lambdas, arrays (epochs, entries); None if no parameter is common."""
    found = None
    for name in a:
        if name not in b or a[name].shape[1:] != b[name].shape[1:]:
            continue
        left, right = a[name][-1], b[name][-1]
        entry = int(np.argmax(np.abs(left - right)))
        size = float(abs(left[entry] - right[entry]))
        if found is None or size > found.size:
            found = LambdaDifference(size, name, entry, float(left[entry]), float(right[entry]))
    return found


def _names(a: AnyGenotype, b: AnyGenotype) -> List[str]:
    """The blocks to compare: of two scopes, those of 'full'."""
    names = [name for genotype in (a, b) for name in genotype.blocks]
    own = [name for name in names if name != SHARED]
    return list(dict.fromkeys(own or names))


def _block(genotype: Genotype, name: str) -> Optional[BlockGenotype]:
    return genotype.blocks.get(name, genotype.blocks.get(SHARED))


def _space(genotype: AnyGenotype) -> Tuple[str, Any]:
    return genotype.space, genotype.topology if isinstance(genotype, Genotype) else genotype.operations


def _describe(genotype: AnyGenotype) -> str:
    if isinstance(genotype, Genotype):
        topology = genotype.topology
        return f"{topology.levels} levels of {', '.join(topology.operations)} (reach {topology.reach})"
    return f"{genotype.space} with {', '.join(genotype.operations)}"


def _leaves(section: Mapping[str, Any], above: str = "") -> Iterator[Tuple[str, Any]]:
    for name, value in section.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value
