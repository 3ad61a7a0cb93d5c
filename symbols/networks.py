"""The published code's networks by name, traced from ours."""

from __future__ import annotations

import dataclasses
import re
import warnings
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple, cast

import mxnet as mx
import numpy as np

from dso_nas.architecture.genotype import Genotype
from dso_nas.architecture.lambdas import LambdaLayout
from dso_nas.architecture.pruning import prune
from dso_nas.architecture.topology import BlockTopology, NetworkSpec
from dso_nas.errors import UserError
from dso_nas.networks.derived import DerivedNetwork
from dso_nas.networks.network import Network
from dso_nas.networks.supernet import SuperNet
from symbols.naming import trace

_SECOND_LEVEL = re.compile(r"lambda_(?:stage\d+_unit\d+_)?layer_2_\d+$")
OPERATIONS = ("sep_conv_3x3", "sep_conv_5x5", "max_pool_3x3", "avg_pool_3x3")
UNITS = {"cifar": (9, 9, 9), "imagenet": (3, 3, 14, 7)}
SEARCH_FILTERS = {"cifar": 48, "imagenet": 28}
EVALUATION_FILTERS = 36
DROPOUT = 0.4
AUXILIARY_WEIGHT = 0.4
SMOOTHING = 0.1
# name: (stem, what it is)
NAMES = {
    "cifar_baseline": ("cifar", "baseline"),
    "cifar_search_share": ("cifar", "share"),
    "cifar_search_full": ("cifar", "full"),
    "cifar_search_full_adflops": ("cifar", "packed"),
    "cifar_evaluation": ("cifar", "evaluation"),
    "imagenet_search_share": ("imagenet", "share"),
    "imagenet_search_full": ("imagenet", "full"),
    "imagenet_search_full_adflops": ("imagenet", "packed"),
    "imagenet_evaluation": ("imagenet", "evaluation"),
}


def get_symbol(
    name: str,
    num_classes: int,
    image_shape: Sequence[int],
    num_layers: int = 4,
    units: Optional[Sequence[int]] = None,
    filters: Optional[int] = None,
    load_param: Optional[Mapping[str, Any]] = None,
) -> mx.sym.Symbol:
    """The loss-headed Symbol of a published network: 'softmax' and, in CIFAR evaluation, 'aux_softmax'.

    Inputs are 'data' (B, *image_shape) and 'softmax_label' (B,), and 'aux_softmax_label' (B,). `image_shape`
    is (channels, height, width), `num_layers` the levels of a block, `units` per stage as the published code
    counts them, a reduction (which the last stage lacks) included, `filters` the first stage's channels.

    `load_param` holds lambdas by name (other names are ignored) in the layout share, full or packed.
    Evaluation needs them; a search network with them is built without its dead connections. Drop path is no
    part of a Symbol: the published operator for it was never published.

    Raises:
        UserError: unknown name, numbers that give no network, or lambdas that do not fit it.
    """
    if name not in NAMES:
        raise UserError(f"name: unknown {name!r}, allowed are {', '.join(NAMES)}")
    stem, kind = NAMES[name]
    spec = network_spec(name, num_classes, image_shape, num_layers, units, filters)
    return with_loss(
        _network(spec, kind, name, load_param), SMOOTHING if name == "imagenet_evaluation" else 0.0
    )


def network_spec(
    name: str,
    num_classes: int,
    image_shape: Sequence[int],
    num_layers: int = 4,
    units: Optional[Sequence[int]] = None,
    filters: Optional[int] = None,
) -> NetworkSpec:
    """The macro-structure of a published network, from `get_symbol`'s arguments; raises `UserError`."""
    stem, kind = NAMES[name]
    units = UNITS[stem] if units is None else units
    filters = filters or (EVALUATION_FILTERS if kind == "evaluation" else SEARCH_FILTERS[stem])
    widths = tuple(filters * 2**stage for stage in range(len(units)))
    blocks = tuple(count - 1 for count in units)
    topology = BlockTopology(num_layers, OPERATIONS, "previous" if name == "imagenet_search_full" else "all")
    return NetworkSpec(topology, stem, blocks, widths, num_classes, cast(Tuple[int, int, int], tuple(image_shape)))


def with_loss(network: Network, smoothing: float = 0.0) -> mx.sym.Symbol:
    """`network` traced, with SoftmaxOutput (gradients summed over the batch) on its one or two outputs.

    Raises:
        UserError: the network takes drop-path multipliers, which a Symbol cannot be given.
    """
    if network.num_paths:
        raise UserError("drop_path: a Symbol has none, build the network without it")
    outputs = trace(network)
    main = mx.sym.SoftmaxOutput(
        outputs[0], mx.sym.var("softmax_label"), name="softmax", smooth_alpha=smoothing
    )
    if len(outputs) == 1:
        return main
    auxiliary = mx.sym.SoftmaxOutput(
        outputs[1],
        mx.sym.var("aux_softmax_label"),
        name="aux_softmax",
        grad_scale=AUXILIARY_WEIGHT,
        smooth_alpha=smoothing,
    )
    return mx.sym.Group([main, auxiliary])


def find_layout(spec: NetworkSpec, names: Sequence[str]) -> LambdaLayout:
    """Which of the three layouts lambda parameters called `names` have.

    Raises:
        UserError: there is no lambda of a block among them.
    """
    if "lambda_after" in names:
        return LambdaLayout(spec, "share")
    if any(re.fullmatch(r"lambda_after_stage\d+_unit\d+", name) for name in names):
        return LambdaLayout(spec, "full")
    if any(f"lambda_{unit.name}" in names for unit in spec.block_units()):
        return LambdaLayout(spec, "full", packed=True)
    raise UserError(
        "load_param: has neither lambda_after nor lambda_after_stage1_unit1 nor lambda_stage1_unit1"
    )


def pruned_genotype(layout: LambdaLayout, lambdas: Mapping[str, Any]) -> Genotype:
    """What is left of the network with these lambdas; Python warnings say what had to be decided.

    Raises:
        UserError: a lambda is missing, misshapen or not finite.
    """
    result = prune(layout, lambdas)
    for text in result.warnings:
        warnings.warn(text, stacklevel=2)
    return result.genotype


def lambdas_of(load_param: Mapping[str, Any]) -> Dict[str, np.ndarray]:
    """The lambdas among parameters (NDArray or NumPy), with or without a parameter file's prefix 'arg:'."""
    arrays = {name[4:] if name.startswith("arg:") else name: value for name, value in load_param.items()}
    return {
        name: value.asnumpy() if hasattr(value, "asnumpy") else np.asarray(value)
        for name, value in arrays.items()
        if name.startswith("lambda_")
    }


def _network(spec: NetworkSpec, kind: str, name: str, load_param: Optional[Mapping[str, Any]]) -> Network:
    if kind == "baseline":
        if load_param is not None:
            raise UserError(f"load_param: {name} has no lambdas, leave it out")
        return DerivedNetwork(spec, Genotype.full(spec, "share"), fix_gamma=True)
    if kind == "evaluation":
        if load_param is None:
            raise UserError(f"load_param: {name} needs the lambdas of a search")
        return _evaluation_network(*_loaded(spec, load_param))
    layout = LambdaLayout(spec, "share" if kind == "share" else "full", packed=kind == "packed")
    if load_param is None:
        return SuperNet(layout)
    return SuperNet(layout, pruned_genotype(layout, lambdas_of(load_param)))


def reach_of(shapes: Mapping[str, Tuple[int, ...]]) -> str:
    """The lambdas' reach: a second-level lambda without the block's input has one entry an operation."""
    sizes = {int(np.prod(shape)) for name, shape in shapes.items() if _SECOND_LEVEL.match(name)}
    return "previous" if sizes == {len(OPERATIONS)} else "all"


def _loaded(spec: NetworkSpec, load_param: Mapping[str, Any]) -> Tuple[LambdaLayout, Dict[str, np.ndarray]]:
    lambdas = lambdas_of(load_param)
    reach = reach_of({name: value.shape for name, value in lambdas.items()})
    topology = dataclasses.replace(spec.topology, reach=reach)
    return find_layout(dataclasses.replace(spec, topology=topology), list(lambdas)), lambdas


def _evaluation_network(layout: LambdaLayout, lambdas: Mapping[str, Any]) -> DerivedNetwork:
    spec = layout.spec
    cifar = spec.stem == "cifar"
    return DerivedNetwork(
        spec, pruned_genotype(layout, lambdas), dropout=DROPOUT if cifar else 0.0, auxiliary=cifar
    )
