"""`show`: a run in words, in pictures, as a page."""

import json
import os

import pytest

from dso_nas.__main__ import main
from tests.run_folders import make_run_folder


@pytest.fixture
def folder(tmp_path):
    return make_run_folder(tmp_path / "run")


def test_it_prints_what_repeats_a_run(folder, capsys):
    before = sorted(os.walk(folder))
    assert main(["show", str(folder)]) == 0
    shown = capsys.readouterr().out
    for line in ("recipe: demo, profile default, seed 0", "command: python train_cifar.py all --set 'name=a b'",
                 "versions mxnet: 1.9.1", "commit: abc123", "machine processor: AMD EPYC",
                 "environment OMP_NUM_THREADS: 1"):
        assert line in shown
    rows = [line.split("|")[1:-1] for line in shown.splitlines() if line.startswith("| ")]
    assert [cell.strip() for cell in rows[-1]] == ["retrain", "1", "test_error", "0.2"]
    assert "block shared: " in shown and "reduction after stage 2: " in shown
    assert sorted(os.walk(folder)) == before


@pytest.mark.parametrize("scope", ["share", "full"])
def test_it_draws_the_search_afterwards(tmp_path, scope, capsys):
    folder = make_run_folder(tmp_path / "run", [f"network.scope={scope}"])
    assert main(["show", str(folder), "--draw", str(tmp_path / "a" / "b")]) == 0
    names = sorted(path.name for path in (tmp_path / "a" / "b").iterdir())
    assert names == ["after.png", "after.svg", "before.png", "before.svg", "lambdas.png", "search.png"]
    before, after = ((tmp_path / "a" / "b" / f"{name}.svg").read_text() for name in ("before", "after"))
    assert before.count('id="connection_') > after.count('id="connection_') > 0


def test_a_mobile_run(tmp_path, capsys):
    folder = make_run_folder(tmp_path / "run", recipe_name="mobile-demo")
    assert main(["show", str(folder), "--draw", str(tmp_path / "drawn")]) == 0
    shown = capsys.readouterr().out
    assert shown.count("block stage") == 7 and "mb" in shown
    assert len(list((tmp_path / "drawn").iterdir())) == 6
    assert main(["show", str(folder / "search" / "genotype.json"), "--draw", "x"]) == 2
    assert "macro-structure" in capsys.readouterr().err


def test_a_search_that_goes_on_can_be_drawn(folder, tmp_path):
    (folder / "search" / "genotype.json").unlink()
    assert main(["show", str(folder), "--draw", str(tmp_path / "drawn")]) == 0
    assert (tmp_path / "drawn" / "after.svg").exists()


def test_it_writes_the_page(folder, tmp_path, capsys):
    assert main(["show", str(folder), "--html", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("change, arguments, word", [
    (lambda folder: (folder / "search" / "lambdas.npz").unlink(), ["--draw", "x"], "no epoch of a search"),
    (lambda folder: (folder / "recipe.yaml").unlink(), [], "recipe.yaml"),
    (lambda folder: (folder / "run.json").write_text("{"), [], "run.json"),
    (lambda folder: (folder / "recipe.yaml").write_text("a: 1"), [], "recipe.yaml"),
    (lambda folder: None, ["--html", "/nowhere/page.html"], "/nowhere/page.html"),
])
def test_bad_input_is_one_line(folder, change, arguments, word, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    change(folder)
    assert main(["show", str(folder), *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and word in lines[0]


def test_a_page_is_of_a_run(folder, capsys):
    assert main(["show", str(folder / "search" / "genotype.json"), "--html", "x.html"]) == 2
    assert "--html" in capsys.readouterr().err


def test_a_report_is_summed_up(folder, capsys):
    (folder / "report.json").write_text(json.dumps({"title": 3}))
    assert main(["show", str(folder)]) == 2
    assert "report.json" in capsys.readouterr().err
