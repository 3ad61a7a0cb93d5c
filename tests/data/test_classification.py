from __future__ import annotations

from pathlib import Path

import pytest

from dso_nas.data.classification import DATASETS, load_dataset
from dso_nas.data.records import write_records
from dso_nas.errors import UserError
from tests.data.builders import random_images, write_cifar


def test_every_set_loads_by_its_name(tmp_path: Path) -> None:
    write_cifar(tmp_path, "cifar10", "python", True)
    write_cifar(tmp_path, "cifar100", "binary", False)
    write_records(tmp_path / "train.rec", random_images(4, classes=2))
    write_records(tmp_path / "val.rec", random_images(2, classes=2))
    sizes = {name: len(load_dataset(name, tmp_path).train) for name in DATASETS if name != "fashion-mnist"}
    assert sizes == {"cifar10": 13, "cifar100": 103, "records": 4}
    assert load_dataset("fashion-mnist").name == "fashion-mnist"


def test_a_folder_may_be_given_as_text(tmp_path: Path) -> None:
    write_cifar(tmp_path, "cifar10", "binary", True)
    assert load_dataset("cifar10", str(tmp_path)).name == "cifar10"


@pytest.mark.parametrize(
    "name, root, words",
    [
        ("cifar11", None, ("cifar11", "fashion-mnist, cifar10, cifar100, records")),
        ("cifar10", None, ("cifar10", "--data-dir")),
        ("fashion-mnist", "/tmp", ("--data-dir",)),
        ("cifar10", "/nowhere/at/all", ("/nowhere/at/all",)),
        ("records", "/nowhere/at/all", ("/nowhere/at/all/train.rec",)),
    ],
)
def test_a_wrong_request_is_one_line(name: str, root: str, words: tuple) -> None:
    with pytest.raises(UserError) as caught:
        load_dataset(name, root)
    assert "\n" not in str(caught.value) and all(word in str(caught.value) for word in words)
