"""Masks of the Semantic Boundaries Dataset, which are MATLAB 5 files.

SciPy's reader ends the process (segmentation fault) on some damaged files, so the little of the format that the masks
need is read here: elements of a type, a size and bytes; matrices, made of elements; the structure GTcls, of matrices.
"""

from __future__ import annotations

import os
import zlib
from typing import Iterator, Tuple

import numpy as np

from dso_nas.data.segmentation.decoding import LARGEST_PICTURE, checked_labels
from dso_nas.errors import UserError

_LARGEST_FILE = 16 << 20
_HEADER = 128
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}
_STRUCTURE, _NUMERIC = 2, range(6, 16)
_VARIABLE, _FIELD = b"GTcls", b"Segmentation"

Elements = Iterator[Tuple[int, bytes]]


def read_sbd_mask(path: str, classes: int) -> np.ndarray:
    """The variable GTcls.Segmentation, as uint8 (height, width).

    Raises:
        UserError: the file is missing, damaged or something else, or has a label that is neither below `classes`
            nor 255.
    """
    try:
        mask = _segmentation(_read_bounded(path))
        if not mask.size or mask.min() < 0 or mask.max() > 255 or (mask != np.floor(mask)).any():
            raise ValueError("its Segmentation holds more than labels")
    except FileNotFoundError as error:
        raise UserError(f"{path}: missing; put the original file back") from error
    except (OSError, ValueError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read as a mask of SBD ({error}); put the original file back") from error
    return checked_labels(path, mask.astype(np.uint8), classes)


def _read_bounded(path: str) -> bytes:
    with open(path, "rb") as stream:
        if os.fstat(stream.fileno()).st_size > _LARGEST_FILE:
            raise ValueError("it is larger than any")
        content = stream.read(_LARGEST_FILE)
    if content[:10] != b"MATLAB 5.0" or content[126:_HEADER] != b"IM":
        raise ValueError("it is no MATLAB 5 file")
    return content


def _segmentation(content: bytes) -> np.ndarray:
    for kind, element in _elements(content, _HEADER):
        if kind == _COMPRESSED:
            kind, element = next(_elements(_unpacked(element), 0), (0, b""))
        if kind == _MATRIX:
            found, sizes, name, rest = _matrix(element)
            if name == _VARIABLE and found == _STRUCTURE and sizes == (1, 1):
                return _numbers(_field(rest))
    raise ValueError("it has no structure GTcls")


def _unpacked(element: bytes) -> bytes:
    content = zlib.decompressobj().decompress(element, LARGEST_PICTURE)
    if len(content) == LARGEST_PICTURE:
        raise ValueError("it unpacks to more than any")
    return content


def _elements(content: bytes, position: int) -> Elements:
    """Type and bytes of each element from a position on."""
    while position < len(content):
        if len(content) - position < 8:
            raise ValueError("it is cut short")
        kind, size = np.frombuffer(content, "<u4", 2, position).tolist()
        start = position + 8
        if kind >> 16:
            # Up to four bytes stand in the place of the size.
            kind, size, start = kind & 0xFFFF, min(kind >> 16, 4), position + 4
        if size > len(content) - start:
            raise ValueError("it is cut short")
        yield kind, content[start : start + size]
        position = start + size
        if kind != _COMPRESSED:
            position += -position % 8


def _take(elements: Elements, kind: int) -> bytes:
    found, content = next(elements, (0, b""))
    if found != kind:
        raise ValueError("it is damaged")
    return content


def _matrix(content: bytes) -> Tuple[int, Tuple[int, ...], bytes, Elements]:
    """Class, sizes and name of a matrix, and the elements that follow them."""
    elements = _elements(content, 0)
    flags = _take(elements, _UINT32)
    sizes = _take(elements, _INT32)
    if not flags or len(sizes) % 4:
        raise ValueError("it is damaged")
    return flags[0], tuple(np.frombuffer(sizes, "<i4").tolist()), _take(elements, _INT8), elements


def _field(elements: Elements) -> bytes:
    """The matrix of the field Segmentation."""
    length = int.from_bytes(_take(elements, _INT32)[:4], "little")
    names = _take(elements, _INT8)
    if not 0 < length <= 64:
        raise ValueError("it is damaged")
    for start in range(0, len(names), length):
        matrix = _take(elements, _MATRIX)
        if names[start : start + length].rstrip(b"\0") == _FIELD:
            return matrix
    raise ValueError("its GTcls has no field Segmentation")


def _numbers(content: bytes) -> np.ndarray:
    """A real matrix, column by column in the file."""
    found, sizes, _, elements = _matrix(content)
    kind, numbers = next(elements, (0, b""))
    if found not in _NUMERIC or kind not in _NUMBERS or len(sizes) != 2:
        raise ValueError("its Segmentation is no matrix of numbers")
    dtype = np.dtype(_NUMBERS[kind])
    height, width = sizes
    if min(sizes) < 1 or len(numbers) != height * width * dtype.itemsize:
        raise ValueError("its Segmentation does not fill its size")
    return np.frombuffer(numbers, dtype).reshape(sizes, order="F")
