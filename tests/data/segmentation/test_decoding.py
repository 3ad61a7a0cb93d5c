from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from PIL import Image, ImageFile

from dso_nas.data.segmentation import decoding
from dso_nas.data.segmentation.sbd import read_sbd_mask
from dso_nas.data.segmentation.sets import FilePictures, Pair
from dso_nas.errors import UserError
from tests.data.segmentation.builders import mask_of, picture_of, save_jpeg, save_mat, save_palette_png


@pytest.fixture
def pictures(tmp_path: Path) -> FilePictures:
    save_jpeg(tmp_path / "a.jpg", picture_of("a1", 20, 30))
    save_palette_png(tmp_path / "a.png", mask_of("a1", 20, 30))
    return FilePictures([Pair(str(tmp_path / "a.jpg"), str(tmp_path / "a.png"))], 21)


def _line(pictures: FilePictures) -> str:
    with pytest.raises(UserError) as raised:
        pictures.read(0)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("label", [21, 100, 254])
def test_a_label_out_of_range(pictures: FilePictures, label: int) -> None:
    mask = mask_of("a1", 20, 30)
    mask[7, 9] = label
    save_palette_png(Path(pictures.pairs[0].mask), mask)
    assert f"a.png: has the label {label}, but labels are 0 to 20, or 255" in _line(pictures)


def test_a_mask_of_another_size(pictures: FilePictures) -> None:
    save_palette_png(Path(pictures.pairs[0].mask), mask_of("a1", 20, 31))
    assert f"a.png: has 31x20 pixels, its picture {pictures.pairs[0].picture} 30x20" in _line(pictures)


@pytest.mark.parametrize("which", ["picture", "mask"])
@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: b"GIF89a" + content,
                                    lambda content: content[: len(content) // 2]], ids=["empty", "else", "cut"])
def test_a_damaged_file(pictures: FilePictures, which: str, damage: Callable[[bytes], bytes]) -> None:
    path = Path(getattr(pictures.pairs[0], which))
    path.write_bytes(damage(path.read_bytes()))
    assert _line(pictures).startswith(f"{path}: cannot be read as ")


def test_half_a_picture_is_damaged_whatever_gluoncv_has_set(
    pictures: FilePictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    path = Path(pictures.pairs[0].picture)
    path.write_bytes(path.read_bytes()[:-100])
    assert "truncated" in _line(pictures)


@pytest.mark.parametrize("which", ["picture", "mask"])
def test_a_missing_file(pictures: FilePictures, which: str) -> None:
    path = Path(getattr(pictures.pairs[0], which))
    path.unlink()
    assert _line(pictures).startswith(f"{path}: missing")


def test_a_mask_in_colour(pictures: FilePictures) -> None:
    Image.fromarray(picture_of("a1", 20, 30)).save(pictures.pairs[0].mask)
    assert "a.png: cannot be read as PNG (its pixels are of the kind RGB, not L, P)" in _line(pictures)


def test_a_mask_that_is_too_large_is_not_unpacked(pictures: FilePictures) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 9000, 9000, 8, 0, 0, 0, 0)
    Path(pictures.pairs[0].mask).write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))
    assert "9000x9000 pixels are too many" in _line(pictures)


def test_a_grey_mask_and_a_grey_picture_serve(tmp_path: Path) -> None:
    Image.fromarray(mask_of("b2", 5, 6)).save(tmp_path / "b.png")
    np.testing.assert_array_equal(decoding.read_mask(str(tmp_path / "b.png"), 21), mask_of("b2", 5, 6))
    Image.fromarray(picture_of("b2", 5, 6)[..., 0]).save(tmp_path / "b.jpg")
    assert decoding.read_picture(str(tmp_path / "b.jpg")).shape == (5, 6, 3)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("height", [1, 14])
def test_a_mask_of_sbd(tmp_path: Path, compressed: bool, kind: Any, height: int) -> None:
    save_mat(tmp_path / "a.mat", mask_of("c3", height, 9).astype(kind), compressed)
    mask = read_sbd_mask(str(tmp_path / "a.mat"), 21)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, mask_of("c3", height, 9))
    stored = scipy.io.loadmat(str(tmp_path / "a.mat"))["GTcls"]["Segmentation"][0, 0]
    np.testing.assert_array_equal(mask, stored)


@pytest.mark.parametrize("value", [
    np.full((4, 5), 1.5), np.full((4, 5), 300), np.full((4, 5), -1), np.full((4, 5), np.nan), np.full((4, 5), np.inf),
    "text", np.zeros((2, 2, 2)), np.zeros((0, 0)), {"a": 1}, np.array([1, "a"], object),
])
def test_a_matlab_file_without_a_mask(tmp_path: Path, value: Any) -> None:
    save_mat(tmp_path / "a.mat", value)
    with pytest.raises(UserError, match="a.mat: cannot be read as a mask of SBD"):
        read_sbd_mask(str(tmp_path / "a.mat"), 21)


def test_other_variables_and_fields_are_passed_over(tmp_path: Path) -> None:
    mask = mask_of("f6", 4, 5)
    content = {"first": np.arange(9), "GTinst": {"Segmentation": 1},
               "GTcls": {"A": {"B": [1, 2]}, "Segmentation": mask, "Z": scipy.sparse.eye(3)}}
    scipy.io.savemat(str(tmp_path / "a.mat"), content)
    np.testing.assert_array_equal(read_sbd_mask(str(tmp_path / "a.mat"), 21), mask)
    scipy.io.savemat(str(tmp_path / "a.mat"), {"GTinst": content["GTinst"], "GTcls": {"B": mask}})
    with pytest.raises(UserError, match="its GTcls has no field Segmentation"):
        read_sbd_mask(str(tmp_path / "a.mat"), 21)


def test_a_label_out_of_range_in_sbd(tmp_path: Path) -> None:
    save_mat(tmp_path / "a.mat", np.full((4, 5), 21))
    with pytest.raises(UserError, match="a.mat: has the label 21"):
        read_sbd_mask(str(tmp_path / "a.mat"), 21)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_damaged_matlab_file(tmp_path: Path, compressed: bool) -> None:
    path = tmp_path / "a.mat"
    save_mat(path, mask_of("d4", 20, 30), compressed)
    whole = path.read_bytes()
    for content in (b"", b"\x80\x04K\x01.", whole[:60], whole[:-9], whole[:128] + b"\xff" * 64):
        path.write_bytes(content)
        with pytest.raises(UserError, match="a.mat: cannot be read as a mask of SBD") as raised:
            read_sbd_mask(str(path), 21)
        assert "\n" not in str(raised.value)
    path.unlink()
    with pytest.raises(UserError, match="a.mat: missing"):
        read_sbd_mask(str(path), 21)


def test_flipped_bytes_of_a_matlab_file_are_a_mask_or_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    save_mat(path, mask_of("e5", 6, 7), False)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for place in range(128, len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ int(rng.integers(1, 256))]) + whole[place + 1 :])
        try:
            assert read_sbd_mask(str(path), 21).dtype == np.uint8
        except UserError as error:
            refused += str(path) in str(error)
    assert refused > 20


def test_a_matlab_file_that_unpacks_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dso_nas.data.segmentation import sbd

    monkeypatch.setattr(sbd, "LARGEST_PICTURE", 10_000)
    save_mat(tmp_path / "a.mat", np.zeros((200, 100), np.uint8))
    with pytest.raises(UserError, match="unpacks to more than any"):
        read_sbd_mask(str(tmp_path / "a.mat"), 21)
