"""The allocator, the threads, and the CUDA libraries of NVIDIA's wheels, in folders made up here."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Optional, Tuple
from unittest.mock import Mock

import pytest

from dso_nas import environment

CHECKING = "MXNET_CUDNN_LIB_CHECKING"
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> List[Tuple[str, int]]:
    """What was handed to ctypes; a library whose file says "broken" fails as the loader does."""
    calls: List[Tuple[str, int]] = []

    def load(path: str, mode: int) -> None:
        if Path(path).read_text() == "broken":
            raise OSError(f"{path}: file too short")
        calls.append((path, mode))

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setenv(environment.MALLOC_VARIABLE, "default")
    return calls


def make_libraries(folder: Path, names: Tuple[str, ...] = environment.CUDA_LIBRARIES) -> Path:
    for name in reversed(names):
        library = folder / name.split(".")[0] / "lib" / name
        library.parent.mkdir(parents=True)
        library.write_text("library")
    return folder


def test_libraries_are_loaded_globally_and_dependencies_first(
    tmp_path: Path, loaded: List[Tuple[str, int]]
) -> None:
    paths = environment.preload_cuda([tmp_path / "absent", make_libraries(tmp_path / "nvidia")])
    assert [path.name for path in paths] == list(environment.CUDA_LIBRARIES)
    assert loaded == [(str(path), ctypes.RTLD_GLOBAL) for path in paths]


def test_a_missing_and_a_broken_library_are_passed_over(
    tmp_path: Path, loaded: List[Tuple[str, int]]
) -> None:
    folder = make_libraries(tmp_path, environment.CUDA_LIBRARIES[1:])
    (folder / "libcudnn" / "lib" / "libcudnn.so.8").write_text("broken")
    names = [path.name for path in environment.preload_cuda([folder])]
    assert names == [n for n in environment.CUDA_LIBRARIES[1:] if n != "libcudnn.so.8"]


def test_the_gpu_build_preloads(
    tmp_path: Path, loaded: List[Tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_libraries(tmp_path / "nvidia")
    metadata = tmp_path / "mxnet_cu112-1.9.1.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: mxnet-cu112\nVersion: 1.9.1\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delenv(CHECKING, raising=False)
    environment.prepare()
    assert len(loaded) == len(environment.CUDA_LIBRARIES)
    assert environment.os.environ[CHECKING] == "0"


def test_the_cpu_build_loads_nothing(
    tmp_path: Path, loaded: List[Tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_libraries(tmp_path / "nvidia")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(environment, "CUDA_DISTRIBUTION", "mxnet-of-another-name")
    monkeypatch.delenv(CHECKING, raising=False)
    environment.prepare()
    assert loaded == []
    assert CHECKING not in environment.os.environ


def test_no_nvidia_wheels_is_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    assert environment.nvidia_folders() == ()


START = 5 * 2**20


class Allocator:
    """A C library that writes down what it is told; `start` is where its heap grows, None if it cannot."""

    def __init__(self, start: Optional[int] = START) -> None:
        self.told: List[Tuple[int, int]] = []
        self.malloc, self.madvise, self.free = Mock(return_value=start), Mock(), Mock()

    def mallopt(self, option: int, value: int) -> int:
        self.told.append((option, value))
        return 1


@pytest.mark.parametrize("wanted, library, told", [
    ("", "glibc", list(environment.MALLOC_SETTINGS)), ("default", "glibc", []), ("", "musl", [])])
def test_glibc_is_told_to_keep_what_is_freed(
    monkeypatch: pytest.MonkeyPatch, wanted: str, library: str, told: List[Tuple[int, int]]
) -> None:
    allocator = Allocator()
    monkeypatch.setattr(ctypes, "CDLL", lambda path: allocator)
    monkeypatch.setattr(environment.platform, "libc_ver", lambda: (library, "1"))
    monkeypatch.setenv(environment.MALLOC_VARIABLE, wanted)
    assert environment.keep_freed_memory() is bool(told)
    assert allocator.told == told
    assert allocator.malloc.called is bool(told)


def test_the_heap_grows_in_huge_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    allocator = Allocator()
    monkeypatch.setattr(ctypes, "CDLL", lambda path: allocator)
    monkeypatch.delenv(environment.MALLOC_VARIABLE, raising=False)
    assert environment.keep_freed_memory()
    (size,) = allocator.malloc.call_args.args
    ((begin, length, _),) = (call.args for call in allocator.madvise.call_args_list)
    assert (begin, begin + length) == (6 * 2**20, START + size)
    allocator.free.assert_called_once_with(START)


def test_a_heap_that_cannot_grow_so_far_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    allocator = Allocator(start=None)
    monkeypatch.setattr(ctypes, "CDLL", lambda path: allocator)
    monkeypatch.delenv(environment.MALLOC_VARIABLE, raising=False)
    assert environment.keep_freed_memory()
    assert not allocator.madvise.called and not allocator.free.called


@pytest.mark.skipif(not HUGE_PAGES.exists() or "[never]" in HUGE_PAGES.read_text(), reason="the kernel has none")
def test_large_arrays_lie_in_huge_pages() -> None:
    script = ("import dso_nas, mxnet as mx\narray = mx.nd.ones((64, 1024, 1024))\nmx.nd.waitall()\n"
              "print(open('/proc/self/smaps_rollup').read())")
    variables = {name: value for name, value in os.environ.items() if name != environment.MALLOC_VARIABLE}
    output = subprocess.run([sys.executable, "-c", script], env=variables, capture_output=True, text=True, check=True)
    found = re.search(r"AnonHugePages:\s+(\d+) kB", output.stdout)
    # Some of them may have been refused: memory can be too scattered.
    assert found is not None and int(found.group(1)) > 0


@pytest.mark.parametrize("before, after", [(None, "1"), ("16", "16")])
def test_memory_plans_are_tight_unless_asked_otherwise(
    monkeypatch: pytest.MonkeyPatch, before: Optional[str], after: str
) -> None:
    monkeypatch.setenv(environment.MALLOC_VARIABLE, "default")
    monkeypatch.setattr(environment, "CUDA_DISTRIBUTION", "mxnet-of-another-name")
    monkeypatch.setenv(environment.PLANNER_VARIABLE, before or "")
    if before is None:
        monkeypatch.delenv(environment.PLANNER_VARIABLE)
    environment.prepare()
    assert environment.os.environ[environment.PLANNER_VARIABLE] == after


@pytest.mark.parametrize("smt, sharers, variables, threads", [
    ("0\n", "", {}, "6"), ("0\n", "2", {}, "3"), ("0\n", "7", {}, "1"), ("0\n", "words", {}, "6"),
    ("1\n", "", {}, None), ("", "", {}, None), ("0\n", "", {"OMP_NUM_THREADS": "4"}, "4")])
def test_operators_get_every_core_that_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smt: str, sharers: str, variables: Dict[str, str],
    threads: Optional[str]
) -> None:
    clean = {name: value for name, value in os.environ.items()
             if name not in (environment.THREADS_VARIABLE, *environment.THREADED_VARIABLES)}
    monkeypatch.setattr(os, "environ", {**clean, environment.SHARERS_VARIABLE: sharers, **variables})
    monkeypatch.setattr(environment, "chosen", {})
    monkeypatch.setattr(environment, "SMT_FILE", tmp_path / "active")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    if smt:
        environment.SMT_FILE.write_text(smt)
    environment.use_cores()
    assert os.environ.get("OMP_NUM_THREADS") == threads
    assert ("GOMP_SPINCOUNT" in os.environ) == (threads not in ("1", "4", None))
    assert environment.chosen.get("OMP_NUM_THREADS") == (None if variables else threads)
    assert environment.inherited().get("OMP_NUM_THREADS") == variables.get("OMP_NUM_THREADS")
    assert "GOMP_SPINCOUNT" not in environment.inherited()
