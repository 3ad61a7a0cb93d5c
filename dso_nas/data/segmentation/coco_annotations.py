"""COCO's annotation file: read with bounds, indexed and drawn by pycocotools.

pycocotools' core is C that trusts its input: an outline with a far-off corner ends the process. What goes there is
checked here first, run lengths too.
"""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any, Dict, List, NoReturn, Tuple

import numpy as np
from pycocotools.coco import COCO

from dso_nas.data.segmentation.decoding import IGNORED, LARGEST_PICTURE
from dso_nas.data.segmentation.layout import NAME
from dso_nas.errors import UserError

# Four names of VOC's classes are others in COCO.
COCO_NAMES = {"aeroplane": "airplane", "diningtable": "dining table", "motorbike": "motorcycle",
              "pottedplant": "potted plant", "sofa": "couch", "tvmonitor": "tv"}
_LARGEST_FILE = 1 << 30
_LONGEST_NUMBER = 18


class Annotations:
    """The objects of some classes in COCO's pictures."""

    def __init__(self, path: Path, classes: Tuple[str, ...]) -> None:
        """Read and index an annotation file.

        Args:
            path: instances_*.json.
            classes: VOC's names by label, the background first.

        Raises:
            UserError: it is missing, too large, no JSON, or not of COCO's form; the line names the key.
        """
        self._path = path
        content = _read_json(path)
        for key in ("images", "annotations", "categories"):
            if not isinstance(content, dict) or not _are_entries(content.get(key)):
                self._refuse(f"'{key}' must be a list of objects with a whole number as 'id'")
        self._labels = self._category_labels(content["categories"], classes)
        images = {image["id"]: self._checked_image(image) for image in content["images"]}
        if len({image["file_name"] for image in images.values()}) != len(content["images"]):
            self._refuse("'images' holds an 'id' or a 'file_name' twice")
        self.total = len(images)
        ours = [entry for entry in content["annotations"] if self._is_ours(entry, images)]
        wanted = {entry["image_id"] for entry in ours}
        self._coco = COCO()
        self._coco.dataset = {"images": [images[key] for key in sorted(wanted)], "annotations": ours,
                              "categories": content["categories"]}
        # It tells standard output what it does.
        with contextlib.redirect_stdout(io.StringIO()):
            self._coco.createIndex()

    def pictures(self) -> List[Dict[str, Any]]:
        """Those with an object of the classes, by rising id: 'id', 'file_name', 'height', 'width'."""
        return self._coco.loadImgs(sorted(self._coco.getImgIds()))

    def mask(self, picture: Dict[str, Any]) -> np.ndarray:
        """Labels, uint8 (height, width), as GluonCV makes them: where objects overlap, the file's first stays.

        A crowd, whose outline is rough, is 255 (ignored) where no object is.

        Raises:
            UserError: an object's outline is damaged; the line names it.
        """
        mask = np.zeros((picture["height"], picture["width"]), np.uint8)
        entries = self._coco.loadAnns(self._coco.getAnnIds(imgIds=[picture["id"]]))
        for entry in sorted(entries, key=lambda entry: bool(entry.get("iscrowd", 0))):
            label = IGNORED if entry.get("iscrowd", 0) else self._labels[entry["category_id"]]
            mask[self._covered(entry, mask.shape) & (mask == 0)] = label
        return mask

    def _covered(self, entry: Dict[str, Any], shape: Tuple[int, ...]) -> np.ndarray:
        try:
            outline = _checked_outline(entry.get("segmentation"), shape)
        except (ValueError, TypeError, OverflowError) as error:
            self._refuse(f"annotation {entry['id']}: its 'segmentation' {error}")
        if not outline:
            return np.zeros(shape, bool)
        return self._coco.annToMask({**entry, "segmentation": outline}).astype(bool)

    def _category_labels(self, categories: List[Dict[str, Any]], classes: Tuple[str, ...]) -> Dict[int, int]:
        """Label of each category's id."""
        wanted = {COCO_NAMES.get(name, name): label for label, name in enumerate(classes) if label}
        names = [str(category.get("name")) for category in categories]
        labels = {category["id"]: wanted[name] for category, name in zip(categories, names) if name in wanted}
        if sorted(labels.values()) != sorted(wanted.values()):
            self._refuse("'categories' must hold each of VOC's 20 classes once")
        return labels

    def _checked_image(self, image: Dict[str, Any]) -> Dict[str, Any]:
        name, height, width = image.get("file_name"), image.get("height"), image.get("width")
        if not isinstance(name, str) or not NAME.fullmatch(name) or not name.endswith(".jpg"):
            self._refuse(f"image {image['id']}: 'file_name' must be a plain name.jpg, not {str(name)[:40]!a}")
        if not _is_size(height, width):
            self._refuse(f"image {image['id']}: 'height' and 'width' must be those of a picture")
        return {"id": image["id"], "file_name": name, "height": height, "width": width}

    def _is_ours(self, entry: Dict[str, Any], images: Dict[int, Any]) -> bool:
        category, image = entry.get("category_id"), entry.get("image_id")
        if type(category) is not int or type(image) is not int or image not in images:
            self._refuse(f"annotation {entry['id']}: 'category_id' and 'image_id' must be ids of the file")
        return category in self._labels

    def _refuse(self, reason: str) -> NoReturn:
        raise UserError(f"{self._path}: {reason}; put COCO's original file back")


def _read_json(path: Path) -> Any:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise UserError(f"{path}: is larger than any of COCO's; put COCO's original file back")
        with open(path, encoding="utf-8") as stream:
            return json.load(stream, parse_int=_bounded_int, parse_constant=_no_constant)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; put COCO's original file there") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON, or cut short; put COCO's original file back") from error


def _bounded_int(digits: str) -> int:
    # Python takes time quadratic in the digits.
    if len(digits) > _LONGEST_NUMBER:
        raise ValueError("number too long")
    return int(digits)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _are_entries(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) and type(entry.get("id")) is int for entry in value)


def _is_size(height: Any, width: Any) -> bool:
    whole = type(height) is int and type(width) is int
    return whole and height > 0 and width > 0 and height * width <= LARGEST_PICTURE


def _checked_outline(outline: Any, shape: Tuple[int, ...]) -> Any:
    """What pycocotools may be given: polygons, or run lengths that fill the picture exactly; ValueError for else."""
    if isinstance(outline, list):
        # Two corners enclose nothing, and pycocotools takes four numbers for a box.
        return [polygon for polygon in (_checked_polygon(part, shape) for part in outline) if len(polygon) >= 6]
    if not isinstance(outline, dict) or not isinstance(outline.get("counts"), list):
        raise ValueError("is neither a list of polygons nor uncompressed run lengths")
    counts = outline["counts"]
    if outline.get("size") != list(shape) or not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError("has run lengths of another picture")
    if sum(counts) != shape[0] * shape[1]:
        raise ValueError("has run lengths that do not fill the picture")
    return {"size": list(shape), "counts": counts}


def _checked_polygon(polygon: Any, shape: Tuple[int, ...]) -> List[float]:
    if not isinstance(polygon, list) or not all(type(number) in (int, float) for number in polygon):
        raise ValueError("has a polygon that is no list of numbers")
    corners = np.array(polygon, np.float64)
    if len(corners) % 2:
        raise ValueError("has a polygon of an odd number of coordinates")
    limit = 2.0 * max(shape)
    if not (np.abs(corners) <= limit).all():
        raise ValueError("has a corner far outside the picture")
    return corners.tolist()
