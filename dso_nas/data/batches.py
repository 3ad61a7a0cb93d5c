"""Batches in an order that depends on nothing but seed, epoch and place, made ahead of the training step."""

from __future__ import annotations

import abc
import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Callable, Deque, Generator, Iterable, Iterator, Tuple, TypeVar

import numpy as np

from dso_nas.errors import UserError

Batch = Tuple[np.ndarray, np.ndarray]
Made = TypeVar("Made")

_ORDER, _AUGMENTATION = 0, 1
_AHEAD = 3


class OrderedBatches(abc.ABC):
    """The batches of every epoch over some images.

    Order and augmentation are pure functions of (seed, stream, epoch, batch index): a run that resumes inside
    an epoch needs no generator's state, and two streams of one seed have nothing to do with each other.

    Attributes:
        threads: that make batches side by side, ahead of the consumer.
    """

    def __init__(
        self,
        images: Any,
        batch_size: int,
        augmentation: Any,
        seed: int,
        stream: str,
        shuffle: bool = True,
        last: str = "discard",
    ) -> None:
        """Nothing is read yet.

        Args:
            images: the set, with a length.
            batch_size: images in a batch, at least 1; 1 where augmented images differ in size.
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
        count = len(images)
        self._images = images
        self.threads = self.useful_threads(images)
        self._augmentation = augmentation
        self._batch_size = batch_size
        self._seed = seed
        self._stream = stream
        self._shuffle = shuffle
        self._length = (count + (batch_size - 1 if last == "keep" else 0)) // batch_size
        if not self._length:
            raise UserError(f"--batch-size {batch_size}: only {count} images for '{stream}'; give a smaller one")

    @staticmethod
    def useful_threads(images: Any) -> int:
        """Threads that make batches of such images fastest."""
        return 1

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self._length

    def epoch(self, number: int, start: int = 0) -> Generator[Batch, None, None]:
        """The batches of one epoch, made in the background a few ahead of the consumer.

        The threads end with the iterator: when it is exhausted, closed or forgotten. What fails in them is
        raised here.

        Args:
            number: the epoch, from 0.
            start: the first batch wanted, for a run that resumes inside the epoch.

        Yields:
            Data, float32 (batch, 3, height, width), and labels, float32 (batch, ...).
        """
        order = np.arange(len(self._images))
        if self._shuffle:
            order = self._generator(_ORDER, number).permutation(len(order))
        return made_ahead(partial(self._make, number, order), range(start, len(self)), self.threads)

    @abc.abstractmethod
    def batch(self, chosen: np.ndarray, rng: np.random.Generator) -> Batch:
        """Data and labels of the images at these places, augmented by `rng`."""

    def _make(self, epoch: int, order: np.ndarray, index: int) -> Batch:
        chosen = order[index * self._batch_size : (index + 1) * self._batch_size]
        return self.batch(chosen, self._generator(_AUGMENTATION, epoch, index))

    def _generator(self, *place: int) -> np.random.Generator:
        return np.random.default_rng(
            np.random.SeedSequence((self._seed, *_words(self._stream)), spawn_key=place)
        )


class Batches(OrderedBatches):
    """The batches of every epoch over `ImageArrays` under an `Augmentation`; labels are float32 (batch,)."""

    def batch(self, chosen: np.ndarray, rng: np.random.Generator) -> Batch:
        """See OrderedBatches."""
        return self._augmentation(self._images.images[chosen], rng), self._images.labels[chosen].astype(np.float32)


def _words(text: str) -> Tuple[int, ...]:
    """Four 32-bit words that stand for a text."""
    return tuple(np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], "<u4").tolist())


def made_ahead(
    make: Callable[[int], Made], items: Iterable[int], threads: int = 1
) -> Generator[Made, None, None]:
    """Yield make(item) for each item in order, a few of them computed ahead in background threads."""
    with ThreadPoolExecutor(max_workers=threads) as pool:
        remaining: Iterator[int] = iter(items)
        pending: Deque[Future[Made]] = deque()
        try:
            for item in remaining:
                pending.append(pool.submit(make, item))
                if len(pending) > max(_AHEAD, threads):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
