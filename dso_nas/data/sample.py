"""The embedded sample of Fashion-MNIST, and the command that made it.

    python -m dso_nas.data.sample --build /usr/share/datasets/fashion-mnist

chooses the images anew from the files of the Debian package `dataset-fashion-mnist`.
"""

from __future__ import annotations

import argparse
import gzip
import zipfile
import zlib
from pathlib import Path
from typing import Tuple

import numpy as np

from dso_nas.data.arrays import ImageArrays, ImageDataset
from dso_nas.errors import UserError

NAME = "fashion-mnist"
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
EMBEDDED = Path(__file__).parent / "embedded" / "fashion_mnist_sample.npz"
SEED = 20200523
_BORDER = 2


def load_sample() -> ImageDataset:
    """The sample: 10,000 training and 2,000 test images of Fashion-MNIST, as many of each class.

    Returns:
        The set, its grey 28x28 images padded with black to 32x32 and repeated to three channels.

    Raises:
        UserError: the file of the repository is missing or damaged.
    """
    try:
        with np.load(EMBEDDED, allow_pickle=False) as stored:
            train, test = (
                _to_arrays(stored[f"{part}_images"], stored[f"{part}_labels"]) for part in ("train", "test")
            )
    except (OSError, ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise UserError(f"{EMBEDDED} is missing or damaged; restore it from the repository") from error
    title = "Fashion-MNIST, a balanced sample"
    return ImageDataset.of(NAME, title, train, test, CLASSES)


def _to_arrays(grey: np.ndarray, labels: np.ndarray) -> ImageArrays:
    border = (_BORDER, _BORDER)
    padded = np.pad(grey, ((0, 0), border, border))
    return ImageArrays(np.repeat(padded[..., None], 3, axis=3), labels.astype(np.int32))


def build_sample(source: Path, target: Path) -> None:
    """Choose 1,000 training and 200 test images of each class by `SEED` and write them to `target` (.npz).

    Beside images (uint8, 28x28) and labels (uint8) the file holds each image's place in the original set.

    Args:
        source: the folder of the original's four .gz files.
        target: the file to write.

    Raises:
        UserError: `source` does not hold the original.
    """
    rng = np.random.default_rng(SEED)
    content = {}
    for part, prefix, each in (("train", "train", 1000), ("test", "t10k", 200)):
        images = _read_idx(source / f"{prefix}-images-idx3-ubyte.gz", dimensions=3)
        labels = _read_idx(source / f"{prefix}-labels-idx1-ubyte.gz", dimensions=1)
        chosen = np.sort(
            np.concatenate(
                [
                    rng.choice(np.flatnonzero(labels == label), each, replace=False)
                    for label in range(len(CLASSES))
                ]
            )
        )
        content.update({f"{part}_images": images[chosen], f"{part}_labels": labels[chosen]})
        content[f"{part}_places"] = chosen.astype(np.int32)
    np.savez_compressed(target, **content)


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """An IDX file of unsigned bytes: two zero bytes, type 8, dimensions, big-endian lengths, content."""
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"{path}: missing or damaged; install the Debian package dataset-fashion-mnist"
        ) from error
    header = 4 + 4 * dimensions
    shape: Tuple[int, ...] = tuple(np.frombuffer(content[4:header], ">u4").tolist())
    if content[:4] != bytes((0, 0, 8, dimensions)) or len(content) - header != np.prod(shape, dtype=np.int64):
        raise UserError(f"{path} is no IDX file of {dimensions} dimensions")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def main() -> None:
    """Build the sample in place."""
    parser = argparse.ArgumentParser(description="Choose the embedded sample of Fashion-MNIST anew.")
    parser.add_argument(
        "--build", metavar="FOLDER", type=Path, required=True, help="the original's four .gz files"
    )
    build_sample(parser.parse_args().build, EMBEDDED)
    print(f"{EMBEDDED}: {EMBEDDED.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
