from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Callable, Dict

import numpy as np
import pytest
from PIL import Image

from dso_nas.data.segmentation import coco, coco_annotations
from dso_nas.data.segmentation.coco import prepare_coco_voc
from dso_nas.data.segmentation.coco_annotations import Annotations
from dso_nas.data.segmentation.voc import CLASSES
from dso_nas.errors import UserError
from tests.data.segmentation import builders


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return builders.build_coco(tmp_path)


def _mask(out: Path, number: int) -> np.ndarray:
    with Image.open(out / "masks" / f"{number:012}.png") as image:
        return np.array(image)


def test_pictures_with_enough_of_vocs_classes_are_kept(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "coco-voc"
    prepare_coco_voc(source, out)
    assert (out / "train.txt").read_text().split() == ["000000000009", "000000000025"]
    assert sorted(path.name for path in (out / "masks").iterdir()) == ["000000000009.png", "000000000025.png"]
    assert capsys.readouterr().out == (
        f"{out}/train.txt: 2 of 5 pictures have more than 1000 pixels of VOC's classes\n")


def test_labels_are_vocs_the_first_object_stays_and_crowds_are_ignored(source: Path, tmp_path: Path) -> None:
    prepare_coco_voc(source, tmp_path / "out")
    wanted = np.zeros((60, 80), np.uint8)
    # Column by column, as COCO's run lengths go: 600 pixels are 10 columns.
    wanted[:, 10:60] = 255
    wanted[20:55, 30:75] = wanted[45:58, 2:10] = CLASSES.index("dog")
    wanted[5:40, 5:60] = CLASSES.index("person")
    np.testing.assert_array_equal(_mask(tmp_path / "out", 25), wanted)
    assert set(np.unique(_mask(tmp_path / "out", 9))) == {0, CLASSES.index("tvmonitor")}


def test_masks_without_crowds_are_gluoncvs(tmp_path: Path) -> None:
    from gluoncv.data import COCOSegmentation
    from pycocotools import mask as coco_mask

    rng, content = np.random.default_rng(3), builders.coco_content()
    content["images"] = content["images"][:1]
    content["annotations"] = [
        {"id": n, "image_id": 9, "category_id": builders.COCO_IDS[n + 1], "iscrowd": 0,
         "segmentation": [(rng.random(12) * 60).tolist() for _ in range(1 + n % 2)]} for n in range(20)]
    path = builders.write_annotations(tmp_path, content)
    ours = Annotations(path, CLASSES)
    theirs = COCOSegmentation.__new__(COCOSegmentation)
    theirs.coco_mask = coco_mask
    wanted = theirs._gen_seg_mask(content["annotations"], 60, 80)
    assert len(np.unique(wanted)) > 8
    np.testing.assert_array_equal(ours.mask(ours.pictures()[0]), wanted)


def test_a_call_that_was_cut_off_goes_on(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    prepare_coco_voc(source, out)
    (out / "train.txt").unlink()
    (out / "masks" / "000000000009.png").write_bytes(b"cut")
    drawn = []
    draw = Annotations.mask
    monkeypatch.setattr(Annotations, "mask", lambda self, picture: drawn.append(picture["id"]) or draw(self, picture))
    before = _mask(out, 25)
    prepare_coco_voc(source, out)
    assert 25 not in drawn and 9 in drawn
    assert (out / "train.txt").read_text().split() == ["000000000009", "000000000025"]
    np.testing.assert_array_equal(_mask(out, 25), before)
    assert _mask(out, 9).shape == (60, 80)


def test_what_is_made_is_not_made_again(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    prepare_coco_voc(source, tmp_path / "out")
    (source / "annotations" / "instances_train2017.json").unlink()
    capsys.readouterr()
    prepare_coco_voc(source, tmp_path / "out")
    assert "made before, 2 pictures; delete it to have it made again" in capsys.readouterr().out


Change = Callable[[Dict[str, Any]], Any]


def _set(*keys: Any) -> Change:
    """Put the last of `keys` where the others lead."""
    def change(content: Dict[str, Any]) -> None:
        target: Any = content
        for key in keys[:-2]:
            target = target[key]
        target[keys[-2]] = keys[-1]

    return change


@pytest.mark.parametrize("change, message", [
    (_set("images", None), "'images' must be a list of objects"),
    (_set("annotations", {}), "'annotations' must be a list of objects"),
    (_set("categories", [3]), "'categories' must be a list of objects"),
    (_set("categories", 4, "name", "tiger"), "'categories' must hold each of VOC's 20 classes once"),
    (_set("images", 0, "id", "9"), "'images' must be a list of objects with a whole number"),
    (_set("images", 0, "id", 25), "'images' holds an 'id' or a 'file_name' twice"),
    (_set("images", 0, "file_name", "../../etc/x.jpg"), "image 9: 'file_name' must be a plain name.jpg"),
    (_set("images", 0, "file_name", ".x.jpg"), "image 9: 'file_name' must be a plain name.jpg"),
    (_set("images", 0, "file_name", "x.exe"), "image 9: 'file_name' must be a plain name.jpg"),
    (_set("images", 0, "file_name", 3), "image 9: 'file_name' must be a plain name.jpg"),
    (_set("images", 0, "height", 0), "image 9: 'height' and 'width'"),
    (_set("images", 0, "width", 1 << 26), "image 9: 'height' and 'width'"),
    (_set("images", 0, "width", True), "image 9: 'height' and 'width'"),
    (_set("annotations", 0, "image_id", 77), "annotation 100: 'category_id' and 'image_id'"),
    (_set("annotations", 0, "category_id", [1]), "annotation 100: 'category_id' and 'image_id'"),
    (_set("annotations", 0, "segmentation", None), "annotation 100: its 'segmentation' is neither"),
    (_set("annotations", 0, "segmentation", {"size": [60, 80], "counts": "abc"}), "'segmentation' is neither"),
    (_set("annotations", 0, "segmentation", [[1, 2, 3]]), "a polygon of an odd number of coordinates"),
    (_set("annotations", 0, "segmentation", [["1", "2"] * 3]), "a polygon that is no list of numbers"),
    (_set("annotations", 0, "segmentation", [[0, 0, 1e9, 0, 1e9, 1e9]]), "a corner far outside the picture"),
    (_set("annotations", 3, "segmentation", "size", [80, 60]), "annotation 103: its 'segmentation' has run lengths"),
    (_set("annotations", 3, "segmentation", "counts", [600, 3000, 9000]), "lengths that do not fill the picture"),
    (_set("annotations", 3, "segmentation", "counts", [600, -3000, 7200]), "'segmentation' has run lengths"),
])
def test_bad_annotations(source: Path, tmp_path: Path, change: Change, message: str) -> None:
    content = copy.deepcopy(builders.coco_content())
    change(content)
    path = builders.write_annotations(source, content)
    _assert_refused(source, tmp_path, path, message)


@pytest.mark.parametrize("text", ["", "{", "[1, 2", '{"images": NaN}', '{"images": ' + "9" * 5000 + "}", "[" * 100_000,
                                  "__import__('os')"])
def test_annotations_that_are_no_json(source: Path, tmp_path: Path, text: str) -> None:
    _assert_refused(source, tmp_path, builders.write_annotations(source, text), "is not JSON, or cut short")


def test_annotations_of_another_form(source: Path, tmp_path: Path) -> None:
    _assert_refused(source, tmp_path, builders.write_annotations(source, [1]), "'images' must be a list")


def test_infinite_coordinates(source: Path, tmp_path: Path) -> None:
    text = json.dumps(builders.coco_content()).replace("60, 40", "1e999, 40", 1)
    _assert_refused(source, tmp_path, builders.write_annotations(source, text), "a corner far outside the picture")


def test_annotations_that_are_too_large_are_not_read(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coco_annotations, "_LARGEST_FILE", 100)
    path = builders.write_annotations(source, builders.coco_content())
    _assert_refused(source, tmp_path, path, "is larger than any of COCO's")


def _assert_refused(source: Path, tmp_path: Path, path: Path, message: str) -> None:
    with pytest.raises(UserError) as raised:
        prepare_coco_voc(source, tmp_path / "out")
    line = str(raised.value)
    assert line.startswith(f"{path}: ") and message in line and "\n" not in line
    assert not (tmp_path / "out" / "train.txt").exists()


def test_missing_annotations(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no COCO 2017; its annotations/instances_train2017.json"):
        prepare_coco_voc(tmp_path, tmp_path / "out")


def test_nothing_to_keep(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco, "FEWEST_PIXELS", 5000)
    with pytest.raises(UserError, match="no picture has more than 5000 pixels"):
        prepare_coco_voc(source, tmp_path / "out")


def test_a_folder_that_cannot_be_made(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/out/masks: cannot be made"):
        prepare_coco_voc(source, tmp_path / "file" / "out")


def test_outlines_that_enclose_nothing_are_left_out(source: Path, tmp_path: Path) -> None:
    content = builders.coco_content()
    content["annotations"][4]["segmentation"] = [[3, 4, 30, 40]]
    builders.write_annotations(source, content)
    prepare_coco_voc(source, tmp_path / "out")
    assert (tmp_path / "out" / "train.txt").read_text().split() == ["000000000025"]
