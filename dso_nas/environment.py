"""What must hold in a process before MXNet is loaded.

The environment variables that keep gradients right, memory plans tight and all cores busy, the C library's allocator
told to keep what is freed, and the CUDA libraries of NVIDIA's wheels. Nothing here imports MXNet or asks whether a GPU
works: that is for the command line.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Dict, Iterable, Optional, Tuple

GRADIENT_VARIABLE = "MXNET_EXEC_INPLACE_GRAD_SUM_CAP"
GRADIENT_VALUE = 1_000_000
CUDA_DISTRIBUTION = "mxnet-cu112"
PLANNER_VARIABLE = "NNVM_EXEC_MATCH_RANGE"
# Whether MXNet says a line for every static graph that it makes.
VERBOSE_VARIABLE = "MXNET_SUBGRAPH_VERBOSE"
MALLOC_VARIABLE = "DSO_NAS_MALLOC"
THREADS_VARIABLE = "OMP_NUM_THREADS"
SHARERS_VARIABLE = "DSO_NAS_SHARERS"
# What more than one thread needs to pay: that small operators use them too, which MXNet's own measurement at start-up
# forbids on a busy machine; that threads wait awake for the next operator, but not for long; and that copying does not
# start threads of its own outside the engine: with more threads than cores OpenMP lets those that wait sleep at once.
THREADED_VARIABLES = {"MXNET_USE_OPERATOR_TUNING": "0", "GOMP_SPINCOUNT": "30000",
                      "MXNET_CPU_PARALLEL_SIZE": "1000000000"}
SMT_FILE = Path("/sys/devices/system/cpu/smt/active")
# glibc's mallopt: one arena, no block by mmap, never give the heap's top back, grow it by 256 MB.
MALLOC_SETTINGS = ((-8, 1), (-4, 0), (-1, -1), (-2, 2**28))
# madvise's advice to use pages of 2 MB, and their size.
_HUGE_PAGES = 14
_HUGE_PAGE = 2**21
# Dependencies first: a library finds those it needs among the ones already loaded.
CUDA_LIBRARIES = (
    "libcudart.so.11.0",
    "libnvrtc.so.11.2",
    "libnvToolsExt.so.1",
    "libcublasLt.so.11",
    "libcublas.so.11",
    "libcufft.so.10",
    "libcurand.so.10",
    "libcusolver.so.11",
    "libcudnn.so.8",
    "libnccl.so.2",
)


# What this process chose for this machine.
chosen: Dict[str, str] = {}


def prepare() -> None:
    """Make the process ready for `import mxnet`.

    Raises:
        ImportError: MXNet is loaded already and read an environment under which its gradients are wrong.
    """
    guarantee_gradients()
    # MXNet puts an array into any freed buffer up to 16 times its size and keeps all of it: in a supernet's block that
    # pins a quarter more memory than is used. With 1 the sizes must match.
    os.environ.setdefault(PLANNER_VARIABLE, "1")
    os.environ.setdefault(VERBOSE_VARIABLE, "0")
    keep_freed_memory()
    if is_installed(CUDA_DISTRIBUTION):
        # The wheel was built against cuDNN 8.1.1 and would warn about the 8.9 that it runs with.
        os.environ.setdefault("MXNET_CUDNN_LIB_CHECKING", "0")
        preload_cuda(nvidia_folders())
    else:
        use_cores()


def guarantee_gradients() -> None:
    """Set the variable without which MXNet's static executors sum gradients wrongly.

    MXNet adds the gradients of a tensor with eight or more consumers in place, and with oneDNN on the sum
    comes out wrong. A supernet is full of such tensors. The variable, the number of consumers from which this
    is done, is read once, when MXNet is loaded.

    Raises:
        ImportError: MXNet was imported before, without the variable.
    """
    if _gradient_cap() >= GRADIENT_VALUE:
        return
    if "mxnet" in sys.modules:
        raise ImportError(
            f"mxnet was imported before dso_nas and without {GRADIENT_VARIABLE}={GRADIENT_VALUE}: "
            "its gradients can be wrong in this process. Import dso_nas first, or set the variable before."
        )
    os.environ[GRADIENT_VARIABLE] = str(GRADIENT_VALUE)


def _gradient_cap() -> int:
    try:
        return int(os.environ.get(GRADIENT_VARIABLE, ""))
    except ValueError:
        return 0


def keep_freed_memory() -> bool:
    """Let glibc keep what MXNet frees, instead of giving it back to the kernel and taking it again page by page.

    MXNet has no pool of its own on the CPU: without this every large array of every step is mapped, zeroed a page at a
    time on first touch, and unmapped. `DSO_NAS_MALLOC=default` leaves the allocator alone.

    Returns:
        Whether the allocator was told: not where the C library is another one.
    """
    if os.environ.get(MALLOC_VARIABLE) == "default" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    told = all([libc.mallopt(option, value) == 1 for option, value in MALLOC_SETTINGS])
    if told:
        _use_huge_pages(libc)
    return told


def _use_huge_pages(libc: ctypes.CDLL) -> None:
    """Ask for pages of 2 MB where the heap will grow: with small ones, looking up addresses costs a tenth of a step.

    The heap reaches over three quarters of the memory from then on, as addresses only: a page is taken when it is first
    used. Where so many addresses are not to be had, or the kernel has no such pages, all stays as it was.
    """
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    libc.free.restype, libc.free.argtypes = None, (ctypes.c_void_p,)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4 * 3
    start = libc.malloc(size)
    if start:
        aligned = -(-start // _HUGE_PAGE) * _HUGE_PAGE
        libc.madvise(aligned, start + size - aligned, _HUGE_PAGES)
        libc.free(start)


def use_cores() -> None:
    """Give MXNet's operators a thread on every core, if nobody has said how many.

    MXNet takes half of the processors, because two of them are often one core (SMT). Where they are not, half of the
    machine would idle. `DSO_NAS_SHARERS`, a number of processes that train on this machine together, divides the cores.
    """
    if THREADS_VARIABLE in os.environ or not _cores_are_whole():
        return
    sharers = os.environ.get(SHARERS_VARIABLE, "")
    threads = max(1, len(os.sched_getaffinity(0)) // max(1, int(sharers) if sharers.isdigit() else 1))
    chosen[THREADS_VARIABLE] = str(threads)
    if threads > 1:
        chosen.update({name: value for name, value in THREADED_VARIABLES.items() if name not in os.environ})
    os.environ.update(chosen)


def inherited() -> Dict[str, str]:
    """This process's variables without what `use_cores` chose: another process, or machine, chooses for itself."""
    return {name: value for name, value in os.environ.items() if chosen.get(name) != value}


def _cores_are_whole() -> bool:
    try:
        return SMT_FILE.read_text().strip() == "0"
    except OSError:
        return False


def is_installed(distribution: str) -> bool:
    """Whether pip knows a distribution of this name in the running Python."""
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def nvidia_folders() -> Tuple[Path, ...]:
    """Folders of the `nvidia` namespace package, where NVIDIA's wheels put their libraries; maybe none."""
    spec = importlib.util.find_spec("nvidia")
    locations = spec.submodule_search_locations if spec else None
    return tuple(Path(location) for location in locations or ())


def preload_cuda(folders: Iterable[Path]) -> Tuple[Path, ...]:
    """Load the CUDA libraries of NVIDIA's wheels for all that the process loads later.

    A library that is missing or does not load is passed over: the system may have it, and if not, MXNet's own
    error names it.

    Args:
        folders: where to look, each holding `<component>/lib/<library>`.

    Returns:
        The files loaded, in the order of `CUDA_LIBRARIES`.
    """
    folders = tuple(folders)
    found = (_find(name, folders) for name in CUDA_LIBRARIES)
    return tuple(path for path in found if path is not None and _load_globally(path))


def _find(library: str, folders: Iterable[Path]) -> Optional[Path]:
    return next((path for folder in folders for path in sorted(folder.glob(f"*/lib/{library}"))), None)


def _load_globally(path: Path) -> bool:
    try:
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True
