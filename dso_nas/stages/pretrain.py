"""First stage: the completely connected network on D_w, lambdas at one (paper, section 4.1; Algorithm 1, line 3)."""

from __future__ import annotations

from typing import Any, Dict, Iterator, Mapping, Tuple

import numpy as np

from dso_nas.stages.run import Run, learning_rates, make_optimizer, weights_of
from dso_nas.training.learner import StepResult
from dso_nas.training.loop import Task


class PretrainTask(Task):
    """Weight steps only, on D_w."""

    name = "pretrain"

    def __init__(self, run: Run) -> None:
        settings = run.recipe.pretrain
        self.epochs = settings.epochs
        self._run = run
        self._batches = run.batches(run.part("weights"), settings.batch_size, "pretrain", run.recipe.data.cutout)
        self._rates = learning_rates(settings, len(self._batches))
        network = run.supernet()
        self._learner = run.supernet_learner(network, settings.batch_size)
        self._learner.add_group("weights", weights_of(network), make_optimizer(
            settings, momentum=settings.momentum, wd=settings.weight_decay))

    def steps_per_epoch(self) -> int:
        """See Task."""
        return len(self._batches)

    def train(self, epoch: int, start: int) -> Iterator[Tuple[str, StepResult]]:
        """See Task."""
        first = epoch * len(self._batches) + start + 1
        for step, (data, labels) in enumerate(self._batches.epoch(epoch, start), start=first):
            yield "train", self._learner.step("weights", data, labels, self._rates(step),
                                              images=self._run.whole(data))

    def end_epoch(self, epoch: int) -> Dict[str, float]:
        """See Task."""
        self._learner.average_statistics()
        values = self._run.evaluate(self._learner, self._run.validation(), "validation")
        return {**values, "learning_rate": self._rates((epoch + 1) * len(self._batches))}

    def state(self) -> Tuple[Dict[str, np.ndarray], Dict[str, Any]]:
        """See Task."""
        return self._learner.state(), {}

    def restore(self, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        """See Task."""
        self._learner.load_state(arrays)


def pretrain(run: Run) -> None:
    """Run the stage; with `pretrain.epochs` 0 there is nothing to do, and the search starts from random weights."""
    if run.recipe.pretrain.epochs:
        run.train(PretrainTask(run), run.folder.pretrain)
