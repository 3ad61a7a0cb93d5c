"""Importing the package: what it does to the process, and what it does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import dso_nas
from dso_nas.environment import GRADIENT_VALUE, GRADIENT_VARIABLE

ROOT = Path(__file__).resolve().parents[1]
SHOW = f"import os; print(os.environ.get('{GRADIENT_VARIABLE}'))"
FAKE_MXNET = "import sys, types; sys.modules['mxnet'] = types.ModuleType('mxnet')"


def python(*lines: str, cap: str = "") -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if k != GRADIENT_VARIABLE}
    environment.update({GRADIENT_VARIABLE: cap} if cap else {})
    command = [sys.executable, "-c", "\n".join(lines)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("cap", ["", "8", "words"])
def test_importing_sets_the_variable(cap: str) -> None:
    result = python("import dso_nas", SHOW, cap=cap)
    assert result.stdout.strip() == str(GRADIENT_VALUE), result.stderr


def test_a_larger_cap_is_left_alone() -> None:
    assert python("import dso_nas", SHOW, cap="2000000").stdout.strip() == "2000000"


def test_importing_loads_neither_mxnet_nor_numpy() -> None:
    result = python("import sys, dso_nas", "print({'mxnet', 'numpy'} & set(sys.modules))")
    assert result.stdout.strip() == "set()"


def test_mxnet_after_the_package_reads_the_variable() -> None:
    result = python("import dso_nas, mxnet", "print(mxnet.__version__)")
    assert result.stdout.strip() == "1.9.1", result.stderr


@pytest.mark.parametrize("cap", ["", "8"])
def test_mxnet_first_without_the_variable_is_one_clear_error(cap: str) -> None:
    result = python(
        FAKE_MXNET, "try:\n    import dso_nas", "except ImportError as error:\n    print(error)", cap=cap
    )
    assert len(result.stdout.splitlines()) == 1, result.stderr
    assert f"{GRADIENT_VARIABLE}={GRADIENT_VALUE}" in result.stdout
    assert "Import dso_nas first" in result.stdout


def test_mxnet_first_with_the_variable_is_fine() -> None:
    assert python(FAKE_MXNET, "import dso_nas", cap=str(GRADIENT_VALUE)).returncode == 0


def test_version() -> None:
    assert dso_nas.__version__.count(".") == 2
