"""Batches of pictures with masks, decoded and augmented ahead of the training step."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from dso_nas.data.batches import Batch, OrderedBatches
from dso_nas.data.segmentation.sets import ArrayPictures

_MOST_THREADS = 4


class SegmentationBatches(OrderedBatches):
    """The batches of every epoch over a `SegmentationSet` under a `SegmentationAugmentation`.

    Masks are float32 (batch, h, w), 255 where to be ignored.
    """

    @staticmethod
    def useful_threads(images: Any) -> int:
        """See OrderedBatches; several for files, since Pillow decodes without holding Python's lock."""
        return 1 if isinstance(images, ArrayPictures) else min(_MOST_THREADS, os.cpu_count() or 1)

    def batch(self, chosen: np.ndarray, rng: np.random.Generator) -> Batch:
        """See OrderedBatches."""
        made = [self._augmentation(*self._images.read(index), rng) for index in chosen.tolist()]
        return np.stack([data for data, _ in made]), np.stack([mask for _, mask in made])
