"""Every command of the documentation: run on few images where the data is embedded, checked where it is not.

A page's commands run in order in one folder, so that a page may go on with what an earlier command of it made.
"""

import re
import runpy
import shlex
from pathlib import Path

import pytest

from dso_nas import __main__ as tools
from dso_nas.cli import build_parser
from dso_nas.data.arrays import ImageDataset
from dso_nas.data.sample import load_sample
from dso_nas.recipes import load_recipe

ROOT = Path(__file__).resolve().parents[2]
# These have tests of their own, which run them whole.
OWN_TESTS = {"own-data.md"}
PAGES = [ROOT / "README.md", *sorted(page for page in (ROOT / "docs").glob("*.md") if page.name not in OWN_TESTS)]
SCRIPTS = {"train_cifar.py": "demo", "train_imagenet.py": "imagenet-demo", "search_seg.py": "seg-demo"}
SHORT = {
    "demo": ["network.widths=[2,2,2]", "network.blocks=[1,1,1]"],
    "imagenet-demo": ["network.widths=[2,2,2,2]", "search.regularization=uniform", "network.levels=2"],
}
QUICK = ["pretrain.epochs=1", "search.epochs=1", "retrain.epochs=1", "compare.random_architectures=1",
         "compare.full_network=false", "compare.tolerance=0.9", "pretrain.batch_size=50", "search.batch_size=50",
         "retrain.batch_size=50"]


def commands(page):
    """The lines of the page's shell blocks, continued ones joined."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [re.split(r"\s+#", line)[0].strip() for line in lines if line.strip() and not line.startswith("#")]


@pytest.fixture
def few_images(monkeypatch):
    whole = load_sample()
    few = ImageDataset.of(whole.name, whole.title, whole.train.subset(range(200)), whole.test.subset(range(50)),
                          whole.classes)
    monkeypatch.setattr("dso_nas.data.sample.load_sample", lambda: few)


def targets():
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def run(line, monkeypatch):
    words = shlex.split(line)
    if words[0] == "make":
        assert set(word for word in words[1:] if "=" not in word) <= targets(), line
    elif words[0] in (".", "git", "cd"):
        return
    elif words[:3] == ["python", "-m", "dso_nas"]:
        run_tool(words[3:], line)
    elif words[0] == "python" and words[1] in SCRIPTS:
        run_script(words[1], words[2:], line, monkeypatch)
    else:
        raise AssertionError(f"no rule for the command: {line}")


def run_tool(words, line):
    if words[0] == "launch" or any(re.fullmatch("[A-Z]+", word) for word in words):
        assert words[0] in tools.TOOLS, line
    else:
        if words[0] == "latency":
            words = [*words, *settings(SHORT.get(words[words.index("--recipe") + 1], []))]
        assert tools.main(words) in (0, 1 if words[0] == "doctor" else 0), line


def settings(keys):
    return [part for key in keys for part in ("--set", key)]


def run_script(script, words, line, monkeypatch):
    options = build_parser(script, SCRIPTS[script]).parse_args(words)
    recipe = load_recipe(options.recipe, options.profile, options.overrides)
    if options.recipe not in SHORT:
        assert recipe.name, line
        return
    # A target is met at the recipe's own widths only: narrow ones come in too large steps.
    short = [] if options.target_parameters else SHORT[options.recipe]
    monkeypatch.setattr("sys.argv", [script, *words, *settings([*short, *QUICK])])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert ended.value.code == 0, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page(page, tmp_path, monkeypatch, few_images):
    monkeypatch.chdir(tmp_path)
    for line in commands(page):
        run(line, monkeypatch)
