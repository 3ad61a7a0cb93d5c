"""The page of a run: complete, self-contained, harmless, and working in a browser."""

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from dso_nas.errors import UserError
from dso_nas.reporting.html import report_html
from dso_nas.reporting.run_files import RunFiles
from tests.run_folders import EPOCHS, make_run_folder

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
EVIL = "</script><img src=x onerror=alert(1)>"
VOID = {"meta", "input", "img"}


class Checker(HTMLParser):
    """Elements that open and close in order; addresses; the text of all data blocks."""

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.seen = [], [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        self.addresses += [value for name, value in attributes if name in ("src", "href", "srcset", "action")]
        self.open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check(page):
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in checker.addresses)
    assert not re.search(r"@import|url\(|https?://", page)
    return checker


def add_report(folder, make_report, **changes):
    (folder / "report.json").write_text(json.dumps({**make_report(), **changes}))


def headings(page):
    return re.findall("<h2>(.*?)</h2>", page)


def test_a_whole_run(tmp_path, make_report):
    folder = make_run_folder(tmp_path / "run")
    add_report(folder, make_report)
    page = report_html(folder)
    check(page)
    assert headings(page) == ["Result", "What was found", "The search, epoch by epoch", "Curves", "Time", "Notes",
                              "Environment and command"]
    for word in ("The search wins.", "3.48 ± 0.21 %", "python train_cifar.py all --set", "1.23.5", "abc123", "node7"):
        assert word in html.unescape(page)
    assert "prune_every: 1" in page


@pytest.mark.parametrize("missing, headline", [
    (["search/lambdas.npz", "search/genotype.json"], ["Result", "Curves", "Environment and command"]),
    (["metrics.jsonl"], ["Result", "The search, epoch by epoch", "Environment and command"]),
    (["metrics.jsonl", "run.json", "search/lambdas.npz"], ["Result", "Environment and command"]),
    (["recipe.yaml"], ["Result", "Missing", "Curves"]),
])
def test_parts_that_are_not_there_yet_are_left_out(tmp_path, missing, headline):
    folder = make_run_folder(tmp_path / "run")
    for name in missing:
        (folder / name).unlink()
    page = report_html(folder)
    check(page)
    assert headings(page) == headline


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "search/lambdas.npz", "report.json"])
def test_a_damaged_part_is_named_once_and_the_rest_is_there(tmp_path, name):
    folder = make_run_folder(tmp_path / "run")
    (folder / name).write_text("{\n")
    page = report_html(folder)
    check(page)
    assert page.count('<p class="bad">' + html.escape(str(folder / name))) == 1
    assert headings(page).count("Missing") == 1 and len(headings(page)) >= 3


def test_a_mobile_run(tmp_path):
    page = report_html(make_run_folder(tmp_path / "run", recipe_name="mobile-demo"))
    check(page)
    assert page.count('class="chip"') == 7 * 6 and 'id="block"' not in page and "Missing" not in headings(page)


def test_a_segmentation_run(tmp_path):
    page = report_html(make_run_folder(tmp_path / "run", recipe_name="seg-demo"))
    check(page)
    assert page.count('class="connection"') == 28 and "Missing" not in headings(page)


def test_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="recipe.yaml"):
        report_html(tmp_path)


def test_what_files_say_is_text(tmp_path, make_report):
    folder = make_run_folder(tmp_path / "run")
    add_report(folder, make_report, title=EVIL, dataset=EVIL, recipe=EVIL, notes=[EVIL])
    (folder / "run.json").write_text(json.dumps([{EVIL: EVIL, "command": [EVIL]}]))
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"stage": EVIL, "epoch": 0, "step": 0, "name": EVIL, "value": 1.0}) + "\n")
    np.savez_compressed(folder / "search" / "lambdas.npz", **{"<img onerror=alert(2)>": np.ones((2, 3), np.float32)})
    checker = check(report_html(folder))
    assert [tag for tag, _ in checker.seen].count("script") == 2
    assert "img" not in [tag for tag, _ in checker.seen]
    assert not any(name.startswith("on") for _, attributes in checker.seen for name in attributes)


def test_segmented_pictures_are_inside(tmp_path):
    folder = make_run_folder(tmp_path / "run")
    (folder / "retrain").mkdir()
    (folder / "retrain" / "pictures.png").write_bytes(b"\x89PNG")
    assert 'src="data:image/png;base64,iVBORw=="' in report_html(folder)


def test_no_live_lambda_is_rounded_to_zero(tmp_path):
    folder = make_run_folder(tmp_path / "run")
    lambdas = {name: np.where(array > 0, np.float32(1e-38), array) for name, array in RunFiles(folder).lambdas.items()}
    np.savez_compressed(folder / "search" / "lambdas.npz",
                        **{name: array.astype(np.float32) for name, array in lambdas.items()})
    data = json.loads(re.search('id="search-data">(.*?)</script>', report_html(folder)).group(1))
    live = sum((np.array(part) > 0).sum(axis=1) for part in data["blocks"] + data["rows"])
    assert live.tolist() == data["live"]


# ---- in a browser


def opened(page, folder, address):
    """The page's elements after its script has run, and what is shown of the search."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (Debian package chromium)")
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
               "--dump-dom", f"{path.as_uri()}{address}"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    checker = Checker()
    checker.feed(answer.stdout)
    return checker.seen, re.search('<output id="position">(.*?)</output>', answer.stdout).group(1)


def classes(attributes):
    return (attributes.get("class") or "").split()


@pytest.mark.parametrize("scope, address, block, epoch", [
    ("share", "#epoch=2", 0, 2), ("full", "#epoch=3&block=2", 2, 3), ("share", "", 0, EPOCHS),
    ("full", "#epoch=99&block=x", 0, EPOCHS),
])
def test_the_slider_shows_the_block_at_its_epoch(tmp_path, scope, address, block, epoch):
    folder = make_run_folder(tmp_path / "run", [f"network.scope={scope}"])
    seen, position = opened(report_html(folder), tmp_path, address)
    files = RunFiles(folder)
    values = {name: array[epoch - 1] for name, array in files.lambdas.items()}
    unit = files.layout.spec.block_units()[block]
    vector = files.layout.to_units(values)[unit.name]
    paths = [attributes for tag, attributes in seen if tag == "path" and "connection" in classes(attributes)]
    shown = ["gone" not in classes(attributes) for attributes in paths]
    assert shown == (vector > 0).tolist()
    strengths = [float(re.search(r"opacity: ([0-9.]+)", a["style"]).group(1)) for a, s in zip(paths, shown) if s]
    np.testing.assert_allclose(strengths, 0.2 + 0.8 * vector[vector > 0] / vector.max(), atol=2e-3)
    living = {a[end] for a, s in zip(paths, shown) if s for end in ("data-source", "data-target")}
    operations = {a["data-node"]: "dead" not in classes(a) for tag, a in seen if tag == "g" and "data-node" in a}
    assert operations == {node: node in living for node in operations}
    chips = ["dead" not in classes(a) for tag, a in seen if tag == "span" and "chip" in classes(a)]
    reductions = [files.layout.to_units(values)[unit.name] for unit in files.layout.spec.reduction_units()]
    assert chips == (np.concatenate(reductions) > 0).tolist()
    count = sum(int((array > 0).sum()) for array in values.values())
    assert position.startswith(f"after epoch {epoch} of {EPOCHS}: {count} of ")
    body = next(attributes for tag, attributes in seen if tag == "body")
    assert body["data-epoch"] == str(epoch)


def test_a_space_without_blocks_has_rows(tmp_path):
    folder = make_run_folder(tmp_path / "run")
    np.savez_compressed(folder / "search" / "lambdas.npz", lambda_x=np.array([[1, 0.5, 0], [0, 0.5, 0]], np.float32))
    seen, position = opened(report_html(folder), tmp_path, "#epoch=1")
    chips = ["dead" not in classes(a) for tag, a in seen if tag == "span" and "chip" in classes(a)]
    assert chips == [True, True, False] and position == "after epoch 1 of 2: 2 of 3 lambdas live"
