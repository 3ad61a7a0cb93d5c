"""Derived networks: what the published numbers (tests/symbols) do not hold."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

from dso_nas.architecture.cost import AUX_CHANNELS
from dso_nas.architecture.genotype import BlockGenotype, Genotype, GenotypeError
from dso_nas.architecture.lambdas import LambdaLayout
from dso_nas.architecture.topology import BlockTopology, NetworkSpec
from dso_nas.networks.derived import DerivedNetwork, auxiliary_position
from dso_nas.networks.network import PublishedInitializer
from dso_nas.networks.supernet import SuperNet
from dso_nas.training.memory import block_groups
from tests.passes import compiled, recorded

SPEC = NetworkSpec(
    BlockTopology(2, ("sep_conv_3x3", "max_pool_3x3")), "cifar", (1, 1, 1), (4, 8, 16), 10, (3, 32, 32)
)


def network(genotype=None, **options):
    made = DerivedNetwork(SPEC, genotype or Genotype.full(SPEC, "share"), **options)
    made.initialize(PublishedInitializer())
    return made


def images():
    return mx.nd.array(np.random.default_rng(0).standard_normal((2, 3, 32, 32)))


def test_the_auxiliary_head_gives_a_second_output_behind_the_second_reduction():
    made = network(auxiliary=True)
    logits, auxiliary = made(images())
    assert logits.shape == auxiliary.shape == (2, 10)
    assert made.units[auxiliary_position(SPEC)].unit.name == "stage3_unit1"
    assert made.collect_params()["aux_conv2_weight"].shape == (AUX_CHANNELS[1], AUX_CHANNELS[0], 2, 2)
    assert made(images())[0].asnumpy() == pytest.approx(logits.asnumpy())


def test_fixed_scales_are_those_within_blocks():
    def trained(**options):
        parameters = network(**options).collect_params(".*gamma").items()
        return {name for name, parameter in parameters if parameter.grad_req != "null"}

    outer = {"bn0_gamma", "final_bn_gamma"} | {f"stage{stage}_unit1_bn_gamma" for stage in (1, 2, 3)}
    assert trained(fix_gamma=True) == outer
    assert trained() > outer


def test_paths_of_one_change_nothing_and_paths_of_zero_leave_the_shortcuts():
    made = network(drop_path=True)
    # Per block: two inputs of three sources each (level 2) and four outputs.
    assert made.num_paths == 3 * (2 * 3 + 4)
    plain = network()
    for name, parameter in plain.collect_params().items():
        parameter.set_data(made.collect_params()[name].data())
    ones = mx.nd.ones((2, made.num_paths))
    assert made(images(), ones).asnumpy() == pytest.approx(plain(images()).asnumpy(), abs=1e-5)
    empty = network(
        Genotype(SPEC.topology, "share", {"shared": BlockGenotype({}, ())}, (("conv1x1", "conv3x3"),) * 2)
    )
    for name, parameter in empty.collect_params().items():
        parameter.set_data(made.collect_params()[name].data())
    assert made(images(), 0 * ones).asnumpy() == pytest.approx(empty(images()).asnumpy(), abs=1e-5)


def test_dropout_acts_before_the_classifier_in_training_only():
    made = network(dropout=0.9)
    assert np.array_equal(made(images()).asnumpy(), made(images()).asnumpy())
    made.head.fc1.bias.set_data(mx.nd.arange(10))
    with mx.autograd.train_mode():
        first, second = made(images()).asnumpy(), made(images()).asnumpy()
    assert not np.array_equal(first, second)


def test_a_genotype_of_another_network_is_refused():
    other = NetworkSpec(
        BlockTopology(3, SPEC.topology.operations), "cifar", (1, 1, 1), (4, 8, 16), 10, (3, 32, 32)
    )
    with pytest.raises(GenotypeError):
        DerivedNetwork(SPEC, Genotype.full(other, "share"))


@pytest.mark.parametrize("kind", ["derived", "supernet"])
def test_a_compiled_block_that_is_its_shortcut_alone_hands_the_gradient_on(kind):
    spec = NetworkSpec(SPEC.topology, "cifar", (2,), (4,), 10, (3, 8, 8))
    full = Genotype.full(spec, "full")
    empty = BlockGenotype.from_mask(spec.topology, np.zeros(spec.topology.num_connections, bool))
    genotype = Genotype(spec.topology, "full", {**full.blocks, "stage1_unit2": empty}, full.reductions)
    made = DerivedNetwork(spec, genotype) if kind == "derived" else SuperNet(LambdaLayout(spec, "full"), genotype)
    made.initialize(PublishedInitializer())
    gradients = []
    for way, options in ("plain", {}), ("hybridized", {}), ("static", {}), ("static", {"groups": block_groups(4)}):
        if way == "hybridized":
            made.hybridize_segments()
        run = compiled if way == "static" else recorded
        arrays = run(made, [images()[:, :, :8, :8]], None, lambda y, _: y ** 2, **options)
        gradients.append(arrays["conv0_weight"])
        made.collect_params()["conv0_weight"].zero_grad()
    assert np.abs(gradients[0]).max() > 0
    for gradient in gradients[1:]:
        assert gradient == pytest.approx(gradients[0], rel=1e-4, abs=1e-5 * np.abs(gradients[0]).max())
