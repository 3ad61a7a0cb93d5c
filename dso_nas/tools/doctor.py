"""`python -m dso_nas doctor`: whether this machine can run, a line a thing, each OK or what to do.

It has to run where nothing else does: at the top it imports what Python has, and modules of ours that need no more.
MXNet is imported in a process of its own, so that even a crash there becomes a line here.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from dso_nas import environment, machine

OK, WARN, FAIL = "OK", "WARN", "FAIL"
PYTHONS = ((3, 8), (3, 11))
NUMPY_BELOW = (1, 24)
CAPABILITIES = ((5, 0), (8, 9))
OLDEST_CUDA = (11, 0)
CPU_DISTRIBUTION = "mxnet"
INSTALL = {CPU_DISTRIBUTION: "pip install -r requirements.txt",
           environment.CUDA_DISTRIBUTION: "pip install -r requirements-cu112.txt"}
PACKAGES = ("PyYAML", "matplotlib", "gluoncv", "tensorboardX", "tqdm")
WHEELS = {
    "libcudart.so.11.0": "cuda-runtime", "libnvrtc.so.11.2": "cuda-nvrtc", "libnvToolsExt.so.1": "nvtx",
    "libcublasLt.so.11": "cublas", "libcublas.so.11": "cublas", "libcufft.so.10": "cufft", "libcurand.so.10": "curand",
    "libcusolver.so.11": "cusolver", "libcudnn.so.8": "cudnn", "libnccl.so.2": "nccl",
}
OWN_LINES = {"libcudnn.so.8": "cuDNN", "libnccl.so.2": "NCCL"}
VARIABLES = ("MXNET_", "NNVM_", "OMP_", "DSO_NAS_", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "DMLC_")
# More than this share of the memory leaves too little for MXNet itself, its workspaces and the data.
CROWDED = 0.8
_IMPORT_SECONDS = 180
_PROBE = """
import json
import dso_nas
import mxnet as mx
features = mx.runtime.Features()
(mx.nd.ones((2,)) + 1).asnumpy()
found = [name for name in ("CUDA", "CUDNN", "NCCL", "MKLDNN") if features.is_enabled(name)]
print("\\n" + json.dumps({"version": mx.__version__, "features": found, "gpus": mx.context.num_gpus()}))
"""


class Finding(NamedTuple):
    """A line: how it stands, with what, and what to do about it."""

    level: str
    what: str
    found: str
    cure: str = ""

    @property
    def text(self) -> str:
        """The line as printed; what to do stands below."""
        line = f"{self.level:<5} {self.what:<12} {' '.join(self.found.split())}"
        return f"{line}\n{'':18} -> {self.cure}" if self.cure else line


class MxNet(NamedTuple):
    """What a process found that imported MXNet: `error` is why it could not."""

    distribution: Optional[str]
    error: str = ""
    version: str = ""
    features: Tuple[str, ...] = ()
    gpus: int = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The tool's options."""
    parser.add_argument("--recipe", default="demo", metavar="NAME|FILE", help="what is to run (default: %(default)s)")
    parser.add_argument("--data-dir", metavar="DIR", help="folder of its data set")


def run(options: argparse.Namespace) -> int:
    """Print the findings; the exit status is 1 if one of them keeps the machine from running, else 0."""
    findings = []
    for finding in examine(options.recipe, options.data_dir):
        findings.append(finding)
        print(finding.text, flush=True)
    failed = [finding.what for finding in findings if finding.level == FAIL]
    print(f"This machine cannot run it yet: {', '.join(failed)}." if failed else "This machine can run it.")
    return 1 if failed else 0


def examine(recipe: str, data_dir: Optional[str]) -> Iterator[Finding]:
    """Everything that a run of `recipe` needs, in the order in which to mend it."""
    yield check_python(sys.version_info[:2])
    yield check_numpy(_version("numpy"))
    yield from check_packages()
    mxnet = probe_mxnet()
    yield check_mxnet(mxnet)
    needs_gpu = mxnet.distribution == environment.CUDA_DISTRIBUTION
    yield from check_libraries(needs_gpu)
    driver = machine.find_driver()
    yield check_driver(driver, needs_gpu)
    yield from check_gpus(driver, needs_gpu)
    yield check_cpu()
    gpus = [gpu for gpu in driver.gpus if needs_gpu and can_run(gpu)]
    yield from check_recipe(recipe, data_dir, gpus)
    yield from check_variables(os.environ, len(os.sched_getaffinity(0)))


def check_python(version: Sequence[int]) -> Finding:
    """MXNet's NumPy has wheels for some Pythons only."""
    oldest, newest = PYTHONS
    if oldest <= tuple(version[:2]) <= newest:
        return Finding(OK, "Python", f"{platform.python_version()} ({sys.executable})")
    return Finding(FAIL, "Python", f"{version[0]}.{version[1]}, MXNet 1.9.1 needs 3.8 to 3.11",
                   "python3.11 -m venv .venv, and install there")


def check_numpy(version: Optional[str]) -> Finding:
    """MXNet 1.9.1 uses names that NumPy 1.24 took away."""
    if version is None:
        return Finding(FAIL, "NumPy", "is not installed", INSTALL[CPU_DISTRIBUTION])
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < NUMPY_BELOW:
        return Finding(OK, "NumPy", version)
    return Finding(FAIL, "NumPy", f"{version}: from 1.24 on MXNet cannot be imported (np.bool)",
                   "pip install numpy==1.23.5")


def check_packages() -> Iterator[Finding]:
    """What else the project imports."""
    versions = {name: _version(name) for name in PACKAGES}
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        yield Finding(FAIL, "packages", f"not installed: {', '.join(missing)}", "pip install -r requirements-base.txt")
    else:
        yield Finding(OK, "packages", ", ".join(f"{name} {version}" for name, version in versions.items()))


def _version(distribution: str) -> Optional[str]:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def probe_mxnet() -> MxNet:
    """Import MXNet in a process of its own, as a run does, and compute with it."""
    names = (environment.CUDA_DISTRIBUTION, CPU_DISTRIBUTION)
    distribution = next((name for name in names if environment.is_installed(name)), None)
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    try:
        answer = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, env=variables,
                                timeout=_IMPORT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return MxNet(distribution, f"the import has not ended after {_IMPORT_SECONDS} s")
    if answer.returncode:
        lines = answer.stderr.strip().splitlines() or [f"the process ended with {answer.returncode}"]
        return MxNet(distribution, lines[-1])
    found: Dict[str, Any] = json.loads(answer.stdout.strip().splitlines()[-1])
    return MxNet(distribution, "", found["version"], tuple(found["features"]), found["gpus"])


def check_mxnet(mxnet: MxNet) -> Finding:
    """Whether it can be imported, and if not, the reason in its own words."""
    if mxnet.error:
        name = mxnet.distribution or "neither mxnet nor mxnet-cu112 is installed"
        return Finding(FAIL, "MXNet", f"{name}: cannot be imported: {mxnet.error[:300]}", _import_cure(mxnet))
    features = ", ".join(mxnet.features) or "none of CUDA, CUDNN, NCCL, MKLDNN"
    return Finding(OK, "MXNet", f"{mxnet.version} ({mxnet.distribution or 'not by pip'}): {features}")


def _import_cure(mxnet: MxNet) -> str:
    if "numpy" in mxnet.error.lower():
        return "pip install numpy==1.23.5"
    if mxnet.distribution == environment.CUDA_DISTRIBUTION:
        return (f"mend the CUDA lines below, or without a GPU: pip uninstall {environment.CUDA_DISTRIBUTION}, then "
                f"{INSTALL[CPU_DISTRIBUTION]}")
    if mxnet.distribution is None:
        return f"{INSTALL[CPU_DISTRIBUTION]}, or with an NVIDIA GPU requirements-cu112.txt"
    return f"pip install --force-reinstall mxnet==1.9.1, or a fresh environment: {INSTALL[CPU_DISTRIBUTION]}"


def check_libraries(needed: bool) -> Iterator[Finding]:
    """The CUDA libraries that the GPU build of MXNet is linked against, from NVIDIA's wheels or the system."""
    if not needed:
        yield Finding(OK, "CUDA", "not needed, nor cuDNN and NCCL: MXNet is not the GPU build")
        return
    missing = find_missing_libraries()
    plain = [name for name in environment.CUDA_LIBRARIES if name not in OWN_LINES]
    yield _library_finding("CUDA", [name for name in plain if name in missing], f"{len(plain)} libraries load")
    for name, title in OWN_LINES.items():
        yield _library_finding(title, [name] if name in missing else [], f"{name} loads")


def find_missing_libraries() -> List[str]:
    """Those that neither NVIDIA's wheels nor the system's paths have, or that do not load."""
    loaded = {path.name for path in environment.preload_cuda(environment.nvidia_folders())}
    return [name for name in environment.CUDA_LIBRARIES if name not in loaded and not _loads(name)]


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True


def _library_finding(title: str, missing: Sequence[str], fine: str) -> Finding:
    if not missing:
        return Finding(OK, title, fine)
    wheels = " ".join(dict.fromkeys(f"nvidia-{WHEELS[name]}-cu11" for name in missing))
    return Finding(FAIL, title, f"not found: {', '.join(missing)}",
                   f"{INSTALL[environment.CUDA_DISTRIBUTION]} (it has {wheels})")


def check_driver(driver: machine.Driver, needed: bool) -> Finding:
    """NVIDIA's driver, which no wheel brings."""
    if driver.cuda is None:
        if not needed:
            return Finding(OK, "driver", "none, none needed: runs on the CPU")
        return Finding(FAIL, "driver", driver.problem,
                       "install NVIDIA's driver 450.80 or newer; a container has to be started with the GPUs")
    version = machine.driver_version()
    found = f"{version or 'NVIDIA'}, serves CUDA up to {driver.cuda[0]}.{driver.cuda[1]}"
    if needed and driver.cuda < OLDEST_CUDA:
        return Finding(FAIL, "driver", f"{found}, MXNet needs 11", "install NVIDIA's driver 450.80 or newer")
    return Finding(OK, "driver", found)


def can_run(gpu: machine.Gpu) -> bool:
    """Whether MXNet's wheel has code for a GPU: Maxwell to Ada, and no PTX for what came later."""
    return CAPABILITIES[0] <= gpu.capability <= CAPABILITIES[1]


def check_gpus(driver: machine.Driver, needed: bool) -> Iterator[Finding]:
    """Each GPU, and whether MXNet 1.9.1 has code for it."""
    if not driver.gpus:
        yield Finding(FAIL if needed else OK, "GPUs", "none",
                      "give this machine a GPU, or install the CPU build: requirements.txt" if needed else "")
    usable = any(can_run(gpu) for gpu in driver.gpus)
    for number, gpu in enumerate(driver.gpus):
        major, minor = gpu.capability
        found = f"{gpu.name}, compute capability {major}.{minor}, {gpu.memory_mb:,} MB"
        if can_run(gpu):
            cure = "" if needed else f"to use it: pip uninstall mxnet, {INSTALL[environment.CUDA_DISTRIBUTION]}"
            yield Finding(OK if needed else WARN, f"GPU {number}", found, cure)
            continue
        age = "Hopper and newer cannot run" if gpu.capability > CAPABILITIES[1] else "older than Maxwell, it cannot run"
        cure = "leave it out: --gpus with the others" if usable else "use a GPU from Maxwell to Ada, or --cpus 1"
        yield Finding(FAIL if needed and not usable else WARN, f"GPU {number}",
                      f"{found}: {age}, MXNet 1.9.1 has no code for it", cure)


def check_cpu() -> Finding:
    """Processors and memory."""
    cores, total, free = len(os.sched_getaffinity(0)), machine.memory_mb(), machine.available_mb()
    return Finding(OK, "CPU", f"{cores} cores, {total:,} MB of memory, {free:,} MB of it free")


def check_recipe(name: str, data_dir: Optional[str], gpus: Sequence[machine.Gpu]) -> Iterator[Finding]:
    """The recipe, the memory it takes on each device, its data."""
    try:
        # NumPy and PyYAML are imported by these, and may be what is missing.
        from dso_nas.errors import UserError
        from dso_nas.recipes import load_recipe
        from dso_nas.tools import needs
    except ImportError as error:
        yield Finding(FAIL, "recipe", f"not read: {error}", "mend the lines above first")
        return
    try:
        recipe = load_recipe(name)
    except UserError as error:
        yield Finding(FAIL, "recipe", str(error), "give another --recipe, or mend it")
        return
    for what, check in (("memory", lambda: needs.memory(recipe, gpus)), ("data", lambda: needs.data(recipe, data_dir))):
        try:
            yield check()
        except UserError as error:
            yield Finding(FAIL, what, f"{recipe.name}: {error}")


def check_variables(variables: Any, cores: int) -> Iterator[Finding]:
    """Environment variables that change what is computed, how fast, or where."""
    found = {name: value for name, value in sorted(variables.items()) if name.startswith(VARIABLES) and value}
    shown = ", ".join(f"{name}={value[:60]}" for name, value in found.items())
    yield Finding(OK, "environment", shown or "no variable that matters is set")
    threads = found.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and int(threads) > cores:
        yield Finding(WARN, "environment", f"OMP_NUM_THREADS={threads}, but {cores} cores may be used",
                      f"export OMP_NUM_THREADS={cores}")
    if found.get("MXNET_ENGINE_TYPE") == "NaiveEngine":
        yield Finding(WARN, "environment", "MXNET_ENGINE_TYPE=NaiveEngine runs one operator at a time",
                      "unset MXNET_ENGINE_TYPE")
    if found.get("DMLC_ROLE", "worker") != "worker":
        yield Finding(FAIL, "environment", f"DMLC_ROLE={found['DMLC_ROLE']}: MXNet would not train but serve",
                      "unset DMLC_ROLE; python -m dso_nas launch sets it itself")
