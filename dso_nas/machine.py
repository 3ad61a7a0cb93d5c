"""What this machine has, found without importing anything that is not Python's own: memory, GPUs, the driver."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import List, NamedTuple, Optional, Tuple

MB = 2**20
_GPU_FILES = "/proc/driver/nvidia/gpus"
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_MAJOR, _MINOR = 75, 76
_PATIENCE = 20


class Gpu(NamedTuple):
    """A GPU as its driver describes it: compute capability (major, minor), memory in MB."""

    name: str
    capability: Tuple[int, int]
    memory_mb: int


class Driver(NamedTuple):
    """NVIDIA's driver: `cuda` is the newest CUDA it can serve (major, minor); `problem` says why there is none."""

    cuda: Optional[Tuple[int, int]]
    gpus: Tuple[Gpu, ...]
    problem: str = ""


def memory_mb() -> int:
    """Memory that this process may use, in MB: the machine's, or its container's limit."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *_limits()]) // MB


def available_mb() -> int:
    """Memory that is free or would be freed, in MB, at most `memory_mb`."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return min(int(line.split()[1]) // 1024, memory_mb())
    return memory_mb()


def _limits() -> List[int]:
    limits = []
    for name in _CGROUP_LIMITS:
        with suppress(OSError, ValueError):
            limits.append(int(Path(name).read_text()))
    return limits


def gpu_names() -> List[str]:
    """The models of the GPUs, as the driver's files say, without waking the driver; none without one."""
    names = []
    for path in sorted(Path(_GPU_FILES).glob("*/information")):
        with suppress(OSError):
            lines = path.read_text(errors="replace").splitlines()
            names += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return names


def driver_version() -> Optional[str]:
    """The driver's version as nvidia-smi prints it, None if it prints none."""
    if shutil.which("nvidia-smi") is None:
        return None
    with suppress(OSError, subprocess.SubprocessError):
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=True).stdout.split()
        return answer[0] if answer else None
    return None


def find_driver(library: str = "libcuda.so.1") -> Driver:
    """Ask the driver's library for its version and GPUs. It starts the driver in this process: not before a fork."""
    try:
        cuda = ctypes.CDLL(library)
        status = cuda.cuInit(0)
    except (OSError, AttributeError) as error:
        return Driver(None, (), str(error))
    if status:
        return Driver(None, (), f"cuInit gives error {status}")
    version = _number(cuda.cuDriverGetVersion)
    gpus = tuple(_gpu(cuda, index) for index in range(_number(cuda.cuDeviceGetCount)))
    return Driver((version // 1000, version % 1000 // 10), gpus)


def _number(function: ctypes._NamedFuncPointer, *arguments: int) -> int:
    """What a function of the driver writes into its first argument."""
    value = ctypes.c_int()
    function(ctypes.byref(value), *arguments)
    return value.value


def _gpu(cuda: ctypes.CDLL, index: int) -> Gpu:
    device = _number(cuda.cuDeviceGet, index)
    name, memory = ctypes.create_string_buffer(200), ctypes.c_size_t()
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    capability = _number(cuda.cuDeviceGetAttribute, _MAJOR, device), _number(cuda.cuDeviceGetAttribute, _MINOR, device)
    return Gpu(name.value.decode(errors="replace"), capability, memory.value // MB)
