"""Operations: parameter names, sizes, and pools that equal MXNet's."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

from dso_nas.architecture.topology import OPERATIONS
from dso_nas.networks.operations import ConvBNReLU, DepthwiseConv, global_average, make_operation
from dso_nas.training.programs import tracing
from tests.passes import OfLearned, compiled, recorded


def images(height=7, width=6, channels=3):
    return mx.nd.array(np.random.default_rng(0).standard_normal((2, channels, height, width)))


def built(name, **options):
    operation = make_operation(OPERATIONS[name], 3, "p", **options)
    operation.initialize(mx.init.Uniform(0.5))
    return operation


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_keeps_the_shape_and_ends_in_relu(name):
    output = built(name)(images()).asnumpy()
    assert output.shape == (2, 3, 7, 6)
    assert output.min() == 0 < output.max()


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_relu_can_be_left_to_the_caller(name):
    bare, whole = built(name, activate=False), built(name)
    for own, parameter in whole.collect_params().items():
        parameter.set_data(bare.collect_params()[own].data())
    output = bare(images())
    assert output.min().asscalar() < 0
    assert (mx.nd.relu(output) == whole(images())).asnumpy().all()


def test_names_are_the_published_ones():
    names = {name for name in built("sep_conv_5x5").collect_params() if name.endswith("weight")}
    assert names == {"p_conv5x5_sep_weight", "p_conv5x5_weight"}
    assert set(built("max_pool_3x3").collect_params()) == {
        f"p_max_pool_bn_{part}" for part in ("gamma", "beta", "running_mean", "running_var")}


@pytest.mark.parametrize("kind", ["avg", "max"])
def test_pools_equal_mxnets_and_the_mean_counts_the_padding(kind):
    operation, x = built(f"{kind}_pool_3x3"), images()
    pooled = mx.nd.Pooling(x, kernel=(3, 3), pad=(1, 1), pool_type=kind, count_include_pad=True)
    wanted = mx.nd.relu(operation.bn(pooled)).asnumpy()
    np.testing.assert_allclose(operation(x).asnumpy(), wanted, atol=1e-6)


def test_dilation_spreads_the_depthwise_kernel_and_keeps_the_size():
    operation = built("sep_conv_3x3", dilation=2)
    assert operation(images()).shape == (2, 3, 7, 6)
    weight = operation.depthwise.weight.data()
    wide = mx.nd.zeros((3, 1, 5, 5))
    wide[:, :, ::2, ::2] = weight
    wanted = mx.nd.Convolution(images(), wide, kernel=(5, 5), pad=(2, 2), num_filter=3, num_group=3, no_bias=True)
    np.testing.assert_allclose(operation.depthwise(images()).asnumpy(), wanted.asnumpy(), atol=1e-5)


def test_fixed_scales_get_no_gradient():
    assert built("sep_conv_3x3", fix_gamma=True).bn.gamma.grad_req == "null"
    assert built("sep_conv_3x3").bn.gamma.grad_req == "write"


def test_a_strided_convolution_rounds_up():
    layer = ConvBNReLU(5, 3, 3, "c", stride=2)
    layer.initialize()
    assert layer(images()).shape == (2, 5, 4, 3)


@pytest.mark.parametrize("kernel, dilation, split", [(3, 1, False), (5, 1, True), (7, 1, True), (5, 2, False)])
@pytest.mark.parametrize("hybridized", [False, True])
def test_a_kernel_by_columns_is_the_kernel(kernel, dilation, split, hybridized):
    layer, x = DepthwiseConv(8, kernel, "p", dilation), images(channels=8)
    layer.initialize()
    layer.weight.set_data(mx.nd.array(np.random.default_rng(2).standard_normal(layer.weight.shape)))
    assert not layer.is_split
    with tracing({"p_weight"}, on_cpu=True):
        assert layer.is_split == split
    network = OfLearned(layer, x)
    if hybridized:
        layer.hybridize()
    wanted, found = (run(network, [x], None, lambda y, _: mx.nd.square(y)) for run in (recorded, compiled))
    np.testing.assert_allclose(found["outputs 0"], wanted["outputs 0"], atol=1e-5)
    for name in ("input", "p_weight"):
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-5 * np.abs(wanted[name]).max())


def test_the_global_average_is_global_average_pooling():
    pooled = mx.nd.Pooling(images(), global_pool=True, kernel=(1, 1), pool_type="avg")
    np.testing.assert_allclose(global_average(mx.nd, images()).asnumpy(), pooled.asnumpy(), atol=1e-6)
