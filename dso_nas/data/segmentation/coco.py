"""COCO's training pictures restricted to VOC's 20 classes: masks made once, and the sets that use them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Tuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from dso_nas.data.segmentation.decoding import IGNORED, picture_size
from dso_nas.data.segmentation.layout import find_folder, pairs_of, read_list
from dso_nas.data.segmentation.sets import Pair, SegmentationDataset
from dso_nas.data.segmentation.voc import CLASSES, voc_aug_pairs, voc_dataset, voc_pairs
from dso_nas.errors import UserError
from dso_nas.files import cannot, write_durably

if TYPE_CHECKING:
    from dso_nas.data.segmentation.coco_annotations import Annotations

PICTURES = "train2017"
ANNOTATIONS = "annotations/instances_train2017.json"
MASKS, LIST = "masks", "train.txt"
# DeepLab keeps pictures whose annotated regions are larger than this, GluonCV as well.
FEWEST_PIXELS = 1000
_COCO_FOLDERS = (".", "coco", "COCO", "mscoco")
_PREPARED_FOLDERS = ("coco-voc", "coco/coco-voc", "COCO/coco-voc", "mscoco/coco-voc")


def prepare_coco_voc(root: Path, out: Path) -> None:
    """Make the masks of COCO's training pictures and the list of those that are kept.

    Kept is a picture with more than 1000 pixels of VOC's classes, crowds not counted. `out` gets masks/NAME.png and, in
    the end, train.txt; a call that was cut off goes on where it stopped, and one that ended is not repeated. Training
    finds them as coco-voc in its --data-dir, or in the coco folder there.

    Args:
        root: COCO's folder (or the one above): annotations/instances_train2017.json.
        out: the folder to write, made if need be.

    Raises:
        UserError: the annotations are missing or bad, or `out` cannot be written.
    """
    listed = out / LIST
    if listed.exists():
        print(f"{listed}: made before, {len(read_list(listed)):,} pictures; delete it to have it made again")
        return
    # pycocotools is wanted for nothing else.
    from dso_nas.data.segmentation.coco_annotations import Annotations

    folder = find_folder(root, _COCO_FOLDERS, ANNOTATIONS, "COCO 2017")
    annotations = Annotations(folder / ANNOTATIONS, CLASSES)
    try:
        (out / MASKS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot(out / MASKS, "be made", error) from error
    with tqdm(annotations.pictures(), desc=f"{out.name}/{MASKS}", unit=" pictures") as pictures:
        kept = [Path(picture["file_name"]).stem for picture in pictures
                if _has_mask(annotations, picture, out / MASKS)]
    if not kept:
        raise UserError(f"{folder / ANNOTATIONS}: no picture has more than {FEWEST_PIXELS} pixels of VOC's classes; "
                        "put COCO's original file back")
    write_durably(listed, ["".join(f"{name}\n" for name in kept).encode("ascii")])
    print(f"{listed}: {len(kept):,} of {annotations.total:,} pictures have more than {FEWEST_PIXELS} pixels of VOC's "
          "classes")


def _has_mask(annotations: Annotations, picture: Dict[str, Any], folder: Path) -> bool:
    """Whether the picture is kept; its mask is made unless an earlier call has."""
    path = folder / f"{Path(picture['file_name']).stem}.png"
    if _is_made(path, (picture["height"], picture["width"])):
        return True
    mask = annotations.mask(picture)
    if np.count_nonzero((mask > 0) & (mask != IGNORED)) <= FEWEST_PIXELS:
        return False
    encoded = io.BytesIO()
    Image.fromarray(mask).save(encoded, "PNG")
    write_durably(path, [encoded.getvalue()])
    return True


def _is_made(path: Path, size: Tuple[int, int]) -> bool:
    try:
        return path.exists() and picture_size(str(path)) == size
    except ValueError:
        return False


def coco_pairs(root: Path) -> List[Pair]:
    """The pictures that `prepare_coco_voc` kept.

    Raises:
        UserError: nothing was prepared, COCO's pictures are missing, or a file is.
    """
    prepared = next((root / name for name in _PREPARED_FOLDERS if (root / name / LIST).exists()), None)
    if prepared is None:
        raise UserError(f"{root / _PREPARED_FOLDERS[0] / LIST}: missing; make it: python -m dso_nas prepare coco-voc "
                        f"COCO --out {root / _PREPARED_FOLDERS[0]}")
    pictures = find_folder(root, _COCO_FOLDERS, PICTURES, "COCO 2017") / PICTURES
    return pairs_of(read_list(prepared / LIST), pictures, prepared / MASKS, ".png")


def load_coco_voc(root: Path) -> SegmentationDataset:
    """'coco-voc': COCO's training pictures with VOC's classes; tested on VOC's val."""
    return voc_dataset("coco-voc", "COCO 2017 restricted to VOC's classes", coco_pairs(root), voc_pairs(root))


def load_coco_sbd_voc(root: Path) -> SegmentationDataset:
    """'coco-sbd-voc': the union for the first phase of retraining (paper, section 4.4); tested on VOC's val."""
    voc = voc_pairs(root)
    return voc_dataset("coco-sbd-voc", "COCO 2017, SBD and VOC 2012", coco_pairs(root) + voc_aug_pairs(root, voc), voc)
