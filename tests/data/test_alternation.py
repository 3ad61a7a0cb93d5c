from __future__ import annotations

import json
from pathlib import Path
from typing import Iterator, List, Tuple

import numpy as np
import pytest

from dso_nas.data.alternation import alternate, steps_per_epoch, taken

GOLDEN = Path(__file__).parent.parent / "golden"
MANIFEST = json.loads((GOLDEN / "manifest.json").read_text())
ORDERS = sorted(name for name in MANIFEST if name.startswith("E_"))


def _epoch(weights: int, lambdas: int, x: int, y: int, start: int = 0) -> List[Tuple[str, int]]:
    done = taken(start, x, y)
    return list(alternate(iter(range(done[0], weights)), iter(range(done[1], lambdas)), x, y, start))


def test_every_published_order_is_tried() -> None:
    assert len(ORDERS) == 9 == len(list(GOLDEN.glob("E_*.npz")))


@pytest.mark.parametrize("name", ORDERS)
def test_the_published_order(name: str) -> None:
    case = MANIFEST[name]
    counts = case["n_weight_batches"], case["n_lambda_batches"]
    ratio = case["transform_num"] - 1, 1
    recorded = np.load(GOLDEN / case["file"], allow_pickle=False)["steps"]
    ours = [
        (epoch, step, int(kind == "lambdas"), batch, int(kind == "lambdas"), int(kind == "weights"))
        for epoch in range(case["num_epoch"])
        for step, (kind, batch) in enumerate(_epoch(*counts, *ratio))
    ]
    # The two long recordings stop after 20 steps.
    recording_ends = len(recorded) if counts == (100, 100) else len(ours)
    np.testing.assert_array_equal(np.array(ours[:recording_ends]), recorded)


@pytest.mark.parametrize("x, y", [(1, 1), (4, 1), (1, 4), (2, 3)])
def test_turns_have_the_ratio(x: int, y: int) -> None:
    kinds = [kind for kind, _ in _epoch(12 * x, 12 * y, x, y)]
    assert kinds == (["weights"] * x + ["lambdas"] * y) * 12


@pytest.mark.parametrize("x, y", [(1, 1), (4, 1), (1, 4), (2, 3)])
def test_lengths_and_resumption_agree_with_the_order(x: int, y: int) -> None:
    for weights in range(10):
        for lambdas in range(10):
            whole = _epoch(weights, lambdas, x, y)
            assert len(whole) == steps_per_epoch(weights, lambdas, x, y)
            for start in range(len(whole) + 1):
                kinds = [kind for kind, _ in whole[:start]]
                assert taken(start, x, y) == (kinds.count("weights"), kinds.count("lambdas"))
                assert _epoch(weights, lambdas, x, y, start) == whole[start:]


def _counting(closed: List[str], name: str, count: int) -> Iterator[int]:
    try:
        yield from range(count)
    finally:
        closed.append(name)


@pytest.mark.parametrize("steps", [2, 100])
def test_both_sources_are_closed_at_the_end(steps: int) -> None:
    closed: List[str] = []
    sources = _counting(closed, "weights", 9), _counting(closed, "lambdas", 5)
    epoch = alternate(*sources, 1, 1)
    for _, _ in zip(range(steps), epoch):
        pass
    epoch.close()
    assert sorted(closed) == ["lambdas", "weights"]


def test_a_fault_in_a_source_is_not_taken_for_its_end() -> None:
    def broken() -> Iterator[int]:
        yield 0
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        list(alternate(broken(), iter(range(9)), 1, 1))
