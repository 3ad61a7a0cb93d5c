from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, Tuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dso_nas.data.arrays import ImageArrays, ImageDataset
from dso_nas.data.splits import Split
from dso_nas.errors import UserError
from tests.data.builders import small_dataset

DATASET = small_dataset()


def _uneven_dataset() -> ImageDataset:
    labels = np.repeat(np.arange(4), [3, 5, 7, 10]).astype(np.int32)
    train = ImageArrays(np.zeros((25, 8, 8, 3), np.uint8), labels)
    return ImageDataset.of("uneven", "uneven", train, train, tuple("abcd"))


@pytest.mark.parametrize("ratio", [(1, 1), (4, 1), (1, 4), (3, 2)])
@pytest.mark.parametrize("dataset", [DATASET, _uneven_dataset()])
def test_every_image_is_in_one_part_and_every_class_in_the_ratio(
    dataset: ImageDataset, ratio: Tuple[int, int]
) -> None:
    split = Split.of(dataset, 3, ratio)
    count, share = len(dataset.train), ratio[0] / sum(ratio)
    np.testing.assert_array_equal(np.sort(np.concatenate([split.weights, split.lambdas])), np.arange(count))
    assert abs(len(split.weights) - count * share) <= 0.5
    of_weights = np.bincount(dataset.train.labels[split.weights], minlength=4)
    assert (np.abs(of_weights - np.bincount(dataset.train.labels) * share) < 1).all()
    assert (np.diff(split.weights) > 0).all() and (np.diff(split.lambdas) > 0).all()


def test_the_seed_decides() -> None:
    first, again, other = (Split.of(DATASET, seed, (1, 1)).weights.tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_the_sets_own_files_decide_where_they_can() -> None:
    data = DATASET
    given_split = ImageDataset(
        data.name, "", data.train, data.test, data.classes, data.mean, data.std, weights_first=30
    )
    split = Split.of(given_split, 1, (1, 1))
    assert split.weights.tolist() == list(range(30)) and split.lambdas.tolist() == list(range(30, 40))
    assert split.seed is None and split.ratio is None


def test_an_empty_part_is_refused() -> None:
    one = ImageDataset.of("one", "one", DATASET.train.subset(np.array([0])), DATASET.test, DATASET.classes)
    with pytest.raises(UserError, match="empty"):
        Split.of(one, 0, (1, 1))
    with pytest.raises(ValueError, match="ratio 1:0"):
        Split.of(DATASET, 0, (1, 0))


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    split = Split.of(DATASET, 5, (3, 1))
    split.save(tmp_path / "split.json")
    loaded = Split.load(tmp_path / "split.json", DATASET)
    assert (loaded.dataset, loaded.labels_sha256, loaded.seed, loaded.ratio) == (
        "small",
        split.labels_sha256,
        5,
        (3, 1),
    )
    np.testing.assert_array_equal(loaded.weights, split.weights)
    np.testing.assert_array_equal(loaded.lambdas, split.lambdas)
    assert [path.name for path in tmp_path.iterdir()] == ["split.json"]
    assert json.loads((tmp_path / "split.json").read_text())["sizes"] == {"weights": 30, "lambdas": 10}


def _refused(path: Path, *words: str, dataset: ImageDataset = DATASET) -> None:
    with pytest.raises(UserError) as caught:
        Split.load(path, dataset)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and all(word in message for word in words), message


def test_a_split_of_another_set_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    Split.of(DATASET, 5, (1, 1)).save(path)
    renamed = small_dataset(name="other")
    longer = small_dataset(count=44)
    relabelled = small_dataset(classes=2)
    for dataset in (renamed, longer, relabelled):
        _refused(path, "small", dataset.name, dataset=dataset)


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        Split.of(DATASET, 5, (1, 1)).save(tmp_path / "nowhere" / "split.json")


def _content() -> Dict[str, Any]:
    split = Split.of(DATASET, 5, (1, 1))
    return {
        "format": "dso-nas-split",
        "version": 1,
        "dataset": "small",
        "images": 40,
        "labels_sha256": split.labels_sha256,
        "seed": 5,
        "ratio": [1, 1],
        "sizes": {"weights": 20, "lambdas": 20},
        "weights": split.weights.tolist(),
        "lambdas": split.lambdas.tolist(),
    }


CONTENT = _content()


@pytest.mark.parametrize(
    "key, value",
    [
        ("format", "else"),
        ("version", 2),
        ("version", True),
        ("dataset", 3),
        ("images", -1),
        ("images", 10**17),
        ("labels_sha256", "ab"),
        ("seed", 1.5),
        ("seed", -1),
        ("ratio", [1, 0]),
        ("ratio", [1, 1, 1]),
        ("sizes", {"weights": 19, "lambdas": 20}),
        ("weights", []),
        ("weights", CONTENT["lambdas"]),
        ("weights", [-1, *CONTENT["weights"][1:]]),
        ("weights", [True, *CONTENT["weights"][1:]]),
        ("weights", [1.0, *CONTENT["weights"][1:]]),
        ("lambdas", [40, *CONTENT["lambdas"][1:]]),
        ("lambdas", "many"),
        ("extra", 1),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, key: str, value: Any) -> None:
    path = tmp_path / "split.json"
    path.write_text(json.dumps({**CONTENT, key: value}))
    _refused(path, "keys" if key == "extra" else "images" if key == "images" and value > 0 else "")


@pytest.mark.parametrize("key", list(CONTENT))
def test_a_missing_key_is_refused(tmp_path: Path, key: str) -> None:
    path = tmp_path / "split.json"
    path.write_text(json.dumps({name: value for name, value in CONTENT.items() if name != key}))
    _refused(path, key)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff", b"[" * 100_000, b"NaN", b"[1]", b"9" * 5000, b'{"seed": ' + b"1" * 10_000 + b"}"],
)
def test_what_is_no_json_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "split.json"
    path.write_bytes(content)
    _refused(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    _refused(tmp_path / "split.json", "No such file")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(changes=st.dictionaries(st.sampled_from(list(CONTENT)), JSON, max_size=3), cut=st.integers(0, 30))
def test_damaged_files_only_raise_user_errors(
    tmp_path_factory: pytest.TempPathFactory, changes: Dict[str, Any], cut: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.json"
    text = json.dumps({**CONTENT, **changes})
    path.write_text(text[: len(text) - cut if cut > 20 else len(text)])
    try:
        Split.load(path, DATASET)
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
