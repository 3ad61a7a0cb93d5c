"""Heat maps and curves of a search."""

from __future__ import annotations

import math
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from dso_nas.architecture.lambdas import LambdaLayout
from dso_nas.architecture.topology import BlockTopology, NetworkSpec
from dso_nas.errors import UserError
from dso_nas.reporting.plots import draw_lambdas, draw_search

TOPOLOGY = BlockTopology(3, ("sep_conv_3x3", "max_pool_3x3"))


def layout(scope: str, blocks=(2, 1)) -> LambdaLayout:
    spec = NetworkSpec(TOPOLOGY, "cifar", blocks, (8, 16)[: len(blocks)], 10, (3, 32, 32))
    return LambdaLayout(spec, scope)


def lambdas(which: LambdaLayout, value: float) -> dict:
    return {name: np.full(shape, value) for name, shape in which.shapes().items()}


def texts(path: Path) -> list:
    root = ElementTree.parse(str(path)).getroot()
    return ["".join(element.itertext()).strip() for element in root.iter() if element.tag.endswith("}text")]


def metric(epoch: int, name: str, value, stage: str = "search") -> dict:
    return {"stage": stage, "epoch": epoch, "step": 1, "name": name, "value": value}


def test_zero_is_told_apart_from_small(tmp_path):
    which = layout("share")
    history = [(epoch, lambdas(which, value)) for epoch, value in ((1, 1), (2, 1e-12), (3, 0))]
    draw_lambdas(history, str(tmp_path / "l.png"), which)
    with Image.open(tmp_path / "l.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    bright, dark = (np.array(matplotlib.colormaps["viridis"](part)[:3]) * 255 for part in (1.0, 0.0))
    row = next(row for row in pixels if (abs(row - bright).max(axis=1) < 2).sum() > 100)
    one, small = (np.flatnonzero(abs(row - color).max(axis=1) < 2) for color in (bright, dark))
    assert one[-1] < small[0]
    assert abs(len(one) - len(small)) < 10, "an epoch each"
    after = row[small[-1] + 3 : small[-1] + len(small) - 6]
    assert len(after) > 100 and (after == 255).all()


def test_scope_share_is_one_panel_with_every_operation(tmp_path):
    which = layout("share")
    draw_lambdas([(0, lambdas(which, 1)), (4, lambdas(which, 0.5))], str(tmp_path / "l.svg"), which)
    found = texts(tmp_path / "l.svg")
    assert {"2.1 sep conv 3×3", "3.2 max pool 3×3", "output", "after stage 1, conv 1×1"} <= set(found)
    assert not [text for text in found if "block 1" in text]


def test_scope_full_is_a_panel_for_every_block(tmp_path):
    which = layout("full", (5, 2))
    draw_lambdas([(0, lambdas(which, 1))], str(tmp_path / "l.svg"), which)
    found = [text for text in texts(tmp_path / "l.svg") if text.startswith("stage")]
    assert found == [f"stage 1, block {n}" for n in range(1, 6)] + ["stage 2, block 1", "stage 2, block 2"]
    assert {"level 2", "level 3", "output"} <= set(texts(tmp_path / "l.svg"))


def test_a_network_of_one_stage_has_no_reductions(tmp_path):
    which = layout("share", (2,))
    draw_lambdas([(0, lambdas(which, 0))], str(tmp_path / "l.png"), which)
    with Image.open(tmp_path / "l.png") as picture:
        assert picture.size[0] == 1500


def test_lambdas_of_another_layout_are_refused(tmp_path):
    with pytest.raises(UserError, match="lambda_.*missing"):
        draw_lambdas([(0, lambdas(layout("share"), 1))], str(tmp_path / "l.png"), layout("full"))


def test_search_draws_the_last_value_of_every_epoch(tmp_path):
    metrics = [metric(epoch, "live_connections", value) for epoch, value in ((1, 99), (1, 20), (2, 10))]
    metrics += [metric(1, "validation_error", 0.5), metric(2, "validation_error", math.nan)]
    metrics += [metric(1, "train_error", None), metric(2, "train_error", 0.4), metric(2, "loss", 7)]
    draw_search(metrics + [metric(3, "test_error", 0.1, stage="retrain")], str(tmp_path / "s.svg"))
    found = texts(tmp_path / "s.svg")
    assert {"train error", "validation error", "live connections", "epoch"} <= set(found)
    assert "test error" not in found and "loss" not in found
    numbers = [float(text) for text in found if text.replace(".", "").isdigit()]
    assert 20 <= max(numbers) < 40


def test_search_without_metrics_is_an_empty_picture(tmp_path):
    draw_search([], str(tmp_path / "s.png"))
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.size == (1200, 900)


def test_drawing_never_loads_pyplot_or_mxnet(tmp_path):
    program = (
        "import sys; from dso_nas.reporting.plots import draw_search; import dso_nas.reporting.structure, "
        f"dso_nas.reporting.tables; draw_search([], {str(tmp_path / 's.png')!r}); "
        "print({'matplotlib.pyplot', 'mxnet'} & set(sys.modules))"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, stdout=subprocess.PIPE, check=True)
    assert done.stdout.strip() == b"set()"
