from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dso_nas.data.records import load_record_folder, load_records, write_records
from dso_nas.errors import UserError
from tests.data.builders import ImageArrays, image_record, random_images


def _encoded(kind: str = "PNG", size: Any = (8, 8), mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, kind)
    return stream.getvalue()


def _noise(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(random_images(1, size=64).images[0]).save(stream, kind)
    return stream.getvalue()


def _smooth_images(count: int) -> ImageArrays:
    """Images that survive JPEG."""
    ramp = np.add.outer(np.arange(32), np.arange(32)) * 3
    images = np.stack([np.stack([ramp, ramp + n, 250 - ramp], axis=2) for n in range(count)])
    return ImageArrays(images.astype(np.uint8), np.arange(count, dtype=np.int32))


def test_png_comes_back_exactly(tmp_path: Path) -> None:
    arrays = random_images(20)
    write_records(tmp_path / "a.rec", arrays)
    loaded = load_records(tmp_path / "a.rec")
    np.testing.assert_array_equal(loaded.images, arrays.images)
    np.testing.assert_array_equal(loaded.labels, arrays.labels)


def test_jpeg_comes_back_as_mxnet_decodes_it(tmp_path: Path) -> None:
    arrays = _smooth_images(5)
    write_records(tmp_path / "a.rec", arrays, "jpeg")
    loaded = load_records(tmp_path / "a.rec").images.astype(int)
    assert np.abs(loaded - arrays.images).max() < 16
    reader = mx.recordio.MXIndexedRecordIO(str(tmp_path / "a.idx"), str(tmp_path / "a.rec"), "r")
    for number in range(5):
        header, encoded = mx.recordio.unpack(reader.read_idx(number))
        decoded = mx.image.imdecode(encoded).asnumpy().astype(int)
        assert np.abs(loaded[number] - decoded).max() <= 2 and header.label == number


def test_mxnets_own_iterator_reads_what_is_written(tmp_path: Path) -> None:
    arrays = random_images(8, classes=4)
    write_records(tmp_path / "a.rec", arrays)
    iterator = mx.io.ImageRecordIter(
        path_imgrec=str(tmp_path / "a.rec"),
        data_shape=(3, 32, 32),
        batch_size=8,
        preprocess_threads=1,
        shuffle=False,
    )
    batch = iterator.next()
    np.testing.assert_array_equal(batch.data[0].asnumpy(), arrays.images.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(batch.label[0].asnumpy(), arrays.labels)


@pytest.mark.parametrize(
    "mode, kind", [("L", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("L", "JPEG"), ("CMYK", "JPEG")]
)
def test_other_kinds_of_pixels_become_rgb(tmp_path: Path, mode: str, kind: str) -> None:
    path = tmp_path / "a.rec"
    path.write_bytes(image_record(0, _encoded(kind, mode=mode)))
    assert load_records(path).images.shape == (1, 8, 8, 3)


def _write_folder(root: Path, **parts: ImageArrays) -> Path:
    for part, arrays in parts.items():
        write_records(root / f"{part}.rec", arrays)
    return root


WEIGHTS, LAMBDAS, TEST = random_images(6, 1, 3), random_images(3, 2, 3), random_images(3, 3, 3)


def test_the_published_layout_says_which_half_is_which(tmp_path: Path) -> None:
    both = ImageArrays.joined([LAMBDAS, WEIGHTS])
    dataset = load_record_folder(
        _write_folder(tmp_path, train1=WEIGHTS, train2=LAMBDAS, train=both, val=TEST)
    )
    assert dataset.weights_first == 6 and dataset.classes == ("0", "1", "2") and dataset.name == "records"
    np.testing.assert_array_equal(dataset.train.images, np.concatenate([WEIGHTS.images, LAMBDAS.images]))
    np.testing.assert_array_equal(dataset.test.images, TEST.images)
    np.testing.assert_allclose(dataset.mean, dataset.train.images.mean(axis=(0, 1, 2)), rtol=1e-5)


def test_one_training_file_is_left_to_the_seed(tmp_path: Path) -> None:
    dataset = load_record_folder(_write_folder(tmp_path, train=WEIGHTS, val=TEST))
    assert dataset.weights_first is None and len(dataset.train) == 6


def _refused(path: Path, *words: str, load: Any = load_record_folder, **options: Any) -> None:
    with pytest.raises(UserError) as caught:
        load(path, **options)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and all(word in message for word in words), message


@pytest.mark.parametrize(
    "parts, missing",
    [
        ({}, "train.rec"),
        ({"train": WEIGHTS}, "val.rec"),
        ({"train1": WEIGHTS, "train": WEIGHTS, "val": TEST}, "train2.rec"),
        ({"train2": WEIGHTS, "val": TEST}, "train1.rec"),
    ],
)
def test_a_missing_file_is_named(tmp_path: Path, parts: Any, missing: str) -> None:
    _refused(_write_folder(tmp_path, **parts), missing, "im2rec")


@pytest.mark.parametrize("whole", [WEIGHTS, random_images(9, classes=2), random_images(10, classes=3)])
def test_halves_that_are_not_the_whole_are_refused(tmp_path: Path, whole: ImageArrays) -> None:
    _refused(
        _write_folder(tmp_path, train1=WEIGHTS, train2=LAMBDAS, train=whole, val=TEST),
        "train.rec",
        "train1.rec",
    )


def test_an_empty_whole_is_refused(tmp_path: Path) -> None:
    _write_folder(tmp_path, train1=WEIGHTS, train2=LAMBDAS, val=TEST)
    (tmp_path / "train.rec").write_bytes(b"")
    _refused(tmp_path, "train.rec")


def test_files_of_other_image_size_are_refused(tmp_path: Path) -> None:
    small = random_images(3, size=16, classes=3)
    _refused(_write_folder(tmp_path, train=WEIGHTS, val=small), "val.rec", "16x16", "32x32")


def test_a_test_label_without_training_images_is_refused(tmp_path: Path) -> None:
    _refused(_write_folder(tmp_path, train=WEIGHTS, val=random_images(4, classes=4)), "val.rec", "label 3")


@pytest.mark.parametrize(
    "encoded, word",
    [
        (b"", "JPEG or PNG"),
        (b"raw pixels", "JPEG or PNG"),
        (_encoded("GIF"), "JPEG or PNG"),
        (_noise("PNG")[:-2000], "damaged"),
        (_noise("JPEG")[:-1000], "damaged"),
        (_encoded(size=(8, 9)), "8x9"),
        (_encoded(mode="I;16"), "I;16"),
    ],
    ids=["empty", "raw", "gif", "png-cut", "jpeg-cut", "other-size", "16-bit"],
)
def test_a_bad_image_is_named_with_its_record(tmp_path: Path, encoded: bytes, word: str) -> None:
    path = tmp_path / "bad.rec"
    size = (64, 64) if word == "damaged" else (8, 8)
    path.write_bytes(image_record(0, _encoded(size=size)) + image_record(0, encoded))
    _refused(path, "record 1", word, load=load_records)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.rec").write_bytes(b"")
    _refused(tmp_path / "a.rec", "no record", load=load_records)


@pytest.mark.parametrize("gigabytes", [1e-6, 0.002])
def test_a_set_too_large_is_refused_before_it_is_decoded(tmp_path: Path, gigabytes: float) -> None:
    path = tmp_path / "a.rec"
    path.write_bytes(image_record(0, _encoded(size=(1000, 1000))))
    assert len(path.read_bytes()) < 0.002e9 < 3 * 1000 * 1000
    _refused(path, "GB", "streaming", load=load_records, max_gigabytes=gigabytes)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        write_records(tmp_path / "nowhere" / "a.rec", TEST)


VALID = b"".join(image_record(n, _encoded(kind)) for n, kind in enumerate(("PNG", "JPEG", "PNG")))


@settings(max_examples=150, deadline=None)
@given(
    place=st.integers(0, len(VALID)), patch=st.binary(max_size=6), skip=st.integers(0, 6), cut=st.booleans()
)
def test_damaged_files_only_raise_user_errors(
    tmp_path_factory: pytest.TempPathFactory, place: int, patch: bytes, skip: int, cut: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.rec"
    path.write_bytes(VALID[:place] + patch + (b"" if cut else VALID[place + skip :]))
    try:
        load_records(path, max_gigabytes=0.1)
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)


@pytest.fixture(autouse=True)
def pillow_lets_cut_images_pass(monkeypatch):
    """As where GluonCV is loaded."""
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)
