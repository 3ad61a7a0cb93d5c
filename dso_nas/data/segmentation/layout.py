"""Finding the official folders below one root, and reading their lists of names."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import FrozenSet, List, Sequence

from dso_nas.data.segmentation.sets import Pair
from dso_nas.errors import UserError

# No separator and no leading dot: a name cannot lead out of its folder.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_LARGEST_LIST = 64 << 20


def find_folder(root: Path, candidates: Sequence[str], marker: str, what: str) -> Path:
    """The first of `candidates` below root that has `marker` in it.

    Raises:
        UserError: none has; the line says where it was looked for.
    """
    for candidate in candidates:
        if (root / candidate / marker).exists():
            return root / candidate
    raise UserError(f"{root}: holds no {what}; its {marker} is looked for in "
                    f"{', '.join(candidates)}: put or link it there, or give another folder")


def read_list(path: Path) -> List[str]:
    """The names in a list, one a line.

    Raises:
        UserError: the list is missing, empty, too large, or holds something that is no file's name, or a name twice.
    """
    try:
        if path.stat().st_size > _LARGEST_LIST:
            raise UserError(f"{path}: is larger than any list; put the original file back")
        names = path.read_text(encoding="ascii").split()
    except FileNotFoundError as error:
        raise UserError(f"{path}: missing; put the original list there") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a list of names; put the original file back") from error
    for number, name in enumerate(names, start=1):
        if not NAME.fullmatch(name):
            raise UserError(f"{path}: entry {number} is no picture's name: {name[:40]!a}; put the original file back")
    if not names or len(set(names)) != len(names):
        raise UserError(f"{path}: {'holds a name twice' if names else 'is empty'}; put the original file back")
    return names


def pairs_of(names: Sequence[str], pictures: Path, masks: Path, mask_suffix: str) -> List[Pair]:
    """The files of these names, all of which are there.

    Raises:
        UserError: a folder or a file is missing; the line names the first.
    """
    pairs = [Pair(os.path.join(pictures, f"{name}.jpg"), os.path.join(masks, name + mask_suffix)) for name in names]
    for folder, files in ((pictures, [pair.picture for pair in pairs]), (masks, [pair.mask for pair in pairs])):
        # One look at the folder costs a hundredth of one look at each file.
        there = _entries(folder)
        for path in files:
            if os.path.basename(path) not in there:
                raise UserError(f"{path}: missing, though a list names it; put the original file there")
    return pairs


def _entries(folder: Path) -> FrozenSet[str]:
    try:
        return frozenset(os.listdir(folder))
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}; put the original folder there") from error
