"""The lambdas' picture at an epoch's end."""

import os
from types import SimpleNamespace

import numpy as np
import pytest

from dso_nas.architecture.spaces import space_of
from dso_nas.errors import UserError
from dso_nas.recipes import load_recipe
from dso_nas.reporting.lives import draw_epoch, draw_life, split_history
from tests.run_folders import falling


def rows_of(space, epochs):
    values = falling(space, epochs=epochs)
    return [np.concatenate([values[name][epoch] for name in space.layout.shapes()]) for epoch in range(epochs)]


@pytest.mark.parametrize("recipe, overrides", [("demo", []), ("demo", ["network.scope=full"]), ("mobile-demo", [])])
def test_a_vector_an_epoch_becomes_its_picture(tmp_path, recipe, overrides):
    space = space_of(load_recipe(recipe, None, overrides))
    rows = rows_of(space, 3)
    draw_epoch(tmp_path, rows[:1], space.layout)
    draw_epoch(tmp_path, rows, space.layout)
    assert sorted(os.listdir(tmp_path / "search" / "lambdas")) == ["epoch-001.png", "epoch-003.png"]
    assert (tmp_path / "search" / "lambdas" / "epoch-003.png").read_bytes().startswith(b"\x89PNG")


def test_vectors_are_split_as_they_were_joined():
    space = space_of(load_recipe("demo"))
    history = split_history(rows_of(space, 2), space.layout.shapes())
    expected = falling(space, epochs=2)
    assert [epoch for epoch, _ in history] == [1, 2] and list(history[0][1]) == list(space.layout.shapes())
    for epoch, values in history:
        for name, array in values.items():
            np.testing.assert_array_equal(array, expected[name][epoch - 1])


def test_other_spaces_are_drawn_by_parameter(tmp_path):
    layout = SimpleNamespace(spec=object(), shapes=lambda: {"lambda_a": (1, 3), "lambda_b": (1, 2)})
    history = split_history([np.ones(5), np.array([0, 0, 0, 1, 0.5])], layout.shapes())
    draw_life(history, str(tmp_path / "x.svg"), layout)
    text = (tmp_path / "x.svg").read_text()
    assert "lambda_a" in text and "lambda_b" in text and "The life of every lambda" in text


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "search").touch()
    space = space_of(load_recipe("demo"))
    with pytest.raises(UserError, match="search/lambdas"):
        draw_epoch(tmp_path, rows_of(space, 1), space.layout)
