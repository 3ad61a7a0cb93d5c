"""PASCAL VOC 2012 and the Semantic Boundaries Dataset (SBD), from their official folders.

GluonCV's VOCSegmentation is not used: its training split reads trainval.txt, so that val is in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import List, NamedTuple

from dso_nas.data.segmentation.layout import find_folder, pairs_of, read_list
from dso_nas.data.segmentation.sets import FilePictures, Pair, SegmentationDataset
from dso_nas.data.streaming import MEAN, STD
from dso_nas.errors import UserError

CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
_VOC_FOLDERS = ("VOCdevkit/VOC2012", "VOC2012", "VOCtrainval_11-May-2012/VOCdevkit/VOC2012", ".")
_SBD_FOLDERS = ("benchmark_RELEASE/dataset", "VOCaug/dataset", "SBD/benchmark_RELEASE/dataset")


class VocPairs(NamedTuple):
    """The files of VOC's two lists."""

    train: List[Pair]
    val: List[Pair]


def voc_pairs(root: Path) -> VocPairs:
    """VOC's train and val.

    Raises:
        UserError: the folder, a list or a file is missing, or the lists have a picture in common.
    """
    folder = find_folder(root, _VOC_FOLDERS, "JPEGImages", "VOC 2012")
    lists = folder / "ImageSets" / "Segmentation"
    train, val = (read_list(lists / f"{part}.txt") for part in ("train", "val"))
    common = sorted(set(train) & set(val))
    if common:
        raise UserError(f"{lists / 'train.txt'}: holds {len(common)} pictures of val.txt, {common[0]} for one; put the "
                        "original lists back")
    folders = folder / "JPEGImages", folder / "SegmentationClass", ".png"
    return VocPairs(pairs_of(train, *folders), pairs_of(val, *folders))


def voc_aug_pairs(root: Path, voc: VocPairs) -> List[Pair]:
    """SBD's train and val and VOC's train, none of them in VOC's val: 10,582 pictures of the official files.

    A picture that is in both comes from VOC, whose masks are the finer ones.

    Raises:
        UserError: the folder, a list or a file is missing.
    """
    folder = find_folder(root, _SBD_FOLDERS, "cls", "SBD")
    names = read_list(folder / "train.txt") + read_list(folder / "val.txt")
    taken = {Path(pair.picture).stem for pair in (*voc.train, *voc.val)}
    # SBD's own val may repeat its train.
    ours = [name for name in dict.fromkeys(names) if name not in taken]
    return pairs_of(ours, folder / "img", folder / "cls", ".mat") + voc.train


def load_voc(root: Path) -> SegmentationDataset:
    """'voc2012': train (1,464 pictures of the official files) and val (1,449)."""
    voc = voc_pairs(root)
    return voc_dataset("voc2012", "PASCAL VOC 2012", voc.train, voc)


def load_voc_aug(root: Path) -> SegmentationDataset:
    """'voc-aug': SBD and VOC without VOC's val, which is the test set."""
    voc = voc_pairs(root)
    return voc_dataset("voc-aug", "PASCAL VOC 2012 with SBD", voc_aug_pairs(root, voc), voc)


def voc_dataset(name: str, title: str, train: List[Pair], voc: VocPairs) -> SegmentationDataset:
    """These training pictures, tested on VOC's val; normalised by ImageNet's constants, as the backbone is."""
    trained, tested = (FilePictures(pairs, len(CLASSES)) for pairs in (train, voc.val))
    return SegmentationDataset(name, title, trained, tested, CLASSES, MEAN, STD)
