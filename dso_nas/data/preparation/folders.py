"""Images in folders named after their classes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

from dso_nas.data.preparation.pictures import Collection, FilePicture, file_picture
from dso_nas.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_VAL_NAMES = ("val", "valid", "validation", "test")
_MOST_CLASSES = 1 << 16


def load_folder(root: Path) -> Collection:
    """The images of a folder: CLASS/*.jpg, or train/CLASS/*.jpg with val/CLASS/*.jpg (or test).

    Raises:
        UserError: no folder, fewer than two classes, a class without images, or a class of val/ that train/ has not.
    """
    train, val = root, None
    if (root / "train").is_dir():
        train = root / "train"
        val = next((root / name for name in _VAL_NAMES if (root / name).is_dir()), None)
    classes = class_folders(train)
    if len(classes) < 2:
        raise UserError(f"{train}: has {len(classes)} folders of images, one for each class, and needs at least 2")
    return Collection(classes, class_pictures(train, classes), class_pictures(val, classes) if val else None)


def class_folders(root: Path) -> Tuple[str, ...]:
    """The names of a folder's folders, sorted: a label is a place among them.

    Raises:
        UserError: it is no folder, has too many, or a name that cannot stand on a line of classes.txt.
    """
    try:
        with os.scandir(root) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"{root}: {error.strerror}; give a folder with a folder of images for each class") from error
    if len(names) > _MOST_CLASSES:
        raise UserError(f"{root}: has {len(names)} folders, and {_MOST_CLASSES} classes at most are allowed")
    for name in names:
        if not name.isprintable():
            raise UserError(f"{root}: has a folder of the name {name!a}, which cannot be printed; rename it")
    return tuple(names)


def class_pictures(root: Path, classes: Sequence[str]) -> List[FilePicture]:
    """All images under the class folders of `root`.

    Raises:
        UserError: a folder that is no class, or none of its files is an image.
    """
    labels = {name: label for label, name in enumerate(classes)}
    pictures: List[FilePicture] = []
    for name in class_folders(root):
        if name not in labels:
            raise UserError(f"{root / name}: is no class of the training images; rename it, or take it away")
        found = folder_pictures(root / name, labels[name])
        if not found:
            raise UserError(f"{root / name}: holds no images ({', '.join(SUFFIXES)}); add some, or take it away")
        pictures += found
    return pictures


def folder_pictures(folder: Path, label: int = 0, suffixes: Optional[Tuple[str, ...]] = None) -> List[FilePicture]:
    """The images directly in a folder, by name.

    Raises:
        UserError: it cannot be read.
    """
    suffixes = suffixes or SUFFIXES
    try:
        with os.scandir(folder) as entries:
            files = sorted((entry.name, entry.stat().st_size) for entry in entries
                           if entry.name.lower().endswith(suffixes) and entry.is_file())
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}; make it readable") from error
    return [file_picture(folder / name, label, size) for name, size in files]
