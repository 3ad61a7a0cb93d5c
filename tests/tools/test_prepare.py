from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np
import pytest
from PIL import Image

from dso_nas.__main__ import main
from dso_nas.data.record_files import read_image_records, scan_records
from dso_nas.data.record_folders import scan_folder
from dso_nas.data.records import load_record_folder
from tests.data.builders import write_cifar

ROOT = Path(__file__).resolve().parents[2]


def _jpeg(number: int, size: Tuple[int, int] = (32, 24)) -> bytes:
    """A flat image whose grey says which one it is."""
    stream = io.BytesIO()
    Image.new("RGB", size, (number % 256,) * 3).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def _write_images(root: Path, counts: Dict[str, int], first: int = 0, **options: Any) -> Path:
    number = first
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for _ in range(count):
            (root / name / f"{number:04}.jpg").write_bytes(_jpeg(number, **options))
            number += 1
    return root


def _prepare(*arguments: Any) -> int:
    return main(["prepare", *map(str, arguments)])


def _refused(capsys: Any, word: str, *arguments: Any) -> None:
    assert _prepare(*arguments) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ") and word in line, line


def _contents(path: Path) -> List[Tuple[int, bytes]]:
    return [(record.label, record.encoded) for record in read_image_records(path)]


COUNTS = {"ant": 20, "bee": 10, "cat": 30}


def test_a_folder_becomes_four_files_that_share_it_out(tmp_path: Path, capsys: Any) -> None:
    photos = _write_images(tmp_path / "photos", COUNTS)
    assert _prepare("folder", photos, "--out", tmp_path / "data", "--resize", 0) == 0
    assert "43 images of 3 classes" in capsys.readouterr().out
    files = {name: _contents(tmp_path / "data" / f"{name}.rec") for name in ("train1", "train2", "train", "val")}
    assert {name: len(records) for name, records in files.items()} == dict(train1=43, train2=11, train=54, val=6)
    stored = sorted((label, path.read_bytes()) for label, name in enumerate(COUNTS)
                    for path in (photos / name).iterdir())
    assert sorted(files["train1"] + files["train2"] + files["val"]) == stored
    assert sorted(files["train"]) == sorted(files["train1"] + files["train2"])
    for name, shares in (("val", (2, 1, 3)), ("train2", (4, 2, 5))):
        assert np.abs(np.bincount([label for label, _ in files[name]]) - shares).max() <= 1
    assert [label for label, _ in files["train1"]] != sorted(label for label, _ in files["train1"])
    assert (tmp_path / "data" / "classes.txt").read_text() == "ant\nbee\ncat\n"
    assert scan_folder(tmp_path / "data").classes == tuple(COUNTS)
    assert load_record_folder(tmp_path / "data").classes == tuple(COUNTS)


@pytest.mark.parametrize("name", ["val", "test"])
def test_a_set_with_a_test_part_keeps_it(tmp_path: Path, name: str) -> None:
    _write_images(tmp_path / "set" / "train", {"a": 5, "b": 5})
    _write_images(tmp_path / "set" / name, {"a": 1, "b": 2}, first=100)
    assert _prepare("folder", tmp_path / "set", "--out", tmp_path / "o", "--ratio", "1:1", "--resize", 0) == 0
    sizes = [len(scan_records(tmp_path / "o" / f"{part}.rec")) for part in ("train1", "train2", "train", "val")]
    assert sizes == [5, 5, 10, 3]


def _stored(root: Path, **options: Any) -> List[Image.Image]:
    flags = ["--ratio", "1:1", "--val-share", 0.3]
    for name, value in options.items():
        flags += [f"--{name}"] if value is True else [f"--{name}", value]
    assert _prepare("folder", root / "photos", "--out", root / "out", *flags) == 0
    return [Image.open(io.BytesIO(content)) for part in ("train1", "train2", "val")
            for _, content in _contents(root / "out" / f"{part}.rec")]


def test_images_are_resized_by_their_shorter_edge(tmp_path: Path) -> None:
    _write_images(tmp_path / "photos", {"a": 4, "b": 4}, size=(90, 60))
    assert {image.size for image in _stored(tmp_path, resize=20)} == {(30, 20)}
    shutil.rmtree(tmp_path / "out")
    assert {image.size for image in _stored(tmp_path, resize=20, square=True)} == {(20, 20)}


def test_images_of_every_kind_become_upright_rgb(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for mode, suffix in (("RGBA", "png"), ("P", "png"), ("CMYK", "jpg"), ("RGB", "bmp"), ("RGB", "webp")):
            Image.new(mode, (12, 8)).save(tmp_path / "photos" / name / f"{mode}.{suffix}")
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (8, 12)).save(tmp_path / "photos" / name / "turned.jpg", exif=exif)
    images = _stored(tmp_path, resize=0)
    assert len(images) == 12
    assert {(image.mode, image.size, image.format) for image in images} == {("RGB", (12, 8), "JPEG")}


def _tar(path: Path, members: Dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


WNIDS = ("n00000002", "n00000001", "n00000003")


def _imagenet(root: Path) -> Path:
    """The two archives, the training one in an order of its own and with a name that leads outside."""
    root.mkdir()
    inner = {}
    for place, wnid in enumerate(WNIDS):
        images = {f"{wnid}_{n}.JPEG": _jpeg(50 * place + n) for n in range(6)}
        images[f"../../{wnid}_evil.JPEG"] = _jpeg(50 * place + 40)
        inner[f"{wnid}.tar"] = _tar(root / "inner", images).read_bytes()
    (root / "inner").unlink()
    _tar(root / "ILSVRC2012_img_train.tar", inner)
    _tar(root / "ILSVRC2012_img_val.tar", {f"ILSVRC2012_val_0000000{n}.JPEG": _jpeg(200 + n) for n in (2, 3, 1)})
    (root / "imagenet_2012_validation_synset_labels.txt").write_text("n00000003\nn00000001\nn00000002\n")
    return root


def _brightness(encoded: bytes) -> int:
    return round(float(np.asarray(Image.open(io.BytesIO(encoded))).mean()))


def test_imagenets_archives_are_read_in_place(tmp_path: Path) -> None:
    source, out = _imagenet(tmp_path / "in"), tmp_path / "out"
    before = sorted(tmp_path.rglob("*"))
    assert _prepare("imagenet", source, "--out", out, "--resize", 0) == 0
    assert sorted(path for path in tmp_path.rglob("*") if out not in (path, *path.parents)) == before
    assert (out / "classes.txt").read_text().split() == sorted(WNIDS)
    for label, encoded in _contents(out / "train.rec"):
        assert sorted(WNIDS)[label] == WNIDS[_brightness(encoded) // 50]
    assert len(_contents(out / "train.rec")) == 21
    assert {_brightness(encoded): label for label, encoded in _contents(out / "val.rec")} == {201: 2, 202: 0, 203: 1}


def test_imagenets_folders_and_kaggles_labels(tmp_path: Path) -> None:
    source = tmp_path / "in"
    _write_images(source / "train", {wnid: 4 for wnid in WNIDS})
    (source / "val").mkdir()
    for number in (1, 2, 3):
        (source / "val" / f"ILSVRC2012_val_0000000{number}.JPEG").write_bytes(_jpeg(200 + number))
    lines = ["ImageId,PredictionString"] + [f"ILSVRC2012_val_0000000{n},n0000000{n} 1 2 3 4" for n in (3, 1, 2)]
    (source / "LOC_val_solution.csv").write_text("\n".join(lines))
    assert _prepare("imagenet", source, "--out", tmp_path / "out", "--resize", 0) == 0
    labels = {_brightness(encoded): label for label, encoded in _contents(tmp_path / "out" / "val.rec")}
    assert labels == {201: 0, 202: 1, 203: 2}


def test_cifar_comes_back_exactly(tmp_path: Path) -> None:
    train, test, archive = write_cifar(tmp_path, "cifar10", "binary", packed=True)
    assert _prepare("cifar10", archive, "--out", tmp_path / "out", "--ratio", "1:1") == 0
    loaded = load_record_folder(tmp_path / "out")
    assert loaded.classes[3] == "kind3" and len(loaded.train) == len(train)

    def by_content(arrays: Any) -> List[Tuple[bytes, int]]:
        return sorted((image.tobytes(), int(label)) for image, label in zip(arrays.images, arrays.labels))

    assert by_content(loaded.train) == by_content(train) and by_content(loaded.test) == by_content(test)


def test_split_and_join_are_each_others_way_back(tmp_path: Path) -> None:
    out = tmp_path / "o"
    assert _prepare("folder", _write_images(tmp_path / "p", COUNTS), "--out", out, "--resize", 0) == 0
    whole = sorted(_contents(out / "train.rec"))
    for name in ("train1.rec", "train2.rec"):
        (out / name).unlink()
    assert _prepare("split", out, "--ratio", "2:1") == 0
    assert (len(scan_records(out / "train1.rec")), len(scan_records(out / "train2.rec"))) == (36, 18)
    (out / "train.rec").unlink()
    assert _prepare("join", out) == 0
    assert sorted(_contents(out / "train.rec")) == whole
    scan_folder(out)


def _files(root: Path) -> Dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.iterdir()}


def test_a_killed_preparation_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    photos = _write_images(tmp_path / "p", {"a": 90, "b": 90}, size=(400, 300))
    arguments = ["folder", str(photos), "--resize", "96"]
    assert _prepare(*arguments, "--out", tmp_path / "whole") == 0
    command = [sys.executable, "-m", "dso_nas", "prepare", *arguments, "--out", str(tmp_path / "cut")]
    child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    partial = tmp_path / "cut" / ".train1.rec.partial"
    while child.poll() is None and not (partial.exists() and partial.stat().st_size > 20_000):
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (tmp_path / "cut" / "train1.rec").exists()
    # As if the kill had come inside a record.
    os.truncate(partial, partial.stat().st_size - 3)
    assert _prepare(*arguments, "--out", tmp_path / "cut") == 0
    assert _files(tmp_path / "cut") == _files(tmp_path / "whole")
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cut").glob("*.rec")}
    assert _prepare(*arguments, "--out", tmp_path / "cut") == 0
    assert times == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cut").glob("*.rec")}


def test_another_preparation_does_not_mix_in(tmp_path: Path, capsys: Any) -> None:
    photos = _write_images(tmp_path / "p", COUNTS)
    assert _prepare("folder", photos, "--out", tmp_path / "o") == 0
    _refused(capsys, "preparation.json", "folder", photos, "--out", tmp_path / "o", "--seed", 1)
    (tmp_path / "o" / "preparation.json").unlink()
    _refused(capsys, "unknown origin", "folder", photos, "--out", tmp_path / "o")


def test_bad_folders_are_one_line(tmp_path: Path, capsys: Any) -> None:
    photos, out = _write_images(tmp_path / "p", COUNTS), tmp_path / "o"
    _refused(capsys, "No such file", "folder", tmp_path / "nowhere", "--out", out)
    _refused(capsys, "at least 2", "folder", photos / "ant", "--out", out)
    _refused(capsys, "SOURCE itself", "folder", photos, "--out", photos)
    for flag, value in (("--resize", 3), ("--quality", 0), ("--val-share", 1), ("--seed", -1)):
        _refused(capsys, flag, "folder", photos, "--out", out, flag, value)
    (photos / "dog").mkdir()
    _refused(capsys, "dog", "folder", photos, "--out", out)
    (photos / "dog" / "a.jpg").write_bytes(b"")
    _refused(capsys, "a.jpg", "folder", photos, "--out", out)
    for content in (_jpeg(1)[:-200], b"\xff\xd8 nothing", b"GIF89a"):
        (photos / "dog" / "a.jpg").write_bytes(content)
        shutil.rmtree(out, ignore_errors=True)
        _refused(capsys, "a.jpg", "folder", photos, "--out", out)
    _refused(capsys, "train.rec", "split", tmp_path)
    _refused(capsys, "train1.rec", "join", tmp_path)


def test_bad_archives_are_one_line(tmp_path: Path, capsys: Any) -> None:
    source, out = _imagenet(tmp_path / "in"), tmp_path / "out"
    labels = source / "imagenet_2012_validation_synset_labels.txt"
    labels.write_text("n00000003\nn00000001\n")
    _refused(capsys, "no class", "imagenet", source, "--out", out)
    labels.write_text("3\n1\n2\n")
    _refused(capsys, "WordNet", "imagenet", source, "--out", out)
    labels.unlink()
    _refused(capsys, "--val-labels", "imagenet", source, "--out", out)
    train = source / "ILSVRC2012_img_train.tar"
    train.write_bytes(train.read_bytes()[:-15000])
    _refused(capsys, "cannot be read as a tar", "imagenet", source, "--out", out)
    _tar(train, {"readme.txt": b"x"})
    _refused(capsys, "n01440764.tar", "imagenet", source, "--out", out)
    train.unlink()
    _refused(capsys, "neither train/", "imagenet", source, "--out", out)
