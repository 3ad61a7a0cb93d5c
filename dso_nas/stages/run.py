"""What every stage of a run works with: recipe, folder, devices, data, and where earlier stages left their results."""

from __future__ import annotations

import dataclasses
import functools
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

import mxnet as mx
import numpy as np

from dso_nas.architecture.genotypes import AnyGenotype
from dso_nas.data.arrays import ImageArrays
from dso_nas.data.augmentation import Augmentation
from dso_nas.data.batches import Batches, OrderedBatches
from dso_nas.data.splits import Split
from dso_nas.errors import UserError
from dso_nas.networks.network import PublishedInitializer
from dso_nas.networks.operations import synchronise
from dso_nas.optimizers.schedules import make_schedule
from dso_nas.recipes import Recipe
from dso_nas.stages.spaces import NormalSpace, make_space
from dso_nas.training.checkpoint import Checkpoint, CheckpointFolder
from dso_nas.training.learner import PARAMETER, Learner
from dso_nas.training.loop import Loop, Task
from dso_nas.training.losses import ClassificationLoss, Loss
from dso_nas.training.monitor import Monitor
from dso_nas.training.parallel import check_can_synchronise
from dso_nas.training.workers import workers
from dso_nas.training.workfolder import WorkFolder

EVALUATION_BATCH = 250


@dataclasses.dataclass
class Run:
    """One run: a recipe on a data set in a work folder, on some devices.

    `dataset` is an `ImageDataset`; a subclass may take another set, with parts and batches of its own.
    """

    recipe: Recipe
    folder: WorkFolder
    dataset: Any
    contexts: Sequence[mx.Context]
    kvstore: Optional[str] = "device"
    resume: bool = False

    @functools.cached_property
    def space(self) -> NormalSpace:
        """The search space.

        Raises:
            UserError: the recipe asks for other images or fewer classes than the data has.
        """
        network = self.recipe.network
        channels, height, width = self.dataset.image_shape
        if network.image_size is not None and (height, width) != (network.image_size,) * 2:
            raise UserError(f"network.image_size: {network.image_size}, but {self.dataset.title} has {height}x{width}")
        classes = network.classes or len(self.dataset.classes)
        if classes < len(self.dataset.classes):
            raise UserError(f"network.classes: {classes}, but {self.dataset.title} has {len(self.dataset.classes)}")
        return make_space(network, classes, (channels, height, width))

    @property
    def spec(self) -> Any:
        """The supernet's macro-structure."""
        return self.space.spec

    @property
    def layout(self) -> Any:
        """The supernet's lambda parameters."""
        return self.space.layout

    @property
    def split_rule(self) -> Tuple[int, Tuple[int, int]]:
        """Seed and ratio of the split."""
        return self.recipe.data.split_seed, self.recipe.data.ratio

    @functools.cached_property
    def split(self) -> Split:
        """D_w and D_lambda, kept in one file of the folder.

        Raises:
            UserError: the file there is of other data, or of another seed or ratio than the recipe's.
        """
        path = self.folder.path / "split.json"
        seed, ratio = self.split_rule
        wanted = Split.of(self.dataset, seed, ratio)
        if not path.exists():
            wanted.save(path)
            return wanted
        split = Split.load(path, self.dataset)
        if (split.seed, split.ratio) != (wanted.seed, wanted.ratio):
            raise UserError(f"{path}: divides by seed {split.seed} and ratio {split.ratio}, the recipe by {seed} and "
                            f"{ratio}; set data.split_seed and data.ratio back, or give another --work-dir")
        return split

    def part(self, name: str) -> ImageArrays:
        """The images of D_w ('weights') or D_lambda ('lambdas'), of both ('train'), or of the test set ('test')."""
        if name in ("train", "test"):
            return getattr(self.dataset, name)
        return self.dataset.train.subset(getattr(self.split, name))

    def whole(self, data: np.ndarray) -> Optional[int]:
        """Images of the batch of which `data` is this worker's part; None where every worker has the whole."""
        return None

    def batches(self, arrays: ImageArrays, batch_size: int, stream: str, cutout: int) -> OrderedBatches:
        """Augmented training batches."""
        data = self.recipe.data
        augmentation = Augmentation(self.dataset.mean, self.dataset.std, data.padding, data.flip, cutout)
        return Batches(arrays, batch_size, augmentation, self.recipe.seed, stream)

    def validation(self) -> Iterable[Tuple[np.ndarray, np.ndarray]]:
        """What pretrain and search report the error of, once through."""
        if self.recipe.data.validation == "lambda_split":
            return self.plain_batches(self.part("lambdas"))
        return self.plain_batches(self.part("test"))

    def plain_batches(self, arrays: ImageArrays) -> Iterable[Tuple[np.ndarray, np.ndarray]]:
        """All images in stored order, normalised only."""
        size = min(EVALUATION_BATCH, len(arrays))
        augmentation = Augmentation(self.dataset.mean, self.dataset.std)
        return Batches(arrays, size, augmentation, self.recipe.seed, "evaluation", shuffle=False, last="keep").epoch(0)

    @property
    def draws(self) -> bool:
        """Whether the networks of all stages draw random numbers, from MXNet's generator (dropout)."""
        return False

    def seed_step(self, *place: int) -> None:
        """Set MXNet's generator anew for a step, so that a resumed run draws what this one would have."""
        sequence = np.random.SeedSequence(self.recipe.seed, spawn_key=place)
        mx.random.seed(int(sequence.generate_state(1)[0] >> 1) + workers().rank)

    def loss(self, smoothing: float = 0.0, auxiliary_weight: float = 0.0) -> Loss:
        """What training minimises, and what counts as an error."""
        return ClassificationLoss(smoothing, auxiliary_weight)

    def evaluate(self, learner: Learner, batches: Iterable[Tuple[np.ndarray, np.ndarray]],
                 prefix: str) -> Dict[str, float]:
        """Values of a network in evaluation mode, `{prefix}_error` (a fraction) among them."""
        return {f"{prefix}_error": learner.error(batches)}

    def test(self, learner: Learner) -> Dict[str, float]:
        """All test values that `evaluate` (the stage) prints."""
        return self.evaluate(learner, self.plain_batches(self.part("test")), "test")

    def supernet(self, genotype: Optional[AnyGenotype] = None) -> Any:
        """The supernet of what `genotype` keeps, compiled, with the seed's initial values."""
        network = self.space.supernet(genotype)
        mx.random.seed(self.recipe.seed)
        return self.compiled(network)

    def compiled(self, network: Any) -> Any:
        """`network` with initial values, compiled, in the recipe's precision; BatchNorm stays in float32.

        Raises:
            UserError: sync_batch_norm on devices on which MXNet would hang.
        """
        if self.recipe.sync_batch_norm:
            check_can_synchronise(self.contexts)
            synchronise(network, len(self.contexts))
        network.initialize(PublishedInitializer(), ctx=list(self.contexts))
        if self.recipe.dtype != "float32":
            network.cast(self.recipe.dtype)
        network.hybridize_segments()
        return network

    @property
    def _on_cpu(self) -> bool:
        return all(context.device_type == "cpu" for context in self.contexts)

    def supernet_learner(self, network: Any, batch_size: int) -> Learner:
        """A learner of `network` with the recipe's memory mirroring, for steps of `batch_size` images.

        Raises:
            UserError: memory.limit_mb is too little.
        """
        images = -(-batch_size // len(self.contexts))
        memory = self.recipe.memory
        plan = self.space.plan(self.space.spec, network.genotype, images, memory.mirroring, memory.limit_mb,
                               self.recipe.dtype, self._on_cpu)
        return Learner(network, self.contexts, self.loss(), self.kvstore, plan.groups)

    def before_search(self) -> Run:
        """The run that pre-training is of."""
        return self

    def pretrained(self) -> Optional[Checkpoint]:
        """What the search starts from, None for random weights.

        Raises:
            UserError: pre-training has not ended.
        """
        return finished_checkpoint(self.folder.pretrain, "pretrain") if self.recipe.pretrain.epochs else None

    def phases(self, folder: str = "retrain") -> List[Tuple[Run, str]]:
        """What a derived network is trained on, one after the other, and where below the run's folder."""
        return [(self, folder)]

    def lent(self) -> Optional[Checkpoint]:
        """What another run lends the first phase to start from, None for random weights."""
        return None

    def picture(self, learner: Learner) -> None:
        """Draw what a trained network does, where the task has something to draw."""

    def start_from(self, learner: Learner, arrays: Mapping[str, np.ndarray]) -> None:
        """Take over an earlier phase's or stage's weights; optimizers start anew.

        Raises:
            UserError: a parameter is missing or has another shape.
        """
        learner.load_state({name: value for name, value in arrays.items() if name.startswith(PARAMETER)})

    def notes(self, results: Sequence[Mapping[str, Any]]) -> List[str]:
        """Lines that the report ends with; `results` as in report.json."""
        return []

    def train(self, task: Task, folder: Path) -> None:
        """Run a task in its folder, from its last checkpoint with --resume.

        Raises:
            UserError: the folder holds a run and --resume was not given, or one of another batch size or seed.
        """
        checkpoints = CheckpointFolder(folder, warn=warn)
        latest = checkpoints.latest()
        if latest is not None and not self.resume:
            raise UserError(f"{folder}: holds a run already; add --resume to go on with it, or give another --work-dir")
        cadence, setting = self.recipe.checkpoint, self._setting(task.name)
        if latest is not None and not latest.meta["position"]["ended"]:
            check_setting(task.name, latest.meta.get("setting", {}), setting)
        self.folder.keep_recipe()
        with Monitor(self.folder.path, task.name) as monitor:
            Loop(task, checkpoints, monitor, cadence.every_steps, cadence.every_minutes, setting).run(latest)

    def _setting(self, stage: str) -> Dict[str, int]:
        """What a checkpoint of a stage cannot do without, or not quite."""
        batch_size = getattr(self.recipe, stage, self.recipe.retrain).batch_size
        return {"batch_size": batch_size, "seed": self.recipe.seed, "devices": len(self.contexts) * workers().count}


def check_setting(stage: str, before: Mapping[str, int], now: Mapping[str, int]) -> None:
    """Say what a stage that goes on has otherwise than when its checkpoint was written.

    Raises:
        UserError: the batch size or the seed, on which the order of the images depends.
    """
    changed = [key for key, value in now.items() if before.get(key, value) != value]
    for key, flag in (("batch_size", "--batch-size"), ("seed", "--seed")):
        if key in changed:
            raise UserError(f"{flag} {now[key]}: {stage} was begun with {before[key]}, and its place among the images "
                            f"is lost with another; give {flag} {before[key]}, or another --work-dir")
    if "devices" in changed:
        warn(f"{stage}: was on {before['devices']} devices and goes on on {now['devices']}: each normalises its own "
             "part of a batch, and sums are taken in another order, so the result is not bit for bit that of one run")


def warn(text: str) -> None:
    """One line on stderr."""
    print(f"warning: {text}", file=sys.stderr)


def finished_checkpoint(folder: Path, stage: str) -> Checkpoint:
    """The last checkpoint of a stage that has ended.

    Raises:
        UserError: the stage has not run or not ended.
    """
    checkpoint = CheckpointFolder(folder, warn=warn).latest() if folder.is_dir() else None
    if checkpoint is None:
        raise UserError(f"{folder}: {stage} has not run here, run it first")
    if not checkpoint.meta["position"]["ended"]:
        raise UserError(f"{folder}: {stage} has not ended, run it again with --resume")
    return checkpoint


def learning_rates(settings: Any, steps_per_epoch: int, epochs: Optional[int] = None) -> Callable[[int], float]:
    """A stage's schedule over `epochs` (default: its own), called with the number of the step from 1."""
    epochs = max(epochs or settings.epochs, 1)
    schedule = dataclasses.asdict(settings.schedule)
    last = steps_per_epoch * epochs
    if schedule.get("period", 1) is None:
        # The schedule's last update of a period has the next one's rate already; here there is no next one.
        schedule["period"] = epochs
        last -= 1
    rates = make_schedule(schedule, settings.learning_rate, steps_per_epoch, epochs)
    return lambda step: rates(min(step, last))


def make_optimizer(settings: Any, **options: Any) -> mx.optimizer.Optimizer:
    """APG-NAG for lambdas and NAG for weights with a stage's settings."""
    return mx.optimizer.create("apgnag", learning_rate=settings.learning_rate, clip_gradient=settings.clip_gradient,
                               **options)


def weights_of(network: Any) -> List[Any]:
    """All parameters that are no lambdas."""
    lambdas: Mapping[str, Any] = getattr(network, "lambdas", {})
    return [parameter for name, parameter in network.collect_params().items() if name not in lambdas]
