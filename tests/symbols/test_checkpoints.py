"""Published checkpoints in, ours out, and back: exact, and clear about what does not fit."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

from dso_nas.architecture.genotype import Genotype
from dso_nas.architecture.pruning import prune
from dso_nas.errors import UserError
from dso_nas.networks.derived import DerivedNetwork
from dso_nas.training.checkpoint import write_checkpoint
from symbols.checkpoints import GENOTYPE_FILE, PARAMETER_FILE, convert, read_ours, read_published

LAYOUTS = [
    "B_cifar_search_share_d26_L4",
    "B_cifar_search_full_d38_L2",
    "B_cifar_search_full_adflops_d26_L4",
    "B_imagenet_search_share_L4",
    "B_cifar_baseline_d26_L4",
]
# Level 2 keeps one operation with two inputs; its output and one of level 1 are left.
KEPT = {(2, 1): (0, 3), "after": (0, 4)}
LEFT = {"lambda_layer_2_1": [1, 0, 0, 1, 0], "lambda_after": [1, 0, 0, 0, 1, 0, 0, 0]}


def save_golden(golden, name, folder):
    """A checkpoint as the published code writes it: the parameters and statistics it recorded."""
    arrays, symbol = golden.section_b(name)
    args, aux = golden.group(arrays, "arg"), golden.group(arrays, "aux")
    args = {key: mx.nd.array(value) for key, value in args.items() if key not in ("data", "softmax_label")}
    prefix = str(folder / "theirs")
    mx.model.save_checkpoint(
        prefix, 100, symbol, args, {key: mx.nd.array(value) for key, value in aux.items()}
    )
    return prefix


def same_files(first, second):
    first, second = mx.nd.load(first), mx.nd.load(second)
    assert set(first) == set(second)
    for name in first:
        assert first[name].dtype == second[name].dtype
        assert np.array_equal(first[name].asnumpy(), second[name].asnumpy()), name


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_round_trip_is_exact_in_every_layout(name, golden, tmp_path):
    prefix, ours, again = save_golden(golden, name, tmp_path), tmp_path / "ours", str(tmp_path / "again")
    convert(prefix, str(ours), 100)
    genotype = Genotype.load(str(ours / GENOTYPE_FILE))
    convert(
        str(ours / PARAMETER_FILE), again, 7, back=True, genotype=genotype if "baseline" in name else None
    )
    same_files(f"{prefix}-0100.params", f"{again}-0007.params")
    symbol, args, aux = mx.model.load_checkpoint(again, 7)
    assert set(args) == set(symbol.list_arguments()) - {"data", "softmax_label"}
    assert set(aux) == set(symbol.list_auxiliary_states())


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_gluon_network_computes_what_was_recorded(name, golden, tmp_path):
    weights = read_published(save_golden(golden, name, tmp_path), 100)
    arrays = golden.load(name)
    logits = weights.loaded_network()(mx.nd.array(arrays["arg/data"])).asnumpy()
    assert golden.difference(logits, arrays["predict/fc1_output"]) < 1e-4


def test_the_genotype_is_what_pruning_leaves(golden, tmp_path):
    weights = read_published(save_golden(golden, LAYOUTS[0], tmp_path), 100)
    assert weights.genotype == prune(weights.layout, weights.arrays).genotype
    assert weights.genotype != weights.structure == Genotype.full(weights.spec, "share")


def test_a_rebuilt_supernet_is_read_as_the_smaller_network(literal, tmp_path):
    prefix = str(tmp_path / "rebuilt")
    symbol, args, _ = literal(kept=KEPT).save(prefix, lambdas=LEFT)
    weights = read_published(prefix, 100)
    assert weights.genotype.blocks["shared"].connections == {(2, 1): ((0, 0), (1, 3))}
    assert weights.genotype.blocks["shared"].outputs == ((1, 1), (2, 1))
    assert set(weights.network().collect_params("^(?!.*running)")) == set(args)
    convert(prefix, str(tmp_path / "ours"), 100)
    convert(str(tmp_path / "ours" / PARAMETER_FILE), str(tmp_path / "again"), 100, back=True)
    same_files(f"{prefix}-0100.params", str(tmp_path / "again-0100.params"))


def test_operations_given_up_since_the_last_rebuild_are_kept(literal, tmp_path):
    prefix = str(tmp_path / "between")
    _, args, _ = literal(kept=KEPT).save(prefix, lambdas={**LEFT, "lambda_layer_2_1": [0] * 5})
    weights = read_published(prefix, 100)
    assert weights.genotype.blocks["shared"].live_nodes == ((1, 1),)
    assert set(weights.network().collect_params("^(?!.*running)")) == set(args)


def test_connections_of_a_derived_network_are_read_from_its_graph(literal, tmp_path):
    prefix = str(tmp_path / "derived")
    wiring = {(2, n): (0, n) for n in (1, 2, 3, 4)}
    literal(None, {**wiring, "after": range(8)}).save(prefix)
    block = read_published(prefix, 100).genotype.blocks["stage2_unit1"]
    assert block.connections == {(2, n): ((0, 0), (1, n)) for n in (1, 2, 3, 4)}
    assert len(block.outputs) == 8


def test_a_run_s_checkpoint_goes_to_the_published_form(golden, tmp_path):
    arrays, _, arguments = golden.section_c("C_cifar_share_L4_fwd_sp50")
    weights = read_published(save_golden(golden, LAYOUTS[0], tmp_path), 100)
    network = DerivedNetwork(weights.spec, weights.genotype, auxiliary=True)
    network.initialize()
    values = {f"parameter/{k}": v.data().asnumpy() for k, v in network.collect_params().items()}
    write_checkpoint(tmp_path / "run.ckpt", {**values, "optimizer/weights/0/fc1_weight": np.zeros(3)}, {})
    convert(str(tmp_path / "run.ckpt"), str(tmp_path / "out"), 3, back=True, genotype=weights.genotype)
    symbol, args, aux = mx.model.load_checkpoint(str(tmp_path / "out"), 3)
    assert symbol.list_outputs() == ["softmax_output", "aux_softmax_output"]
    module = mx.mod.Module(symbol, label_names=["softmax_label", "aux_softmax_label"])
    module.bind([("data", (2, 3, 32, 32))], for_training=False)
    module.set_params(args, aux)
    data = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    module.forward(mx.io.DataBatch([mx.nd.array(data)]), is_train=False)
    logits = network(mx.nd.array(data))[0]
    assert np.allclose(module.get_outputs()[0].asnumpy(), logits.softmax().asnumpy(), atol=1e-5)


def broken(prefix, epoch, change):
    path = f"{prefix}-{epoch:04d}.params"
    content = mx.nd.load(path)
    change(content)
    mx.nd.save(path, content)


def test_what_does_not_fit_is_listed_by_name(golden, tmp_path):
    prefix = save_golden(golden, LAYOUTS[0], tmp_path)

    def change(content):
        del content["arg:stage2_unit1_bn_beta"], content["aux:bn0_moving_var"]
        content["arg:momentum"] = mx.nd.zeros(1)
        content["arg:fc1_bias"] = mx.nd.zeros(3)

    broken(prefix, 100, change)
    with pytest.raises(UserError) as caught:
        read_published(prefix, 100)
    text = str(caught.value)
    assert f"{prefix}-0100.params" in text and "extra: momentum" in text
    assert "missing: bn0_running_var, stage2_unit1_bn_beta" in text
    assert "misshapen: fc1_bias is (3,), not (10,)" in text


@pytest.mark.parametrize(
    "name",
    [
        "lambda_after",
        "lambda_layer_3_2",
        "lambda_stage1_unit2",
        "conv0_weight",
        "fc1_weight",
        "stage1_unit1_id_conv_weight",
        "stage2_unit2_conv1x1_weight",
        "stage1_unit1_2_max_pool_bn_gamma",
        "stage3_unit1_output_conv_16_weight",
    ],
)
def test_any_single_missing_parameter_is_named(name, golden, tmp_path):
    prefix = save_golden(golden, LAYOUTS[0], tmp_path)
    broken(prefix, 100, lambda content: content.pop(f"arg:{name}"))
    with pytest.raises(UserError, match=name):
        read_published(prefix, 100)


def test_parameters_alone_do_not_tell_connections(golden, tmp_path):
    prefix = save_golden(golden, "B_cifar_baseline_d26_L4", tmp_path)
    convert(prefix, str(tmp_path / "ours"), 100)
    with pytest.raises(UserError, match="--genotype"):
        read_ours(str(tmp_path / "ours" / PARAMETER_FILE))


@pytest.mark.parametrize("damage", ["no symbol", "no parameters", "symbol", "parameters"])
def test_unreadable_files_are_named(damage, golden, tmp_path):
    prefix = save_golden(golden, LAYOUTS[0], tmp_path)
    path = tmp_path / ("theirs-symbol.json" if "symbol" in damage else "theirs-0100.params")
    path.unlink() if damage.startswith("no ") else path.write_bytes(b"{]")
    with pytest.raises(UserError, match=path.name):
        read_published(prefix, 100)
