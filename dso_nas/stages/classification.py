"""Runs on classification sets: in memory, or record files that are read while training, each worker its own share."""

from __future__ import annotations

from typing import Any, Iterable, Optional, Sequence, Tuple, Union

import mxnet as mx
import numpy as np

from dso_nas.data.arrays import ImageDataset
from dso_nas.data.classification import load_images
from dso_nas.data.stream_options import StreamAugmentation, Streaming
from dso_nas.data.streaming import StreamedDataset
from dso_nas.errors import UserError
from dso_nas.recipes import Recipe
from dso_nas.stages.run import EVALUATION_BATCH, Run
from dso_nas.training.workers import workers
from dso_nas.training.workfolder import WorkFolder


class StreamedRun(Run):
    """`dataset` is a `StreamedDataset`; a part is its name, and the files themselves are the split."""

    def part(self, name: str) -> Any:
        """See Run."""
        return name

    def batches(self, arrays: Any, batch_size: int, stream: str, cutout: int) -> Any:
        """See Run; a worker's batches are its own part of the whole ones.

        Raises:
            UserError: a batch that the workers cannot share evenly, cutout, or a part whose file is missing.
        """
        own, left = divmod(batch_size, workers().count)
        if left or not own:
            raise UserError(f"--batch-size {batch_size}: {workers().count} workers that stream cannot share it evenly; "
                            "give a multiple")
        if cutout:
            raise UserError(f"data.cutout: {cutout}, and streamed images are not cut out; set it to 0")
        return self.dataset.batches(arrays, own, self.recipe.seed, stream, workers().rank, workers().count)

    def plain_batches(self, arrays: Any) -> Iterable[Tuple[np.ndarray, np.ndarray]]:
        """See Run."""
        return self.dataset.evaluation(arrays, EVALUATION_BATCH)

    def whole(self, data: np.ndarray) -> Optional[int]:
        """See Run."""
        return len(data) * workers().count


def classification_run(recipe: Recipe, folder: WorkFolder, data_dir: Optional[str], contexts: Sequence[mx.Context],
                       kvstore: Optional[str], resume: bool) -> Run:
    """The run of a recipe on its classification set, in `data_dir` or the recipe's own folder.

    Raises:
        UserError: data is missing or bad, or the recipe is one for segmentation.
    """
    if recipe.segmentation is not None:
        raise UserError(f"--recipe {recipe.name}: is for segmentation, give it to search_seg.py")
    dataset = classification_images(recipe, data_dir)
    kind = StreamedRun if isinstance(dataset, StreamedDataset) else Run
    return kind(recipe, folder, dataset, contexts, kvstore, resume)


def classification_images(recipe: Recipe, data_dir: Optional[str]) -> Union[ImageDataset, StreamedDataset]:
    """The recipe's classification set, in `data_dir` or the recipe's own folder.

    Raises:
        UserError: data is missing or bad.
    """
    data = recipe.data
    augmentation = StreamAugmentation(min_area=data.min_area, flip=data.flip, jitter=data.jitter,
                                      lighting=data.lighting)
    return load_images(data.dataset, data_dir or data.root,
                       Streaming(data.streaming, recipe.network.image_size, augmentation))
