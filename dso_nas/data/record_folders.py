"""A folder of record files for streaming: scanned once, checked, and the parts that training takes from it.

MXNet's reader answers a bad file with a hang, an abort or somebody else's images: it is given none.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, Set, Tuple

import numpy as np

from dso_nas.data.record_files import RecordScan, check_index, read_image_records, scan_records
from dso_nas.data.record_writer import write_index
from dso_nas.data.records import MAX_GIGABYTES, class_names, image_size_of
from dso_nas.errors import UserError

FILES = {"weights": "train1.rec", "lambdas": "train2.rec", "train": "train.rec", "test": "val.rec"}
_REMEDIES = {
    "weights": "python -m dso_nas prepare split FOLDER makes train1.rec and train2.rec out of train.rec",
    "lambdas": "python -m dso_nas prepare split FOLDER makes train1.rec and train2.rec out of train.rec",
    "train": "python -m dso_nas prepare join FOLDER makes it out of train1.rec and train2.rec",
    "test": "python -m dso_nas prepare makes it",
}
# MXNet takes these apart: several files, a cache file, arguments.
_SPECIAL = frozenset(";#?")


@dataclass(frozen=True, eq=False)
class StreamedFiles:
    """The record files of a folder.

    Attributes:
        root: the folder.
        scans: of each file that is there, by part: 'weights', 'lambdas', 'train', 'test'.
        classes: a name for each label.
    """

    root: Path
    scans: Mapping[str, RecordScan]
    classes: Tuple[str, ...]

    @property
    def train_count(self) -> int:
        """The number of training images."""
        if "train" in self.scans:
            return len(self.scans["train"])
        return len(self.scans["weights"]) + len(self.scans["lambdas"])

    def part(self, name: str) -> RecordScan:
        """The file of a part.

        Raises:
            UserError: it is not there; the line says how to make it.
        """
        if name not in self.scans:
            raise UserError(f"{self.root / FILES[name]}: no such file; {_REMEDIES[name]}")
        return self.scans[name]


def scan_folder(root: Path) -> StreamedFiles:
    """Scan the record files of a folder and make sure that they are of one set.

    Raises:
        UserError: no folder, neither train.rec nor both of its halves, no val.rec, a bad file or index, train.rec with
            other images than the halves, a label of val.rec that does not occur in training, or without a name in
            classes.txt.
    """
    if _SPECIAL & set(str(root)):
        raise UserError(f"{root}: MXNet cannot open files under a name with {' '.join(sorted(_SPECIAL))}; rename it")
    scans = {part: _scan(root / name) for part, name in FILES.items() if (root / name).is_file()}
    needed = ["weights", "lambdas"] if {"weights", "lambdas"} & set(scans) else ["train"]
    for part in (*needed, "test"):
        StreamedFiles(root, scans, ()).part(part)
    training = np.concatenate([scans[part].labels for part in needed])
    if "train" in scans and not np.array_equal(np.sort(scans["train"].labels), np.sort(training)):
        raise UserError(f"{root / 'train.rec'} does not hold the images of train1.rec and train2.rec (it has another "
                        "number of them or other labels); make all three from one list, or move it away")
    unknown = np.setdiff1d(scans["test"].labels, training)
    if len(unknown):
        raise UserError(f"{root / 'val.rec'}: label {unknown[0]} occurs in no training image; make both from one set "
                        "of classes")
    return StreamedFiles(root, scans, class_names(root, int(training.max())))


def _scan(path: Path) -> RecordScan:
    scan = scan_records(path)
    index = path.with_suffix(".idx")
    if index.exists():
        check_index(index, scan)
    return scan


def index_of(scan: RecordScan) -> Path:
    """The file's index, or one made for this process where there is none."""
    beside = scan.path.with_suffix(".idx")
    return beside if beside.exists() else _temporary_index(scan)


@functools.lru_cache(maxsize=None)
def _temporary_index(scan: RecordScan) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="dso-nas-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / scan.path.with_suffix(".idx").name
    write_index(path, array("q", scan.offsets[:-1].tolist()))
    return path


def needs_streaming(root: Path, max_gigabytes: float = MAX_GIGABYTES) -> bool:
    """Whether a folder's images are too many for memory, or of more than one size.

    Files that are missing or bad need none: loading them says what is wrong.
    """
    paths = [root / name for name in FILES.values() if (root / name).is_file()]
    if any(path.stat().st_size > max_gigabytes * 1e9 for path in paths):
        return True
    sizes: Set[Tuple[int, int]] = set()
    return any(_too_large(path, max_gigabytes, sizes) for path in paths)


def _too_large(path: Path, max_gigabytes: float, sizes: Set[Tuple[int, int]]) -> bool:
    """Whether a file's images are; `sizes` are those met so far."""
    total = 0
    try:
        for record in read_image_records(path):
            size = image_size_of(path, record)
            sizes.add(size)
            total += 3 * size[0] * size[1]
            if len(sizes) > 1 or total > max_gigabytes * 1e9:
                return True
    except UserError:
        return False
    return False
