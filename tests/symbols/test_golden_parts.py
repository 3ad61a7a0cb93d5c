"""The small parts of golden section G: the losses' gradients and the initialisation."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

import symbols
from dso_nas.networks.network import PublishedInitializer
from dso_nas.training.losses import ClassificationLoss, softmax_cross_entropy

CASES = ["G_misc_softmaxoutput_plain", "G_misc_softmaxoutput_smooth", "G_misc_softmaxoutput_aux_smooth"]


@pytest.mark.parametrize("name", CASES)
def test_the_loss_has_the_gradient_of_softmax_output(name, golden):
    arrays, entry = golden.load(name), golden.manifest[name]
    logits, labels = mx.nd.array(arrays["logits"]), mx.nd.array(arrays["label"])
    logits.attach_grad()
    with mx.autograd.record():
        loss = entry["grad_scale"] * softmax_cross_entropy(logits, labels, entry["smooth_alpha"])
    loss.backward()
    assert logits.grad.asnumpy() == pytest.approx(arrays["grad_logits"], rel=1e-4, abs=1e-6)


def test_the_auxiliary_loss_is_the_smoothed_one_at_its_weight(golden):
    arrays = golden.load(CASES[2])
    logits, labels = mx.nd.array(arrays["logits"]), mx.nd.array(arrays["label"])
    logits.attach_grad()
    with mx.autograd.record():
        loss = ClassificationLoss(smoothing=0.1, auxiliary_weight=0.4)(
            (mx.nd.zeros_like(logits), logits), labels
        )
    loss.backward()
    assert logits.grad.asnumpy() == pytest.approx(arrays["grad_logits"], rel=1e-4, abs=1e-6)


def test_the_symbols_have_the_recorded_loss(golden):
    arrays = golden.load(CASES[0])
    symbol = symbols.get_symbol("cifar_baseline", 10, (3, 8, 8), 1, (2,), 4)
    executor = symbol.simple_bind(mx.cpu(), data=(4, 3, 8, 8), softmax_label=(4,))
    for name in executor.arg_dict:
        executor.arg_dict[name][:] = 0
    executor.arg_dict["softmax_label"][:] = arrays["label"]
    executor.forward(is_train=True)
    executor.backward()
    expected = 0.1 - np.eye(10)[arrays["label"].astype(int)]
    assert executor.grad_dict["fc1_bias"].asnumpy() == pytest.approx(expected.sum(axis=0), abs=1e-5)


def test_initialisation_is_the_published_one():
    mx.random.seed(0)
    symbol = symbols.get_symbol("cifar_search_share", 10, (3, 16, 16), 4, (2, 2, 2), 32)
    module = mx.mod.Module(symbol)
    module.bind([("data", (2, 3, 16, 16))], [("softmax_label", (2,))])
    module.init_params(PublishedInitializer())
    args, aux = module.get_params()
    for name, value in args.items():
        check_initial(name, value.asnumpy())
    for name, value in aux.items():
        assert (value.asnumpy() == (1 if name.endswith("var") else 0)).all(), name


def check_initial(name, value):
    if name.startswith("lambda_") or name.endswith("gamma"):
        assert (value == 1).all(), name
    elif name.endswith(("beta", "bias")):
        assert (value == 0).all(), name
    else:
        # Xavier(gaussian, out, 2): the variance is 2 over outgoing values; 0.01 for the dense layer.
        wanted = 0.01 if value.ndim == 2 else np.sqrt(2 / (value.shape[0] * value[0, 0].size))
        assert value.std() == pytest.approx(wanted, rel=4 / np.sqrt(value.size)), name
        assert abs(value.mean()) < 5 * wanted / np.sqrt(value.size), name
