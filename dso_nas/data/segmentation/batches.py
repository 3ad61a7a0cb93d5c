"""Batches of pictures with masks, decoded and augmented ahead of the training step."""

from __future__ import annotations

import os

import numpy as np

from dso_nas.data.batches import Batch, OrderedBatches
from dso_nas.data.segmentation.augmentation import SegmentationAugmentation
from dso_nas.data.segmentation.sets import ArrayPictures, SegmentationSet

_MOST_THREADS = 4


class SegmentationBatches(OrderedBatches):
    """The batches of every epoch over a segmentation set: masks are float32 (batch, h, w), 255 where to be ignored."""

    def __init__(self, pictures: SegmentationSet, batch_size: int, augmentation: SegmentationAugmentation, seed: int,
                 stream: str, shuffle: bool = True, last: str = "discard") -> None:
        """Nothing is read yet.

        Args:
            pictures: the set.
            batch_size: pictures in a batch, at least 1; 1 if the augmentation has no crop and they differ in size.
            augmentation: what makes an input of a picture.
            seed: as `stream`, `shuffle` and `last`: see OrderedBatches.
            stream: see `seed`.
            shuffle: see `seed`.
            last: see `seed`.

        Raises:
            UserError: not one batch comes out.
        """
        super().__init__(len(pictures), batch_size, seed, stream, shuffle, last)
        self._pictures = pictures
        self._augmentation = augmentation
        # Pillow decodes without holding Python's lock.
        self.threads = 1 if isinstance(pictures, ArrayPictures) else min(_MOST_THREADS, os.cpu_count() or 1)

    def batch(self, chosen: np.ndarray, rng: np.random.Generator) -> Batch:
        """See OrderedBatches."""
        made = [self._augmentation(*self._pictures.read(index), rng) for index in chosen.tolist()]
        return np.stack([data for data, _ in made]), np.stack([mask for _, mask in made])
