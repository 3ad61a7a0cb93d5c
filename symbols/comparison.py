"""A published checkpoint's own symbol file and our network, on the same batch: the differences as a table."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple

import mxnet as mx
import numpy as np

from dso_nas.architecture.cost import Conventions, network_cost
from dso_nas.architecture.genotype import Genotype
from dso_nas.errors import UserError
from symbols.checkpoints import Weights, add_network_arguments, parameter_path, read_graph, read_published
from symbols.naming import is_statistic, to_symbol_name
from symbols.networks import with_loss
from symbols.wiring import connections, read_wiring

BATCH = 4
SHOWN_GRADIENTS = 10
# A gradient is compared relative to its own size, but to no less than this share of the largest of all.
_FLOOR = 1e-5
_CONVOLUTIONS = ("Convolution", "FullyConnected")


@dataclasses.dataclass(frozen=True)
class _Results:
    """What a symbol computes: outputs in both modes, gradients, BatchNorm statistics after a step."""

    evaluation: Dict[str, np.ndarray]
    training: Dict[str, np.ndarray]
    gradients: Dict[str, np.ndarray]
    statistics: Dict[str, np.ndarray]


def compare(
    prefix: str,
    epoch: int,
    genotype: Optional[Genotype] = None,
    image_size: Optional[int] = None,
    seed: int = 0,
) -> str:
    """The table of differences, as text, for `prefix-symbol.json` and `prefix-<epoch>.params`.

    Both networks get the same random batch; Dropout is off, so that training mode can be compared.
    Differences are relative to the largest value of what is compared. `genotype` and `image_size`:
    `read_published`.

    Raises:
        UserError: the files cannot be read or do not fit; every missing, extra or misshapen entry is named.
    """
    graph = read_graph(prefix)
    weights = read_published(prefix, epoch, genotype, image_size)
    unknown = unknown_operators(graph)
    theirs = None if unknown else _symbol_of(graph, prefix)
    ours = _without_dropout(with_loss(weights.network(), smoothing_of(graph)).tojson())
    rows = _structure_rows(graph, weights, ours) + _cost_rows(theirs, weights)
    notes = []
    if theirs is None:
        notes.append(
            f"Outputs and gradients are not compared: the symbol file needs {', '.join(unknown)}, which this "
            "MXNet does not have."
        )
    else:
        rows += _number_rows(theirs, ours, weights, seed)
    title = (
        f"{prefix}-symbol.json with {parameter_path(prefix, epoch)} against dso_nas, MXNet {mx.__version__}"
    )
    return "\n".join([title, "", *_table(rows), *(["", *notes] if notes else [])])


def unknown_operators(graph: Mapping[str, Any]) -> List[str]:
    """Operators of a symbol file that this MXNet has not."""
    known = set(mx.operator.get_all_registered_operators())
    used = {node["op"] for node in graph["nodes"]} - {"null"}
    return sorted(used - known)


def smoothing_of(graph: Mapping[str, Any]) -> float:
    """The label smoothing of a symbol file's main loss."""
    losses = [node for node in graph["nodes"] if node["op"] == "SoftmaxOutput" and node["name"] == "softmax"]
    return float(losses[0]["attrs"].get("smooth_alpha", 0)) if losses else 0.0


def multiply_adds(symbol: mx.sym.Symbol, weights: Weights) -> int:
    """Multiply-adds of one image in all convolutions and dense layers of `symbol` that have weights.

    `weights` gives the shapes of its arguments. Constant kernels (our average pool) and mere lambdas (our sum
    of scaled inputs) are none.
    """
    shapes = _internal_shapes(symbol, weights)
    nodes = json.loads(symbol.tojson())["nodes"]
    weighted = _reading_weights(nodes)
    total = 0
    for node in nodes:
        if node["op"] in _CONVOLUTIONS and node["inputs"][1][0] in weighted:
            kernel = shapes[_output_of(nodes, node["inputs"][1])]
            output = shapes[f"{node['name']}_output"]
            total += int(np.prod(kernel)) * int(np.prod(output[2:]))
    return total


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m dso_nas compare`."""
    parser.add_argument("prefix", help="the published checkpoint: prefix-symbol.json and prefix-0100.params")
    parser.add_argument("epoch", type=int, help="the number in the parameter file's name")
    add_network_arguments(parser)
    parser.add_argument("--seed", type=int, default=0, help="seed of the random batch (default 0)")


def run(args: argparse.Namespace) -> int:
    """Do what `compare` says on the command line."""
    genotype = Genotype.load(args.genotype) if args.genotype else None
    print(compare(args.prefix, args.epoch, genotype, args.image_size, args.seed))
    return 0


Row = Tuple[str, str, str, str]


def _table(rows: Sequence[Row]) -> List[str]:
    lines = [("what", "symbol file", "dso_nas", "difference"), ("---",) * 4, *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _symbol_of(graph: Mapping[str, Any], prefix: str) -> mx.sym.Symbol:
    try:
        return _without_dropout(graph["text"])
    except mx.MXNetError as error:
        lines = str(error).strip().splitlines()
        raise UserError(f"{prefix}-symbol.json: MXNet cannot load it: {lines[-1].strip()}") from error


def _without_dropout(text: str) -> mx.sym.Symbol:
    graph = json.loads(mx.sym.load_json(text).tojson())
    for node in graph["nodes"]:
        if node["op"] == "Dropout":
            node["attrs"]["p"] = "0"
    return mx.sym.load_json(json.dumps(graph))


def _structure_rows(graph: Mapping[str, Any], weights: Weights, ours: mx.sym.Symbol) -> List[Row]:
    theirs = {node["name"] for node in graph["nodes"] if node["op"] == "null"}
    names = set(ours.list_inputs())
    rows = [("inputs, parameters and statistics", str(len(theirs)), str(len(names)), _only(theirs, names))]
    held = connections(weights.structure, weights.spec)
    wiring = read_wiring(graph["nodes"], weights.spec)
    if wiring is None:
        rows.append(("connections", "not to be read from its graph", str(len(held)), ""))
    else:
        there = connections(wiring, weights.spec)
        texts = [
            {f"{unit} {node[0]}.{node[1]} {end}" for unit, node, end in group} for group in (there, held)
        ]
        rows.append(("connections", str(len(there)), str(len(held)), _only(*texts)))
    live = connections(weights.genotype, weights.spec)
    rows.append(("of these left after pruning", "", str(len(live)), ""))
    return rows


def _only(theirs: Set[str], ours: Set[str]) -> str:
    parts = [f"only there: {', '.join(sorted(theirs - ours))}"] if theirs - ours else []
    parts += [f"only here: {', '.join(sorted(ours - theirs))}"] if ours - theirs else []
    return "; ".join(parts) or "0"


def _cost_rows(theirs: Optional[mx.sym.Symbol], weights: Weights) -> List[Row]:
    conventions = Conventions(batch_norm=True, bias=True, aux_head=weights.has_auxiliary)
    cost = network_cost(weights.spec, weights.structure, conventions).total
    stored = sum(
        value.size
        for name, value in weights.arrays.items()
        if not name.startswith("lambda_") and not is_statistic(name)
    )
    rows = [_count("parameters, lambdas not counted", stored, cost.parameters)]
    if theirs is not None:
        counted = multiply_adds(theirs, weights)
        rows.append(_count("multiply-adds of one image", counted, cost.multiply_adds))
    return rows


def _count(what: str, theirs: int, ours: int) -> Row:
    return what, f"{theirs:,}", f"{ours:,}", f"{ours - theirs:,}"


def _number_rows(theirs: mx.sym.Symbol, ours: mx.sym.Symbol, weights: Weights, seed: int) -> List[Row]:
    there, here = _run(theirs, weights, seed), _run(ours, weights, seed)
    rows = []
    for what, a, b in (
        ("outputs, evaluation mode", there.evaluation, here.evaluation),
        ("outputs, training mode", there.training, here.training),
        ("BatchNorm statistics after a step", there.statistics, here.statistics),
    ):
        rows.append(_largest(what, _differences(a, b)))
    differences = _gradient_differences(there.gradients, here.gradients, weights)
    rows.append(_largest(f"{len(differences)} gradients", differences))
    worst = sorted(differences, key=lambda name: -differences[name])[:SHOWN_GRADIENTS]
    scale = {name: f"{np.abs(there.gradients[name]).max():.3g}" for name in worst}
    mine = {name: f"{np.abs(here.gradients[name]).max():.3g}" for name in worst}
    return rows + [
        (f"largest gradient of {name}", scale[name], mine[name], f"{differences[name]:.1e}") for name in worst
    ]


def _largest(what: str, differences: Mapping[str, float]) -> Row:
    name = max(differences, key=lambda key: differences[key])
    return what, "", "", f"at most {differences[name]:.1e} ({name})"


def _differences(
    theirs: Mapping[str, np.ndarray], ours: Mapping[str, np.ndarray], floor: float = 1e-12
) -> Dict[str, float]:
    return {
        name: float(np.abs(ours[name] - value).max() / max(np.abs(value).max(), floor))
        for name, value in theirs.items()
        if name in ours
    }


def _gradient_differences(
    theirs: Mapping[str, np.ndarray], ours: Mapping[str, np.ndarray], weights: Weights
) -> Dict[str, float]:
    """As `_differences`; of lambdas only those above zero, where the graph does not show what it reads."""
    floor = _FLOOR * max(float(np.abs(value).max()) for value in theirs.values())
    there, here = dict(theirs), dict(ours)
    for name in there:
        if not weights.is_read and name.startswith("lambda_") and name in here:
            live = weights.arrays[name] > 0
            there[name], here[name] = there[name] * live, here[name] * live
    return _differences(there, here, floor)


def _run(symbol: mx.sym.Symbol, weights: Weights, seed: int) -> _Results:
    executor = _executor(symbol, weights, seed)
    outputs = symbol.list_outputs()

    def forward(train: bool) -> Dict[str, np.ndarray]:
        return {name: value.asnumpy() for name, value in zip(outputs, executor.forward(is_train=train))}

    evaluation, training = forward(False), forward(True)
    executor.backward()
    gradients = {name: value.asnumpy() for name, value in executor.grad_dict.items() if value is not None}
    return _Results(evaluation, training, gradients, {k: v.asnumpy() for k, v in executor.aux_dict.items()})


def _executor(symbol: mx.sym.Symbol, weights: Weights, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    values = {to_symbol_name(name): value for name, value in weights.arrays.items()}
    values["data"] = rng.standard_normal((BATCH, *weights.spec.image_shape)).astype(np.float32)
    labels = rng.integers(0, weights.spec.classes, BATCH).astype(np.float32)
    names = symbol.list_arguments()
    args = {name: mx.nd.array(labels if name.endswith("label") else _known(values, name)) for name in names}
    aux = {name: mx.nd.array(_known(values, name)) for name in symbol.list_auxiliary_states()}
    gradients = {name: mx.nd.zeros(args[name].shape) for name in names if not name.endswith("label")}
    requests = {name: "write" if name in gradients else "null" for name in names}
    return symbol.bind(mx.cpu(), args, gradients, requests, aux)


def _known(values: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if name not in values:
        raise UserError(f"the symbol file reads {name}, which the parameter file does not have")
    return values[name]


def _internal_shapes(symbol: mx.sym.Symbol, weights: Weights) -> Dict[str, Tuple[int, ...]]:
    names = set(symbol.list_arguments())
    known = {name: value.shape for name, value in weights.arrays.items() if name in names}
    internals = symbol.get_internals()
    _, outputs, _ = internals.infer_shape(data=(1, *weights.spec.image_shape), **known)
    return dict(zip(internals.list_outputs(), outputs))


def _reading_weights(nodes: Sequence[Mapping[str, Any]]) -> Set[int]:
    """Indices of nodes that a '..._weight' stands before."""
    found: Set[int] = set()
    for index, node in enumerate(nodes):
        if node["op"] == "null":
            if node["name"].endswith("_weight"):
                found.add(index)
        elif any(source[0] in found for source in node["inputs"]):
            found.add(index)
    return found


def _output_of(nodes: Sequence[Mapping[str, Any]], entry: Sequence[int]) -> str:
    node, index = nodes[entry[0]], entry[1]
    if node["op"] == "null":
        return node["name"]
    outputs = int(node.get("attrs", {}).get("num_outputs", 1))
    return f"{node['name']}_output" if outputs == 1 else f"{node['name']}_output{index}"
