"""Golden section C (pruning by the published code) as parametrised cases, and the paper's topology."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Dict, Tuple

import numpy as np
import pytest

from dso_nas.architecture.lambdas import LambdaLayout
from dso_nas.architecture.topology import BlockTopology, NetworkSpec

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
MANIFEST = json.loads((GOLDEN / "manifest.json").read_text())
CASES = sorted(name for name, entry in MANIFEST.items() if "in/flat" in entry.get("arrays", {}))
OPERATIONS = ("sep_conv_3x3", "sep_conv_5x5", "max_pool_3x3", "avg_pool_3x3")


@dataclasses.dataclass(frozen=True)
class GoldenCase:
    """One recorded run of the published pruning."""

    name: str
    entry: Dict[str, Any]
    spec: NetworkSpec
    layout: LambdaLayout

    @property
    def dead_reductions(self) -> bool:
        """Whether a reduction has no operation left, on which the published code fails."""
        return self.name.endswith("reddead")

    def packed(self, prefix: str) -> Dict[str, np.ndarray]:
        """A packed dict of arrays, as the manifest's `_readme` describes it."""
        arrays = np.load(GOLDEN / self.entry["file"], allow_pickle=False)
        flat, start, found = arrays[f"{prefix}/flat"], 0, {}
        for name, shape in zip(arrays[f"{prefix}/names"], arrays[f"{prefix}/shapes"]):
            shape = tuple(int(size) for size in shape if size)
            found[str(name)] = flat[start : start + np.prod(shape)].reshape(shape)
            start += np.prod(shape)
        return found

    def shapes(self, prefix: str) -> Dict[str, Tuple[int, ...]]:
        """Argument shapes of a recorded symbol, inputs and labels left out; empty if none is recorded."""
        arrays = np.load(GOLDEN / self.entry["file"], allow_pickle=False)
        if f"{prefix}/arg_names" not in arrays:
            return {}
        shapes = zip(arrays[f"{prefix}/arg_names"], arrays[f"{prefix}/arg_shapes"])
        found = {str(name): tuple(int(size) for size in shape if size) for name, shape in shapes}
        return {name: shape for name, shape in found.items() if name != "data" and not name.endswith("label")}


def golden_case(name: str) -> GoldenCase:
    """The case of that name with the network its manifest entry describes."""
    entry = MANIFEST[name]
    width, units = entry["retrain_channel"], entry["units"]
    spec = NetworkSpec(
        BlockTopology(entry["num_layers"], OPERATIONS),
        "cifar" if entry["folder"] == "Cifar" else "imagenet",
        tuple(count - 1 for count in units),
        tuple(width * 2**stage for stage in range(len(units))),
        10,
        (3, 32, 32) if entry["folder"] == "Cifar" else (3, 64, 64),
    )
    scope = "share" if entry["layout"] == "share" else "full"
    return GoldenCase(name, entry, spec, LambdaLayout(spec, scope, packed=entry["layout"] == "adflops"))


def pytest_generate_tests(metafunc: Any) -> None:
    """Run a test that takes `case` on every golden case, `built_case` on those with a derived network."""
    cases = [golden_case(name) for name in CASES]
    built = [case for case in cases if not case.dead_reductions]
    for argument, chosen in (("case", cases), ("built_case", built)):
        if argument in metafunc.fixturenames:
            metafunc.parametrize(argument, chosen, ids=[case.name for case in chosen])


@pytest.fixture
def golden_folder() -> Path:
    """Where the golden arrays lie."""
    return GOLDEN


@pytest.fixture
def topology() -> BlockTopology:
    """The paper's block: four levels of four operations."""
    return BlockTopology(4, OPERATIONS)


@pytest.fixture
def spec(topology: BlockTopology) -> NetworkSpec:
    """A small CIFAR network of the paper's block: two blocks a stage."""
    return NetworkSpec(topology, "cifar", (2, 2, 2), (8, 16, 32), 10, (3, 32, 32))
