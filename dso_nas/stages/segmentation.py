"""Segmentation as a run: the search on pictures with masks, the found network trained in phases (paper, section 4.4).

The stages are those of classification. Pre-training, and the first phase of retraining, train the feature extractor on
classification; the search and the later phases train it below the DeepLab v3 head.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

import mxnet as mx
import numpy as np

from dso_nas.architecture import spaces
from dso_nas.architecture.genotype import Genotype
from dso_nas.architecture.topology import NetworkSpec
from dso_nas.data.segmentation import (
    SegmentationAugmentation,
    SegmentationBatches,
    SegmentationDataset,
    load_segmentation,
)
from dso_nas.data.streaming import StreamedDataset
from dso_nas.errors import UserError
from dso_nas.networks.segmentation import DerivedSegmentationNetwork, SegmentationSuperNet, load_backbone
from dso_nas.recipes import Recipe
from dso_nas.recipes.schema import Phase, Retrain, Segmentation
from dso_nas.reporting.sheet import draw_sheet
from dso_nas.reporting.tables import percent
from dso_nas.stages.classification import StreamedRun, classification_images
from dso_nas.stages.run import Run, finished_checkpoint
from dso_nas.stages.spaces import NormalSpace
from dso_nas.training.checkpoint import Checkpoint
from dso_nas.training.learner import PARAMETER, Learner
from dso_nas.training.losses import SegmentationLoss, main_output
from dso_nas.training.segmentation_metric import SegmentationMetric, background_only, multi_scale_probabilities
from dso_nas.training.workfolder import WorkFolder

LoadPictures = Callable[[str], SegmentationDataset]
EVALUATION_BATCH = 16
SHEET_ROWS = 6


class SegmentationSpace(spaces.SegmentationSpace, NormalSpace):
    """The normal space as the feature extractor of a segmentation network."""

    def supernet(self, genotype: Optional[Genotype] = None) -> SegmentationSuperNet:
        """See NormalSpace; with the head."""
        return SegmentationSuperNet(self.layout, genotype, self.settings.head_channels, self.settings.dropout)

    def derived(self, spec: NetworkSpec, genotype: Genotype, settings: Any = None) -> DerivedSegmentationNetwork:
        """See NormalSpace; with the head."""
        if settings is None:
            return DerivedSegmentationNetwork(spec, genotype, head_channels=self.settings.head_channels)
        return DerivedSegmentationNetwork(
            spec, genotype, drop_path=settings.drop_path > 0, head_channels=self.settings.head_channels,
            dropout=self.settings.dropout, auxiliary=settings.auxiliary_weight > 0)


class BackboneRun(Run):
    """The feature extractor on classification: pre-training and the first phase of retraining, on all its images."""

    def part(self, name: str) -> Any:
        """See Run; all training images, since the search, which splits, is on other pictures."""
        return super().part("test" if name == "test" else "train")


class StreamedBackboneRun(BackboneRun, StreamedRun):
    """The same on streamed record files."""


@dataclasses.dataclass
class SegmentationRun(Run):
    """A run on pictures with masks; `backbone` is the feature extractor's, `load` gives the pictures of a phase."""

    backbone: Optional[BackboneRun] = None
    load: Optional[LoadPictures] = None

    @property
    def settings(self) -> Segmentation:
        """The recipe's section."""
        assert self.recipe.segmentation is not None
        return self.recipe.segmentation

    @functools.cached_property
    def space(self) -> SegmentationSpace:
        """See Run; at the crop's size and the output stride."""
        return SegmentationSpace(self.recipe.network, len(self.dataset.classes), self.settings)

    @property
    def split_rule(self) -> Tuple[int, Tuple[int, int]]:
        """See Run."""
        return self.settings.split_seed, self.settings.ratio

    def batches(self, arrays: Any, batch_size: int, stream: str, cutout: int) -> SegmentationBatches:
        """See Run; there is no cutout in segmentation."""
        settings = self.settings
        augmentation = SegmentationAugmentation(self.dataset.mean, self.dataset.std, settings.crop, settings.scales,
                                                settings.flip, settings.jitter)
        return SegmentationBatches(arrays, batch_size, augmentation, self.recipe.seed, stream)

    def plain_batches(self, arrays: Any) -> Iterable[Tuple[np.ndarray, np.ndarray]]:
        """See Run; pictures are brought into the crop, what is beside them is ignored."""
        augmentation = SegmentationAugmentation(self.dataset.mean, self.dataset.std, self.settings.crop)
        return SegmentationBatches(arrays, min(EVALUATION_BATCH, len(arrays)), augmentation, self.recipe.seed,
                                   "evaluation", shuffle=False, last="keep").epoch(0)

    def validation(self) -> Iterable[Tuple[np.ndarray, np.ndarray]]:
        """See Run: always the test pictures."""
        return self.plain_batches(self.part("test"))

    @property
    def draws(self) -> bool:
        """See Run: the head has dropout."""
        return self.settings.dropout > 0

    def loss(self, smoothing: float = 0.0, auxiliary_weight: float = 0.0) -> SegmentationLoss:
        """See Run; labels are not smoothed in segmentation."""
        return SegmentationLoss(auxiliary_weight)

    def evaluate(self, learner: Learner, batches: Iterable[Tuple[np.ndarray, np.ndarray]],
                 prefix: str) -> Dict[str, float]:
        """`{prefix}_error` (1 - mIoU), `{prefix}_miou` and `{prefix}_pixel_accuracy`, fractions."""
        return self._values(lambda data: _predicted(learner, data), batches, prefix)

    def test(self, learner: Learner) -> Dict[str, float]:
        """See Run; and the same over several scales with flip."""
        def predict(data: np.ndarray) -> np.ndarray:
            return multi_scale_probabilities(probabilities, data, self.settings.evaluation_scales, True,
                                             self.settings.crop).argmax(axis=1)

        def probabilities(data: np.ndarray) -> np.ndarray:
            return mx.nd.softmax(_logits(learner, data), axis=1).asnumpy()

        several = self._values(predict, self.plain_batches(self.part("test")), "multi_scale")
        del several["multi_scale_error"]
        return {**super().test(learner), **several}

    def _values(self, predict: Callable[[np.ndarray], np.ndarray], batches: Iterable[Tuple[np.ndarray, np.ndarray]],
                prefix: str) -> Dict[str, float]:
        metric = SegmentationMetric(len(self.dataset.classes))
        for data, masks in batches:
            metric.update(predict(data), masks)
        values = metric.values()
        return {f"{prefix}_error": 1 - values["miou"], f"{prefix}_miou": values["miou"],
                f"{prefix}_pixel_accuracy": values["pixel_accuracy"]}

    def before_search(self) -> Run:
        """See Run: the feature extractor's."""
        assert self.backbone is not None
        return self.backbone

    def pretrained(self) -> Optional[Checkpoint]:
        """See Run; a train_imagenet.py run may lend its own."""
        if self.settings.pretrained_from is None:
            return super().pretrained()
        return finished_checkpoint(Path(self.settings.pretrained_from) / "pretrain", "pretrain")

    def start_from(self, learner: Learner, arrays: Mapping[str, np.ndarray]) -> None:
        """See Run; weights of a classification network are the feature extractor's."""
        if any(name.startswith(f"{PARAMETER}fc1_") for name in arrays):
            load_backbone(learner.network, arrays)
        else:
            super().start_from(learner, arrays)

    def phases(self, folder: str = "retrain") -> List[Tuple[Run, str]]:
        """See Run: the feature extractor on classification (unless another run lends it), then the recipe's phases."""
        own = [] if self.settings.retrained_from else [(self.before_search(), f"{folder}/backbone")]
        return own + [(phase, f"{folder}/phase-{number}") for number, phase in enumerate(self._phases, start=1)]

    @functools.cached_property
    def _phases(self) -> List[Run]:
        """A run for each of the recipe's phases, made once: each lists its pictures."""
        return [self._phase(phase) for phase in self.settings.phases]

    def lent(self) -> Optional[Checkpoint]:
        """See Run."""
        if self.settings.retrained_from is None:
            return None
        return finished_checkpoint(Path(self.settings.retrained_from) / "retrain", "retrain")

    def _phase(self, phase: Phase) -> SegmentationRun:
        name, dataset = phase.dataset or self.settings.dataset, self.dataset
        if name != self.settings.dataset:
            assert self.load is not None
            dataset = self.load(name)
        recipe = _phase_recipe(self.recipe, phase, self.settings.auxiliary_weight)
        return dataclasses.replace(self, dataset=dataset, recipe=recipe)

    def notes(self, results: Sequence[Mapping[str, Any]]) -> List[str]:
        """See Run."""
        reached = {result["name"]: 1 - result["test_error"] for result in results}
        reached["background everywhere"] = background_only(self.dataset.test, len(self.dataset.classes))
        return ["mIoU: " + ", ".join(f"{name} {percent(miou)}" for name, miou in reached.items()) + ".",
                "The test error is 1 - mIoU, the mean over classes of intersection over union.",
                "Inputs, truths and predictions are drawn in retrain/pictures.png."]

    def picture(self, learner: Learner) -> None:
        """Draw some test pictures, their masks and what the network says, into retrain/pictures.png."""
        data, masks = next(iter(self.plain_batches(self.part("test"))))
        data, masks = data[:SHEET_ROWS], masks[:SHEET_ROWS].astype(np.uint8)
        pixels = data.transpose(0, 2, 3, 1) * self.dataset.std + self.dataset.mean
        draw_sheet(self.folder.retrain / "pictures.png", list(np.clip(pixels, 0, 255).astype(np.uint8)), list(masks),
                   list(_predicted(learner, data).astype(np.uint8)), self.dataset.classes)


def _logits(learner: Learner, data: np.ndarray) -> Any:
    """Logits (B, classes, H, W) of a batch, on the first device."""
    return main_output(learner.network(mx.nd.array(data, ctx=learner.contexts[0])))


def _predicted(learner: Learner, data: np.ndarray) -> np.ndarray:
    """Labels (B, H, W) of a batch."""
    return _logits(learner, data).argmax(axis=1).asnumpy().astype(np.int64)


def _phase_recipe(recipe: Recipe, phase: Phase, auxiliary_weight: float) -> Recipe:
    """The recipe with a phase's training as its retraining."""
    names = {field.name for field in dataclasses.fields(phase)} - {"dataset"}
    training = {name: getattr(phase, name) for name in names}
    retrain = Retrain(**training, auxiliary_weight=auxiliary_weight,
                      drop_path=recipe.retrain.drop_path, drop_path_rule=recipe.retrain.drop_path_rule)
    return dataclasses.replace(recipe, retrain=retrain)


def segmentation_run(recipe: Recipe, folder: WorkFolder, data_dir: Optional[str], contexts: Sequence[mx.Context],
                     kvstore: Optional[str], resume: bool) -> SegmentationRun:
    """The run of a recipe with a segmentation section; `data_dir` holds the pictures.

    Raises:
        UserError: the recipe has no such section, or data is missing or bad.
    """
    if recipe.segmentation is None:
        raise UserError(f"--recipe {recipe.name}: has no section 'segmentation'; choose voc-share or seg-demo")
    root = data_dir or recipe.segmentation.root

    def load(name: str) -> SegmentationDataset:
        return load_segmentation(name, root)

    common = (contexts, kvstore, resume)
    images = classification_images(recipe, None)
    kind = StreamedBackboneRun if isinstance(images, StreamedDataset) else BackboneRun
    backbone = kind(recipe, folder, images, *common)
    return SegmentationRun(recipe, folder, load(recipe.segmentation.dataset), *common, backbone, load)
