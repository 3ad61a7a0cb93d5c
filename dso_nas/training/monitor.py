"""What a run shows while it goes: `metrics.jsonl` and TensorBoard's events.

Which values are worth showing does not belong here: the loop and the stages decide.
"""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Set, Tuple, Type, Union

import numpy as np

from dso_nas.errors import UserError
from dso_nas.files import write_durably
from dso_nas.training.progress import Item, progress

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
_BINS = 50
_LARGEST_INT = 2**63

Metric = Dict[str, Any]
Number = Union[int, float]


class Monitor:
    """Records the values of one stage.

    The metrics hold nothing that the clock decides, so that a run that was resumed ends with the same file,
    byte for byte, as one that never stopped. What differs from run to run goes to TensorBoard alone:
    `scalar`, and the rate and time of the steps that went through `progress`.

    Args:
        work_dir: the run's folder; it exists.
        stage: pretrain, search or retrain.
        tensorboard: whether to write events, under tensorboard/STAGE; their steps are epochs.
    """

    def __init__(self, work_dir: Union[str, Path], stage: str, tensorboard: bool = True) -> None:
        """Open the metrics; the torn last line of a run that was killed while writing it goes.

        Raises:
            UserError: the file cannot be written.
        """
        self.stage = stage
        self._path = Path(work_dir) / METRICS
        self._events = _Events(Path(work_dir) / TENSORBOARD / stage) if tensorboard else None
        self._recorded: Set[Tuple[int, int, str]] = set()
        self._pace: Optional[_Pace] = None
        self._descriptor = self._open()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def record(self, epoch: int, step: int, **values: Any) -> None:
        """Write numbers (Python's, NumPy's, arrays of one element) as lines of the metrics, and as events.

        Arrays of more elements become histograms for TensorBoard, and no lines. On return the lines are on the
        disk, which takes milliseconds: meant for an epoch's end, not for every step. NaN and infinities become
        null, which JSON has.

        Raises:
            UserError: the disk is full or cannot be written.
        """
        numbers = {name: _number(value) for name, value in values.items() if _is_number(value)}
        new = [name for name in numbers if (epoch, step, name) not in self._recorded]
        self._append("".join(self._line(epoch, step, name, numbers[name]) for name in new).encode("utf-8"))
        if self._events:
            pace = self._pace.values() if self._pace else {}
            self._events.write_scalars(epoch, {**numbers, **pace})
        for name in sorted(values.keys() - numbers.keys()):
            self.histogram(epoch, name, values[name])
        self._pace = None

    def _line(self, epoch: int, step: int, name: str, number: Number) -> str:
        value = number if math.isfinite(number) else None
        metric = {"stage": self.stage, "epoch": epoch, "step": step, "name": name, "value": value}
        return json.dumps(metric) + "\n"

    def scalar(self, epoch: int, name: str, value: Any) -> None:
        """A number for TensorBoard alone, such as a rate."""
        if self._events:
            self._events.write_scalars(epoch, {name: _number(value)})

    def histogram(self, epoch: int, name: str, array: np.ndarray) -> None:
        """An array's distribution for TensorBoard; values that are not finite are left out."""
        if self._events:
            self._events.write_histogram(epoch, name, array)

    def rewind(self, epoch: int, step: int) -> None:
        """Forget what this stage recorded after a position; `rewind(-1, 0)` forgets the whole stage.

        What was recorded at the position itself stays, whether before or after its checkpoint: when the
        resumed run records it again, it is not written twice.

        Raises:
            UserError: the file cannot be read or written.
        """
        try:
            lines = self._path.read_bytes().splitlines(keepends=True)
        except OSError as error:
            raise _cannot(self._path, "be read", error) from error
        self._recorded.clear()
        kept = [
            line for number, line in enumerate(lines, start=1) if self._stays(number, line, (epoch, step))
        ]
        if len(kept) < len(lines):
            write_durably(self._path, kept)
            os.close(self._descriptor)
            self._descriptor = self._open()
        if self._events:
            self._events.purge_from(max(epoch, 0))

    def _stays(self, number: int, line: bytes, position: Tuple[int, int]) -> bool:
        metric = _parse(line)
        if metric is None:
            warnings.warn(f"{self._path}: line {number} was damaged and is removed", stacklevel=4)
            return False
        if metric["stage"] != self.stage:
            return True
        stays = (metric["epoch"], metric["step"]) <= position
        if stays:
            self._recorded.add((metric["epoch"], metric["step"], metric["name"]))
        return stays

    def close(self) -> None:
        """Close the files; a second time does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._events:
            self._events.close()

    def progress(self, iterable: Iterable[Item], total: Optional[int], description: str) -> Iterator[Item]:
        """`dso_nas.training.progress.progress`, timed: the next `record` tells TensorBoard how fast it went.

        Items are an epoch's steps, pairs whose second has `images`. After a resume only what was left of the epoch
        counts.
        """
        self._pace = _Pace()
        return progress(self._pace.counted(iterable), total, description)

    def _open(self) -> int:
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            whole = _whole_size(descriptor)
            if whole < os.fstat(descriptor).st_size:
                os.ftruncate(descriptor, whole)
        except OSError as error:
            raise _cannot(self._path, "be written", error) from error
        return descriptor

    def _append(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
            os.fsync(self._descriptor)
        except OSError as error:
            raise _cannot(self._path, "be written", error) from error


class _Pace:
    """How fast steps follow each other: images and seconds from the first step's start to the last one's end."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._seconds = 0.0
        self._images = 0

    def counted(self, steps: Iterable[Item]) -> Iterator[Item]:
        for step in steps:
            self._images += getattr(step[1], "images", 0) if isinstance(step, tuple) and len(step) > 1 else 0
            self._seconds = time.monotonic() - self._started
            yield step

    def values(self) -> Dict[str, Number]:
        """Images per second over the steps, and the epoch's seconds up to now."""
        values: Dict[str, Number] = {"epoch_seconds": time.monotonic() - self._started}
        if self._images and self._seconds:
            values["images_per_second"] = self._images / self._seconds
        return values


def _whole_size(descriptor: int) -> int:
    """Bytes up to the end of the last whole line."""
    end = os.fstat(descriptor).st_size
    while end:
        start = max(0, end - 2**16)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _is_number(value: Any) -> bool:
    return getattr(value, "size", 1) == 1


def _number(value: Any) -> Number:
    value = value.item() if hasattr(value, "item") else value
    return int(value) if isinstance(value, int) else float(value)


def _cannot(path: Path, what: str, error: OSError) -> UserError:
    reason = error.strerror or error
    return UserError(f"{path}: cannot {what}: {reason}; make room or allow it, then --resume")


def read_metrics(path: Union[str, Path]) -> List[Metric]:
    """The lines of a `metrics.jsonl` in their order: stage, epoch, step, name, value (null is NaN).

    A last line without an end was being written when its run was killed; it is left out.

    Raises:
        UserError: the file cannot be read, or a line is no metric; the error says which.
    """
    path = Path(path)
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise UserError(f"{path}: cannot read the metrics: {error.strerror or error}") from error
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    metrics = []
    for number, line in enumerate(lines, start=1):
        metric = _parse(line)
        if metric is None:
            raise UserError(f"{path}: line {number} is not a metric; remove it")
        metrics.append(metric)
    return metrics


_TYPES: Dict[str, Tuple[type, ...]] = {
    "stage": (str,),
    "epoch": (int,),
    "step": (int,),
    "name": (str,),
    "value": (int, float, type(None)),
}


def _parse(line: bytes) -> Optional[Metric]:
    try:
        metric = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(metric, dict) or set(metric) != set(_TYPES):
        return None
    if any(type(metric[key]) not in types for key, types in _TYPES.items()):
        return None
    if any(isinstance(number, int) and abs(number) > _LARGEST_INT for number in metric.values()):
        return None
    if metric["value"] is None:
        metric["value"] = math.nan
    return metric


class _Events:
    """TensorBoard's event files of one stage.

    tensorboardX's `SummaryWriter` hands events to a thread; when the disk is full the thread dies, and
    training then waits for it forever. So its parts are used without the thread: events are written where
    they arise.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None
        self._broken = False
        self._purge: Optional[int] = None

    def write_scalars(self, epoch: int, numbers: Dict[str, Number]) -> None:
        from tensorboardX import summary

        self._write(epoch, [summary.scalar(name, number) for name, number in numbers.items()])

    def write_histogram(self, epoch: int, name: str, array: np.ndarray) -> None:
        from tensorboardX import summary

        values = np.asarray(array, dtype=np.float64).ravel()
        values = values[np.isfinite(values)]
        if values.size:
            self._write(epoch, [summary.histogram(name, values, bins=_BINS)])

    def purge_from(self, epoch: int) -> None:
        """Let TensorBoard forget the events of an epoch and later ones; a new file says so."""
        self.close()
        self._purge = epoch

    def close(self) -> None:
        if self._writer:
            self._guarded(self._writer.close)
        self._writer = None

    def _write(self, epoch: int, summaries: List[Any]) -> None:
        from tensorboardX.proto.event_pb2 import Event

        def write() -> None:
            self._writer = self._writer or self._open()
            for content in summaries:
                self._writer.write_event(Event(wall_time=time.time(), step=epoch, summary=content))
            self._writer.flush()

        self._guarded(write)

    def _open(self) -> Any:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads files in the order of their names: that of writing, whatever the clock says.
        number = len(list(self._folder.glob("*.tfevents.*")))
        writer = EventsWriter(str(self._folder / f"events-{number:06d}"))
        if self._purge is not None:
            start = SessionLog(status=SessionLog.START)
            writer.write_event(Event(wall_time=time.time(), step=self._purge, session_log=start))
            self._purge = None
        return writer

    def _guarded(self, action: Callable[[], Any]) -> None:
        """Curves are not worth a run: when they cannot be written it goes on without."""
        if self._broken:
            return
        try:
            action()
        except OSError as error:
            self._broken = True
            reason = error.strerror or error
            warnings.warn(f"{self._folder}: no more events for TensorBoard: {reason}", stacklevel=4)
