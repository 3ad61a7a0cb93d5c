"""The literal graph is the same function as the supernet, so that a comparison of speeds means something."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

from benchmarks.cases import CASES, Case, environment
from benchmarks.tables import table
from benchmarks.worker import KINDS, build, images, stepper
from dso_nas.architecture.cost import network_cost
from dso_nas.training.losses import ClassificationLoss
from tests.passes import compiled, recorded

SMALL = Case("small", 2, "cifar", (1, 1), (4, 8), 10, 8, 4)


def gradients(way, run):
    network = build(SMALL, way)
    data, labels = (mx.nd.array(array) for array in images(SMALL))
    arrays = run(network, [data], labels, ClassificationLoss())
    return arrays["outputs 0"], {
        name: arrays[name] for name, p in network.collect_params().items() if p.grad_req != "null"}


@pytest.mark.parametrize("run", [recorded, compiled])
def test_outputs_and_gradients_agree(run):
    (ours, our_gradients), (theirs, their_gradients) = gradients("plain", run), gradients("literal", recorded)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert our_gradients.keys() == their_gradients.keys()
    for name, gradient in their_gradients.items():
        limit = 1e-2 * np.abs(gradient).max() + 1e-6
        np.testing.assert_allclose(our_gradients[name], gradient, atol=limit, err_msg=name)


def test_every_way_steps_both_kinds():
    for way in ("literal", "plain", "mirrored"):
        network = build(SMALL, way)
        step = stepper(network, SMALL, way)
        for kind in KINDS:
            name = "conv0_weight" if kind == "weights" else "lambda_after"
            before = network.collect_params()[name].data().asnumpy()
            step(kind)
            assert (network.collect_params()[name].data().asnumpy() != before).any()


def test_the_papers_case_has_the_papers_weights():
    assert network_cost(CASES["cifar"].layout().spec).total.parameters == 9_937_296


def test_a_published_process_is_left_as_it_is():
    assert environment(published=True, exact=False)["DSO_NAS_MALLOC"] == "default"
    assert environment(published=False, exact=False)["DSO_NAS_MALLOC"] == "keep"


def test_tables_are_markdown():
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
