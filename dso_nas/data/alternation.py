"""The order in which a search takes weight batches and lambda batches."""

from __future__ import annotations

from typing import Generator, Iterator, Tuple, TypeVar

Batch = TypeVar("Batch")
WEIGHTS, LAMBDAS = "weights", "lambdas"


def alternate(
    weight_batches: Iterator[Batch], lambda_batches: Iterator[Batch], x: int, y: int, start: int = 0
) -> Generator[Tuple[str, Batch], None, None]:
    """One search epoch: of every x + y batches the first x are weight batches and the last y lambda batches.

    The epoch ends where the iterator whose turn it is has nothing left, be the other's rest what it may. With
    x:y = 1:1 and 4:1 that is the published code's order (its T = 2 and T = 5); other ratios are the paper's
    Table 7.

    Args:
        weight_batches: batches of D_w; closed at the end if it can be.
        lambda_batches: batches of D_lambda; closed at the end if it can be.
        x: weight batches in a turn, at least 1.
        y: lambda batches in a turn, at least 1.
        start: steps of this epoch that are done already; the iterators begin behind the batches that `taken`
            counts.

    Yields:
        ('weights' or 'lambdas', batch).
    """
    sources = {WEIGHTS: weight_batches, LAMBDAS: lambda_batches}
    step = start
    try:
        while True:
            kind = LAMBDAS if step % (x + y) >= x else WEIGHTS
            try:
                batch = next(sources[kind])
            except StopIteration:
                return
            yield kind, batch
            step += 1
    finally:
        for source in sources.values():
            getattr(source, "close", _nothing)()


def _nothing() -> None:
    pass


def steps_per_epoch(weight_batches: int, lambda_batches: int, x: int, y: int) -> int:
    """How many batches `alternate` takes in an epoch, given how many there are of each."""
    without_weights = weight_batches // x * (x + y) + weight_batches % x
    without_lambdas = lambda_batches // y * (x + y) + x + lambda_batches % y
    return min(without_weights, without_lambdas)


def taken(steps: int, x: int, y: int) -> Tuple[int, int]:
    """Weight and lambda batches among the first `steps` of an epoch."""
    turns, rest = divmod(steps, x + y)
    return turns * x + min(rest, x), turns * y + max(rest - x, 0)
