"""`diff`: two genotypes, two runs, two recipes."""

import json
import re

import numpy as np
import pytest

from dso_nas.__main__ import main
from dso_nas.architecture.block_genotype import BlockGenotype
from dso_nas.architecture.genotype import Genotype
from dso_nas.architecture.topology import BlockTopology
from dso_nas.errors import UserError
from dso_nas.reporting.differences import Sides, compare_genotypes, compare_lambdas, compare_mappings, edges, jaccard
from dso_nas.reporting.run_files import RunFiles
from tests.run_folders import make_run_folder

TOPOLOGY = BlockTopology(2, ("sep_conv_3x3", "avg_pool_3x3"))
A = BlockGenotype({(2, 1): ((0, 0), (1, 1))}, ((1, 2), (2, 1)))
B = BlockGenotype({(2, 1): ((1, 1), (1, 2))}, ((2, 1),))


def genotype(scope, reductions=(("conv1x1", "conv3x3"),), **blocks):
    return Genotype(TOPOLOGY, scope, blocks, reductions)


def test_connections_by_hand():
    assert edges(A) == {("input", "2.1"), ("1.1", "2.1"), ("1.2", "output"), ("2.1", "output")}
    parts = compare_genotypes(genotype("share", shared=A), genotype("share", (("conv3x3",),), shared=B))
    assert parts["block shared"] == Sides(frozenset({("input", "2.1"), ("1.2", "output")}), frozenset({("1.2", "2.1")}),
                                          frozenset({("1.1", "2.1"), ("2.1", "output")}))
    assert parts["reduction after stage 1"].only_a == {"conv1x1"}
    assert jaccard({"x": parts["block shared"]}) == 2 / 5
    assert jaccard({"x": Sides.of((), ())}) == 1


def test_a_shared_block_stands_for_each():
    full = genotype("full", stage1_unit1=A, stage2_unit1=B)
    parts = compare_genotypes(genotype("share", shared=A), full)
    assert parts["block stage1_unit1"].same and not parts["block stage2_unit1"].same
    fewer = compare_genotypes(full, genotype("full", stage1_unit1=A))
    assert len(fewer["block stage2_unit1"].only_a) == 3 and not fewer["block stage2_unit1"].only_b


def test_other_nodes_are_not_compared():
    other = Genotype(BlockTopology(2, ("avg_pool_3x3", "sep_conv_3x3")), "share", {"shared": A}, ())
    with pytest.raises(UserError, match="different search spaces"):
        compare_genotypes(genotype("share", shared=A), other)


def test_mappings_and_lambdas_by_hand():
    assert compare_mappings({"a": {"b": 1, "c": 2}, "d": None}, {"a": {"b": 1, "c": 3}, "e": 4}) == [
        ("a.c", 2, 3), ("e", None, 4)]
    a = {"x": np.array([[9.0, 9], [1, 2]]), "y": np.array([[0.0]]), "z": np.ones((1, 3))}
    b = {"x": np.array([[1.0, 4.5]]), "y": np.array([[1.0]]), "z": np.zeros((1, 2))}
    assert compare_lambdas(a, b) == (2.5, "x", 1, 2.0, 4.5)
    assert compare_lambdas(a, {"z": np.zeros((1, 2))}) is None


def shown(capsys, *arguments, status=0):
    assert main(["diff", *map(str, arguments)]) == status
    output = capsys.readouterr()
    return output.out if status == 0 else output.err


def test_two_runs(tmp_path, capsys):
    a = make_run_folder(tmp_path / "a")
    b = make_run_folder(tmp_path / "b", ["search.gamma=0.5"], seed=1)
    with open(b / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"stage": "retrain", "epoch": 1, "step": 9, "name": "test_error", "value": 0.125}) + "\n")
    text = shown(capsys, a, b)
    assert re.search(r"\| search.gamma +\| 0.008 +\| 0.5", text)
    assert re.search(r"\| retrain +\| test_error +\| +0.2 \(1\) +\| +0.125 \(2\)", text)
    assert "pretrain" not in text
    live = [next(iter(RunFiles(folder).genotype.blocks.values())).num_connections for folder in (a, b)]
    both, only_a, only_b = map(int, re.search(r"genotypes: (\d+) live in both, (\d+) only in A, (\d+) only in B",
                                              text).groups())
    assert (both + only_a, both + only_b) == tuple(live) and only_a
    difference = max(np.abs(x[-1] - y[-1]).max() for x, y in zip(*(RunFiles(f).lambdas.values() for f in (a, b))))
    assert f"largest difference {difference:.4g}" in text


def test_a_run_is_like_itself(tmp_path, capsys):
    a = make_run_folder(tmp_path / "a")
    text = shown(capsys, a, a)
    assert "recipes: the same" in text and "Jaccard similarity 1.000" in text and "only in A:" not in text
    assert "largest difference 0," in text and "last values: the same" in text


def test_mobile_runs(tmp_path, capsys):
    a, b = (make_run_folder(tmp_path / str(seed), (), seed, "mobile-demo") for seed in (0, 1))
    text = shown(capsys, a, b)
    left, right = (RunFiles(folder).genotype for folder in (a, b))
    both = sum(len(set(left.blocks[name]) & set(right.blocks[name])) for name in left.blocks)
    assert f"genotypes: {both} live in both, {left.num_live - both} only in A" in text
    normal = make_run_folder(tmp_path / "normal")
    assert "genotypes: the genotypes are of different search spaces" in shown(capsys, a, normal)


def test_a_run_without_a_search(tmp_path, capsys):
    a, b = make_run_folder(tmp_path / "a"), make_run_folder(tmp_path / "b")
    for name in ("genotype.json", "lambdas.npz"):
        (b / "search" / name).unlink()
    text = shown(capsys, a, b)
    assert f"{b} found none yet" in text and "lambdas: none to compare" in text


def test_two_recipes_and_two_files(tmp_path, capsys):
    assert re.search(r"\| network.stem +\| cifar +\| imagenet", shown(capsys, "demo", "imagenet-demo"))
    a = make_run_folder(tmp_path / "a") / "search" / "genotype.json"
    assert "Jaccard similarity 1.000" in shown(capsys, a, a)


@pytest.mark.parametrize("a, b, word", [
    ("demo", "/nowhere.json", "nowhere.json"), ("demo", "nowhere", "nowhere"), ("demo", "RUN", "two of a kind"),
    ("/proc", "/proc", "no run's folder"),
])
def test_bad_input_is_one_line(tmp_path, capsys, a, b, word):
    folder = make_run_folder(tmp_path / "run")
    lines = shown(capsys, a, folder if b == "RUN" else b, status=2).strip().splitlines()
    assert len(lines) == 1 and word in lines[0]
