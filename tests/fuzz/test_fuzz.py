"""A short run of `make fuzz`: hostile files end in one line, never in a traceback."""

import pytest

from tests.fuzz.fuzzing import fuzz
from tests.fuzz.targets import targets

NAMES = ("recipe", "override", "genotype", "split", "metrics", "checkpoint", "records", "batches", "archive")


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    return targets(tmp_path_factory.mktemp("examples"))


def test_every_target_is_named(known):
    assert tuple(known) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_only_user_errors_come_out(name, known, tmp_path):
    answers = []
    fuzz(known[name], tmp_path, 100, answers.append)
    assert not all(answers)
