"""Tiny file trees in the official layouts of VOC 2012, SBD and COCO 2017."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
import scipy.io
from PIL import Image

VOC_TRAIN, VOC_VAL = ["2007_000032", "2007_000039", "2007_000063"], ["2007_000033", "2007_000042"]
# 000063 is also in VOC's train, and 000033 and 000042 in VOC's val.
SBD_TRAIN, SBD_VAL = ["2008_000002", "2008_000003", "2007_000063", "2007_000033"], ["2008_000005", "2007_000042"]
# The order of COCO's category ids of VOC's classes, as GluonCV lists them.
COCO_IDS = [0, 5, 2, 16, 9, 44, 6, 3, 17, 62, 21, 67, 18, 19, 4, 1, 64, 20, 63, 7, 72]
COCO_NAMES = ("airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table",
              "dog", "horse", "motorcycle", "person", "potted plant", "sheep", "couch", "train", "tv")


def picture_of(name: str, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(list(name.encode())).integers(0, 256, (height, width, 3), dtype=np.uint8)


def mask_of(name: str, height: int, width: int) -> np.ndarray:
    mask = np.random.default_rng(list(name.encode())).integers(0, 21, (height, width), dtype=np.uint8)
    mask[:2] = 255
    return mask


def size_of(name: str) -> Tuple[int, int]:
    return 20 + int(name[-2:]) % 7, 30 + int(name[-2:]) % 5


def save_jpeg(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, quality=95)


def save_palette_png(path: Path, mask: np.ndarray) -> None:
    """As VOC's masks are: labels are places in a palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask).convert("P")
    image.putdata(mask.ravel().tolist())
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
    image.save(path)


def save_mat(path: Path, mask: Any, compressed: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"GTcls": {"Boundaries": np.zeros((20, 1)), "Segmentation": mask, "CategoriesPresent": np.array([1, 2])}}
    scipy.io.savemat(str(path), content, do_compression=compressed)


def write_list(path: Path, names: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


def build_voc(root: Path, folder: str = "VOCdevkit/VOC2012") -> Path:
    voc = root / folder
    for part, names in (("train", VOC_TRAIN), ("val", VOC_VAL), ("trainval", VOC_TRAIN + VOC_VAL)):
        write_list(voc / "ImageSets" / "Segmentation" / f"{part}.txt", names)
        for name in names:
            save_jpeg(voc / "JPEGImages" / f"{name}.jpg", picture_of(name, *size_of(name)))
            save_palette_png(voc / "SegmentationClass" / f"{name}.png", mask_of(name, *size_of(name)))
    return voc


def build_sbd(root: Path) -> Path:
    sbd = root / "benchmark_RELEASE" / "dataset"
    for part, names in (("train", SBD_TRAIN), ("val", SBD_VAL)):
        write_list(sbd / f"{part}.txt", names)
        for name in names:
            save_jpeg(sbd / "img" / f"{name}.jpg", picture_of(name, *size_of(name)))
            save_mat(sbd / "cls" / f"{name}.mat", mask_of(name, *size_of(name)))
    return sbd


def box(left: float, top: float, right: float, bottom: float) -> List[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def coco_content() -> Dict[str, Any]:
    """Five pictures of 60x80: two to keep, one small object, a crowd alone, and no class of VOC's."""
    images = [{"id": number, "file_name": f"{number:012}.jpg", "height": 60, "width": 80, "license": 1}
              for number in (9, 25, 30, 34, 36)]
    crowd = {"size": [60, 80], "counts": [600, 3000, 1200]}
    objects = [
        # picture, category, outline, crowd
        (25, 1, [box(5, 5, 60, 40)], 0), (25, 18, [box(30, 20, 75, 55), box(2, 45, 10, 58)], 0),
        (25, 13, [box(0, 0, 80, 60)], 0), (25, 1, crowd, 1),
        (9, 72, [box(10.5, 10.25, 50.7, 50.1)], 0), (30, 3, [box(0, 0, 20, 20)], 0), (34, 1, crowd, 1),
        (36, 13, [box(0, 0, 80, 60)], 0),
    ]
    annotations = [{"id": 100 + place, "image_id": image, "category_id": category, "segmentation": outline,
                    "iscrowd": is_crowd, "area": 1.0, "bbox": [0, 0, 1, 1]}
                   for place, (image, category, outline, is_crowd) in enumerate(objects)]
    categories = [{"id": number, "name": name, "supercategory": "x"} for number, name in zip(COCO_IDS[1:], COCO_NAMES)]
    return {"info": {}, "images": images, "annotations": annotations,
            "categories": [{"id": 13, "name": "stop sign", "supercategory": "outdoor"}, *categories]}


def write_annotations(coco: Path, content: Any) -> Path:
    path = coco / "annotations" / "instances_train2017.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def build_coco(root: Path) -> Path:
    coco = root / "coco"
    content = coco_content()
    write_annotations(coco, content)
    for image in content["images"]:
        save_jpeg(coco / "train2017" / image["file_name"], picture_of(image["file_name"][:12], 60, 80))
    return coco
