"""Pictures with a label for each pixel: the sets of the paper's section 4.4, and generated scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Dict, Optional, Union

from dso_nas.data.segmentation import coco, generated, voc
from dso_nas.data.segmentation.augmentation import SegmentationAugmentation
from dso_nas.data.segmentation.batches import SegmentationBatches
from dso_nas.data.segmentation.sets import IGNORED, SegmentationDataset, SegmentationSet
from dso_nas.errors import UserError

__all__ = [
    "DATASETS",
    "IGNORED",
    "SegmentationAugmentation",
    "SegmentationBatches",
    "SegmentationDataset",
    "SegmentationSet",
    "load_segmentation",
]

_FROM_FOLDER: Dict[str, Callable[[Path], SegmentationDataset]] = {
    "voc2012": voc.load_voc,
    "voc-aug": voc.load_voc_aug,
    "coco-voc": coco.load_coco_voc,
    "coco-sbd-voc": coco.load_coco_sbd_voc,
}
DATASETS = (generated.NAME, *_FROM_FOLDER)


def load_segmentation(name: str, root: Optional[Union[str, Path]] = None) -> SegmentationDataset:
    """A set by its name.

    Args:
        name: 'fashion-scenes' (generated, needs no folder), 'voc2012', 'voc-aug' (SBD and VOC), 'coco-voc'
            (COCO restricted to VOC's classes) or 'coco-sbd-voc' (all three). The test pictures of all but the
            first are VOC's val, which no training list contains.
        root: the folder with VOCdevkit/VOC2012, benchmark_RELEASE/dataset, coco and coco-voc, as far as the
            set needs them.

    Returns:
        The set. Files are listed and their names checked; pictures and masks are read when they are wanted.

    Raises:
        UserError: an unknown name, a folder missing or not wanted, or missing or bad lists and files; the
            line names the file.
    """
    if name not in DATASETS:
        raise UserError(f"segmentation set '{name}' is not known; choose one of {', '.join(DATASETS)}")
    if name == generated.NAME:
        if root is not None:
            raise UserError(f"segmentation set '{name}' is generated and reads no folder; leave --data-dir out")
        return generated.load_scenes()
    if root is None:
        raise UserError(f"segmentation set '{name}' needs the folder that holds it: --data-dir DIR")
    return _FROM_FOLDER[name](Path(root))
