"""The tools of `python -m dso_nas`."""

import signal
import subprocess
import sys

import pytest

from dso_nas.__main__ import TOOLS, main
from dso_nas.architecture.genotype import Genotype
from dso_nas.architecture.topology import BlockTopology, NetworkSpec


@pytest.fixture
def genotype(tmp_path):
    topology = BlockTopology(2, ("sep_conv_3x3", "avg_pool_3x3"))
    spec = NetworkSpec(topology, "cifar", (1, 1, 1), (8, 16, 32), 10, (3, 32, 32))
    path = tmp_path / "genotype.json"
    Genotype.full(spec, "share").save(path)
    return path


@pytest.mark.parametrize("name", TOOLS)
def test_every_tool_says_what_it_takes(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0 and TOOLS[name].summary in capsys.readouterr().out


def test_the_paper_size_supernet(capsys):
    assert main(["cost", "--recipe", "cifar10-share"]) == 0
    first, *_, last = capsys.readouterr().out.strip().splitlines()
    assert "9,937,296" in last and "1,484,539,776" in last
    assert "2,425 MB on a GPU, 2,713 MB on the CPU, for 128 images, memory.mirroring block" in first


def test_a_reader_that_leaves_early_ends_a_tool_quietly():
    with subprocess.Popen([sys.executable, "-m", "dso_nas", "cost", "--recipe", "cifar10-share"],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait(60) == 128 + signal.SIGPIPE


@pytest.mark.parametrize("recipe, doubled", [
    ("cifar10-share", ["widths=[96, 192, 384]"]),
    ("seg-demo", ["widths=[16, 32, 64, 128]"]),
    ("mobile-demo", ["widths=[16, 32, 48, 64]", "stem_width=16", "first_width=16", "feature_width=128"]),
])
def test_width_multiplies_the_planned_memory_too(recipe, doubled, capsys):
    printed = []
    for options in (["--width", "2"], [word for key in doubled for word in ("--set", f"network.{key}")], []):
        assert main(["cost", "--recipe", recipe, *options]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] and printed[0].splitlines()[0] != printed[2].splitlines()[0]


def test_show_names_every_live_operation(genotype, tmp_path, capsys):
    assert main(["show", str(genotype), "--draw", str(tmp_path / "picture")]) == 0
    shown = capsys.readouterr().out
    assert "2.1 sep_conv_3x3 <- input, 1.1 sep_conv_3x3, 1.2 avg_pool_3x3; to the output" in shown
    assert "reduction after stage 2: conv1x1 + conv3x3" in shown
    assert (tmp_path / "picture.svg").exists()


@pytest.mark.parametrize("arguments, word", [
    (["show", "/nowhere.json"], "nowhere.json"),
    (["cost", "--recipe", "nowhere"], "--recipe"),
    (["cost", "--genotype", "/nowhere.json"], "nowhere.json"),
])
def test_bad_input_is_one_line(arguments, word, capsys):
    assert main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and word in lines[0]
