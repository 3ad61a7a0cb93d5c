"""Reading genotype files: every rule a file must keep, each refusal one line with the file and the key."""

from __future__ import annotations

import abc
import json
import math
import re
from pathlib import Path
from typing import Any, Dict, List, Mapping, NoReturn, Sequence, Tuple, Type, TypeVar, Union

from dso_nas.architecture.block_genotype import BlockGenotype, GenotypeError, node_name
from dso_nas.architecture.lambdas import SCOPES
from dso_nas.architecture.topology import (
    INPUT,
    OPERATIONS,
    REACHES,
    REDUCTION_OPERATIONS,
    BlockTopology,
    Node,
)
from dso_nas.files import write_durably

G = TypeVar("G", bound="GenotypeFile")

FORMAT = "dso-nas-genotype"
VERSION = 1
SPACE = "normal"
MOBILE = "mobile"
SHARED = "shared"
MAX_BYTES = 16 * 2**20
MAX_LEVELS = 100

_KEYS = ("format", "version", "space", "topology", "scope", "blocks", "reductions", "source")
_MOBILE_KEYS = ("format", "version", "space", "operations", "blocks", "source")
_NODE = re.compile(r"([1-9][0-9]{0,3})\.([1-9][0-9]{0,3})")
_UNIT = re.compile(r"stage[1-9][0-9]{0,3}_unit[1-9][0-9]{0,3}")


def read(path: Union[str, Path]) -> Any:
    """The JSON content of a file of at most MAX_BYTES, without duplicate keys and non-finite numbers.

    Raises:
        GenotypeError: the file is missing, unreadable, too large or no such JSON.
    """
    try:
        with open(path, "rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise GenotypeError(f"{path}: cannot read the genotype: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise GenotypeError(f"{path}: larger than {MAX_BYTES >> 20} MB, no genotype is")
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise GenotypeError(f"{path}: not a genotype's JSON: {reason}") from error


class GenotypeFile(abc.ABC):
    """A genotype as a JSON file; each search space has its own content."""

    space: str

    def _check_space(self, spec: Any, own: type) -> None:
        """Refuse a macro-structure that is not of the class `own`, of this search space."""
        if not isinstance(spec, own):
            raise GenotypeError(f"space: the genotype is of '{self.space}', the network is not")

    def save(self, path: Union[str, Path]) -> None:
        """Write the JSON file; a reader sees the old file or the new one, never a part.

        Raises:
            UserError: the file cannot be written.
        """
        text = json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n"
        write_durably(path, [text.encode("utf-8")])

    @classmethod
    def load(cls: Type[G], path: Union[str, Path]) -> G:
        """Read and check a JSON file.

        Raises:
            GenotypeError: naming the file and the key that is wrong.
        """
        return cls.from_json(read(path), str(path))

    @abc.abstractmethod
    def to_json(self) -> Dict[str, Any]:
        """The file's content as plain JSON values."""

    @classmethod
    @abc.abstractmethod
    def from_json(cls: Type[G], content: Any, where: str) -> G:
        """Check plain JSON values and make a genotype of them; `where` (a file's name) begins every error.

        Raises:
            GenotypeError: naming `where` and the key that is wrong.
        """


def parse(content: Any, where: str) -> Dict[str, Any]:
    """The fields of a `Genotype` from a file's content; `where` begins every error.

    Raises:
        GenotypeError: naming `where` and the key that is wrong.
    """
    return _Parser(where).genotype(content)


def parse_mobile(content: Any, where: str, operations: Sequence[str]) -> Dict[str, Any]:
    """The fields of a `MobileGenotype` from a file's content; `operations` are those that exist.

    Raises:
        GenotypeError: naming `where` and the key that is wrong.
    """
    return _Parser(where).mobile(content, operations)


def space_of(content: Any, where: str) -> str:
    """The search space, 'normal' or 'mobile', that a file's content names.

    Raises:
        GenotypeError: naming `where`, if there is none or another.
    """
    parser = _Parser(where)
    if "space" not in parser.mapping(content, "the file"):
        parser.refuse("the file", "the key 'space' is missing")
    return parser.literal(content["space"], "space", (SPACE, MOBILE))


def topology_json(topology: BlockTopology) -> Dict[str, Any]:
    """A topology as plain JSON values; `reach` is left out where it is 'all', as older files have none."""
    content = {"levels": topology.levels, "operations": list(topology.operations)}
    return content if topology.reach == "all" else {**content, "reach": topology.reach}


class _Parser:
    def __init__(self, where: str) -> None:
        self.where = where

    def genotype(self, content: Any) -> Dict[str, Any]:
        self.head(content, SPACE, _KEYS)
        topology = self.topology(content["topology"])
        scope = self.literal(content["scope"], "scope", SCOPES)
        reductions = self.list_of(content["reductions"], "reductions")
        self.finite(self.mapping(content["source"], "source"), "source")
        return {
            "space": SPACE,
            "topology": topology,
            "scope": scope,
            "blocks": self.blocks(content["blocks"], scope, topology),
            "reductions": tuple(self.reduction(live, f"reductions.{i}") for i, live in enumerate(reductions)),
            "source": content["source"],
        }

    def head(self, content: Any, space: str, keys: Sequence[str]) -> None:
        other = MOBILE if space == SPACE else SPACE
        if self.mapping(content, "the file").get("space") == other:
            self.refuse("space", f"{other!r}, where a genotype of the {space} space is needed")
        self.keys(content, "the file", keys)
        self.literal(content["format"], "format", (FORMAT,))
        self.literal(content["version"], "version", (VERSION,))
        self.literal(content["space"], "space", (space,))

    def mobile(self, content: Any, existing: Sequence[str]) -> Dict[str, Any]:
        self.head(content, MOBILE, _MOBILE_KEYS)
        operations = tuple(self.names(content["operations"], "operations", existing))
        self.finite(self.mapping(content["source"], "source"), "source")
        if not self.mapping(content["blocks"], "blocks"):
            self.refuse("blocks", "is empty, it needs one entry per block")
        blocks = {name: self.mobile_block(name, live, operations) for name, live in content["blocks"].items()}
        return {"space": MOBILE, "operations": operations, "blocks": blocks, "source": content["source"]}

    def mobile_block(self, name: str, content: Any, operations: Sequence[str]) -> Tuple[str, ...]:
        key = f"blocks.{_short(name)}"
        if not _UNIT.fullmatch(name):
            self.refuse(key, "is not of the form stageS_unitU")
        live = self.names(content, key, operations) if self.list_of(content, key) else []
        return tuple(operation for operation in operations if operation in live)

    def topology(self, content: Any) -> BlockTopology:
        self.keys(content, "topology", ("levels", "operations"), optional=("reach",))
        levels = content["levels"]
        if not isinstance(levels, int) or isinstance(levels, bool) or not 1 <= levels <= MAX_LEVELS:
            self.refuse("topology.levels", f"{_short(levels)} is not a whole number from 1 to {MAX_LEVELS}")
        names = self.names(content["operations"], "topology.operations", tuple(OPERATIONS))
        reach = self.literal(content.get("reach", "all"), "topology.reach", REACHES)
        return BlockTopology(levels, tuple(names), reach)

    def blocks(self, content: Any, scope: str, topology: BlockTopology) -> Dict[str, BlockGenotype]:
        self.mapping(content, "blocks")
        if scope == "share":
            self.keys(content, "blocks", (SHARED,))
        elif not content:
            self.refuse("blocks", "is empty, scope 'full' needs one entry per block")
        for name in content:
            if scope == "full" and not _UNIT.fullmatch(name):
                self.refuse(f"blocks.{_short(name)}", "is not of the form stageS_unitU")
        return {name: self.block(block, f"blocks.{name}", topology) for name, block in content.items()}

    def block(self, content: Any, key: str, topology: BlockTopology) -> BlockGenotype:
        self.keys(content, key, ("operations", "outputs"))
        operations = self.mapping(content["operations"], f"{key}.operations")
        connections = {
            self.node(name, f"{key}.operations.{_short(name)}", topology): self.nodes(
                inputs, f"{key}.operations.{_short(name)}", topology, with_input=True
            )
            for name, inputs in operations.items()
        }
        outputs = self.nodes(content["outputs"], f"{key}.outputs", topology, with_input=False)
        block = BlockGenotype({node: connections[node] for node in sorted(connections)}, outputs)
        problem = block.find_problem()
        if problem:
            self.refuse(f"{key}.{problem[0]}", problem[1])
        self.reached(block, key, topology)
        return block

    def reached(self, block: BlockGenotype, key: str, topology: BlockTopology) -> None:
        for node, inputs in block.connections.items():
            beyond = [source for source in inputs if source not in topology.predecessors(node[0])]
            if beyond:
                reason = f"{node_name(beyond[0])} is out of reach where topology.reach is {topology.reach!r}"
                self.refuse(f"{key}.operations.{node_name(node)}", reason)

    def nodes(self, content: Any, key: str, topology: BlockTopology, with_input: bool) -> Tuple[Node, ...]:
        found = [
            INPUT if name == "input" and with_input else self.node(name, key, topology)
            for name in self.list_of(content, key)
        ]
        self.no_duplicates(found, content, key)
        return tuple(sorted(found))

    def node(self, name: Any, key: str, topology: BlockTopology) -> Node:
        match = _NODE.fullmatch(name) if isinstance(name, str) else None
        if not match:
            self.refuse(key, f"{_short(name)} is not an operation, write 'level.operation'")
        node = int(match[1]), int(match[2])
        if node[0] > topology.levels or node[1] > topology.num_operations:
            size = f"{topology.levels} levels of {topology.num_operations}"
            self.refuse(key, f"operation {name} does not exist, the topology has {size}")
        return node

    def reduction(self, content: Any, key: str) -> Tuple[str, ...]:
        live = self.names(content, key, REDUCTION_OPERATIONS)
        return tuple(name for name in REDUCTION_OPERATIONS if name in live)

    def names(self, content: Any, key: str, allowed: Sequence[str]) -> List[str]:
        names = [self.literal(name, key, allowed) for name in self.list_of(content, key)]
        if not names:
            self.refuse(key, f"is empty, name some of {', '.join(allowed)}")
        self.no_duplicates(names, names, key)
        return names

    def no_duplicates(self, values: Sequence[Any], names: Sequence[Any], key: str) -> None:
        for position, value in enumerate(values):
            if value in values[:position]:
                self.refuse(key, f"names {_short(names[position])} twice")

    def literal(self, value: Any, key: str, allowed: Sequence[Any]) -> Any:
        if not any(type(value) is type(choice) and value == choice for choice in allowed):
            self.refuse(key, f"{_short(value)} is not {' or '.join(repr(choice) for choice in allowed)}")
        return value

    def keys(self, content: Any, key: str, needed: Sequence[str], optional: Sequence[str] = ()) -> None:
        self.mapping(content, key)
        for name in needed:
            if name not in content:
                self.refuse(key, f"the key {name!r} is missing")
        for name in content:
            if name not in (*needed, *optional):
                self.refuse(key, f"unknown key {_short(name)}, allowed are {', '.join((*needed, *optional))}")

    def mapping(self, content: Any, key: str) -> Mapping[str, Any]:
        if not isinstance(content, dict):
            self.refuse(key, f"{_short(content)} is not an object")
        return content

    def list_of(self, content: Any, key: str) -> List[Any]:
        if not isinstance(content, list):
            self.refuse(key, f"{_short(content)} is not a list")
        return content

    def finite(self, content: Any, key: str) -> None:
        waiting = [content]
        while waiting:
            value = waiting.pop()
            if isinstance(value, float) and not math.isfinite(value):
                self.refuse(key, f"holds {value}, not a finite number")
            if isinstance(value, (dict, list)):
                waiting.extend(value.values() if isinstance(value, dict) else value)

    def refuse(self, key: str, reason: str) -> NoReturn:
        raise GenotypeError(f"{self.where}: {key}: {reason}")


def _unique_keys(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {_short(repeated)} appears twice")
    return content


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a finite number")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
