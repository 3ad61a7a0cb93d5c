"""Batches in an order that depends on nothing but seed, epoch and place, made ahead of the training step."""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Callable, Deque, Generator, Iterable, Iterator, Tuple, TypeVar

import numpy as np

from dso_nas.data.arrays import ImageArrays
from dso_nas.data.augmentation import Augmentation
from dso_nas.errors import UserError

Batch = Tuple[np.ndarray, np.ndarray]
Made = TypeVar("Made")

_ORDER, _AUGMENTATION = 0, 1
_AHEAD = 3


class Batches:
    """The batches of every epoch over one image set.

    Order and augmentation are pure functions of (seed, stream, epoch, batch index): a run that resumes inside
    an epoch needs no generator's state, and two streams of one seed have nothing to do with each other.
    """

    def __init__(
        self,
        arrays: ImageArrays,
        batch_size: int,
        augmentation: Augmentation,
        seed: int,
        stream: str,
        shuffle: bool = True,
        last: str = "discard",
    ) -> None:
        """Nothing is read yet.

        Args:
            arrays: the images.
            batch_size: images in a batch, at least 1.
            augmentation: what makes an input of an image.
            seed: the run's seed, not negative.
            stream: what the batches are for ('weights', 'lambdas', 'retrain'); sets their randomness apart.
            shuffle: a new order every epoch; else the stored one.
            last: 'discard' or 'keep' an incomplete last batch.

        Raises:
            UserError: not one batch comes out.
        """
        if last not in ("discard", "keep"):
            raise ValueError(f"last is '{last}', not 'discard' or 'keep'")
        self._arrays = arrays
        self._batch_size = batch_size
        self._augmentation = augmentation
        self._seed = seed
        self._stream = stream
        self._shuffle = shuffle
        self._length = (len(arrays) + (batch_size - 1 if last == "keep" else 0)) // batch_size
        if not self._length:
            raise UserError(
                f"--batch-size {batch_size}: only {len(arrays)} images for '{stream}'; give a smaller one"
            )

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self._length

    def epoch(self, number: int, start: int = 0) -> Generator[Batch, None, None]:
        """The batches of one epoch, made by a thread of their own a few ahead of the consumer.

        The thread ends with the iterator: when it is exhausted, closed or forgotten. What fails in it is
        raised here.

        Args:
            number: the epoch, from 0.
            start: the first batch wanted, for a run that resumes inside the epoch.

        Yields:
            Data, float32 (batch, 3, height, width), and labels, float32 (batch,).
        """
        count = len(self._arrays)
        order = self._generator(_ORDER, number).permutation(count) if self._shuffle else np.arange(count)
        return made_ahead(partial(self._make, number, order), range(start, len(self)))

    def _make(self, epoch: int, order: np.ndarray, index: int) -> Batch:
        chosen = order[index * self._batch_size : (index + 1) * self._batch_size]
        data = self._augmentation(self._arrays.images[chosen], self._generator(_AUGMENTATION, epoch, index))
        return data, self._arrays.labels[chosen].astype(np.float32)

    def _generator(self, *place: int) -> np.random.Generator:
        return np.random.default_rng(
            np.random.SeedSequence((self._seed, *_words(self._stream)), spawn_key=place)
        )


def _words(text: str) -> Tuple[int, ...]:
    """Four 32-bit words that stand for a text."""
    return tuple(np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], "<u4").tolist())


def made_ahead(make: Callable[[int], Made], items: Iterable[int]) -> Generator[Made, None, None]:
    """Yield make(item) for each item in order, a few of them computed ahead in one background thread."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        remaining: Iterator[int] = iter(items)
        pending: Deque[Future[Made]] = deque()
        try:
            for item in remaining:
                pending.append(pool.submit(make, item))
                if len(pending) > _AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
