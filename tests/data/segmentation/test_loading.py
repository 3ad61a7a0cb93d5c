from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Callable, List

import numpy as np
import pytest

from dso_nas.data.segmentation import IGNORED, SegmentationAugmentation, SegmentationBatches, load_segmentation
from dso_nas.data.segmentation.coco import prepare_coco_voc
from dso_nas.data.segmentation.sets import FilePictures, SegmentationSet
from dso_nas.data.splits import Split
from dso_nas.errors import UserError
from tests.data.segmentation import builders
from tests.data.segmentation.builders import mask_of, picture_of, size_of


@pytest.fixture
def root(tmp_path: Path) -> Path:
    builders.build_voc(tmp_path)
    builders.build_sbd(tmp_path)
    coco = builders.build_coco(tmp_path)
    prepare_coco_voc(coco, tmp_path / "coco-voc")
    return tmp_path


def _names(pictures: SegmentationSet) -> List[str]:
    assert isinstance(pictures, FilePictures)
    return [Path(pair.picture).stem for pair in pictures.pairs]


def test_voc_lists_are_its_own(root: Path) -> None:
    dataset = load_segmentation("voc2012", root)
    assert _names(dataset.train) == builders.VOC_TRAIN and _names(dataset.test) == builders.VOC_VAL
    assert len(dataset.classes) == 21 and dataset.classes[0] == "background" and dataset.classes[20] == "tvmonitor"
    np.testing.assert_allclose(dataset.mean, [123.675, 116.28, 103.53])
    np.testing.assert_allclose(dataset.std, [58.395, 57.12, 57.375])
    assert dataset.ignore == 255 and dataset.weights_first is None


@pytest.mark.parametrize("folder", ["VOCdevkit/VOC2012", "VOC2012", "."])
def test_voc_is_found_where_people_unpack_it(tmp_path: Path, folder: str) -> None:
    builders.build_voc(tmp_path, folder)
    assert len(load_segmentation("voc2012", str(tmp_path)).train) == 3


def test_the_augmented_set_holds_no_picture_of_val_and_none_twice(root: Path) -> None:
    dataset = load_segmentation("voc-aug", root)
    assert sorted(_names(dataset.train)) == ["2007_000032", "2007_000039", "2007_000063", "2008_000002",
                                             "2008_000003", "2008_000005"]
    assert _names(dataset.test) == builders.VOC_VAL


def test_the_union_holds_all_three(root: Path) -> None:
    dataset = load_segmentation("coco-sbd-voc", root)
    parts = [load_segmentation(name, root) for name in ("coco-voc", "voc-aug")]
    assert sorted(_names(dataset.train)) == sorted(_names(parts[0].train) + _names(parts[1].train))
    assert not set(_names(dataset.train)) & set(builders.VOC_VAL)
    assert _names(dataset.test) == _names(parts[0].test) == builders.VOC_VAL


def test_every_loader_gives_the_pictures_and_masks_that_were_stored(root: Path) -> None:
    train = load_segmentation("voc-aug", root).train
    for index, name in enumerate(_names(train)):
        image, mask = train.read(index)
        assert image.dtype == mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, mask_of(name, *size_of(name)))
        np.testing.assert_array_equal(mask, train.mask(index))
        assert image.shape == (*size_of(name), 3)
        # JPEG keeps the mean of noise.
        assert abs(image.mean() - picture_of(name, *size_of(name)).mean()) < 4


def test_masks_are_those_of_gluoncv(root: Path) -> None:
    from gluoncv.data import VOCAugSegmentation, VOCSegmentation

    ours = load_segmentation("voc2012", root).test
    theirs = VOCSegmentation(str(root / "VOCdevkit"), split="val", mode="testval")
    assert len(ours) == len(theirs) == 2
    for index in range(2):
        mask = theirs[index][1].asnumpy()
        np.testing.assert_array_equal(np.where(mask == -1, IGNORED, mask), ours.mask(index))
    (root / "VOCaug").symlink_to(root / "benchmark_RELEASE")
    sbd = VOCAugSegmentation(str(root), split="val")
    train = load_segmentation("voc-aug", root).train
    np.testing.assert_array_equal(np.array(sbd._load_mat(sbd.masks[0])), train.mask(_names(train).index("2008_000005")))


def test_a_split_is_seeded_and_known_by_the_pictures_names(root: Path, tmp_path: Path) -> None:
    dataset = load_segmentation("voc-aug", root)
    first, again, other = (Split.of(dataset, seed, (4, 1)) for seed in (1, 1, 2))
    assert (len(first.weights), len(first.lambdas)) == (5, 1)
    assert first.lambdas.tolist() == again.lambdas.tolist() and first.labels_sha256 == again.labels_sha256
    assert len({tuple(Split.of(dataset, seed, (4, 1)).lambdas.tolist()) for seed in range(20)}) > 1
    other.save(tmp_path / "split.json")
    assert Split.load(tmp_path / "split.json", dataset).weights.tolist() == other.weights.tolist()
    parts = [_names(dataset.train.subset(part)) for part in (first.weights, first.lambdas)]
    assert sorted(parts[0] + parts[1]) == sorted(_names(dataset.train))
    with pytest.raises(UserError, match="split.json splits"):
        Split.load(tmp_path / "split.json", load_segmentation("voc2012", root))


def test_batches_come_of_files(root: Path) -> None:
    dataset = load_segmentation("coco-sbd-voc", root)
    augmentation = SegmentationAugmentation(dataset.mean, dataset.std, 24, (0.5, 2.0), True, 0.2)
    data, masks = next(SegmentationBatches(dataset.train, 4, augmentation, 1, "weights").epoch(0))
    assert data.shape == (4, 3, 24, 24) and masks.shape == (4, 24, 24)


def _replace(path: str, content: bytes) -> Callable[[Path], str]:
    def change(root: Path) -> str:
        (root / path).write_bytes(content)
        return path

    return change


def _remove(path: str) -> Callable[[Path], str]:
    def change(root: Path) -> str:
        os.unlink(root / path)
        return path

    return change


VOC = "VOCdevkit/VOC2012"
LISTS = f"{VOC}/ImageSets/Segmentation"


@pytest.mark.parametrize("change, message", [
    (_remove(f"{LISTS}/train.txt"), "missing; put the original list"),
    (_remove(f"{LISTS}/val.txt"), "missing; put the original list"),
    (_replace(f"{LISTS}/train.txt", b""), "is empty"),
    (_replace(f"{LISTS}/train.txt", b"../../2007_000032\n"), "entry 1 is no picture's name"),
    (_replace(f"{LISTS}/train.txt", b"2007_000032\n/etc/passwd\n"), "entry 2 is no picture's name"),
    (_replace(f"{LISTS}/train.txt", b"..\n"), "entry 1 is no picture's name"),
    (_replace(f"{LISTS}/train.txt", b"\xff\xfe\n"), "cannot be read as a list"),
    (_replace(f"{LISTS}/train.txt", b"2007_000032\n2007_000032\n"), "holds a name twice"),
    (_replace(f"{LISTS}/train.txt", b"2007_000032\n2007_000033\n"), "holds 1 pictures of val.txt, 2007_000033"),
    (_remove(f"{VOC}/JPEGImages/2007_000039.jpg"), "missing, though a list names it"),
    (_remove(f"{VOC}/SegmentationClass/2007_000042.png"), "missing, though a list names it"),
    (_remove("benchmark_RELEASE/dataset/cls/2008_000003.mat"), "missing, though a list names it"),
    (_remove("benchmark_RELEASE/dataset/val.txt"), "missing; put the original list"),
    (_remove("coco/train2017/000000000025.jpg"), "missing, though a list names it"),
    (_remove("coco-voc/train.txt"), "missing; make it: python -m dso_nas prepare coco-voc"),
    (_replace("coco-voc/train.txt", b"../x\n"), "entry 1 is no picture's name"),
])
def test_what_is_wrong_with_lists_is_said_before_training(
    root: Path, change: Callable[[Path], str], message: str
) -> None:
    named = change(root)
    with pytest.raises(UserError) as raised:
        load_segmentation("coco-sbd-voc", root)
    line = str(raised.value)
    assert line.startswith(str(root / named)) and message in line and "\n" not in line


@pytest.mark.parametrize("name, folder, message", [
    ("no-such", True, "choose one of fashion-scenes, voc2012, voc-aug, coco-voc, coco-sbd-voc"),
    ("fashion-scenes", True, "leave --data-dir out"),
    ("voc2012", False, "needs the folder that holds it: --data-dir"),
    ("voc2012", True, "holds no VOC 2012; its JPEGImages is looked for in VOCdevkit/VOC2012"),
    ("coco-voc", True, r"coco-voc/train.txt: missing"),
])
def test_what_is_wrong_with_the_choice(tmp_path: Path, name: str, folder: bool, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        load_segmentation(name, tmp_path if folder else None)


def test_sbd_is_asked_for_by_its_name(tmp_path: Path) -> None:
    builders.build_voc(tmp_path)
    with pytest.raises(UserError, match="holds no SBD; its cls is looked for in benchmark_RELEASE/dataset"):
        load_segmentation("voc-aug", tmp_path)
