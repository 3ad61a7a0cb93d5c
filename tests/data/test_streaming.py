from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any, Iterable, List, Tuple

import cv2
import numpy as np
import pytest
from PIL import Image

from dso_nas.data.classification import load_images
from dso_nas.data.record_folders import needs_streaming, scan_folder
from dso_nas.data.record_writer import RecordWriter
from dso_nas.data.records import encode_image
from dso_nas.data.stream_options import StreamAugmentation, Streaming
from dso_nas.data.streaming import MEAN, STD, StreamedDataset, load_streamed
from dso_nas.errors import UserError
from tests.data.builders import image_record

SIDE = 16
PLAIN = StreamAugmentation(min_area=1, max_aspect=1, flip=False, jitter=0, lighting=0)


def _picture(number: int, size: Tuple[int, int] = (40, 32)) -> Image.Image:
    """Smooth, and of a colour of its own."""
    width, height = size
    rows, columns = np.mgrid[:height, :width]
    planes = [columns * 3, rows * 3, np.full_like(rows, 4 * number % 256)]
    return Image.fromarray(np.stack(planes, axis=2).astype(np.uint8))


def _write(path: Path, pictures: Iterable[Tuple[int, Image.Image]], encoding: str = "png") -> None:
    with RecordWriter(path) as writer:
        for label, picture in pictures:
            writer.write(label, encode_image(picture, encoding))
        writer.finish()


def _folder(root: Path, weights: int = 29, lambdas: int = 9, test: int = 7) -> Path:
    """Every image has a label of its own in training, so that batches say which images are in them."""
    root.mkdir(exist_ok=True)
    pictures = [(number, _picture(number)) for number in range(weights + lambdas)]
    _write(root / "train1.rec", pictures[:weights])
    _write(root / "train2.rec", pictures[weights:])
    _write(root / "train.rec", pictures)
    _write(root / "val.rec", [(n, _picture(n, (30 + 3 * n, 48 - 2 * n))) for n in range(test)])
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _folder(tmp_path_factory.mktemp("streamed"))


def _dataset(folder: Path, *augmentation: StreamAugmentation) -> StreamedDataset:
    return load_streamed(folder, Streaming(True, SIDE, *augmentation))


def _labels(batches: Iterable[Tuple[np.ndarray, np.ndarray]]) -> List[int]:
    return [int(label) for _, labels in batches for label in labels]


def _same(first: Any, second: Any) -> bool:
    first, second = list(first), list(second)
    return len(first) == len(second) and all(
        np.array_equal(a, b) for pair in zip(first, second) for a, b in zip(*pair))


def test_the_dataset_says_what_training_asks(folder: Path) -> None:
    dataset = _dataset(folder)
    assert dataset.image_shape == (3, SIDE, SIDE) and dataset.weights_first == 29
    assert (len(dataset.train), len(dataset.test), len(dataset.classes)) == (38, 7, 38)
    data, labels = next(dataset.batches("weights", 4, 0, "weights").epoch(0))
    assert data.shape == (4, 3, SIDE, SIDE) and data.dtype == labels.dtype == np.float32 and labels.shape == (4,)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_shares_are_disjoint_and_complete(folder: Path, workers: int) -> None:
    dataset = _dataset(folder)
    for part, expected in (("weights", range(29)), ("train", range(38)), ("test", range(7))):
        seen = [_labels(dataset.evaluation(part, 4, worker, workers)) for worker in range(workers)]
        assert sorted(itertools.chain(*seen)) == list(expected)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_no_image_is_seen_twice_in_an_epoch(folder: Path, workers: int) -> None:
    parts = [_dataset(folder).batches("weights", 2, 5, "weights", worker, workers) for worker in range(workers)]
    assert len({len(part) for part in parts}) == 1
    for epoch in range(2):
        seen = list(itertools.chain(*(_labels(part.epoch(epoch)) for part in parts)))
        assert len(seen) == len(set(seen)) == 2 * len(parts[0]) * workers
        # What is left out is less than a batch for each worker, and what the last one has less than the others.
        assert 29 - len(seen) < 2 * workers + workers


@pytest.mark.parametrize("start", [0, 1, 6])
def test_a_resumed_epoch_is_the_tail_of_the_whole(folder: Path, start: int) -> None:
    batches = _dataset(folder).batches("weights", 4, 1, "weights")
    whole = list(batches.epoch(3))
    assert len(whole) == len(batches) == 7
    anew = _dataset(folder).batches("weights", 4, 1, "weights")
    assert _same(anew.epoch(3, start), whole[start:])


def test_order_and_augmentation_follow_from_seed_stream_and_epoch(folder: Path) -> None:
    dataset = _dataset(folder)
    origins = [(0, "weights", 0), (0, "weights", 1), (1, "weights", 0), (0, "retrain", 0)]
    runs = [list(dataset.batches("weights", 7, seed, stream).epoch(epoch)) for seed, stream, epoch in origins]
    for first, second in itertools.combinations(runs, 2):
        assert _labels(first) != _labels(second)
        assert not _same(first, second)


def test_threads_change_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    for threads in (1, 2):
        monkeypatch.setattr("os.cpu_count", lambda threads=threads: threads)
        runs.append(list(_dataset(folder).batches("weights", 14, 0, "weights").epoch(0)))
    assert _same(*runs)


def test_an_augmentation_goes_with_a_place_in_the_batch(tmp_path: Path) -> None:
    """As the documentation says; MXNet's doing."""
    batches = _dataset(_coordinates(tmp_path, count=8)).batches("weights", 4, 0, "weights")
    (first, _), (second, _) = batches.epoch(0)
    np.testing.assert_array_equal(first, second)
    assert all(np.abs(a - b).max() > 0.05 for a, b in itertools.combinations(first, 2))


def _coordinates(root: Path, count: int = 60, side: int = 64) -> Path:
    """Images whose red says the column and whose green the row."""
    rows, columns = np.mgrid[:side, :side] * (255 / (side - 1))
    picture = Image.fromarray(np.stack([columns, rows, 0 * rows], axis=2).round().astype(np.uint8))
    for name in ("train1", "train2", "val"):
        _write(root / f"{name}.rec", [(0, picture)] * count)
    return root


def _spans(batches: Iterable[Tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Width and height of each input's part of the image, and whether it is mirrored."""
    data = np.concatenate([data for data, _ in batches]) * STD[:, None, None] + MEAN[:, None, None]
    red, green = data[:, 0, SIDE // 2] / 255, data[:, 1, :, SIDE // 2] / 255
    scale = SIDE / (SIDE - 1)
    widths, heights = (red[:, -1] - red[:, 0]) * scale, (green[:, -1] - green[:, 0]) * scale
    return np.stack([np.abs(widths), heights, widths < 0], axis=1)


def test_augmentation_stays_in_its_bounds(tmp_path: Path) -> None:
    augmentation = StreamAugmentation(min_area=0.2, jitter=0, lighting=0)
    batches = _dataset(_coordinates(tmp_path), augmentation).batches("weights", 60, 0, "weights")
    spans = np.concatenate([_spans(batches.epoch(epoch)) for epoch in range(4)])
    areas, aspects = spans[:, 0] * spans[:, 1], spans[:, 0] / spans[:, 1]
    assert 0.15 < areas.min() < 0.35 and 0.85 < areas.max() < 1.1
    assert 0.7 < aspects.min() < 0.85 and 1.2 < aspects.max() < 1.43
    assert 0.35 < spans[:, 2].mean() < 0.65


def test_jitter_and_lighting_change_colours_and_nothing_else_does(tmp_path: Path) -> None:
    root = _coordinates(tmp_path, count=8)
    plain = list(_dataset(root, PLAIN).batches("weights", 8, 0, "weights").epoch(0))[0][0]
    assert np.ptp(plain, axis=0).max() == 0
    for option in ({"jitter": 0.4}, {"lighting": 0.5}):
        augmentation = StreamAugmentation(**{**vars(PLAIN), **option})
        changed = list(_dataset(root, augmentation).batches("weights", 8, 0, "weights").epoch(0))[0][0]
        assert np.ptp(changed, axis=0).max() > 0.05


def test_evaluation_resizes_and_cuts_the_middle_out(folder: Path) -> None:
    dataset = _dataset(folder)
    assert load_streamed(folder, Streaming(True, 224)).resize == 256
    data = np.concatenate([data for data, _ in dataset.evaluation("test", 3)])
    for number in range(7):
        picture = np.asarray(_picture(number, (30 + 3 * number, 48 - 2 * number)))
        height, width = picture.shape[:2]
        if height < width:
            size = (dataset.resize * width // height, dataset.resize)
        else:
            size = (dataset.resize, dataset.resize * height // width)
        resized = cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR)
        top, left = (size[1] - SIDE) // 2, (size[0] - SIDE) // 2
        middle = resized[top : top + SIDE, left : left + SIDE].transpose(2, 0, 1)
        expected = (middle - MEAN[:, None, None]) / STD[:, None, None]
        assert np.abs(data[number] - expected).max() < 2 / STD.min()


def test_a_missing_index_is_made_for_the_run(folder: Path, tmp_path: Path) -> None:
    for path in folder.glob("*.rec"):
        shutil.copy(path, tmp_path)
    alone, beside = (_dataset(root).batches("weights", 4, 0, "weights").epoch(0) for root in (tmp_path, folder))
    assert _same(alone, beside) and not list(tmp_path.glob("*.idx"))


def test_streaming_is_chosen_by_size(folder: Path, tmp_path: Path) -> None:
    assert needs_streaming(folder)
    _coordinates(tmp_path, count=3)
    assert not needs_streaming(tmp_path) and needs_streaming(tmp_path, max_gigabytes=3 * 64 * 64 * 2e-9)
    assert isinstance(load_images("records", folder, Streaming("auto", SIDE)), StreamedDataset)
    assert not isinstance(load_images("records", tmp_path, Streaming("auto", SIDE)), StreamedDataset)
    assert isinstance(load_images("records", tmp_path, Streaming(True, SIDE)), StreamedDataset)
    _refused("data.streaming", load_images, "fashion-mnist", None, Streaming(True, SIDE))
    _refused("network.image_size", load_images, "records", folder, Streaming("auto"))


def _refused(word: str, action: Any, *arguments: Any) -> None:
    with pytest.raises(UserError) as caught:
        action(*arguments)
    assert word in str(caught.value) and "\n" not in str(caught.value), str(caught.value)


def _damaged(path: Path, change: Any) -> None:
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    "name, change, word",
    [
        ("train1.rec", lambda content: content[:-5], "cut short"),
        ("train2.rec", lambda content: b"", "no record"),
        ("train1.rec", lambda content: content + image_record(0, b"raw pixels"), "no JPEG or PNG"),
        ("train1.rec", lambda content: content + image_record(-3, b"x"), "label -3"),
        ("train1.idx", lambda content: content[:-12], "does not match"),
        ("train1.idx", lambda content: b"0\t4\n" + content[4:], "does not match"),
        ("val.idx", lambda content: b"\xff\xfe", "no index"),
        ("val.idx", lambda content: content * 50, "longer"),
    ],
)
def test_bad_files_are_refused_before_mxnet_meets_them(tmp_path: Path, name: str, change: Any, word: str) -> None:
    root = _folder(tmp_path / "a", 6, 3, 3)
    _damaged(root / name, change)
    _refused(word, scan_folder, root)


def test_labels_and_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    root = _folder(tmp_path / "a", 6, 3, 3)
    (root / "classes.txt").write_text("cat\ndog\n")
    _refused("label 8", scan_folder, root)
    (root / "classes.txt").write_text("".join(f"kind {n}\n" for n in range(9)))
    assert scan_folder(root).classes[8] == "kind 8"
    _write(root / "val.rec", [(9, _picture(0))])
    _refused("label 9", scan_folder, root)
    _write(root / "train.rec", [(0, _picture(0))])
    _refused("train.rec", scan_folder, root)
    (root / "train2.rec").unlink()
    _refused("train2.rec", scan_folder, root)


def test_parts_without_a_file_say_how_to_make_it(tmp_path: Path) -> None:
    whole, halves = _folder(tmp_path / "whole", 6, 3, 3), _folder(tmp_path / "halves", 6, 3, 3)
    for name in ("train1.rec", "train2.rec"):
        (whole / name).unlink()
    (halves / "train.rec").unlink()
    _refused("prepare split", _dataset(whole).batches, "weights", 1, 0, "weights")
    _refused("prepare join", _dataset(halves).batches, "train", 1, 0, "retrain")
    assert len(_dataset(halves).train) == len(_dataset(whole).train) == 9


@pytest.mark.parametrize("workers", [6, 8, 40])
def test_more_workers_than_records_are_refused(folder: Path, workers: int) -> None:
    dataset = _dataset(folder)
    _refused("workers", dataset.batches, "lambdas", 1, 0, "lambdas", workers - 1, workers)
    _refused("workers", lambda: next(dataset.evaluation("lambdas", 1, workers - 1, workers)))


def test_a_batch_larger_than_a_share_is_refused(folder: Path) -> None:
    _refused("--batch-size 30", _dataset(folder).batches, "weights", 30, 0, "weights")
    _refused("--batch-size 10", _dataset(folder).batches, "weights", 10, 0, "weights", 0, 3)


def test_an_image_that_cannot_be_decoded_is_one_line(tmp_path: Path) -> None:
    root = _folder(tmp_path / "a", 6, 3, 3)
    (root / "train1.idx").unlink()
    (root / "train.rec").unlink()
    _damaged(root / "train1.rec", lambda content: content + image_record(0, b"\xff\xd8 and then nothing of a JPEG"))
    _refused("train1.rec", lambda: list(_dataset(root).batches("weights", 7, 0, "weights").epoch(0)))


def test_names_that_mxnet_takes_apart_are_refused(tmp_path: Path) -> None:
    _refused("rename", scan_folder, _folder(tmp_path / "a#b", 2, 1, 1))
