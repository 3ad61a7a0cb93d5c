"""Third stage: the network a genotype stands for, trained from scratch on all training data (paper, section 4.2)."""

from __future__ import annotations

from typing import Any, Dict, Iterator, Mapping, Optional, Tuple

import numpy as np

from dso_nas.architecture.genotypes import AnyGenotype
from dso_nas.architecture.topology import NetworkSpec
from dso_nas.networks.drop_path import draw_paths, path_probabilities
from dso_nas.stages.run import Run, finished_checkpoint, learning_rates, make_optimizer
from dso_nas.stages.targets import target_spec
from dso_nas.training.learner import Learner, StepResult
from dso_nas.training.loop import Task

_PATHS, _DROPOUT = 0, 1


class RetrainTask(Task):
    """Every step moves all weights of one derived network; `number` sets its randomness apart from other networks'.

    `values` are those of the last epoch's end, `test_error` (a fraction) among them; before the first that is 1.
    """

    def __init__(self, run: Run, spec: NetworkSpec, genotype: AnyGenotype, number: int = 0,
                 epochs: Optional[int] = None, name: str = "retrain") -> None:
        settings = run.recipe.retrain
        self.name = name
        self.epochs = epochs or settings.epochs
        self.values: Dict[str, float] = {"test_error": 1.0}
        self._run = run
        self._number = number
        self._batches = run.batches(run.part("train"), settings.batch_size, "retrain", settings.cutout)
        self._rates = learning_rates(settings, len(self._batches), self.epochs)
        self._dropout = settings.dropout > 0 or run.draws
        run.seed_step(number, _DROPOUT, 0)
        network = build_derived(run, spec, genotype)
        self._probabilities = path_probabilities(network, settings.drop_path, settings.drop_path_rule)
        loss = run.loss(settings.label_smoothing, settings.auxiliary_weight)
        self.learner = Learner(network, run.contexts, loss, run.kvstore)
        self.learner.add_group("weights", list(network.collect_params().values()), make_optimizer(
            settings, momentum=settings.momentum, wd=settings.weight_decay, decay_gamma=settings.decay_gamma))

    def steps_per_epoch(self) -> int:
        """See Task."""
        return len(self._batches)

    def train(self, epoch: int, start: int) -> Iterator[Tuple[str, StepResult]]:
        """See Task."""
        step = epoch * len(self._batches) + start
        for data, labels in self._batches.epoch(epoch, start):
            step += 1
            if self._dropout:
                self._run.seed_step(self._number, _DROPOUT, step)
            yield "train", self.learner.step("weights", data, labels, self._rates(step), self._paths(step, len(data)),
                                             self._run.whole(data))

    def _paths(self, step: int, images: int) -> Optional[np.ndarray]:
        if not len(self._probabilities):
            return None
        progress = step / (self.epochs * len(self._batches))
        sequence = np.random.SeedSequence(self._run.recipe.seed, spawn_key=(self._number, _PATHS, step))
        return draw_paths(self._probabilities, progress, images, np.random.default_rng(sequence))

    def end_epoch(self, epoch: int) -> Dict[str, float]:
        """See Task."""
        self.learner.average_statistics()
        self.values = self._run.evaluate(self.learner, self._run.plain_batches(self._run.part("test")), "test")
        return {**self.values, "learning_rate": self._rates((epoch + 1) * len(self._batches))}

    def state(self) -> Tuple[Dict[str, np.ndarray], Dict[str, Any]]:
        """See Task."""
        return self.learner.state(), {"values": self.values}

    def restore(self, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        """See Task."""
        self.learner.load_state(arrays)
        self.values = dict(meta["values"])


def build_derived(run: Run, spec: NetworkSpec, genotype: AnyGenotype) -> Any:
    """The derived network with what the recipe's retraining adds to it, compiled, with initial values."""
    return run.compiled(run.space.derived(spec, genotype, run.recipe.retrain))


def retrain_spec(run: Run, genotype: AnyGenotype) -> Tuple[NetworkSpec, float]:
    """The macro-structure to retrain at, and its multiplier over the recipe's widths.

    Raises:
        UserError: the genotype does not fit the recipe's network, or the target cannot be met.
    """
    genotype.check_fits(run.spec)
    return target_spec(run, run.space.widened(run.recipe.retrain.widths), genotype)


def retrain(run: Run, genotype: AnyGenotype) -> Dict[str, float]:
    """Run the stage and return the test values at its end, `test_error` (a fraction) among them."""
    spec, _ = retrain_spec(run, genotype)
    return train_derived(run, spec, genotype)


def train_derived(run: Run, spec: NetworkSpec, genotype: AnyGenotype, number: int = 0, epochs: Optional[int] = None,
                  folder: str = "retrain") -> Dict[str, float]:
    """Train a derived network through all phases of the run's retraining in `folder`; its test values at the end."""
    before = run.lent()
    values: Dict[str, float] = {}
    for phase, name in run.phases(folder):
        task = RetrainTask(phase, phase.space.placed(spec), genotype, number, epochs, name)
        if before is not None:
            phase.start_from(task.learner, before.arrays)
        phase.train(task, run.folder.path / name)
        before, values = finished_checkpoint(run.folder.path / name, name), task.values
        if folder == "retrain":
            phase.picture(task.learner)
    return values
