"""get_symbol, against all that is recorded of the published networks (golden sections B and C)."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

import symbols
from dso_nas.errors import UserError
from dso_nas.networks.network import PublishedInitializer
from dso_nas.training.losses import softmax_cross_entropy
from symbols.checkpoints import weights_of
from symbols.naming import to_gluon_name

# Where a gradient differs by more than 1e-2 in float32: six single lambdas (at most 2.0e-2) and the norm of
# one beta (3.9e-2), all below 0.25 where the largest norms are 9 and 59. In float64, where the order of a sum
# matters less, these networks agree to 1e-6 in all that is recorded.
ROUNDED = {"B_cifar_search_full_d26_L4": 2.1e-2, "B_cifar_search_share_d26_L4": 4e-2}
SMALL = dict(num_classes=10, image_shape=(3, 16, 16), num_layers=2, units=(2, 2, 2), filters=4)


def all_shapes(symbol, data):
    args, _, aux = symbol.infer_shape(data=data)
    return dict(zip(symbol.list_arguments(), args)), dict(zip(symbol.list_auxiliary_states(), aux))


def test_names_and_shapes_are_the_published_ones(named_case, golden):
    arrays, symbol = golden.section_b(named_case)
    args, aux = golden.shapes(arrays, "symbol", "arg"), golden.shapes(arrays, "symbol", "aux")
    assert all_shapes(symbol, args["data"]) == (args, aux)
    assert symbol.list_outputs() == golden.manifest[named_case]["list_outputs"]
    attributes = symbol.attr_dict()
    for value in ("true", "false"):
        ours = {name for name, of in attributes.items() if of.get("fix_gamma", "").lower() == value}
        assert ours == set(arrays[f"symbol/bn_fix_gamma_{value}"])


def test_search_networks_compute_the_published_numbers(computed_case, golden):
    arrays, symbol = golden.section_b(computed_case)
    with_logits = mx.sym.Group([symbol, mx.sym.BlockGrad(symbol.get_internals()["fc1_output"])])
    check_numbers(golden, arrays, with_logits, ROUNDED.get(computed_case, 1e-2))
    if computed_case in ROUNDED:
        precise = golden.bound(
            with_logits, golden.group(arrays, "arg"), golden.group(arrays, "aux"), "float64"
        )
        precise.forward(is_train=True)
        precise.backward()
        check_gradients(golden, arrays, precise, 1e-6)


def test_supernets_in_training_have_the_published_gradients(computed_case, golden):
    arrays, symbol = golden.section_b(computed_case)
    values = {**golden.group(arrays, "arg"), **golden.group(arrays, "aux")}
    weights = weights_of(
        {
            to_gluon_name(name): value
            for name, value in values.items()
            if name != "data" and name != "softmax_label"
        },
        computed_case,
        fix_gamma=True,
        wiring=golden.full_wiring(computed_case),
    )
    network = weights.loaded_network()
    network.hybridize_segments()
    with mx.autograd.record():
        loss = softmax_cross_entropy(
            network(mx.nd.array(values["data"])), mx.nd.array(values["softmax_label"])
        ).sum()
    loss.backward()
    parameters = network.collect_params()
    for name, recorded in golden.group(arrays, "grad").items():
        if name in parameters and parameters[name].grad_req != "null":
            difference = golden.difference(parameters[name].grad().asnumpy(), recorded)
            assert difference < ROUNDED.get(computed_case, 1e-2), name


def test_evaluation_networks_compute_the_published_numbers(forward_case, golden):
    arrays, stem, arguments = golden.section_c(forward_case)
    symbol = golden.without(symbols.get_symbol(f"{stem}_evaluation", **arguments), "Dropout", p=0)
    # Recorded without label smoothing, and some cases without the auxiliary head.
    symbol = golden.without(symbol, "SoftmaxOutput", smooth_alpha=0)
    logits = [mx.sym.BlockGrad(symbol.get_internals()["fc1_output"])]
    if "arg/aux_fc_weight" not in arrays:
        symbol = symbol[0]
    elif len(symbol.list_outputs()) == 2:
        logits.append(mx.sym.BlockGrad(symbol.get_internals()["aux_fc_output"]))
    check_numbers(golden, arrays, mx.sym.Group([symbol] + logits))


def check_numbers(golden, arrays, symbol, gradient_tolerance=1e-2):
    """Outputs in both modes and BatchNorm statistics after a step to 1e-4, gradients to 1e-2, relative."""
    executor = golden.bound(symbol, golden.group(arrays, "arg"), golden.group(arrays, "aux"))
    for mode, train in (("predict", False), ("train", True)):
        check_outputs(golden, golden.group(arrays, mode), symbol, executor.forward(is_train=train))
    executor.backward()
    check_gradients(golden, arrays, executor, gradient_tolerance)
    for name, recorded in golden.group(arrays, "aux_after_train").items():
        assert golden.difference(executor.aux_dict[name].asnumpy(), recorded) < 1e-4, name


def check_outputs(golden, recorded, symbol, outputs):
    names = [name[: -len("_output")] for name in symbol.list_outputs() if "softmax" in name]
    names += ["fc1_output", "aux_fc_output"][: len(outputs) - len(names)]
    for name, output in zip(names, outputs):
        assert golden.difference(output.asnumpy(), recorded[name]) < 1e-4, name


def check_gradients(golden, arrays, executor, tolerance):
    gradients = {name: value.asnumpy() for name, value in executor.grad_dict.items() if value is not None}
    for name, recorded in golden.group(arrays, "grad").items():
        assert golden.difference(gradients[name], recorded) < tolerance, name
    if "grad_norms/names" in arrays:
        norms = {str(name): norm for name, norm in zip(arrays["grad_norms/names"], arrays["grad_norms/l2"])}
        floor = 1e-5 * max(norms.values())
        for name in set(norms) & set(gradients):
            assert np.linalg.norm(gradients[name]) == pytest.approx(norms[name], rel=tolerance, abs=floor), (
                name
            )


def test_evaluation_names_and_shapes_are_the_published_ones(evaluation_case, golden):
    arrays, stem, arguments = golden.section_c(evaluation_case)
    symbol = symbols.get_symbol(f"{stem}_evaluation", **arguments)
    args, aux = golden.shapes(arrays, "eval_symbol", "arg"), golden.shapes(arrays, "eval_symbol", "aux")
    assert all_shapes(symbol, args["data"]) == (args, aux)
    assert symbol.list_outputs() == golden.manifest[evaluation_case]["eval_symbol"]["outputs"]


def test_pruned_search_names_and_shapes_are_the_published_ones(pruned_case, golden):
    arrays, stem, arguments = golden.section_c(pruned_case)
    kind = {"share": "share", "full": "full", "adflops": "full_adflops"}[
        golden.manifest[pruned_case]["layout"]
    ]
    symbol = symbols.get_symbol(f"{stem}_search_{kind}", **arguments)
    args, aux = (
        golden.shapes(arrays, "search_prune_symbol", "arg"),
        golden.shapes(arrays, "search_prune_symbol", "aux"),
    )
    assert all_shapes(symbol, args["data"]) == (args, aux)


@pytest.mark.parametrize("name", [name for name in symbols.NAMES if "search" in name])
def test_module_trains_the_search_networks_with_apgnag(name):
    image = (3, 16, 16) if name.startswith("cifar") else (3, 32, 32)
    symbol = symbols.get_symbol(name, **{**SMALL, "image_shape": image})
    before, after = fit(symbol, image)
    lambdas = [key for key in after if key.startswith("lambda_")]
    assert lambdas and all((after[key] >= 0).all() for key in after if key in lambdas)
    assert (np.concatenate([after[key].ravel() for key in lambdas]) == 0).any()
    assert not np.array_equal(before["conv0_weight"], after["conv0_weight"])


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_module_trains_the_evaluation_networks_with_apgnag(stem):
    image = (3, 40, 40)
    lambdas = {f"lambda_layer_2_{n}": np.ones((1, 5)) for n in range(1, 5)}
    lambdas.update(
        {"lambda_after": np.eye(1, 8), **{f"lambda_stage{s}_unit2": np.ones((1, 2)) for s in (1, 2)}}
    )
    symbol = symbols.get_symbol(f"{stem}_evaluation", **{**SMALL, "image_shape": image}, load_param=lambdas)
    before, after = fit(symbol, image)
    assert not np.array_equal(before["conv0_weight"], after["conv0_weight"])
    assert all(np.isfinite(value).all() for value in after.values())


def fit(symbol, image, images=24, batch=8):
    """Two epochs of Module.fit; the parameters before and after."""
    rng = np.random.default_rng(0)
    names = [name for name in symbol.list_arguments() if name.endswith("label")]
    labels = {name: rng.integers(0, 10, images).astype(np.float32) for name in names}
    data = mx.io.NDArrayIter(rng.standard_normal((images, *image)).astype(np.float32), labels, batch)
    module = mx.mod.Module(symbol, label_names=names)
    module.bind(data.provide_data, data.provide_label)
    module.init_params(PublishedInitializer())
    before = {name: value.asnumpy() for name, value in module.get_params()[0].items()}
    options = dict(learning_rate=0.1, momentum=0.9, gamma=4.0, clip_gradient=2.0, wd=1e-4)
    metric = mx.metric.Loss(output_names=symbol.list_outputs()[:1], label_names=names[:1])
    module.fit(data, num_epoch=2, optimizer="apgnag", optimizer_params=options, eval_metric=metric)
    return before, {name: value.asnumpy() for name, value in module.get_params()[0].items()}


def test_biases_and_beta_do_not_decay_with_stock_optimizers():
    symbol = symbols.get_symbol("cifar_baseline", **SMALL)
    assert not [name for name, of in symbol.attr_dict().items() if "__wd_mult__" in of]


def test_operator_names_do_not_depend_on_what_was_traced_before():
    first = symbols.get_symbol("cifar_search_share", **SMALL)
    assert first.tojson() == symbols.get_symbol("cifar_search_share", **SMALL).tojson()


def test_full_lambdas_may_differ_from_block_to_block():
    lambdas = {f"lambda_stage{s}_unit1": np.zeros((1, 28)) for s in (1, 2, 3)}
    lambdas.update({f"lambda_stage{s}_unit2": np.array([[1, 0]]) for s in (1, 2)})
    lambdas["lambda_stage2_unit1"][0, 20] = 1
    names = symbols.get_symbol("imagenet_evaluation", **SMALL, load_param=lambdas).list_arguments()
    assert "stage2_unit1_output_conv_1_weight" in names and "stage1_unit1_output_conv_1_weight" not in names


@pytest.mark.parametrize(
    "name, load_param, said",
    [
        ("cifar_serach", None, "name: unknown 'cifar_serach'"),
        ("cifar_evaluation", None, "needs the lambdas"),
        ("cifar_evaluation", {"fc1_weight": np.ones((10, 16))}, "has neither lambda_after"),
        ("cifar_evaluation", {"lambda_after": np.ones((1, 16))}, "lambda_"),
        ("cifar_baseline", {}, "has no lambdas"),
    ],
)
def test_refusals_say_what_is_wrong(name, load_param, said):
    with pytest.raises(UserError, match=said):
        symbols.get_symbol(name, **SMALL, load_param=load_param)
