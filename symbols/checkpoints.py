"""Checkpoints of the published code to ours and back: nothing is changed, so that a round trip is exact.

Theirs are `prefix-symbol.json` and `prefix-0100.params`; ours a genotype and one parameter file with Gluon's
names.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any, Dict, Mapping, Optional

import mxnet as mx
import numpy as np

from dso_nas.architecture.genotype import SHARED, Genotype
from dso_nas.architecture.lambdas import LambdaLayout
from dso_nas.architecture.topology import NetworkSpec
from dso_nas.errors import UserError
from dso_nas.networks.derived import DerivedNetwork
from dso_nas.networks.network import Network
from dso_nas.networks.supernet import SuperNet
from dso_nas.training.checkpoint import read_checkpoint
from dso_nas.training.learner import PARAMETER
from symbols.naming import is_statistic, to_gluon_name, to_symbol_name
from symbols.networks import DROPOUT, SMOOTHING, find_layout, pruned_genotype, with_loss
from symbols.structure import check_parameters, infer_spec, infer_structure
from symbols.wiring import read_wiring

GENOTYPE_FILE = "genotype.json"
PARAMETER_FILE = "parameters.params"


@dataclasses.dataclass(frozen=True)
class Weights:
    """Parameters and the network they are of.

    `arrays` has every parameter by its Gluon name. `genotype` is what the lambdas leave, `structure` what the
    network is built with: the same, but for connections given up since the network was last rebuilt;
    `is_read` says whether these are known for sure or told from the parameters' names. `layout` is None for a
    network without lambdas, and `fix_gamma` then says whether it is the published baseline.
    """

    spec: NetworkSpec
    layout: Optional[LambdaLayout]
    genotype: Genotype
    structure: Genotype
    arrays: Dict[str, np.ndarray]
    fix_gamma: bool = False
    is_read: bool = False

    @property
    def has_auxiliary(self) -> bool:
        """Whether the auxiliary head's parameters are among them."""
        return "aux_fc_weight" in self.arrays

    def network(self) -> Network:
        """The network, without any parameters' values."""
        if self.layout is not None:
            return SuperNet(self.layout, self.structure)
        dropout = DROPOUT if self.spec.stem == "cifar" and not self.fix_gamma else 0.0
        return DerivedNetwork(
            self.spec, self.structure, dropout=dropout, auxiliary=self.has_auxiliary, fix_gamma=self.fix_gamma
        )

    def loaded_network(self, context: Optional[mx.Context] = None) -> Network:
        """The network with its parameters, on a device (default: the CPU)."""
        network = self.network()
        network.initialize(ctx=context or mx.cpu())
        for name, parameter in network.collect_params().items():
            parameter.set_data(mx.nd.array(self.arrays[name]))
        return network


def read_published(
    prefix: str, epoch: int, genotype: Optional[Genotype] = None, image_size: Optional[int] = None
) -> Weights:
    """Read `prefix-symbol.json` and `prefix-<epoch>.params` of the published code, in any lambda layout.

    The connections are read from its graph where it shows them; `genotype` has those of a network without
    lambdas whose graph does not. `image_size`: see `infer_spec`.

    Raises:
        UserError: naming the file, which cannot be read or does not fit; every missing, extra or misshapen
            entry is named.
    """
    path = parameter_path(prefix, epoch)
    arrays = {to_gluon_name(name.split(":", 1)[-1]): value for name, value in _load(path).items()}
    graph = read_graph(prefix)
    shapes = {name: tuple(value.shape) for name, value in arrays.items()}
    spec = infer_spec(shapes, path, image_size, genotype.topology if genotype else None)
    return weights_of(
        arrays, path, genotype, image_size, fixes_gamma(graph), read_wiring(graph["nodes"], spec)
    )


def read_ours(path: str, genotype: Optional[Genotype] = None, image_size: Optional[int] = None) -> Weights:
    """Read ours: a .params file of `write_ours` or a checkpoint of a run; else as `read_published`."""
    if str(path).endswith(".params"):
        arrays = _load(str(path))
    else:
        arrays = {
            name[len(PARAMETER) :]: value
            for name, value in read_checkpoint(path).arrays.items()
            if name.startswith(PARAMETER) and "@" not in name
        }
    return weights_of(arrays, str(path), genotype, image_size)


def weights_of(
    arrays: Mapping[str, np.ndarray],
    where: str,
    genotype: Optional[Genotype] = None,
    image_size: Optional[int] = None,
    fix_gamma: bool = False,
    wiring: Optional[Genotype] = None,
) -> Weights:
    """Find the network that `arrays`, by Gluon name, are the parameters of; `where` begins every error.

    `wiring` (scope full) has the connections of its graph, where they are known.

    Raises:
        UserError: see `read_published`.
    """
    shapes = {name: tuple(value.shape) for name, value in arrays.items()}
    spec = infer_spec(shapes, where, image_size, genotype.topology if genotype else None)
    if any(name.startswith("lambda_") for name in arrays):
        weights = _supernet(spec, dict(arrays), where, wiring)
    else:
        weights = _derived(spec, dict(arrays), where, genotype or wiring, fix_gamma)
    needed = {name: parameter.shape for name, parameter in weights.network().collect_params().items()}
    if weights.layout is not None:
        # Lambdas of operations that are gone may still lie in the file.
        needed.update({name: shape for name, shape in weights.layout.shapes().items() if name in arrays})
    check_parameters(shapes, needed, where)
    return weights


def write_published(prefix: str, epoch: int, weights: Weights) -> None:
    """Write what `mx.model.load_checkpoint` and Module take.

    Raises:
        UserError: a file cannot be written.
    """
    retrained = weights.layout is None and not weights.fix_gamma
    symbol = with_loss(weights.network(), SMOOTHING if retrained and weights.spec.stem == "imagenet" else 0.0)
    arrays = {to_symbol_name(name): _to_mxnet(value) for name, value in weights.arrays.items()}
    args = {name: value for name, value in arrays.items() if not is_statistic(name)}
    aux = {name: value for name, value in arrays.items() if is_statistic(name)}
    try:
        mx.model.save_checkpoint(prefix, epoch, symbol, args, aux)
    except (mx.MXNetError, OSError) as error:
        raise UserError(f"{prefix}: cannot be written: {_first_line(error)}") from error


def write_ours(folder: str, weights: Weights) -> None:
    """Write `genotype.json` and `parameters.params` into a folder, which is made.

    Raises:
        UserError: they cannot be written.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        mx.nd.save(
            str(path / PARAMETER_FILE), {name: _to_mxnet(value) for name, value in weights.arrays.items()}
        )
    except (mx.MXNetError, OSError) as error:
        raise UserError(f"{folder}: cannot be written: {_first_line(error)}") from error
    weights.genotype.save(str(path / GENOTYPE_FILE))


def convert(
    source: str,
    target: str,
    epoch: int,
    back: bool = False,
    genotype: Optional[Genotype] = None,
    image_size: Optional[int] = None,
) -> str:
    """Turn a published checkpoint (prefix `source`) into our folder, or `back`; give its description.

    Raises:
        UserError: see `read_published` and the writers.
    """
    if back:
        weights = read_ours(source, genotype, image_size)
        write_published(target, epoch, weights)
    else:
        weights = read_published(source, epoch, genotype, image_size)
        write_ours(target, weights)
    return _description(weights)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m dso_nas convert`."""
    parser.add_argument(
        "source", help="the published checkpoint's prefix; with --back a .params file or a checkpoint"
    )
    parser.add_argument("target", help="the folder to write; with --back the published checkpoint's prefix")
    parser.add_argument(
        "--epoch", type=int, default=100, help="number in the published file's name (default 100)"
    )
    parser.add_argument("--back", action="store_true", help="from ours to the published code's")
    add_network_arguments(parser)


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that say what parameters alone do not."""
    parser.add_argument("--genotype", help="genotype file, for a network without lambdas")
    parser.add_argument(
        "--image-size", type=int, help="side of the images (default 32 for CIFAR, 224 for ImageNet)"
    )


def run(args: argparse.Namespace) -> int:
    """Do what `convert` says on the command line."""
    genotype = Genotype.load(args.genotype) if args.genotype else None
    print(convert(args.source, args.target, args.epoch, args.back, genotype, args.image_size))
    return 0


def parameter_path(prefix: str, epoch: int) -> str:
    """The parameter file's name as MXNet makes it."""
    return f"{prefix}-{epoch:04d}.params"


def read_graph(prefix: str) -> Dict[str, Any]:
    """The content of `prefix-symbol.json`, whose operators MXNet need not know.

    Raises:
        UserError: the file cannot be read or is no Symbol's.
    """
    path = f"{prefix}-symbol.json"
    try:
        graph = json.loads(Path(path).read_text(encoding="utf-8"))
        nodes = [
            {
                "name": node["name"],
                "op": node["op"],
                "inputs": [list(entry) for entry in node["inputs"]],
                "attrs": node.get("attrs") or node.get("attr") or node.get("param") or {},
            }
            for node in graph["nodes"]
        ]
        return {"nodes": nodes, "text": json.dumps(graph)}
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is not the file of a Symbol: {error}") from error


def fixes_gamma(graph: Mapping[str, Any]) -> bool:
    """Whether the BatchNorm of the first shortcut, as all within blocks, holds its scale at one."""
    for node in graph["nodes"]:
        if node.get("name") == "stage1_unit1_id_conv_bn":
            return str(node["attrs"].get("fix_gamma", "True")).lower() in ("true", "1")
    return False


def _supernet(
    spec: NetworkSpec, arrays: Dict[str, np.ndarray], where: str, wiring: Optional[Genotype]
) -> Weights:
    lambdas = {name: value for name, value in arrays.items() if name.startswith("lambda_")}
    try:
        layout = find_layout(spec, list(lambdas))
        # A rebuilt network no longer has the lambdas of operations that are gone.
        gone = {name: np.zeros(shape) for name, shape in layout.shapes().items() if name not in lambdas}
        found = pruned_genotype(layout, {**lambdas, **gone})
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    structure = _in_scope(wiring, layout.scope) if wiring else None
    return Weights(
        spec,
        layout,
        found,
        structure or infer_structure(layout, arrays, found),
        arrays,
        is_read=structure is not None,
    )


def _in_scope(wiring: Genotype, scope: str) -> Optional[Genotype]:
    """`wiring` as a genotype of `scope`; None if its blocks differ in scope 'share'."""
    if scope == "full":
        return wiring
    blocks = list(wiring.blocks.values())
    if any(block != blocks[0] for block in blocks):
        return None
    return dataclasses.replace(wiring, scope=scope, blocks={SHARED: blocks[0]})


def _derived(
    spec: NetworkSpec,
    arrays: Dict[str, np.ndarray],
    where: str,
    genotype: Optional[Genotype],
    fix_gamma: bool,
) -> Weights:
    if genotype is None:
        raise UserError(
            f"{where}: has no lambdas, and parameters alone do not tell connections: give its --genotype"
        )
    genotype.check_fits(spec)
    return Weights(spec, None, genotype, genotype, arrays, fix_gamma, is_read=True)


def _load(path: str) -> Dict[str, np.ndarray]:
    try:
        content = mx.nd.load(path)
    except (mx.MXNetError, OSError) as error:
        raise UserError(f"{path}: cannot be read: {_first_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: its arrays have no names")
    return {name: value.asnumpy() for name, value in content.items()}


def _to_mxnet(value: np.ndarray) -> mx.nd.NDArray:
    return mx.nd.array(value, dtype=value.dtype)


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip() and "Stack trace" not in line]
    return lines[-1].strip() if lines else type(error).__name__


def _description(weights: Weights) -> str:
    spec, layout = weights.spec, weights.layout
    kind = "no lambdas" if layout is None else f"lambdas {'packed' if layout.packed else layout.scope}"
    return (
        f"{len(weights.arrays)} parameters, stem {spec.stem}, blocks {list(spec.blocks)}, widths "
        f"{list(spec.widths)}, {spec.topology.levels} levels, {spec.classes} classes, {kind}"
    )
