"""Second stage: weights on D_w and lambdas on D_lambda in turn, until the connections settle (paper, Algorithm 1)."""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, Iterator, List, Mapping, Tuple

import numpy as np

from dso_nas.architecture.genotypes import AnyGenotype
from dso_nas.architecture.pruning import PruneResult
from dso_nas.budgets.layer_latency import layer_counts, load_table
from dso_nas.budgets.regularization import make_regularizer
from dso_nas.budgets.steering import Steering, scaled_gamma
from dso_nas.data.alternation import LAMBDAS, WEIGHTS, alternate, steps_per_epoch, taken
from dso_nas.errors import UserError
from dso_nas.reporting.lives import draw_epoch
from dso_nas.reporting.plots import draw_search
from dso_nas.stages.run import Run, learning_rates, make_optimizer, warn, weights_of
from dso_nas.stages.targets import milliseconds
from dso_nas.training.learner import PARAMETER, StepResult
from dso_nas.training.loop import Task
from dso_nas.training.monitor import read_metrics
from dso_nas.training.workers import workers

_REGULARIZER = "regularizer/"


class SearchTask(Task):
    """Weight and lambda steps, and the supernet rebuilt without its dead connections every few epochs."""

    name = "search"

    def __init__(self, run: Run) -> None:
        settings = run.recipe.search
        self.epochs = settings.epochs
        self.warnings: List[str] = []
        self._settings = settings
        self._run = run
        cutout = run.recipe.data.cutout
        self._regularizer = make_regularizer(run.layout, settings.regularization, settings.regularization_rule,
                                             settings.gamma, settings.gamma_base, self._milliseconds)
        self._batches = {part: run.batches(run.part(part), settings.batch_size, f"search {part}", cutout)
                         for part in (WEIGHTS, LAMBDAS)}
        self._rates = learning_rates(settings, self.steps_per_epoch())
        self._values = {name: np.ones(shape, np.float32) for name, shape in run.layout.shapes().items()}
        self.history: List[np.ndarray] = []
        self._lambda_steps = 0
        self._table = load_table(settings.latency_table, run.spec, settings.latency_batch) \
            if settings.latency_table is not None else None
        self._steering = None if settings.target_flops_share is None else Steering(
            self._flops_share, settings.target_flops_share,
            self.epochs * taken(self.steps_per_epoch(), *settings.ratio)[1], self._values)
        self._build(run.space.full())

    def _milliseconds(self, genotype: Any) -> float:
        """Latency of a genotype's network: summed up from the recipe's table, or measured."""
        if self._table is not None:
            return self._table.total(layer_counts(self._run.spec, genotype))
        return milliseconds(self._run, self._run.spec, genotype)

    def _flops_share(self, values: Mapping[str, np.ndarray]) -> float:
        """Multiply-adds of the network that lambdas leave over the supernet's."""
        space = self._run.space
        left, whole = (space.cost(self._run.spec, genotype).total.multiply_adds
                       for genotype in (space.prune(values, self._values).genotype, space.full()))
        return left / whole

    def _set_gamma(self, values: Mapping[str, np.ndarray]) -> None:
        """Renew gamma from the lambdas before a step."""
        factor = 1.0 if self._steering is None else self._steering.factor
        self._apg_nag.set_gamma(scaled_gamma(self._regularizer.gamma(values), factor))

    def _steer(self, steering: Steering, before: Mapping[str, np.ndarray]) -> None:
        """After a lambda step of a search that has a target."""
        self.learner.set_values(steering.after_step(self._lambda_steps, before, self._current()))
        self._set_gamma(self._current())

    def _build(self, genotype: AnyGenotype) -> None:
        """Make the supernet of `genotype`, its learner and optimizers, without values yet."""
        run, settings = self._run, self._settings
        self.genotype = genotype
        self.network = run.supernet(genotype)
        if not self.network.lambdas:
            raise UserError("search: every connection died, and there is nothing left to search; lower search.gamma")
        self.learner = run.supernet_learner(self.network, settings.batch_size)
        self.learner.add_group(WEIGHTS, weights_of(self.network), make_optimizer(
            settings, momentum=settings.momentum, wd=settings.weight_decay))
        self._apg_nag = make_optimizer(settings, momentum=settings.lambda_momentum, gamma=settings.gamma,
                                       begin_lambda_step=self._lambda_steps)
        self._built_at = self._lambda_steps
        self._set_gamma(self._values)
        self.learner.add_group(LAMBDAS, list(self.network.lambdas.values()), self._apg_nag)

    def steps_per_epoch(self) -> int:
        """See Task."""
        return steps_per_epoch(len(self._batches[WEIGHTS]), len(self._batches[LAMBDAS]), *self._settings.ratio)

    def train(self, epoch: int, start: int) -> Iterator[Tuple[str, StepResult]]:
        """See Task."""
        if self._on_target():
            return
        if start == 0:
            values = self._current()
            self._regularizer.epoch_begins(values)
            self._set_gamma(values)
        ratio = self._settings.ratio
        begun = dict(zip((WEIGHTS, LAMBDAS), taken(start, *ratio)))
        weights, lambdas = (self._batches[kind].epoch(epoch, begun[kind]) for kind in (WEIGHTS, LAMBDAS))
        step = epoch * self.steps_per_epoch() + start
        for kind, (data, labels) in alternate(weights, lambdas, *ratio, start=start):
            step += 1
            if self._run.draws:
                self._run.seed_step(step)
            rate = self._rates(step)
            if kind == LAMBDAS:
                self._lambda_steps += 1
                rate = self._lambda_rate(rate)
                if self._regularizer.changes:
                    self._set_gamma(self._current())
            steering = self._steering if kind == LAMBDAS else None
            before = self._current() if steering is not None else {}
            result = self.learner.step(kind, data, labels, rate, images=self._run.whole(data))
            if steering is not None:
                self._steer(steering, before)
            yield kind, result
            if self._on_target():
                return

    def _on_target(self) -> bool:
        return self._steering is not None and self._steering.reached

    def _lambda_rate(self, rate: float) -> float:
        own = self._settings.lambda_learning_rate
        return rate if own is None else rate * own / self._settings.learning_rate

    def end_epoch(self, epoch: int) -> Dict[str, Any]:
        """See Task."""
        # A search resumed behind an epoch's last lambda step has an optimizer that has seen none.
        if not self._on_target() and (self._lambda_steps > self._built_at or not self._lambda_steps):
            self._apg_nag.assert_thresholded()
        self.learner.average_statistics()
        values = self._run.evaluate(self.learner, self._run.validation(), "validation")
        pruned = self._pruned()
        self.history.append(np.concatenate([pruned.values[name].ravel() for name in self._values]))
        self._save_history()
        due = (epoch + 1) % self._settings.prune_every == 0
        if due or self._run.space.is_settled(pruned.genotype) or self._ends(epoch):
            self._rebuild(pruned)
        if self._steering is not None:
            values["flops_share"] = self._flops_share(pruned.values)
            verdict = self._steering.verdict() if self._ends(epoch) else None
            if verdict is not None:
                self.warnings.append(verdict)
        return {**values, **self._seen(epoch, pruned)}

    def _seen(self, epoch: int, pruned: PruneResult) -> Dict[str, Any]:
        """What else shows how the search goes; draws the lambdas so far. Arrays are for TensorBoard alone."""
        if not workers().rank:
            draw_epoch(self._run.folder.path, self.history, self._run.layout)
        space = self._run.space
        return {
            "live_connections": space.live(pruned.genotype),
            "live_multiply_adds": space.cost(space.spec, pruned.genotype).total.multiply_adds,
            "learning_rate": self._rates((epoch + 1) * self.steps_per_epoch()),
            **{f"lambdas/{name}": values for name, values in pruned.values.items()},
        }

    def _save_history(self) -> None:
        """Write the lambdas at every epoch's end to `lambdas.npz`, an array (epochs, entries) for each parameter."""
        ends = np.cumsum([value.size for value in self._values.values()])[:-1]
        parts = np.split(np.stack(self.history), ends, axis=1)
        self._run.folder.write_arrays("search/lambdas.npz", dict(zip(self._values, parts)))

    def _ends(self, epoch: int) -> bool:
        return epoch + 1 >= self.epochs or self.finished()

    def _pruned(self) -> PruneResult:
        return self._run.space.prune(self._current(), self._values)

    def _current(self) -> Dict[str, np.ndarray]:
        """All lambdas by name, zeros for those that no kept block reads."""
        zeros = {name: np.zeros_like(value) for name, value in self._values.items()}
        return {**zeros, **self.learner.values(self.network.lambdas)}

    def _rebuild(self, pruned: PruneResult) -> None:
        """Carry weights, lambdas and optimizer state over to a supernet without the dead connections."""
        self.warnings += [text for text in pruned.warnings if text not in self.warnings]
        arrays = self.learner.state()
        self._values = pruned.values
        for name, value in pruned.values.items():
            velocity = f"optimizer/{LAMBDAS}/0/{name}"
            arrays[PARAMETER + name] = value
            if velocity in arrays:
                arrays[velocity] = np.where(value > 0, arrays[velocity], 0)
        if pruned.genotype != self.genotype:
            self._build(pruned.genotype)
        self.learner.load_state(arrays)

    def finished(self) -> bool:
        """Whether the space says so, or the share that is asked for is met.

        Where none is: connections have died, and the rest have kept still for `search.patience` epochs.
        """
        if self._run.space.is_settled(self.genotype):
            return True
        if self._steering is not None:
            return self._steering.reached
        patience = self._settings.patience
        if patience is None or len(self.history) <= patience:
            return False
        recent = np.stack(self.history[-patience - 1:]) > 0
        return not recent.all() and bool((recent == recent[0]).all())

    def draw(self, stem: str) -> None:
        """Draw what is left now."""
        self._run.space.draw(self.genotype, stem, self._current(), f"Found on {self._run.dataset.title}")

    def state(self) -> Tuple[Dict[str, np.ndarray], Dict[str, Any]]:
        """See Task."""
        arrays = self.learner.state()
        arrays.update({f"kept/{name}": value for name, value in self._values.items()})
        arrays.update({_REGULARIZER + name: value for name, value in self._regularizer.state().items()})
        if self._steering is not None:
            arrays.update(self._steering.state())
        arrays["history"] = np.stack(self.history) if self.history else np.zeros((0, 0), np.float32)
        meta = {"genotype": self.genotype.to_json(), "lambda_steps": self._lambda_steps, "warnings": self.warnings}
        return arrays, meta

    def restore(self, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        """See Task."""
        self._lambda_steps, self.warnings = meta["lambda_steps"], list(meta["warnings"])
        self._values = {name: arrays[f"kept/{name}"] for name in self._values}
        self.history = list(arrays["history"])
        self._regularizer.load_state({name[len(_REGULARIZER):]: value for name, value in arrays.items()
                                      if name.startswith(_REGULARIZER)})
        if self._steering is not None:
            self._steering.load_state(arrays)
        self._build(type(self.genotype).from_json(meta["genotype"], "checkpoint"))
        self.learner.load_state(arrays)


def search(run: Run) -> AnyGenotype:
    """Run the stage and write `search/genotype.json`, `search/lambdas.npz` and the picture of what was found.

    Raises:
        UserError: pre-training has not ended, or no lambda went through the soft-threshold.
    """
    task = SearchTask(run)
    pretrained = run.pretrained()
    if pretrained is not None:
        run.start_from(task.learner, pretrained.arrays)
    run.train(task, run.folder.search)
    for warning in task.warnings:
        warn(warning)
    source = {"recipe": run.recipe.name, "data": run.dataset.title, "seed": run.recipe.seed,
              "epochs": len(task.history), "converged": task.finished(), "warnings": task.warnings}
    genotype = dataclasses.replace(task.genotype, source=source)
    genotype.save(run.folder.genotype)
    task.draw(str(run.folder.search / "structure"))
    draw_search(read_metrics(run.folder.metrics), str(run.folder.search / "search.png"))
    return genotype
