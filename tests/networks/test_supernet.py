"""The supernet against what the published code computed (golden section B): names, outputs, gradients, statistics."""

from __future__ import annotations

from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from dso_nas.architecture.lambdas import LambdaLayout
from dso_nas.architecture.topology import BlockTopology, NetworkSpec
from dso_nas.networks.network import PublishedInitializer
from dso_nas.networks.supernet import SuperNet
from dso_nas.training.losses import softmax_cross_entropy
from tests.passes import compiled, recorded

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
FOUR = ("sep_conv_3x3", "sep_conv_5x5", "max_pool_3x3", "avg_pool_3x3")
CASES = {
    "B_cifar_search_share_d26_L2": (2, (1, 1, 1), "share", False),
    "B_cifar_search_share_d26_L4": (4, (1, 1, 1), "share", False),
    "B_cifar_search_share_d38_L3": (3, (2, 2, 2), "share", False),
    "B_cifar_search_full_d26_L2": (2, (1, 1, 1), "full", False),
    "B_cifar_search_full_d26_L4": (4, (1, 1, 1), "full", False),
    "B_cifar_search_full_d38_L2": (2, (2, 2, 2), "full", False),
    "B_cifar_search_full_adflops_d26_L2": (2, (1, 1, 1), "full", True),
    "B_cifar_search_full_adflops_d26_L4": (4, (1, 1, 1), "full", True),
    "B_imagenet_search_share_L4": (4, (1, 1, 2, 1), "share", False),
}
INPUTS = ("data", "softmax_label")


def published(name):
    return name.replace("running", "moving")


def network(name, golden):
    levels, blocks, scope, packed = CASES[name]
    stem = name.split("_")[1]
    widths = (8, 16, 32, 64)[: len(blocks)]
    shape = tuple(int(size) for size in golden["arg/data"].shape[1:])
    spec = NetworkSpec(BlockTopology(levels, FOUR), stem, blocks, widths, 10, shape)
    made = SuperNet(LambdaLayout(spec, scope, packed))
    made.initialize(PublishedInitializer())
    for own, parameter in made.collect_params().items():
        kind = "aux" if "running" in own else "arg"
        parameter.set_data(mx.nd.array(golden[f"{kind}/{published(own)}"]))
    made.hybridize_segments()
    return made


@pytest.fixture(scope="module", params=[(name, way) for name in CASES for way in (recorded, compiled)],
                ids=lambda param: f"{param[0]}_{param[1].__name__}")
def case(request):
    name, way = request.param
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        golden = dict(arrays)
    made = network(name, golden)
    data, labels = (mx.nd.array(golden[f"arg/{name}"]) for name in INPUTS)
    predicted = made(data).asnumpy()
    outputs = way(made, [data], labels, softmax_cross_entropy)["outputs 0"]
    return golden, made.collect_params(), predicted, outputs


def test_parameters_have_the_published_names_and_shapes(case):
    golden, parameters, *_ = case
    wanted = {
        str(name): tuple(int(size) for size in shape if size)
        for name, shape in zip(golden["symbol/arg_names"], golden["symbol/arg_shapes"])
        if name not in INPUTS
    }
    assert {name: p.shape for name, p in parameters.items() if "running" not in name} == wanted


def test_outputs(case):
    golden, _, predicted, trained = case
    for ours, key in ((predicted, "predict/fc1_output"), (trained, "train/fc1_output")):
        np.testing.assert_allclose(ours, golden[key], atol=1e-5 * np.abs(golden[key]).max())


def unit_of(name):
    """The unit a lambda belongs to: '' where all blocks share it."""
    return "_".join(part for part in name.split("_") if part.startswith(("stage", "unit")))


def largest_gradients(golden, parameters):
    """What an error is measured by: an array's largest gradient, for a lambda that of its block.

    A lambda's gradient sums a product over a whole map, and what is left of a sum that cancels is rounding.
    """
    largest = {name: np.abs(golden[f"grad/{name}"]).max() for name in parameters.keys() if f"grad/{name}" in golden}
    units = {}
    for name, value in largest.items():
        if name.startswith("lambda"):
            units[unit_of(name)] = max(value, units.get(unit_of(name), 0))
    return {name: units[unit_of(name)] if name.startswith("lambda") else value for name, value in largest.items()}


def test_gradients(case):
    golden, parameters, *_ = case
    trained = {name: p.grad().asnumpy() for name, p in parameters.items() if p.grad_req != "null"}
    compared = 0
    for name, largest in largest_gradients(golden, parameters).items():
        if name in trained:
            np.testing.assert_allclose(trained[name], golden[f"grad/{name}"], atol=1e-2 * largest + 1e-7, err_msg=name)
            compared += 1
    assert compared


def test_gradient_norms(case):
    golden, parameters, *_ = case
    compared = 0
    for name, norm in zip(map(str, golden["grad_norms/names"]), golden["grad_norms/l2"]):
        if name in parameters and parameters[name].grad_req != "null" and not name.startswith("lambda"):
            ours = np.linalg.norm(parameters[name].grad().asnumpy())
            assert ours == pytest.approx(norm, rel=1e-2, abs=1e-6), name
            compared += 1
    assert compared > 50


def test_statistics_after_a_step(case):
    golden, parameters, *_ = case
    compared = 0
    for name, parameter in parameters.items():
        key = f"aux_after_train/{published(name)}"
        if key in golden:
            np.testing.assert_allclose(parameter.data().asnumpy(), golden[key], atol=1e-5, err_msg=name)
            compared += 1
    assert compared
