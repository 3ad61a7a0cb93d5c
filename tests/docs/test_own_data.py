"""The commands of docs/own-data.md, run as they stand on embedded images saved as a folder of JPEGs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import List

import numpy as np
from PIL import Image

from dso_nas.data.sample import load_sample

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "own-data.md"
# What makes two epochs of a network of a few channels out of a page's run.
SHORT = [
    "network.widths=[2,2,2,2]", "network.levels=2", "network.operations=[avg_pool_3x3,max_pool_3x3]",
    "pretrain.epochs=1", "search.epochs=2", "retrain.epochs=2", "retrain.schedule.warmup_epochs=0",
    "pretrain.batch_size=32", "search.batch_size=16", "retrain.batch_size=32", "search.regularization=uniform",
    "compare.full_network=false", "compare.tolerance=0.9",
]


def commands() -> List[str]:
    """The lines of the page's shell blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def _photos(root: Path, each: int) -> None:
    """Four classes of embedded images, larger than the page makes them and not square."""
    arrays = load_sample().train
    for label, name in enumerate(("shirt", "trouser", "pullover", "dress")):
        (root / name).mkdir(parents=True)
        for place in np.flatnonzero(arrays.labels == label)[:each]:
            image = Image.fromarray(arrays.images[place]).resize((60, 48))
            image.save(root / name / f"{place}.jpg", quality=90)


def _run(line: str, folder: Path) -> str:
    program, script, *arguments = shlex.split(line)
    assert program == "python", line
    if script != "-m":
        script = str(ROOT / script)
        arguments += [word for setting in SHORT for word in ("--set", setting)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script, *arguments], cwd=folder, env=environment, text=True,
                          capture_output=True, timeout=200)
    assert done.returncode == 0, f"{line}\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def test_the_page_goes_from_photos_to_a_report(tmp_path: Path) -> None:
    _photos(tmp_path / "photos", each=40)
    printed = [_run(line, tmp_path) for line in commands()]
    assert "images of 4 classes" in printed[0]
    assert "144 training and 16 test images" in printed[1]
    for name in ("report.md", "search/structure.png", "search/genotype.json"):
        assert (tmp_path / "runs" / "photos" / name).stat().st_size > 0


def test_what_the_page_says_of_files_is_so(tmp_path: Path) -> None:
    _photos(tmp_path / "photos", each=10)
    _run(commands()[0], tmp_path)
    made = {path.name for path in (tmp_path / "data").iterdir() if not path.name.endswith(".idx")}
    assert made == {"train1.rec", "train2.rec", "train.rec", "val.rec", "classes.txt", "preparation.json"}
    text = PAGE.read_text()
    assert all(f"`{name}`" in text for name in made)
