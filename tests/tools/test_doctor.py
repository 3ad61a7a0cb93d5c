"""`doctor`: each thing that can be wrong, and processes in which MXNet cannot be imported."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dso_nas import environment, machine
from dso_nas.machine import Driver, Gpu
from dso_nas.recipes import load_recipe
from dso_nas.tools import doctor, needs
from dso_nas.tools.doctor import FAIL, OK, WARN, MxNet

ROOT = Path(__file__).resolve().parents[2]
AMPERE, HOPPER, KEPLER = (Gpu(name, cc, 24_000) for name, cc in (("A10", (8, 6)), ("H100", (9, 0)), ("K80", (3, 7))))


def ask(*arguments, path=None, **variables):
    """The doctor in a process of its own: lines of its answer, exit status, errors."""
    paths = [str(part) for part in (path, ROOT) if part]
    answer = subprocess.run([sys.executable, "-m", "dso_nas", "doctor", *arguments], capture_output=True, text=True,
                            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **variables}, timeout=300,
                            check=False)
    return answer.stdout.splitlines(), answer.returncode, answer.stderr


def line_of(lines, what):
    return next(line for line in lines if line[6:].startswith(what))


def test_this_machine_can_run_the_demo():
    lines, status, errors = ask()
    assert status == 0 and not errors and lines[-1] == "This machine can run it."
    assert all(line.startswith((OK, WARN)) or "->" in line for line in lines[:-1]) and len(lines) < 24
    assert line_of(lines, "MXNet").startswith("OK    MXNet        1.9.1")
    assert "2,000 test images" in line_of(lines, "data")


def test_an_mxnet_that_cannot_be_imported(tmp_path):
    (tmp_path / "mxnet").mkdir()
    (tmp_path / "mxnet" / "__init__.py").write_text("raise OSError('libcudart.so.11.0: cannot open <b>\\nit')\n")
    lines, status, errors = ask(path=tmp_path)
    assert status == 1 and not errors and lines[-1] == "This machine cannot run it yet: MXNet."
    assert line_of(lines, "MXNet").startswith(FAIL) and "cannot be imported: " in line_of(lines, "MXNet")
    assert "->" in lines[lines.index(line_of(lines, "MXNet")) + 1]


def test_an_mxnet_that_kills_its_process(tmp_path):
    (tmp_path / "mxnet").mkdir()
    (tmp_path / "mxnet" / "__init__.py").write_text("import os; os.abort()\n")
    lines, status, _ = ask(path=tmp_path)
    assert status == 1 and "the process ended with -6" in line_of(lines, "MXNet")


def test_a_numpy_that_is_too_new_and_one_that_is_broken(tmp_path):
    distribution = tmp_path / "numpy-1.26.4.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.26.4\n")
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy" / "__init__.py").write_text("raise ImportError('numpy.core.multiarray failed to import')\n")
    lines, status, errors = ask(path=tmp_path)
    assert status == 1 and not errors
    assert line_of(lines, "NumPy").startswith("FAIL  NumPy        1.26.4: from 1.24 on")
    assert "multiarray" in line_of(lines, "MXNet") and "multiarray" in line_of(lines, "recipe")
    assert lines[-1] == "This machine cannot run it yet: NumPy, MXNet, recipe."


@pytest.mark.parametrize("arguments, what, word", [
    (["--recipe", "nowhere"], "recipe", "nowhere"),
    (["--recipe", "cifar10-share"], "data", "--data-dir"),
    (["--data-dir", "/nowhere"], "data", "--data-dir"),
])
def test_a_recipe_or_data_that_is_not_there(arguments, what, word, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "probe_mxnet", lambda: MxNet("mxnet", "", "1.9.1"))
    options = dict(zip(("recipe", "data_dir"), ("demo", None)))
    options.update({name[2:].replace("-", "_"): value for name, value in zip(arguments[::2], arguments[1::2])})
    findings = {finding.what: finding for finding in doctor.examine(**options)}
    assert findings[what].level == FAIL and word in findings[what].found


@pytest.mark.parametrize("version, level", [((3, 7), FAIL), ((3, 8), OK), ((3, 11), OK), ((3, 12), FAIL)])
def test_pythons(version, level):
    assert doctor.check_python(version).level == level


@pytest.mark.parametrize("version, level", [("1.23.5", OK), ("1.24.0", FAIL), ("2.0.0rc1", FAIL), (None, FAIL)])
def test_numpys(version, level):
    finding = doctor.check_numpy(version)
    assert (finding.level, bool(finding.cure)) == (level, level == FAIL)


def test_cuda_libraries_by_name(monkeypatch):
    absent = {"libcudart.so.11.0", "libcublas.so.11", "libcublasLt.so.11", "libnccl.so.2"}
    monkeypatch.setattr(environment, "preload_cuda", lambda folders: ())
    monkeypatch.setattr(doctor, "_loads", lambda library: library not in absent)
    cuda, cudnn, nccl = doctor.check_libraries(True)
    assert (cuda.level, cudnn.level, nccl.level) == (FAIL, OK, FAIL)
    assert cuda.found == "not found: libcudart.so.11.0, libcublasLt.so.11, libcublas.so.11"
    assert "nvidia-cuda-runtime-cu11 nvidia-cublas-cu11)" in cuda.cure and "nvidia-nccl-cu11" in nccl.cure
    assert set(doctor.WHEELS) == set(environment.CUDA_LIBRARIES)
    assert [finding.level for finding in doctor.check_libraries(False)] == [OK]


def test_wheels_are_those_of_the_requirements():
    required = (ROOT / "requirements-cu112.txt").read_text()
    assert all(f"nvidia-{name}-cu11==" in required for name in doctor.WHEELS.values())


@pytest.mark.parametrize("gpus, needed, levels, word", [
    ([], True, [FAIL], "none"), ([], False, [OK], "none"),
    ([AMPERE], True, [OK], "8.6"), ([AMPERE], False, [WARN], "A10"),
    ([HOPPER], True, [FAIL], "Hopper and newer cannot run"), ([KEPLER], True, [FAIL], "older than Maxwell"),
    ([AMPERE, HOPPER], True, [OK, WARN], "24,000 MB"),
])
def test_gpus(gpus, needed, levels, word):
    findings = list(doctor.check_gpus(Driver((12, 2), tuple(gpus)), needed))
    assert [finding.level for finding in findings] == levels and word in findings[0].found
    assert all(finding.cure for finding in findings if finding.level != OK)


@pytest.mark.parametrize("driver, needed, level", [
    (Driver(None, (), "libcuda.so.1: cannot open"), True, FAIL), (Driver(None, (), "libcuda.so.1"), False, OK),
    (Driver((10, 2), ()), True, FAIL), (Driver((11, 0), ()), True, OK), (Driver((12, 4), ()), True, OK),
])
def test_drivers(driver, needed, level):
    assert doctor.check_driver(driver, needed).level == level


@pytest.mark.parametrize("mxnet, word", [
    (MxNet(None, "No module named 'mxnet'"), "requirements.txt"), (MxNet("mxnet-cu112", "libcuda.so.1"), "CUDA lines"),
    (MxNet("mxnet", "module 'numpy' has no attribute 'bool'"), "numpy==1.23.5"), (MxNet("mxnet", "?"), "reinstall"),
])
def test_what_to_do_about_mxnet(mxnet, word):
    finding = doctor.check_mxnet(mxnet)
    assert finding.level == FAIL and mxnet.error in finding.found and word in finding.cure


@pytest.mark.parametrize("total, free, level", [(999, 999, OK), (170, 170, WARN), (999, 50, WARN), (100, 100, FAIL)])
def test_memory_against_the_plan(monkeypatch, total, free, level):
    monkeypatch.setattr(machine, "memory_mb", lambda: total)
    monkeypatch.setattr(machine, "available_mb", lambda: free)
    finding = needs.memory(load_recipe("demo"), [])
    assert finding.level == level and "168 MB on the CPU" in finding.found


def test_memory_is_shared_by_gpus_and_the_smallest_decides():
    recipe = load_recipe("demo")
    one, two = needs.memory(recipe, [AMPERE]), needs.memory(recipe, [AMPERE, AMPERE._replace(memory_mb=80)])
    assert one.level == OK and "147 MB on each of 1 GPUs" in one.found
    assert two.level == WARN and "which has 80 MB" in two.found


@pytest.mark.parametrize("name, stage", [("mobile-demo", "pretrain"), ("seg-demo", "search")])
def test_memory_of_other_recipes(name, stage):
    finding = needs.memory(load_recipe(name), [])
    assert f"{name}: {stage} plans " in finding.found


def test_record_files(tmp_path):
    recipe = load_recipe("demo", None, ["data.dataset=records"])
    for name in ("train1.rec", "val.rec"):
        (tmp_path / name).touch()
    with pytest.raises(needs.UserError, match="prepare"):
        needs.data(recipe, str(tmp_path))
    (tmp_path / "train2.rec").touch()
    assert "train1.rec, train2.rec, val.rec" in needs.data(recipe, str(tmp_path)).found


def test_segmentation_needs_both_sets():
    found = needs.data(load_recipe("seg-demo"), None).found
    assert "embedded" in found and "fashion-scenes" in found
    with pytest.raises(needs.UserError):
        needs.data(load_recipe("voc-share", None, ["data.dataset=fashion-mnist", "data.root=null"]), None)


@pytest.mark.parametrize("variables, levels", [
    ({}, [OK]), ({"OMP_NUM_THREADS": "9"}, [OK, WARN]), ({"OMP_NUM_THREADS": "2"}, [OK]),
    ({"MXNET_ENGINE_TYPE": "NaiveEngine"}, [OK, WARN]), ({"DMLC_ROLE": "server"}, [OK, FAIL]), ({"HOME": "/x"}, [OK]),
])
def test_variables(variables, levels):
    findings = list(doctor.check_variables(variables, 2))
    assert [finding.level for finding in findings] == levels
    assert all(f"{name}={value}" in findings[0].found for name, value in variables.items() if name != "HOME")


# ---- the machine

DRIVER = """
#include <string.h>
#include <stddef.h>
int cuInit(int flags) { return %d; }
int cuDriverGetVersion(int *out) { *out = 12040; return 0; }
int cuDeviceGetCount(int *out) { *out = 2; return 0; }
int cuDeviceGet(int *out, int index) { *out = index; return 0; }
int cuDeviceGetName(char *out, int size, int device) { strncpy(out, device ? "H100" : "A10", size); return 0; }
int cuDeviceTotalMem_v2(size_t *out, int device) { *out = (size_t)(device ? 80 : 24) << 30; return 0; }
int cuDeviceGetAttribute(int *out, int which, int device) {
    *out = which == 75 ? 8 + device : 6 - 6 * device;
    return 0;
}
"""


@pytest.fixture
def stub(tmp_path):
    """A stand-in for libcuda.so.1, whose cuInit gives a status."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler for a stub of the driver")

    def make(status):
        source, library = tmp_path / f"cuda{status}.c", tmp_path / f"libcuda{status}.so"
        source.write_text(DRIVER % status)
        subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
        return str(library)

    return make


def test_the_driver_is_asked(stub):
    assert machine.find_driver(stub(0)) == Driver((12, 4), (Gpu("A10", (8, 6), 24_576), Gpu("H100", (9, 0), 81_920)))


def test_a_driver_that_does_not_start(stub):
    assert machine.find_driver(stub(100)) == Driver(None, (), "cuInit gives error 100")
    assert "nowhere" in machine.find_driver("libnowhere.so.1").problem


def test_memory_is_that_of_the_container(monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(machine, "_CGROUP_LIMITS", (str(limit),))
    limit.write_text("max\n")
    whole = machine.memory_mb()
    limit.write_text(f"{64 << 20}\n")
    assert machine.memory_mb() == 64 == machine.available_mb() < whole


def test_gpus_by_the_drivers_files(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_GPU_FILES", str(tmp_path))
    assert machine.gpu_names() == []
    (tmp_path / "0000:01:00.0").mkdir()
    (tmp_path / "0000:01:00.0" / "information").write_text("Model: \t\t NVIDIA A10\nIRQ:   35\n")
    assert machine.gpu_names() == ["NVIDIA A10"]
