from __future__ import annotations

import gzip
import io
import pickle
import shutil
import tarfile
from pathlib import Path
from typing import Any, Callable, Dict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dso_nas.data import cifar
from dso_nas.data.cifar import load_cifar
from dso_nas.errors import UserError
from tests.data.builders import (
    FORMS,
    NAMES,
    cifar_files,
    random_images,
    write_archive,
    write_cifar,
    write_folder,
)

CASES = [(name, form, packed) for name, form in FORMS for packed in (True, False)]


@pytest.mark.parametrize("name, form, packed", CASES)
def test_every_official_form_gives_the_same_images(
    tmp_path: Path, name: str, form: str, packed: bool
) -> None:
    train, test, written = write_cifar(tmp_path, name, form, packed)
    for root in (tmp_path, written):
        dataset = load_cifar(name, root)
        np.testing.assert_array_equal(dataset.train.images, train.images)
        np.testing.assert_array_equal(dataset.train.labels, train.labels)
        np.testing.assert_array_equal(dataset.test.images, test.images)
        np.testing.assert_array_equal(dataset.test.labels, test.labels)
        assert dataset.classes == tuple(NAMES[name]) and dataset.name == name
        np.testing.assert_allclose(dataset.mean, train.images.mean(axis=(0, 1, 2)), rtol=1e-5)
        np.testing.assert_allclose(dataset.std, train.images.std(axis=(0, 1, 2)), rtol=1e-5)


def test_a_renamed_folder_is_found(tmp_path: Path) -> None:
    _, _, written = write_cifar(tmp_path, "cifar10", "python", False)
    written.rename(tmp_path / "mine")
    assert len(load_cifar("cifar10", tmp_path / "mine").train) == 13


def test_nothing_is_unpacked(tmp_path: Path) -> None:
    write_cifar(tmp_path, "cifar10", "python", True)
    load_cifar("cifar10", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["cifar-10-python.tar.gz"]


def _refused(root: Path, *words: str, name: str = "cifar10") -> str:
    with pytest.raises(UserError) as caught:
        load_cifar(name, root)
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message
    return message


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    _refused(tmp_path / "nowhere", "nowhere", "cifar-10-python.tar.gz")
    _refused(tmp_path, str(tmp_path), "cifar-100-python.tar.gz", "cifar-100-binary", name="cifar100")


@pytest.mark.parametrize("form", ["python", "binary"])
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_archive_is_named(tmp_path: Path, form: str, keep: float) -> None:
    _, _, written = write_cifar(tmp_path, "cifar10", form, True)
    content = written.read_bytes()
    written.write_bytes(content[: int(len(content) * keep)])
    _refused(tmp_path, str(written))


def test_one_flipped_bit_in_an_archive_is_seen(tmp_path: Path) -> None:
    _, _, written = write_cifar(tmp_path, "cifar10", "binary", True)
    tarred = bytearray(gzip.decompress(written.read_bytes()))
    checksum = written.read_bytes()[-8:]
    tarred[tarred.index(b"cifar-10-batches-bin/test_batch.bin") + 600] ^= 1
    written.write_bytes(gzip.compress(bytes(tarred))[:-8] + checksum)
    _refused(tmp_path, str(written), "download it again")


def _files(form: str = "python", name: str = "cifar10") -> Dict[str, bytes]:
    return cifar_files(name, form, random_images(10), random_images(10))


def _python_tree(root: Path, **changes: Any) -> Path:
    files = {**_files(), **changes}
    return write_folder(
        root, "cifar-10-batches-py", {name: content for name, content in files.items() if content}
    )


@pytest.mark.parametrize("packed", [True, False])
def test_a_missing_file_is_named(tmp_path: Path, packed: bool) -> None:
    files = _files()
    del files["data_batch_4"]
    if packed:
        write_archive(tmp_path / "cifar-10-python.tar.gz", "cifar-10-batches-py", files)
    else:
        write_folder(tmp_path, "cifar-10-batches-py", files)
    _refused(tmp_path, "data_batch_4")


class _Evil:
    def __reduce__(self) -> Any:
        return eval, ("__import__('os').mkdir('evil')",)


def test_an_evil_pickle_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = _python_tree(tmp_path, data_batch_2=pickle.dumps({"data": _Evil()}, 2))
    _refused(root, "data_batch_2", "not run")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    "content, word",
    [
        ({"labels": [1]}, "'data'"),
        ({"data": np.zeros((1, 3071), np.uint8), "labels": [1]}, "'data'"),
        ({"data": np.zeros((1, 3072), np.uint8)}, "'labels'"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [1.5]}, "no pickle"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": ["1"]}, "'labels'"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [1, 2]}, "1 images and 2 labels"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [10]}, "label 10"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [-1]}, "'labels'"),
    ],
)
def test_a_batch_of_something_else_is_refused(tmp_path: Path, content: Any, word: str) -> None:
    _refused(_python_tree(tmp_path, data_batch_1=pickle.dumps(content, 2)), word)


@pytest.mark.parametrize("names", [["a"] * 10, ["a", "b"], [f"{n}\n" for n in range(10)], 3])
def test_class_names_must_be_ten_different_ones(tmp_path: Path, names: Any) -> None:
    _refused(
        _python_tree(tmp_path, **{"batches.meta": pickle.dumps({"label_names": names}, 2)}), "batches.meta"
    )


def test_a_binary_file_cut_short_is_refused(tmp_path: Path) -> None:
    files = _files("binary")
    files["data_batch_3.bin"] = files["data_batch_3.bin"][:-1]
    _refused(write_folder(tmp_path, "cifar-10-batches-bin", files), "data_batch_3.bin", "cut short")


def test_an_empty_test_set_is_refused(tmp_path: Path) -> None:
    files = {**_files("binary"), "test_batch.bin": b""}
    _refused(write_folder(tmp_path, "cifar-10-batches-bin", files), "test set is empty")


def _archive_with(path: Path, change: Callable[[tarfile.TarInfo], None]) -> Path:
    """An archive whose first batch's entry is changed."""
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, content in _files().items():
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(content)
            if name == "data_batch_1":
                change(entry)
            archive.addfile(entry, io.BytesIO(content) if entry.size == len(content) else None)
    return path


def _make_link(entry: tarfile.TarInfo) -> None:
    entry.type, entry.linkname, entry.size = tarfile.SYMTYPE, "/etc/passwd", 0


def _make_outside(entry: tarfile.TarInfo) -> None:
    entry.name = "../../data_batch_1"


def _make_huge(entry: tarfile.TarInfo) -> None:
    entry.size = 1 << 40


@pytest.mark.parametrize("change", [_make_link, _make_outside, _make_huge])
def test_a_hostile_entry_is_refused(tmp_path: Path, change: Callable[[tarfile.TarInfo], None]) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    _refused(_archive_with(folder / "cifar-10-python.tar.gz", change), "cifar-10-python.tar.gz")
    assert [path.name for path in tmp_path.rglob("data_batch_1")] == []


def test_an_archive_that_swells_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "_LARGEST_ARCHIVE", 100_000)
    files = {"padding": bytes(200_000), **_files()}
    _refused(
        write_archive(tmp_path / "cifar-10-python.tar.gz", "cifar-10-batches-py", files), "unpacks to more"
    )


def test_a_file_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "_LARGEST_MEMBER", 1000)
    _refused(_python_tree(tmp_path), "data_batch_1", "too large")
    shutil.rmtree(tmp_path / "cifar-10-batches-py")
    _refused(write_archive(tmp_path / "cifar-10-python.tar.gz", "cifar-10-batches-py", _files()), "too large")


def test_an_archive_of_another_name_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.tar.gz"
    other.write_bytes(b"x")
    _refused(other, "other.tar.gz", "cifar-10-python.tar.gz")


@st.composite
def _change(draw: Any) -> Callable[[bytes], bytes]:
    """A damage: bytes replaced, cut out or put in, or the rest cut off; the place by share."""
    place, kind = draw(st.floats(0, 1)), draw(st.sampled_from(["replace", "insert", "remove", "cut"]))
    patch = draw(st.binary(min_size=1, max_size=8))

    def apply(content: bytes) -> bytes:
        at = int(place * len(content))
        if kind == "cut":
            return content[:at]
        skip = {"replace": len(patch), "insert": 0, "remove": len(patch)}[kind]
        return content[:at] + (b"" if kind == "remove" else patch) + content[at + skip :]

    return apply


@settings(max_examples=60, deadline=None)
@given(change=_change(), tarred=st.booleans(), case=st.sampled_from(sorted(FORMS)))
def test_damaged_archives_only_raise_user_errors(
    tmp_path_factory: pytest.TempPathFactory, change: Any, tarred: bool, case: Any
) -> None:
    root = tmp_path_factory.mktemp("fuzz")
    _, _, written = write_cifar(root, *case, True)
    content = written.read_bytes()
    written.write_bytes(gzip.compress(change(gzip.decompress(content)), 1) if tarred else change(content))
    try:
        load_cifar(case[0], root)
    except UserError as error:
        assert str(written) in str(error) and "\n" not in str(error)
    finally:
        shutil.rmtree(root)


@settings(max_examples=40, deadline=None)
@given(change=_change(), member=st.integers(0, 6), case=st.sampled_from(sorted(FORMS)))
def test_damaged_files_only_raise_user_errors(
    tmp_path_factory: pytest.TempPathFactory, change: Any, member: int, case: Any
) -> None:
    root = tmp_path_factory.mktemp("fuzz")
    files = _files(case[1], case[0])
    name = sorted(files)[member % len(files)]
    write_folder(root, FORMS[case][1], {**files, name: change(files[name])})
    try:
        load_cifar(case[0], root)
    except UserError as error:
        assert str(root) in str(error) and "\n" not in str(error)
    finally:
        shutil.rmtree(root)
