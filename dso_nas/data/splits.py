"""Which training image is in D_w and which in D_lambda (paper, Algorithm 1): chosen once, kept in a file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, NoReturn, Optional, Tuple, Union

import numpy as np

from dso_nas.data.arrays import ImageDataset
from dso_nas.errors import UserError
from dso_nas.files import write_durably

if TYPE_CHECKING:
    from dso_nas.data.segmentation import SegmentationDataset

_FORMAT, _VERSION = "dso-nas-split", 1
_KEYS = (
    "format",
    "version",
    "dataset",
    "images",
    "labels_sha256",
    "seed",
    "ratio",
    "sizes",
    "weights",
    "lambdas",
)
_LARGEST_FILE = 64 << 20


@dataclass(frozen=True, eq=False)
class Split:
    """A partition of a set's training images.

    Attributes:
        dataset: the set's name.
        labels_sha256: checksum of its training labels, or of what a segmentation set is known by, in order.
        seed: what chose the images; None where the set's own files did.
        ratio: (x, y), images of D_w to images of D_lambda; None where the set's own files decided.
        weights: int64, rising: places of the images of D_w.
        lambdas: int64, rising: places of the images of D_lambda.
    """

    dataset: str
    labels_sha256: str
    seed: Optional[int]
    ratio: Optional[Tuple[int, int]]
    weights: np.ndarray
    lambdas: np.ndarray

    @classmethod
    def of(cls, dataset: Union[ImageDataset, SegmentationDataset], seed: int, ratio: Tuple[int, int]) -> Split:
        """Split a set, every class in the ratio given, or as its own files say (`weights_first`).

        Args:
            dataset: the set.
            seed: decides which images; not negative.
            ratio: (x, y), both at least 1. Of n images D_w gets n x / (x + y), rounded, and each class its
                share within one image.

        Raises:
            UserError: a part would be empty.
        """
        count = len(dataset.train)
        if dataset.weights_first is None:
            in_weights = choose_weights(dataset.train.labels, seed, ratio)
            origin: Tuple[Any, Any] = (seed, ratio)
        else:
            in_weights = np.arange(count) < dataset.weights_first
            origin = (None, None)
        if in_weights.all() or not in_weights.any():
            raise UserError(
                f"{dataset.title}: its {count} training images leave one part of the split empty; use more"
            )
        parts = np.flatnonzero(in_weights), np.flatnonzero(~in_weights)
        return cls(dataset.name, _checksum(dataset.train), *origin, *parts)

    def save(self, path: Path) -> None:
        """Write the split as JSON, whole or not at all.

        Raises:
            UserError: the file cannot be written.
        """
        content = {
            "format": _FORMAT,
            "version": _VERSION,
            "dataset": self.dataset,
            "images": len(self.weights) + len(self.lambdas),
            "labels_sha256": self.labels_sha256,
            "seed": self.seed,
            "ratio": self.ratio,
            "sizes": {"weights": len(self.weights), "lambdas": len(self.lambdas)},
            "weights": self.weights.tolist(),
            "lambdas": self.lambdas.tolist(),
        }
        write_durably(path, [json.dumps(content).encode("utf-8")])

    @classmethod
    def load(cls, path: Path, dataset: Union[ImageDataset, SegmentationDataset]) -> Split:
        """Read a split and make sure that it is one of this set.

        Raises:
            UserError: the file cannot be read, is damaged, or splits another set; the line names file and
                key.
        """
        content = _read_json(path)
        split = cls(
            content["dataset"],
            content["labels_sha256"],
            content["seed"],
            tuple(content["ratio"]) if content["ratio"] is not None else None,
            np.sort(np.array(content["weights"], np.int64)),
            np.sort(np.array(content["lambdas"], np.int64)),
        )
        split._check_partition(path, content["images"])
        split._check_belongs(path, dataset)
        return split

    def _check_partition(self, path: Path, images: int) -> None:
        both = np.sort(np.concatenate([self.weights, self.lambdas]))
        if len(both) != images or not np.array_equal(both, np.arange(images)):
            _refuse(path, f"weights and lambdas do not share out the images 0 to {images - 1}")

    def _check_belongs(self, path: Path, dataset: Union[ImageDataset, SegmentationDataset]) -> None:
        fits = len(self.weights) + len(self.lambdas) == len(dataset.train)
        if self.dataset != dataset.name or not fits or self.labels_sha256 != _checksum(dataset.train):
            raise UserError(
                f"{path} splits {self.dataset[:40]!a} ({len(self.weights) + len(self.lambdas)} images), not "
                f"the {dataset.name} given ({len(dataset.train)}); use another --work-dir or delete it"
            )


def choose_weights(labels: np.ndarray, seed: int, ratio: Tuple[int, int]) -> np.ndarray:
    """Which of these images are in D_w: (n,), true for x of every x + y of a class; ValueError for a ratio with a 0."""
    x, y = ratio
    if x < 1 or y < 1:
        raise ValueError(f"the ratio {x}:{y} gives one part nothing")
    classes, counts = np.unique(labels, return_counts=True)
    quotas = _apportion(counts, x, x + y)
    rng = np.random.default_rng(seed)
    in_weights = np.zeros(len(labels), bool)
    for label, quota in zip(classes, quotas):
        in_weights[rng.permutation(np.flatnonzero(labels == label))[:quota]] = True
    return in_weights


def _apportion(counts: np.ndarray, numerator: int, denominator: int) -> np.ndarray:
    """Whole shares of each count that make the rounded share of the whole: the largest remainders go up."""
    floors, remainders = np.divmod(counts * numerator, denominator)
    missing = (2 * counts.sum() * numerator + denominator) // (2 * denominator) - floors.sum()
    floors[np.argsort(-remainders, kind="stable")[:missing]] += 1
    return floors


def _checksum(images: Any) -> str:
    identity = getattr(images, "identity", None)
    return hashlib.sha256(images.labels.astype("<i4").tobytes() if identity is None else identity).hexdigest()


def _refuse(path: Path, reason: str) -> NoReturn:
    raise UserError(f"{path} is no valid split file: {reason}; delete it to have it made again")


def _read_json(path: Path) -> Dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            _refuse(path, "it is larger than any")
        content = json.loads(
            path.read_text(encoding="utf-8"), parse_int=_bounded_int, parse_constant=_no_constant
        )
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; run the stage that makes it") from error
    except (ValueError, RecursionError):
        _refuse(path, "it is not JSON")
    if not isinstance(content, dict) or set(content) != set(_KEYS):
        _refuse(path, f"its keys must be {', '.join(_KEYS)}")
    for key, is_valid in _VALID.items():
        if not is_valid(content[key]):
            _refuse(path, f"'{key}' has an impossible value")
    if content["sizes"] != {part: len(content[part]) for part in ("weights", "lambdas")}:
        _refuse(path, "'sizes' are not those of the lists")
    return content


def _bounded_int(digits: str) -> int:
    # Python takes time quadratic in the digits.
    if len(digits) > 18:
        raise ValueError("number too long")
    return int(digits)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value


def _are_places(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(map(_is_count, value))


def _is_ratio(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(_is_count(part) and part > 0 for part in value)


_VALID = {
    "format": lambda value: value == _FORMAT,
    "version": lambda value: type(value) is int and value == _VERSION,
    "dataset": lambda value: isinstance(value, str),
    "images": _is_count,
    "labels_sha256": lambda value: isinstance(value, str) and len(value) == 64,
    "seed": lambda value: value is None or _is_count(value),
    "ratio": lambda value: value is None or _is_ratio(value),
    "weights": _are_places,
    "lambdas": _are_places,
}
