"""ILSVRC 2012 as it is distributed: class folders, or the two tar archives, which are read in place."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path
from typing import IO, Any, Dict, Iterator, List, Optional, Sequence

from dso_nas.data.preparation.folders import class_folders, class_pictures, folder_pictures
from dso_nas.data.preparation.pictures import LARGEST_FILE, Collection, FilePicture
from dso_nas.errors import UserError

TRAIN_TAR, VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
# What the task kits call the classes of the validation images.
LABEL_FILES = ("imagenet_2012_validation_synset_labels.txt", "LOC_val_solution.csv")
_WNID = re.compile(r"\bn\d{8}\b")
_NUMBER = re.compile(r"ILSVRC2012_val_0*(\d+)")
_MOST_PICTURES = 20_000_000
_LARGEST_LABELS = 64 << 20


def load_imagenet(root: Path, val_labels: Optional[Path] = None) -> Collection:
    """ImageNet's images; a label is the place of the WordNet number among the sorted ones.

    Training: `train/<wnid>/*.JPEG`, or `ILSVRC2012_img_train.tar`, a tar of tars. Validation: `val/<wnid>/*.JPEG`, or
    the images in `val/` or `ILSVRC2012_img_val.tar` with a file that gives the WordNet number of each.

    Args:
        root: the folder that holds them.
        val_labels: that file: a WordNet number a line in the order of the images, or lines with the image's name too;
            None to look for one of `LABEL_FILES` in `root`.

    Raises:
        UserError: nothing is there, an archive is cut short, or the validation images have no labels.
    """
    train_folder = root / "train"
    if train_folder.is_dir():
        classes = class_folders(train_folder)
        train: Sequence[FilePicture] = class_pictures(train_folder, classes)
    elif not (root / TRAIN_TAR).is_file():
        raise UserError(f"{root}: has neither train/ nor {TRAIN_TAR}; put the training images there")
    else:
        by_class = _train_archive(root / TRAIN_TAR)
        classes = tuple(sorted(by_class))
        train = [picture._replace(label=label) for label, name in enumerate(classes) for picture in by_class[name]]
    if len(classes) < 2:
        raise UserError(f"{root}: has {len(classes)} classes and needs at least 2")
    return Collection(classes, train, _validation(root, classes, val_labels))


def _validation(root: Path, classes: Sequence[str], val_labels: Optional[Path]) -> List[FilePicture]:
    folder, archive = root / "val", root / VAL_TAR
    if folder.is_dir() and class_folders(folder):
        return class_pictures(folder, classes)
    if folder.is_dir():
        pictures = folder_pictures(folder)
    elif archive.is_file():
        pictures = sorted(_tar_pictures(archive), key=lambda picture: picture.name)
    else:
        raise UserError(f"{root}: has neither val/ nor {VAL_TAR}; put the validation images there")
    return _labelled(pictures, classes, val_labels or _find_labels(root))


def _find_labels(root: Path) -> Path:
    for name in LABEL_FILES:
        if (root / name).is_file():
            return root / name
    raise UserError(f"{root}: the validation images say no classes; put {' or '.join(LABEL_FILES)} there, or give "
                    "--val-labels FILE with the WordNet number of each image on a line")


def _labelled(pictures: Sequence[FilePicture], classes: Sequence[str], path: Path) -> List[FilePicture]:
    """The images with the labels of a file; each image's number is in its name."""
    labels = {name: label for label, name in enumerate(classes)}
    names = _read_labels(path)
    result = []
    for place, picture in enumerate(pictures, 1):
        found = _NUMBER.search(picture.name or picture.path.name)
        number = int(found.group(1)) if found else place
        if names.get(number) not in labels:
            raise UserError(f"{path}: gives {picture.where} no class that training has; it must have a line for each "
                            "validation image")
        result.append(picture._replace(label=labels[names[number]]))
    return result


def _read_labels(path: Path) -> Dict[int, str]:
    """WordNet numbers by the number of the validation image."""
    try:
        if path.stat().st_size > _LARGEST_LABELS:
            raise UserError(f"{path}: is too large for a list of labels")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text; give a WordNet number a line") from error
    names: Dict[int, str] = {}
    place = 0
    for line in lines:
        word, number = _WNID.search(line), _NUMBER.search(line)
        if word:
            place += 1
            names[int(number.group(1)) if number else place] = word.group()
    if not names:
        raise UserError(f"{path}: has no WordNet numbers (n01440764); the class numbers of the development kit are "
                        "in another order and do not serve")
    return names


def _train_archive(path: Path) -> Dict[str, List[FilePicture]]:
    """The images of a tar of tars by class, each with its place in the outer file."""
    found: Dict[str, List[FilePicture]] = {}
    for entry, stream in _members(path):
        name = Path(entry.name).name
        if not _WNID.fullmatch(name[:-4]) or not name.endswith(".tar"):
            raise UserError(f"{path}: holds {entry.name[:80]!a}, not tars like n01440764.tar; give the archive as "
                            "ImageNet distributes it")
        found[name[:-4]] = list(_tar_pictures(path, stream, entry.offset_data, name))
    return found


def _tar_pictures(path: Path, stream: Optional[IO[bytes]] = None, offset: int = 0,
                  within: str = "") -> Iterator[FilePicture]:
    """The JPEG members of a tar, which is `path` or inside it at `offset`."""
    for count, (entry, _) in enumerate(_members(path, stream)):
        name = f"{within}: {entry.name}"[:200] if within else entry.name[:200]
        if count >= _MOST_PICTURES or not 0 < entry.size <= LARGEST_FILE:
            raise UserError(f"{path}: {name} is larger than an image can be, or one too many")
        if entry.name.lower().endswith((".jpeg", ".jpg")):
            yield FilePicture(0, path, name, offset + entry.offset_data, entry.size)


def _members(path: Path, stream: Optional[IO[bytes]] = None) -> Iterator[Any]:
    """The plain files of a tar that is not compressed: (entry, stream to read it)."""
    try:
        opened: Any = tarfile.open(None if stream else path, "r:", fileobj=stream)
        with opened as archive:
            for entry in archive:
                if entry.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
                    yield entry, archive.extractfile(entry)
                # Else a million entries stay in memory.
                archive.members = []
    except (tarfile.TarError, EOFError, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: cannot be read as a tar archive ({reason}); get it again") from error
