"""The loop all stages train in: epochs of steps, means, checkpoints, a clean stop.

What a step does is the stage's business (`Task`). A position is (epoch, step); everything that decides how training
goes on from there is in the checkpoint written at it, so a run that was killed ends like one that was not.
"""

from __future__ import annotations

import math
import signal
import time
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

import numpy as np

from dso_nas.errors import Stopped, UserError
from dso_nas.training.checkpoint import Checkpoint, CheckpointFolder
from dso_nas.training.learner import StepResult
from dso_nas.training.monitor import Monitor
from dso_nas.training.workers import workers

_EPOCH = 10**8
_DRAIN = 16
# How many times as long as a step what is between two epochs may take.
_PATIENCE = 10.0


class Task:
    """What a stage hands to the loop. `name` is the stage's in metrics, `epochs` the most it may take."""

    name: str
    epochs: int

    def steps_per_epoch(self) -> int:
        """Steps of the coming epoch."""
        raise NotImplementedError

    def train(self, epoch: int, start: int) -> Iterator[Tuple[str, StepResult]]:
        """Make the steps of an epoch from step `start` on, yielding (kind, result) after each."""
        raise NotImplementedError

    def end_epoch(self, epoch: int) -> Dict[str, float]:
        """What is done between epochs; returns values for the metrics."""
        raise NotImplementedError

    def finished(self) -> bool:
        """Whether the stage may end before its last epoch."""
        return False

    def state(self) -> Tuple[Dict[str, np.ndarray], Dict[str, Any]]:
        """Arrays and JSON values of a checkpoint."""
        raise NotImplementedError

    def restore(self, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        raise NotImplementedError


class Means:
    """Mean loss and error by kind of step, read from the devices a few steps late so that steps need not wait."""

    def __init__(self, sums: Optional[Mapping[str, List[float]]] = None) -> None:
        self.sums: Dict[str, List[float]] = {kind: list(values) for kind, values in (sums or {}).items()}
        self._pending: List[Tuple[int, str, StepResult]] = []

    def add(self, step: int, kind: str, result: StepResult) -> None:
        """Note a step's result."""
        self._pending.append((step, kind, result))
        if len(self._pending) >= _DRAIN:
            self.drain()

    def drain(self) -> None:
        """Read what is pending.

        Raises:
            FloatingPointError: a loss that is not a number; its argument is the step.
        """
        pending, self._pending = self._pending, []
        sums = np.zeros((_DRAIN, 2))
        for row, (_, _, result) in enumerate(pending):
            sums[row] = [sum(float(part.asscalar()) for part in parts) for parts in (result.losses, result.errors)]
        for (step, kind, result), (loss, error) in zip(pending, workers().sum("means", sums).tolist()):
            if not math.isfinite(loss):
                raise FloatingPointError(step)
            total = self.sums.setdefault(kind, [0.0, 0.0, 0.0])
            for index, value in enumerate((loss, error, result.images)):
                total[index] += value

    def values(self) -> Dict[str, float]:
        """`{kind}_loss` and `{kind}_error`, means over images."""
        self.drain()
        values = {}
        for kind, (loss, error, images) in self.sums.items():
            values[f"{kind}_loss"] = loss / images
            values[f"{kind}_error"] = error / images
        return values


class Loop:
    """Runs a task to its end, writing checkpoints to `folder` and metrics to `monitor`.

    `setting` goes into every checkpoint: what a run that goes on from it has to have in common with this one.
    """

    def __init__(self, task: Task, folder: CheckpointFolder, monitor: Monitor, every_steps: Optional[int] = None,
                 every_minutes: Optional[float] = None, setting: Optional[Mapping[str, Any]] = None) -> None:
        self._task = task
        self._folder = folder
        self._monitor = monitor
        self._setting = dict(setting or {})
        self._every_steps = every_steps
        self._every_seconds = None if every_minutes is None else 60 * every_minutes
        self._epoch = 0
        self._step = 0
        self._steps = 0
        self._means = Means()
        self._seconds = 0.0
        self._since = self._saved_at = time.monotonic()
        self._signal: Optional[int] = None

    def run(self, checkpoint: Optional[Checkpoint] = None) -> None:
        """Train from `checkpoint` (or the start) to the end of the stage.

        Raises:
            Stopped: SIGTERM or SIGINT came; a checkpoint is written.
            UserError: the loss is not a number any more; the last good checkpoint stays.
        """
        if checkpoint is None:
            self._monitor.rewind(-1, 0)
        ended = self._restore(checkpoint) if checkpoint else False
        with self._signals():
            while not ended:
                self._train_epoch()
                ended = self._end_epoch()

    def _train_epoch(self) -> None:
        task, total = self._task, self._task.steps_per_epoch()
        steps = task.train(self._epoch, self._step)
        label = f"{task.name} epoch {self._epoch + 1}/{task.epochs}"
        # The other workers are at the same step: one of them shows it.
        shown = steps if workers().rank else self._monitor.progress(steps, total - self._step, label)
        for kind, result in shown:
            self._means.add(self._step, kind, result)
            self._step += 1
            self._steps += 1
            workers().alive()
            signal_number, due = self._decisions()
            if signal_number or (self._step < total and due):
                self._save(ended=False)
            if signal_number:
                raise Stopped(signal_number)

    def _decisions(self) -> Tuple[int, bool]:
        """The signal to stop for (else 0) and whether a checkpoint is due: the same on every worker."""
        answers = workers().gather("decisions", np.array([self._signal or 0, self._is_due()]))
        return int(answers[:, 0].max()), bool(answers[0, 1])

    def _end_epoch(self) -> bool:
        with self._finite():
            values = self._means.values()
        workers().alive(_PATIENCE)
        values.update(self._task.end_epoch(self._epoch))
        self._monitor.record(self._epoch, self._step, **values)
        self._epoch, self._step, self._means = self._epoch + 1, 0, Means()
        ended = self._epoch >= self._task.epochs or self._task.finished()
        self._save(ended)
        return ended

    def _is_due(self) -> bool:
        if self._every_steps is not None and self._step % self._every_steps == 0:
            return True
        return self._every_seconds is not None and time.monotonic() - self._saved_at >= self._every_seconds

    def _save(self, ended: bool) -> None:
        with self._finite():
            self._means.drain()
        arrays, meta = self._task.state()
        for name, array in arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise self._diverged(self._step, f"{name} is not finite")
        now = time.monotonic()
        self._seconds, self._since, self._saved_at = self._seconds + now - self._since, now, now
        position = {"epoch": self._epoch, "step": self._step, "steps": self._steps, "sums": self._means.sums,
                    "seconds": self._seconds, "ended": ended}
        self._folder.save(self._epoch * _EPOCH + self._step, arrays, {"position": position, "task": meta,
                                                                           "setting": self._setting})

    def _restore(self, checkpoint: Checkpoint) -> bool:
        position = checkpoint.meta["position"]
        self._task.restore(checkpoint.arrays, checkpoint.meta["task"])
        self._epoch, self._step, self._seconds = position["epoch"], position["step"], position["seconds"]
        self._steps, self._means = position["steps"], Means(position["sums"])
        self._monitor.rewind(self._epoch, self._step)
        return bool(position["ended"])

    @contextmanager
    def _finite(self) -> Iterator[None]:
        try:
            yield
        except FloatingPointError as error:
            raise self._diverged(error.args[0], "the loss is not a number") from None

    def _diverged(self, step: int, what: str) -> UserError:
        name = self._task.name
        return UserError(f"{name}: {what} at epoch {self._epoch + 1}, step {step + 1}; the last good checkpoint is "
                         f"kept, lower {name}.learning_rate, set {name}.clip_gradient, or give --dtype float32 if the "
                         "run was in float16")

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Let SIGTERM and SIGINT end the run after the step that is under way."""
        def note(number: int, _frame: Any) -> None:
            self._signal = number

        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
