from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from dso_nas.data import sample
from dso_nas.errors import UserError

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def test_the_sample_is_balanced_and_padded() -> None:
    dataset = sample.load_sample()
    assert dataset.train.images.shape == (10_000, 32, 32, 3) and dataset.test.images.shape == (
        2_000,
        32,
        32,
        3,
    )
    assert np.bincount(dataset.train.labels).tolist() == [1000] * 10
    assert np.bincount(dataset.test.labels).tolist() == [200] * 10
    images = dataset.train.images
    np.testing.assert_array_equal(images[..., 0], images[..., 1])
    np.testing.assert_array_equal(images[..., 0], images[..., 2])
    assert not images[:, :2].any() and not images[:, -2:].any() and not images[:, :, :2].any()
    assert images[:, 2:30, 2:30].any(axis=(0, 3)).all()


def test_it_says_what_it_is() -> None:
    dataset = sample.load_sample()
    assert dataset.name == "fashion-mnist" and dataset.title == "Fashion-MNIST, a balanced sample"
    assert len(dataset.classes) == 10


def test_no_image_is_there_twice() -> None:
    with np.load(sample.EMBEDDED, allow_pickle=False) as stored:
        for part in ("train", "test"):
            assert (np.diff(stored[f"{part}_places"]) > 0).all()


def test_the_embedded_folder_is_small_and_licensed() -> None:
    folder = sample.EMBEDDED.parent
    assert sum(path.stat().st_size for path in folder.iterdir()) < 8_000_000
    assert "Zalando SE" in (folder / "LICENSE-fashion-mnist.txt").read_text()


def test_a_damaged_sample_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken.npz"
    monkeypatch.setattr(sample, "EMBEDDED", broken)
    for content in (None, b"", b"nothing of the kind", sample_bytes()[:1000]):
        if content is not None:
            broken.write_bytes(content)
        with pytest.raises(UserError, match="broken.npz"):
            sample.load_sample()


def sample_bytes() -> bytes:
    return (Path(sample.__file__).parent / "embedded" / "fashion_mnist_sample.npz").read_bytes()


def _write_idx(path: Path, content: np.ndarray) -> None:
    header = bytes((0, 0, 8, content.ndim)) + struct.pack(f">{content.ndim}I", *content.shape)
    path.write_bytes(gzip.compress(header + content.tobytes(), 1))


def _write_original(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for prefix in ("train", "t10k"):
        labels = rng.permutation(np.arange(count) % 10).astype(np.uint8)
        images = np.zeros((count, 28, 28), np.uint8)
        images[:, 5, 5] = labels
        _write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)
        _write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", labels)


def test_the_builder_is_deterministic_and_keeps_labels_with_images(tmp_path: Path) -> None:
    _write_original(tmp_path, 11_000)
    for target in ("one.npz", "two.npz"):
        sample.build_sample(tmp_path, tmp_path / target)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    with np.load(tmp_path / "one.npz", allow_pickle=False) as stored:
        np.testing.assert_array_equal(stored["train_images"][:, 5, 5], stored["train_labels"])
        assert np.bincount(stored["test_labels"]).tolist() == [200] * 10


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b", gzip.compress(b"\x00\x00\x08\x03" + bytes(12) + b"x", mtime=0)])
def test_the_builder_names_a_bad_file(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(UserError, match="train-images-idx3-ubyte.gz"):
        sample.build_sample(tmp_path, tmp_path / "out.npz")
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(UserError, match="train-images-idx3-ubyte.gz"):
        sample.build_sample(tmp_path, tmp_path / "out.npz")


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="the Debian package dataset-fashion-mnist is not installed")
def test_the_embedded_file_is_what_the_builder_makes(tmp_path: Path) -> None:
    sample.build_sample(DEBIAN, tmp_path / "made.npz")
    with np.load(tmp_path / "made.npz") as made, np.load(sample.EMBEDDED) as stored:
        assert sorted(made) == sorted(stored)
        for key in made:
            np.testing.assert_array_equal(made[key], stored[key])
