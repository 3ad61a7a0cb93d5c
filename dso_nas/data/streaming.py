"""Record files of any size, decoded and augmented by MXNet's ImageRecordIter while training runs.

Every epoch has an iterator of its own, whose order and augmentation follow from (seed, stream, epoch, worker): so a run
that resumes inside an epoch reads on to its place, and sees what the run that was cut off would have seen. What
decides, as measured: `seed` gives the order (with an index, over all records of a worker's share), and `seed_aug` the
augmentation, drawn anew for each place in a batch; neither depends on the number of threads.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generator, Mapping, NamedTuple, Tuple

import mxnet as mx
import numpy as np

from dso_nas.data.record_files import RecordScan
from dso_nas.data.record_folders import StreamedFiles, index_of, scan_folder
from dso_nas.data.stream_options import StreamAugmentation, Streaming
from dso_nas.errors import UserError

Batch = Tuple[np.ndarray, np.ndarray]
PARTS = ("train", "weights", "lambdas", "test")
# ImageNet's, as fb.resnet has them, on the 0..255 scale.
MEAN = np.array([123.675, 116.28, 103.53], np.float32)
STD = np.array([58.395, 57.12, 57.375], np.float32)


class Share(NamedTuple):
    """One worker's records: ImageRecordIter gives each worker a run of them, the last one what is left."""

    worker: int
    workers: int

    def sizes(self, count: int) -> Tuple[int, int]:
        """How many of `count` records this worker has, and how many the worker with fewest."""
        step = -(-count // self.workers)
        return max(min(step, count - self.worker * step), 0), max(count - (self.workers - 1) * step, 0)


class StreamedBatches:
    """The batches of every epoch over one worker's share of a record file; the same face as `Batches`."""

    def __init__(self, scan: RecordScan, options: Mapping[str, Any], batch_size: int, seed: int, stream: str,
                 share: Share) -> None:
        """Nothing is read yet.

        Args:
            scan: the file.
            options: of ImageRecordIter, for what becomes of an image.
            batch_size: images in this worker's batch, at least 1; an incomplete last batch is left out.
            seed: the run's seed, not negative.
            stream: what the batches are for; sets their randomness apart.
            share: which records.

        Raises:
            UserError: more workers than records, or not one batch for each.
        """
        self._scan = scan
        self._options = options
        self._batch_size = batch_size
        self._origin = (seed, stream, *share)
        self._share = share
        self._length = _fewest(scan, share) // batch_size
        if not self._length:
            raise UserError(f"--batch-size {batch_size}: {scan.path} has only {len(scan)} images for {share.workers} "
                            f"workers in '{stream}'; give a smaller one")

    def __len__(self) -> int:
        """Batches in an epoch, the same number for every worker."""
        return self._length

    def epoch(self, number: int, start: int = 0) -> Generator[Batch, None, None]:
        """The batches of one epoch; those before `start` are read and dropped.

        Args:
            number: the epoch, from 0.
            start: the first batch wanted, for a run that resumes inside the epoch.

        Yields:
            Data, float32 (batch, 3, height, width), and labels, float32 (batch,).

        Raises:
            UserError: an image cannot be decoded.
        """
        order, augmentation = _seeds(*self._origin, number)
        seeds = {"shuffle": True, "seed": order, "seed_aug": augmentation}
        reader = _open(self._scan, self._batch_size, self._share, {**self._options, **seeds})
        for index in range(len(self)):
            batch = _next(reader, self._scan)
            if index >= start:
                yield _arrays(batch, self._batch_size)


def _fewest(scan: RecordScan, share: Share) -> int:
    _, fewest = share.sizes(len(scan))
    if not fewest:
        # A worker without records would wait in MXNet's reader for ever.
        raise UserError(f"{scan.path}: {len(scan)} records cannot be shared by {share.workers} workers; start fewer")
    return fewest


def _seeds(*origin: object) -> Tuple[int, int]:
    """Two numbers of 30 bits, which leave MXNet room to add a place in the batch."""
    digest = hashlib.sha256(repr(origin).encode()).digest()
    return tuple(int.from_bytes(digest[place : place + 4], "little") >> 2 for place in (0, 4))  # type: ignore


def _open(scan: RecordScan, batch_size: int, share: Share, options: Mapping[str, Any]) -> Any:
    try:
        return mx.io.ImageRecordIter(
            path_imgrec=str(scan.path), path_imgidx=str(index_of(scan)), batch_size=batch_size, round_batch=False,
            num_parts=share.workers, part_index=share.worker, preprocess_threads=os.cpu_count() or 1, device_id=-1,
            verbose=False, mean_r=MEAN[0], mean_g=MEAN[1], mean_b=MEAN[2], std_r=STD[0], std_g=STD[1], std_b=STD[2],
            **options)
    except mx.MXNetError as error:
        raise _undecodable(scan, error) from error


def _next(reader: Any, scan: RecordScan) -> Any:
    try:
        return reader.next()
    except mx.MXNetError as error:
        raise _undecodable(scan, error) from error


def _undecodable(scan: RecordScan, error: mx.MXNetError) -> UserError:
    reason = str(error).strip().splitlines()[-1] if str(error).strip() else "no reason given"
    return UserError(f"{scan.path}: MXNet cannot read or decode one of its images ({reason[-120:]}); make it again")


def _arrays(batch: Any, count: int) -> Batch:
    return batch.data[0][:count].asnumpy(), batch.label[0][:count].asnumpy()


@dataclass(frozen=True, eq=False)
class StreamedDataset:
    """A classification set in record files too large for memory, or with images of different sizes.

    Attributes:
        files: the folder, scanned.
        image_size: side of the square that the network takes.
        resize: the shorter edge in evaluation, before the middle square is cut out.
        augmentation: what happens to training images.
        name: what recipes call it.
    """

    files: StreamedFiles
    image_size: int
    resize: int
    augmentation: StreamAugmentation = StreamAugmentation()
    name: str = "records"

    @property
    def title(self) -> str:
        """What a report calls it."""
        return f"record files of {self.files.root.resolve().name}"

    @property
    def classes(self) -> Tuple[str, ...]:
        """A name for each label."""
        return self.files.classes

    @property
    def image_shape(self) -> Tuple[int, int, int]:
        """Channels, height and width of one image as the network takes it."""
        return 3, self.image_size, self.image_size

    @property
    def mean(self) -> np.ndarray:
        """float32 (3,), subtracted on the 0..255 scale: ImageNet's."""
        return MEAN

    @property
    def std(self) -> np.ndarray:
        """float32 (3,), divided by after that: ImageNet's."""
        return STD

    @property
    def train(self) -> range:
        """As many as there are training images."""
        return range(self.files.train_count)

    @property
    def test(self) -> RecordScan:
        """The file of the test error; its length is the number of images."""
        return self.files.part("test")

    @property
    def weights_first(self) -> int:
        """How many training images are in D_w."""
        return len(self.files.part("weights"))

    def batches(self, part: str, batch_size: int, seed: int, stream: str, worker: int = 0,
                workers: int = 1) -> StreamedBatches:
        """Augmented training batches.

        Args:
            part: 'weights' (train1.rec), 'lambdas' (train2.rec) or 'train' (train.rec).
            batch_size: images in each worker's batch.
            seed: the run's seed.
            stream: what the batches are for; sets their randomness apart.
            worker: this worker, from 0.
            workers: all of them.

        Raises:
            UserError: the part's file is missing, or too small for so many workers and so large a batch.
        """
        options = {"data_shape": self.image_shape, **self.augmentation.options()}
        return StreamedBatches(self.files.part(part), options, batch_size, seed, stream, Share(worker, workers))

    def evaluation(self, part: str, batch_size: int, worker: int = 0,
                   workers: int = 1) -> Generator[Batch, None, None]:
        """A worker's share of a part once through, in the file's order: resized, the middle cut out, normalised.

        Args:
            part: 'test' (val.rec), 'weights', 'lambdas' or 'train'.
            batch_size: images in a batch at most; the last may have fewer.
            worker: this worker, from 0.
            workers: all of them.

        Yields:
            Data, float32 (batch, 3, height, width), and labels, float32 (batch,).

        Raises:
            UserError: the part's file is missing, has fewer records than there are workers, or a bad image.
        """
        scan, share = self.files.part(part), Share(worker, workers)
        _fewest(scan, share)
        left, _ = share.sizes(len(scan))
        size = min(batch_size, left)
        options = {"data_shape": self.image_shape, "resize": self.resize, "shuffle": False}
        reader = _open(scan, size, share, options)
        while left:
            # MXNet fills an incomplete last batch up with what stood there before.
            yield _arrays(_next(reader, scan), min(size, left))
            left -= min(size, left)


def load_streamed(root: Path, streaming: Streaming) -> StreamedDataset:
    """Scan a folder of record files for streaming.

    Args:
        root: the folder.
        streaming: the size of the input, and how training images are changed.

    Raises:
        UserError: no size, or files that are missing, bad or do not fit together.
    """
    size = streaming.image_size
    if size is None:
        raise UserError(f"{root}: images that are read while training runs need the size of the network's input; give "
                        "network.image_size, as in --set network.image_size=224")
    # 256 for 224, as everywhere.
    return StreamedDataset(scan_folder(root), size, round(size * 8 / 7), streaming.augmentation)
