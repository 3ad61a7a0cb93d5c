"""Reading a run's folder: what is missing, damaged or too large."""

import io
import os
import zipfile

import numpy as np
import pytest

from dso_nas.errors import UserError
from dso_nas.reporting.run_files import RunFiles, lambda_history, read_lambdas
from tests.run_folders import EPOCHS, make_run_folder


def test_what_is_not_there_is_absent_and_nothing_is_written(tmp_path):
    folder = make_run_folder(tmp_path / "run")
    for name in ("run.json", "metrics.jsonl", "search/lambdas.npz", "search/genotype.json"):
        (folder / name).unlink()
    before = sorted(os.walk(folder))
    files = RunFiles(folder)
    assert (files.starts, files.metrics, files.report, files.genotype, files.lambdas) == ([], [], None, None, {})
    assert sorted(os.walk(folder)) == before
    with pytest.raises(UserError, match="no run's folder"):
        RunFiles(tmp_path)
    with pytest.raises(UserError, match="recipe.yaml"):
        (folder / "metrics.jsonl").touch()
        (folder / "recipe.yaml").unlink()
        _ = RunFiles(folder).recipe


@pytest.mark.parametrize("scope", ["share", "full"])
def test_the_layout_is_the_recipes(tmp_path, scope):
    files = RunFiles(make_run_folder(tmp_path / "run", [f"network.scope={scope}"]))
    assert files.layout.scope == scope and list(files.layout.shapes()) == list(files.lambdas)


def test_lambdas_of_another_kind_of_network_have_no_layout(tmp_path):
    folder = make_run_folder(tmp_path / "run")
    np.savez_compressed(folder / "search" / "lambdas.npz", lambda_stage1_unit1=np.ones((2, 6), np.float32))
    assert RunFiles(folder).layout is None


@pytest.mark.parametrize("name, content", [
    ("run.json", "{}"), ("run.json", "[1]"), ("run.json", "[" * 100_000), ("report.json", '{"title": 1}'),
    ("report.json", "\udcff"), ("metrics.jsonl", "{}\n"), ("search/lambdas.npz", "PK\x03\x04"),
    ("search/genotype.json", "{}"),
])
def test_a_damaged_file_is_named(tmp_path, name, content):
    files = RunFiles(make_run_folder(tmp_path / "run"))
    (files.path / name).write_bytes(content.encode(errors="surrogateescape"))
    words = {"run.json": "starts", "report.json": "report", "metrics.jsonl": "metrics",
             "search/lambdas.npz": "lambdas", "search/genotype.json": "genotype"}
    with pytest.raises(UserError, match=os.path.basename(name)):
        getattr(files, words[name])


def saved(path, *arrays, **named):
    np.savez(path, *arrays, **named)
    return path


@pytest.mark.parametrize("arrays", [
    {"a": np.ones(3, np.float32)}, {"a": np.ones((2, 3)), "b": np.ones((3, 3))}, {"a": np.full((2, 3), np.nan)},
    {"a": np.ones((2, 3), int)}, {"a": np.array([["x"]])},
])
def test_arrays_that_are_no_lambdas(tmp_path, arrays):
    with pytest.raises(UserError, match="lambdas by epoch"):
        read_lambdas(saved(tmp_path / "lambdas.npz", **arrays))


def test_a_pickle_is_not_loaded(tmp_path):
    with pytest.raises(UserError, match="damaged"):
        read_lambdas(saved(tmp_path / "lambdas.npz", a=np.array([[print]], object)))


def test_a_size_that_the_header_claims_is_not_allocated(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**9, 1000)})
    path = tmp_path / "lambdas.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", header.getvalue())
    with pytest.raises(UserError, match="more than 256 MB"):
        read_lambdas(path)


def test_every_cut_is_survived(tmp_path):
    data = saved(tmp_path / "whole.npz", a=np.ones((2, 3), np.float32)).read_bytes()
    path = tmp_path / "lambdas.npz"
    for length in range(0, len(data) - 1, 7):
        path.write_bytes(data[:length])
        with pytest.raises(UserError):
            read_lambdas(path)


def test_history_begins_before_the_search():
    history = lambda_history({"a": np.array([[0.5, 0.0], [0.25, 0.0]])})
    assert [epoch for epoch, _ in history] == [0, 1, 2]
    assert [values["a"].tolist() for _, values in history] == [[1, 1], [0.5, 0], [0.25, 0]]
    assert lambda_history({}) == []


def test_the_fixtures_lambdas_die(tmp_path):
    lambdas = RunFiles(make_run_folder(tmp_path / "run")).lambdas
    alive = sum((array > 0).sum(axis=1) for array in lambdas.values())
    assert len(alive) == EPOCHS and (np.diff(alive) <= 0).all() and 0 < alive[-1] < alive[0]
