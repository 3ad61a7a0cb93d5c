"""A trained network as files that need none of this package: a Symbol with its parameters, or ONNX.

`PREFIX-symbol.json` and `PREFIX-0000.params` are what `mx.gluon.SymbolBlock.imports`, `mx.mod.Module` and MXNet's C
interface take. Which network a run's folder holds does not belong here: `dso_nas.tools.export` asks the stages.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, Dict, Iterator, NamedTuple, Optional, Sequence, Tuple, Union

import mxnet as mx
import numpy as np

from dso_nas.errors import UserError
from dso_nas.files import replacing, write_durably
from symbols.naming import is_statistic, to_gluon_name, trace

INPUT = "data"
MEAN, STD = "data_mean", "data_std"
EPOCH = 0

Arrays = Dict[str, mx.nd.NDArray]


class Normalisation(NamedTuple):
    """What is subtracted from an image's channels, and what they are then divided by; (channels,) each, 0 to 255."""

    mean: np.ndarray
    std: np.ndarray


class Exported(NamedTuple):
    """The files of an exported network."""

    symbol: Path
    parameters: Path


def export_network(network: Any, image_shape: Sequence[int], prefix: Union[str, Path], softmax: bool = False,
                   normalisation: Optional[Normalisation] = None) -> Exported:
    """Write `prefix-symbol.json` and `prefix-0000.params` of any HybridBlock, as it is when it evaluates.

    Args:
        network: takes (B, C, H, W) and gives an array or several, the first of which is exported: (B, classes), or
            (B, classes, H, W) for segmentation. Its parameters have values.
        image_shape: (C, H, W).
        prefix: the files' path without their endings; the folder exists.
        softmax: whether the output is probabilities (over axis 1) rather than logits.
        normalisation: None if the input is normalised already; else it is pixels, 0 to 255.

    Raises:
        UserError: an operator in it is not MXNet's own, or a file cannot be written.
    """
    symbol = trace(network)[0]
    channels = image_shape[0]
    if softmax:
        symbol = mx.sym.softmax(symbol, axis=1, name="probabilities")
    values = {name: parameter.data(parameter.list_ctx()[0]).as_in_context(mx.cpu())
              for name, parameter in network.collect_params().items()}
    if normalisation is not None:
        symbol = symbol(**{INPUT: _normalised(channels)})
        values.update({name: mx.nd.array(np.reshape(array, (1, channels, 1, 1)), dtype=np.float32)
                       for name, array in zip((MEAN, STD), normalisation)})
    symbol, constants = bake_constants(symbol)
    values.update(constants)
    check_shapes(symbol, image_shape, values)
    return _write(symbol, _with_kinds(symbol, values), Path(prefix))


def _normalised(channels: int) -> mx.sym.Symbol:
    mean, std = (mx.sym.var(name, shape=(1, channels, 1, 1)) for name in (MEAN, STD))
    centred = mx.sym.broadcast_sub(mx.sym.var(INPUT), mean, name="data_centred")
    return mx.sym.broadcast_div(centred, std, name="data_normalised")


def bake_constants(symbol: mx.sym.Symbol) -> Tuple[mx.sym.Symbol, Arrays]:
    """The graph with every array it makes from nothing (`full`, `zeros`) turned into a parameter, and their values.

    ONNX converters know few of those operators, and an average pool has a convolution's constant weights.

    Raises:
        UserError: an operator is not MXNet's own.
    """
    graph = json.loads(symbol.tojson())
    constants: Arrays = {}
    for node in graph["nodes"]:
        if node["op"] in ("Custom", "_NDArray", "_Native"):
            raise UserError(f"export: the operator {node['name']} is written in Python, only MXNet's own can leave")
        if node["op"] != "null" and not node["inputs"]:
            constants[node["name"]] = _made(node)
            node.update(op="null", attrs={"__shape__": str(constants[node["name"]].shape)})
    return mx.sym.load_json(json.dumps(graph)), constants


def _made(node: Dict[str, Any]) -> mx.nd.NDArray:
    operator = getattr(mx.nd.op, node["op"], None) or getattr(mx.nd._internal, node["op"])
    return operator(**{key: value for key, value in node.get("attrs", {}).items() if not key.startswith("_")})


def check_shapes(symbol: mx.sym.Symbol, image_shape: Sequence[int], values: Arrays) -> None:
    """Make sure that the graph takes a batch of such images with these parameters.

    Raises:
        UserError: it does not; the line has MXNet's reason.
    """
    names = symbol.list_arguments() + symbol.list_auxiliary_states()
    shapes = {name: values[to_gluon_name(name)].shape for name in names if name != INPUT}
    try:
        symbol.infer_shape(**{INPUT: (1, *image_shape)}, **shapes)
    except (mx.MXNetError, ValueError) as error:
        raise UserError(f"export: the network does not take images of {tuple(image_shape)}: {_reason(error)}") from None


def _with_kinds(symbol: mx.sym.Symbol, values: Arrays) -> Arrays:
    """The graph's parameters under the names of Symbol files: 'arg:' or 'aux:', and BatchNorm's statistics 'moving'."""
    kinds = {**{name: "arg" for name in symbol.list_arguments()},
             **{name: "aux" for name in symbol.list_auxiliary_states()}}
    assert all(is_statistic(name) == (kind == "aux") for name, kind in kinds.items())
    return {f"{kind}:{name}": values[to_gluon_name(name)] for name, kind in kinds.items() if name != INPUT}


def _write(symbol: mx.sym.Symbol, arrays: Arrays, prefix: Path) -> Exported:
    files = Exported(_beside(prefix, "-symbol.json"), _beside(prefix, f"-{EPOCH:04d}.params"))
    with replacing(files.parameters) as partial, _as_user_error(files.parameters):
        mx.nd.save(str(partial), arrays)
    write_durably(files.symbol, [symbol.tojson().encode("utf-8")])
    return files


def export_onnx(files: Exported, image_shape: Sequence[int], path: Union[str, Path]) -> Path:
    """Write an exported network as ONNX, for batches of any size; the input is 'data', float32.

    Args:
        files: what `export_network` wrote.
        image_shape: (C, H, W).
        path: the file; its folder exists.

    Raises:
        UserError: onnx is not installed, MXNet cannot translate an operator, or the file cannot be written.
    """
    path = Path(path)
    with contextlib.suppress(ImportError):
        import onnx

        with replacing(path) as partial, _as_user_error(path):
            mx.onnx.export_model(str(files.symbol), str(files.parameters), [(1, *image_shape)], [np.float32],
                                 str(partial), dynamic=True, dynamic_input_shapes=[("batch", *image_shape)])
            onnx.save(_with_one_input(onnx.load(str(partial))), str(partial))
        return path
    raise UserError("--format onnx: onnx is not installed here; requirements-onnx.txt says how to have it")


def _with_one_input(model: Any) -> Any:
    """An ONNX model whose parameters are constants, which runtimes fold, and not inputs besides as MXNet has them."""
    kept = [entry for entry in model.graph.input if entry.name == INPUT]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return model


def _beside(prefix: Path, ending: str) -> Path:
    return prefix.with_name(prefix.name + ending)


@contextlib.contextmanager
def _as_user_error(path: Path) -> Iterator[None]:
    """MXNet's own errors while it writes, as one line."""
    try:
        yield
    except (mx.MXNetError, AttributeError) as error:
        raise UserError(f"{path}: cannot be written: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "Stack trace" not in line]
    return lines[-1] if lines else type(error).__name__
