"""The classification sets that a recipe can name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Callable, Dict, Optional, Union

from dso_nas.data import cifar, records, sample
from dso_nas.data.arrays import ImageArrays, ImageDataset
from dso_nas.data.record_folders import needs_streaming
from dso_nas.data.stream_options import Streaming
from dso_nas.errors import UserError

if TYPE_CHECKING:
    from dso_nas.data.streaming import StreamedDataset

__all__ = ["DATASETS", "ImageArrays", "ImageDataset", "load_dataset"]

_FROM_FOLDER: Dict[str, Callable[[Path], ImageDataset]] = {
    "cifar10": lambda root: cifar.load_cifar("cifar10", root),
    "cifar100": lambda root: cifar.load_cifar("cifar100", root),
    "records": records.load_record_folder,
}
DATASETS = (sample.NAME, *_FROM_FOLDER)


def load_dataset(name: str, root: Optional[Union[str, Path]] = None) -> ImageDataset:
    """A set by its name, decoded and in memory.

    Args:
        name: 'fashion-mnist' (embedded, needs no folder), 'cifar10', 'cifar100' (official archives or what
            they unpack to) or 'records' (train1.rec, train2.rec, train.rec, val.rec).
        root: the folder or archive that holds it; None for the embedded one.

    Returns:
        The set. Only record files say themselves which images are D_w (`weights_first`).

    Raises:
        UserError: an unknown name, a folder missing or not wanted, or bad files; the line names the file.
    """
    if name not in DATASETS:
        raise UserError(f"data set '{name}' is not known; choose one of {', '.join(DATASETS)}")
    if name == sample.NAME:
        if root is not None:
            raise UserError(f"data set '{name}' is embedded and reads no folder; leave --data-dir out")
        return sample.load_sample()
    if root is None:
        raise UserError(f"data set '{name}' needs the folder that holds it: --data-dir DIR")
    return _FROM_FOLDER[name](Path(root))


def load_images(name: str, root: Optional[Union[str, Path]],
                streaming: Streaming) -> Union[ImageDataset, StreamedDataset]:
    """A set by its name, in memory or, of record files, read while training runs.

    Args:
        name: as for `load_dataset`.
        root: as for `load_dataset`.
        streaming: whether and how.

    Raises:
        UserError: as `load_dataset`; or a set that is no record files is to be streamed.
    """
    if name == "records" and root is not None:
        folder = Path(root)
        if streaming.mode is True or (streaming.mode == "auto" and needs_streaming(folder)):
            # MXNet is imported by this.
            from dso_nas.data.streaming import load_streamed

            return load_streamed(folder, streaming)
    elif streaming.mode is True:
        raise UserError(f"data.streaming: true goes with data.dataset records, not with {name}; set it to auto")
    return load_dataset(name, root)
