from __future__ import annotations

import numpy as np
import pytest

from dso_nas.data.arrays import ImageArrays
from dso_nas.data.sample import load_sample
from dso_nas.data.segmentation import SegmentationDataset, load_segmentation
from dso_nas.data.segmentation.generated import CLASSES, THRESHOLD, load_scenes, make_scenes
from dso_nas.data.splits import Split


@pytest.fixture(scope="module")
def dataset() -> SegmentationDataset:
    return load_segmentation("fashion-scenes")


def test_it_is_called_what_it_is(dataset: SegmentationDataset) -> None:
    assert dataset.title == "generated 64x64 scenes of Fashion-MNIST garments"
    assert dataset.classes == ("background", *load_sample().classes) == CLASSES and len(CLASSES) == 11
    assert (len(dataset.train), len(dataset.test)) == (1000, 200)
    assert dataset.train.read(0)[0].shape == (64, 64, 3) and dataset.train.read(0)[1].shape == (64, 64)


def test_every_class_is_in_many_scenes_and_the_background_is_most(dataset: SegmentationDataset) -> None:
    for pictures in (dataset.train, dataset.test):
        masks = [pictures.mask(index) for index in range(len(pictures))]
        shares = np.bincount(np.concatenate(masks).ravel(), minlength=11) / np.size(masks)
        assert len(shares) == 11 and 0.5 < shares[0] < 0.8 and (shares[1:] > 0.01).all()
        kinds = [len(set(np.unique(mask)) - {0}) for mask in masks]
        assert np.mean(kinds) > 1.8 and max(kinds) == 4


def test_a_scene_is_decided_by_its_number_and_the_seed() -> None:
    first, longer, other = (load_scenes(48, count, 2, seed) for count, seed in ((3, 1), (5, 1), (3, 2)))
    for index in range(3):
        np.testing.assert_array_equal(first.train.read(index)[0], longer.train.read(index)[0])
        np.testing.assert_array_equal(first.train.read(index)[1], longer.train.read(index)[1])
    assert not np.array_equal(first.train.read(0)[0], other.train.read(0)[0])
    assert not np.array_equal(first.train.read(0)[0], first.test.read(0)[0])
    assert first.train.read(0)[0].shape == (48, 48, 3)


def test_train_scenes_show_training_images_alone_and_test_scenes_test_images(monkeypatch: pytest.MonkeyPatch) -> None:
    from dso_nas.data.segmentation import generated

    taken = []
    make = generated.make_scenes
    monkeypatch.setattr(generated, "make_scenes",
                        lambda garments, *rest: taken.append(garments) or make(garments, *rest))
    sample = load_sample()
    monkeypatch.setattr(generated, "load_sample", lambda: sample)
    load_scenes(32, 2, 1)
    assert taken[0] is sample.train and taken[1] is sample.test


def test_masks_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Garments of one brightness on a black ground: where the mask says so, and nowhere else, is a garment's colour."""
    images = np.zeros((10, 32, 32, 3), np.uint8)
    images[:, 6:26, 8:24] = 255
    garments = ImageArrays(images, np.arange(10, dtype=np.int32))
    monkeypatch.setattr("dso_nas.data.segmentation.generated.texture", lambda size, rng: np.zeros((size, size, 3)))
    scenes = make_scenes(garments, 40, 64, (1, 2))
    covered = 0
    for index in range(40):
        image, mask = scenes.read(index)
        # Colours have a value of 0.7 at least and the shade is 0.25 at least; the noise is 4.
        bright = image.max(axis=2) > 24
        np.testing.assert_array_equal(bright, mask > 0)
        covered += len(np.unique(mask)) > 2
    assert covered > 20 and THRESHOLD < 255


def test_statistics_are_those_of_the_training_scenes(dataset: SegmentationDataset) -> None:
    pixels = np.concatenate([dataset.train.read(index)[0].reshape(-1, 3) for index in range(1000)]).astype(np.float64)
    np.testing.assert_allclose(dataset.mean, pixels.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(dataset.std, pixels.std(axis=0), rtol=1e-5)


def test_a_split_shares_out_the_classes(dataset: SegmentationDataset) -> None:
    split = Split.of(dataset, 5, (4, 1))
    assert (len(split.weights), len(split.lambdas)) == (800, 200)
    labels = dataset.train.labels
    shares = np.bincount(labels[split.weights], minlength=11)[1:] / np.bincount(labels, minlength=11)[1:]
    assert np.abs(shares - 0.8).max() < 0.03
    lambdas = dataset.train.subset(split.lambdas)
    np.testing.assert_array_equal(lambdas.mask(3), dataset.train.mask(int(split.lambdas[3])))
