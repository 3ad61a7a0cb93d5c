"""Exported networks, read by what does not know this package: MXNet's Gluon, Module and C interface, onnxruntime."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from dso_nas.__main__ import main
from dso_nas.architecture.genotype import Genotype
from dso_nas.architecture.lambdas import LambdaLayout
from dso_nas.architecture.mobile import MOBILE_OPERATIONS, MobileSpec
from dso_nas.architecture.mobile_genotype import random_mobile
from dso_nas.architecture.sampling import random_genotype
from dso_nas.architecture.topology import BlockTopology, NetworkSpec
from dso_nas.data.augmentation import Augmentation
from dso_nas.data.sample import load_sample
from dso_nas.errors import UserError
from dso_nas.export import Exported, Normalisation, export_network, export_onnx
from dso_nas.networks.derived import DerivedNetwork
from dso_nas.networks.mobile import MobileNetwork
from dso_nas.networks.network import PublishedInitializer
from dso_nas.networks.segmentation import DerivedSegmentationNetwork
from dso_nas.networks.supernet import SuperNet
from dso_nas.recipes import load_recipe
from dso_nas.stages.classification import classification_run
from dso_nas.stages.retrain import RetrainTask
from dso_nas.training.checkpoint import CheckpointFolder
from dso_nas.training.workfolder import WorkFolder

ROOT = Path(__file__).resolve().parents[1]
ONNX_PYTHON = ROOT / ".venv-onnx" / "bin" / "python"
OPERATIONS = ("sep_conv_3x3", "sep_conv_5x5", "max_pool_3x3", "avg_pool_3x3")
SPEC = NetworkSpec(BlockTopology(3, OPERATIONS), "cifar", (1, 2, 1), (4, 6, 8), 10, (3, 32, 32))

# Each script reads every network of the folder it stands in, and writes what it gives for the images beside it.
GLUON = """
import glob, importlib.util, sys
import numpy as np, mxnet as mx
assert importlib.util.find_spec("dso_nas") is None and importlib.util.find_spec("symbols") is None
outputs = {}
for prefix in [path[:-4] for path in glob.glob("*.npy")]:
    x = mx.nd.array(np.load(prefix + ".npy"))
    block = mx.gluon.SymbolBlock.imports(prefix + "-symbol.json", ["data"], prefix + "-0000.params")
    symbol, arguments, statistics = mx.model.load_checkpoint(prefix, 0)
    module = mx.mod.Module(symbol, label_names=None)
    module.bind([("data", x.shape)], for_training=False)
    module.set_params(arguments, statistics)
    module.forward(mx.io.DataBatch([x]), is_train=False)
    outputs.update({"gluon " + prefix: block(x).asnumpy(), "module " + prefix: module.get_outputs()[0].asnumpy()})
np.savez("out.npz", **outputs)
"""
# The C interface as a C++ program calls it; nothing of Python's MXNet is loaded.
C = """
import ctypes, glob, sys
import numpy as np
library = ctypes.CDLL(sys.argv[1])
library.MXGetLastError.restype = ctypes.c_char_p
def call(name, *arguments):
    assert getattr(library, name)(*arguments) == 0, library.MXGetLastError()
numbers = lambda *values: (ctypes.c_uint * len(values))(*values)
floats = lambda array: array.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
outputs = {}
for prefix in [path[:-4] for path in glob.glob("*.npy")]:
    data = np.load(prefix + ".npy").astype("<f4")
    symbol, parameters = (open(prefix + end, "rb").read() for end in ("-symbol.json", "-0000.params"))
    handle, shape, rank = ctypes.c_void_p(), ctypes.POINTER(ctypes.c_uint)(), ctypes.c_uint()
    call("MXPredCreate", symbol, parameters, len(parameters), 1, 0, 1, (ctypes.c_char_p * 1)(b"data"),
         numbers(0, data.ndim), numbers(*data.shape), ctypes.byref(handle))
    call("MXPredSetInput", handle, b"data", floats(data), data.size)
    call("MXPredForward", handle)
    call("MXPredGetOutputShape", handle, 0, ctypes.byref(shape), ctypes.byref(rank))
    output = np.empty([shape[i] for i in range(rank.value)], "<f4")
    call("MXPredGetOutput", handle, 0, floats(output), output.size)
    outputs["c " + prefix] = output
np.savez("out.npz", **outputs)
assert "mxnet" not in sys.modules
"""
ONNX = """
import glob
import numpy as np, onnxruntime
outputs = {}
for prefix in [path[:-5] for path in glob.glob("*.onnx")]:
    session = onnxruntime.InferenceSession(prefix + ".onnx", providers=["CPUExecutionProvider"])
    data = np.load(prefix + ".npy")
    assert [entry.name for entry in session.get_inputs()] == ["data"]
    whole, one = (session.run(None, {"data": part})[0] for part in (data, data[:1]))
    np.testing.assert_allclose(whole[:1], one, rtol=0, atol=1e-5 * max(1, np.abs(one).max()))
    outputs["onnx " + prefix] = whole
np.savez("out.npz", **outputs)
"""
EXPORT_ONNX = """
import sys
from pathlib import Path
from dso_nas.errors import UserError
from dso_nas.export import Exported, export_onnx
for prefix in sys.argv[1:]:
    try:
        files = Exported(Path(prefix + "-symbol.json"), Path(prefix + "-0000.params"))
        export_onnx(files, (3, 32, 32), prefix + ".onnx")
    except UserError as error:
        print(error)
"""


def images(count=3, seed=0):
    return np.random.default_rng(seed).normal(size=(count, *SPEC.image_shape)).astype(np.float32)


def filled(network):
    """The network with values such that every layer matters to the output, which is of order one."""
    rng = np.random.default_rng(7)
    network.initialize(PublishedInitializer(), force_reinit=True)
    for name, parameter in sorted(network.collect_params().items()):
        if name.endswith(("gamma", "var")):
            parameter.set_data(mx.nd.array(rng.uniform(0.5, 1.5, parameter.shape)))
        elif name.endswith(("beta", "mean", "bias")) or name.startswith("lambda"):
            parameter.set_data(mx.nd.array(rng.normal(0, 0.3, parameter.shape)))
        elif name.startswith("fc1"):
            parameter.set_data(mx.nd.array(rng.normal(0, 0.5, parameter.shape)))
    size = float(np.std(first_of(network, images())))
    for parameter in network.collect_params("fc1_.*").values():
        parameter.set_data(parameter.data() / size)
    return network


def derived(**options):
    return filled(DerivedNetwork(SPEC, random_genotype(SPEC, "full", 0.7, np.random.default_rng(3)), **options))


class Other(mx.gluon.HybridBlock):
    """A block of another kind than ours: dense output at the input's size, two outputs, one of them auxiliary."""

    def __init__(self):
        super().__init__(prefix="")
        self.body = mx.gluon.nn.Conv2D(5, 3, padding=2, dilation=2, strides=2, in_channels=3, prefix="body_")
        self.norm = mx.gluon.nn.BatchNorm(in_channels=5, prefix="norm_")

    def hybrid_forward(self, F, x):
        features = F.relu6(self.norm(self.body(x))) if hasattr(F, "relu6") else F.clip(self.norm(self.body(x)), 0, 6)
        return F.contrib.BilinearResize2D(features, height=32, width=32), features


def segmentation():
    spec = dataclasses.replace(NetworkSpec(SPEC.topology, "imagenet", (1, 1, 1, 1), (4, 6, 8, 8), 5, SPEC.image_shape),
                               output_stride=16)
    genotype = random_genotype(spec, "share", 0.7, np.random.default_rng(4))
    return filled(DerivedSegmentationNetwork(spec, genotype, head_channels=8, auxiliary=True))


def mobile():
    spec = MobileSpec(4, 4, ((6, 2, 2), (8, 2, 1)), 12, tuple(MOBILE_OPERATIONS), 10, SPEC.image_shape)
    return filled(MobileNetwork(spec, random_mobile(spec, 0.4, np.random.default_rng(5)), dropout=0.2))


NETWORKS = {
    "plain": lambda: derived(),
    "as_retrained": lambda: derived(drop_path=True, dropout=0.5, auxiliary=True),
    "supernet": lambda: filled(SuperNet(LambdaLayout(SPEC, "share"))),
    "segmentation": segmentation,
    "mobile": mobile,
    "other": lambda: filled(Other()),
}


def first(output):
    return (output[0] if isinstance(output, (list, tuple)) else output).asnumpy()


def first_of(network, data):
    return first(network(mx.nd.array(data)))


def elsewhere(script, folder, *arguments, python=sys.executable):
    """Run a script in a folder of exported files, without this package; its arrays."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([str(python), "-c", script, *arguments], cwd=folder, env=environment, capture_output=True,
                          text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    with np.load(folder / "out.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with every kind of network exported, images beside each, and the outputs they should have."""
    folder, expected = tmp_path_factory.mktemp("exported"), {}
    for name, make in NETWORKS.items():
        network, data = make(), images()
        expected[name] = first_of(network, data)
        export_network(network, SPEC.image_shape, folder / name)
        np.save(folder / name, data)
    expected["pixels"] = export_for_pixels(folder / "pixels")
    assert all(np.ptp(output) > 0.1 for output in expected.values())
    return folder, expected


def export_for_pixels(prefix):
    network = derived()
    pixels = np.random.default_rng(1).integers(0, 256, (3, *SPEC.image_shape)).astype(np.float32)
    mean, std = np.array([120, 110, 100], np.float32), np.array([60, 70, 80], np.float32)
    logits = first_of(network, (pixels - mean[:, None, None]) / std[:, None, None]).astype(np.float64)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    export_network(network, SPEC.image_shape, prefix, softmax=True, normalisation=Normalisation(mean, std))
    np.save(prefix, pixels)
    return powers / powers.sum(axis=1, keepdims=True)


def assert_outputs(outputs, expected, readers):
    assert outputs.keys() == {f"{reader} {name}" for reader in readers for name in expected}
    for key, output in outputs.items():
        # 1e-5 of the largest output: the segmentation head's are in the thousands here.
        ours = expected[key.split()[1]]
        np.testing.assert_allclose(output, ours, rtol=0, atol=1e-5 * max(1, np.abs(ours).max()), err_msg=key)


def test_stock_mxnet_gives_our_outputs(exported):
    folder, expected = exported
    assert_outputs(elsewhere(GLUON, folder), expected, ("gluon", "module"))


def test_the_c_interface_gives_our_outputs(exported):
    folder, expected = exported
    library = Path(importlib.util.find_spec("mxnet").origin).with_name("libmxnet.so")
    assert_outputs(elsewhere(C, folder, str(library)), expected, ("c",))


def test_nothing_but_the_two_files_is_left(tmp_path):
    export_network(derived(), SPEC.image_shape, tmp_path / "net")
    assert sorted(os.listdir(tmp_path)) == ["net-0000.params", "net-symbol.json"]


def test_no_operator_is_ours_or_makes_arrays_and_names_are_a_symbol_files(tmp_path):
    files = export_network(derived(), SPEC.image_shape, tmp_path / "net")
    symbol = mx.sym.load(str(files.symbol))
    nodes = json.loads(symbol.tojson())["nodes"]
    assert "Custom" not in {node["op"] for node in nodes}
    assert all(node["inputs"] for node in nodes if node["op"] != "null")
    names = set(mx.nd.load(str(files.parameters)))
    assert names == {f"arg:{name}" for name in symbol.list_arguments() if name != "data"} | {
        f"aux:{name}" for name in symbol.list_auxiliary_states()}
    assert {"aux:bn0_moving_mean", "arg:bn0_gamma", "arg:fc1_weight"} <= names


class Doubled(mx.operator.CustomOp):
    def forward(self, is_train, req, in_data, out_data, aux):
        self.assign(out_data[0], req[0], 2 * in_data[0])


@mx.operator.register("dso_nas_test_doubled")
class DoubledProp(mx.operator.CustomOpProp):
    def create_operator(self, ctx, shapes, dtypes):
        return Doubled()


class OwnOperator(mx.gluon.HybridBlock):
    def hybrid_forward(self, F, x):
        return F.Custom(x, op_type="dso_nas_test_doubled", name="doubled")


def test_an_operator_written_in_python_is_refused(tmp_path):
    with pytest.raises(UserError, match="doubled is written in Python"):
        export_network(OwnOperator(prefix=""), SPEC.image_shape, tmp_path / "net")
    assert not os.listdir(tmp_path)


def test_images_that_do_not_fit_and_folders_that_are_not_there_are_one_line(tmp_path):
    with pytest.raises(UserError, match=r"does not take images of \(4, 32, 32\)") as caught:
        export_network(derived(), (4, 32, 32), tmp_path / "net")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="net-0000.params: cannot be written") as caught:
        export_network(derived(), SPEC.image_shape, tmp_path / "nowhere" / "net")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(importlib.util.find_spec("onnx") is not None, reason="onnx is here")
def test_onnx_that_is_not_installed_is_one_line(tmp_path):
    with pytest.raises(UserError, match="requirements-onnx.txt"):
        export_onnx(Exported(tmp_path / "a", tmp_path / "b"), SPEC.image_shape, tmp_path / "net.onnx")


RECIPE = """
name: tiny
data: {dataset: fashion-mnist, padding: 2}
network: {stem: cifar, blocks: [1, 1], widths: [2, 3], levels: 2, operations: [sep_conv_3x3, avg_pool_3x3]}
pretrain: {epochs: 0, batch_size: 1000, learning_rate: 0.1}
search: {epochs: 1, batch_size: 1000, learning_rate: 0.1}
retrain: {epochs: 1, batch_size: 2500, learning_rate: 0.1, drop_path: 0.3, dropout: 0.2}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run's folder whose retrain has ended, and its network."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "tiny.yaml").write_text(RECIPE)
    spec = NetworkSpec(BlockTopology(2, ("sep_conv_3x3", "avg_pool_3x3")), "cifar", (1, 1), (2, 3), 10, (3, 32, 32))
    (folder / "work" / "search").mkdir(parents=True)
    Genotype.full(spec, "share").save(folder / "work" / "search" / "genotype.json")
    work, recipe = WorkFolder(folder / "work"), load_recipe(folder / "tiny.yaml")
    recipe.save(work.recipe)
    run = classification_run(recipe, work, None, [mx.cpu()], None, False)
    task = RetrainTask(run, spec, Genotype.load(work.genotype))
    filled(task.learner.network)
    CheckpointFolder(work.retrain).save(1, task.state()[0], {"position": {"ended": True}, "task": {}})
    return work.path, task.learner.network


def test_the_tool_exports_a_run(finished, tmp_path, capsys):
    folder, network = finished
    assert main(["export", str(folder), "--out", str(tmp_path / "net"), "--raw"]) == 0
    said = capsys.readouterr().out
    assert "net-symbol.json" in said and "pixels from 0 to 255" in said and "(batch, 3, 32, 32)" in said
    dataset = load_sample()
    stored = dataset.test.images[:5]
    np.save(tmp_path / "net", stored.transpose(0, 3, 1, 2).astype(np.float32))
    expected = first_of(network, Augmentation(dataset.mean, dataset.std)(stored))
    assert_outputs(elsewhere(GLUON, tmp_path), {"net": expected}, ("gluon", "module"))


def test_the_tool_exports_a_checkpoint(finished, tmp_path, capsys):
    folder, _ = finished
    checkpoint = CheckpointFolder(folder / "retrain").latest().path
    assert main(["export", "--checkpoint", str(checkpoint), "--genotype", str(folder / "search" / "genotype.json"),
                 "--out", str(tmp_path / "one")]) == 0
    assert main(["export", str(folder), "--out", str(tmp_path / "two")]) == 0
    assert f"mean {load_sample().mean[0]:.4f}" in capsys.readouterr().out
    one, two = (mx.nd.load(str(tmp_path / f"{name}-0000.params")) for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value.asnumpy(), two[name].asnumpy())


@pytest.mark.parametrize("arguments, word", [
    ([], "RUN"),
    (["/nowhere"], "no run's folder"),
    (["/nowhere", "--checkpoint", "x"], "one of them"),
    (["--checkpoint", "x"], "--genotype"),
    (["--checkpoint", "x", "--genotype", "g", "--raw"], "--raw"),
    (["--checkpoint", "/nowhere/x.dso", "--genotype", "/nowhere/g.json"], "/nowhere/g.json"),
])
def test_bad_input_is_one_line(arguments, word, tmp_path, capsys):
    assert main(["export", *arguments, "--out", str(tmp_path / "net")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and word in lines[0]


def test_a_folder_that_is_not_there_is_said_first(tmp_path, capsys):
    assert main(["export", "run", "--out", str(tmp_path / "nowhere" / "net")]) == 2
    assert "--out" in capsys.readouterr().err


@pytest.mark.skipif(not ONNX_PYTHON.exists(), reason="make test-onnx installs what this needs")
class TestOnnx:
    """In the environment of requirements-onnx.txt; onnxruntime against our outputs."""

    @pytest.fixture
    def translated(self, exported):
        folder, expected = exported
        done = subprocess.run([str(ONNX_PYTHON), "-c", EXPORT_ONNX, *(str(folder / name) for name in expected)],
                              cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return folder, expected, done.stdout

    def test_onnxruntime_gives_our_outputs(self, translated):
        folder, expected, _ = translated
        retrained = {name: output for name, output in expected.items() if name != "supernet"}
        assert_outputs(elsewhere(ONNX, folder, python=ONNX_PYTHON), retrained, ("onnx",))

    def test_what_onnx_does_not_have_is_one_line(self, translated):
        folder, _, said = translated
        assert "supernet.onnx: cannot be written" in said and said.count("\n") == 1
        assert not (folder / "supernet.onnx").exists()

    def test_the_tool_writes_all_of_it(self, finished, tmp_path):
        folder, network = finished
        done = subprocess.run([str(ONNX_PYTHON), "-m", "dso_nas", "export", str(folder), "--format", "onnx",
                               "--out", str(tmp_path / "net")], cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        np.save(tmp_path / "net", images())
        expected = {"net": first_of(network, images())}
        assert_outputs(elsewhere(ONNX, tmp_path, python=ONNX_PYTHON), expected, ("onnx",))
