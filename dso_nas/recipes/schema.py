"""Every key that a recipe has: its type, its range, its default and what it means.

The sections follow the paper: the data and the supernet (Section 3.1), then the three stages of Section 4.1,
and the comparisons of Table 1. A key without a default is required.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Optional, Tuple, Union

from dso_nas.files import write_durably
from dso_nas.recipes.network import SPACES, WIDTHS, Conflicts, MobileNetwork, Network
from dso_nas.recipes.rules import (
    KindRule,
    Section,
    SectionListRule,
    SectionRule,
    boolean,
    choice,
    either,
    integer,
    key,
    listing,
    number,
    optional,
    text,
)
from dso_nas.recipes.schedules import (
    EPOCHS,
    SCHEDULES,
    ConstantSchedule,
    CosineSchedule,
    LinearSchedule,
    PolySchedule,
    Schedule,
)
from dso_nas.recipes.yaml_text import dump_yaml

SEGMENTATION_SETS = ("fashion-scenes", "voc2012", "voc-aug", "coco-voc", "coco-sbd-voc")
DATASETS = ("fashion-mnist", "cifar10", "cifar100", "records")
PROFILES = ("default", "paper", "published")
DTYPES = ("float32", "float16")
TARGETS = ("target_parameters", "target_flops", "target_mac", "target_latency")
REGULARIZATIONS = ("uniform", "adaptive_flops", "adaptive_mac", "adaptive_latency")

_probability = number(0, 1, below=True)
_rate = number(above=True)
_ratio = listing(integer(1, 1000), 2, 2)


@dataclass(frozen=True)
class Data(Section):
    """The images, how they are divided, and how they are changed on the way in."""

    dataset: str = key(choice(*DATASETS), "which images")
    root: Optional[str] = key(
        optional(text()), "their folder; null: --data-dir, or the embedded images", None
    )
    ratio: Tuple[int, int] = key(_ratio, "images of D_w to images of D_lambda", (1, 1))
    split_seed: int = key(integer(0, 2**31 - 1), "seed of that division", 0)
    padding: int = key(integer(0, 64), "pixels of border before the random crop back to size", 4)
    flip: bool = key(boolean(), "mirror half of the images left to right", True)
    cutout: int = key(
        integer(0, 1024), "side in pixels of the square cut out in pretrain and search; 0: none", 0
    )
    validation: str = key(
        choice("test", "lambda_split"), "what pretrain and search report the error of", "test"
    )
    streaming: Union[bool, str] = key(
        either(boolean(), choice("auto")),
        "read record files while training runs; auto: if too large for memory or of several image sizes", "auto"
    )
    min_area: float = key(
        number(0, 1, above=True), "streamed: smallest share of an image that becomes the input, in place of padding",
        0.08
    )
    jitter: float = key(number(0, 1), "streamed: brightness, contrast, saturation change by up to this share", 0.4)
    lighting: float = key(number(0, 10), "streamed: deviation of the noise along the colours' components", 0.1)


@dataclass(frozen=True)
class Memory(Section):
    """What is kept for the backward pass of pretrain and search, and what is computed again (Section 4.1)."""

    mirroring: str = key(
        choice("none", "block", "auto"),
        "keep everything, each block's input, or what limit_mb allows",
        "block",
    )
    limit_mb: Optional[float] = key(
        optional(_rate), "memory for activations on a device, in MB (auto only)", None
    )

    def conflicts(self) -> Conflicts:
        """A limit that nobody reads, or none where one is needed."""
        if (self.mirroring == "auto") != (self.limit_mb is not None):
            yield "limit_mb", "must be given where memory.mirroring is auto, and only there"


@dataclass(frozen=True)
class Training(Section):
    """What every stage that trains needs."""

    epochs: int = key(EPOCHS, "epochs at most")
    batch_size: int = key(integer(1, 1_000_000), "images of a step, over all devices together")
    learning_rate: float = key(_rate, "the highest rate of the schedule")
    momentum: float = key(_probability, "Nesterov momentum of the weights", 0.9)
    weight_decay: float = key(number(), "weight decay of the weights", 0.0)
    schedule: Schedule = key(KindRule(SCHEDULES), "how the rate goes on from there", ConstantSchedule())
    clip_gradient: Optional[float] = key(optional(_rate), "limit of each gradient entry; null: none", None)

    def conflicts(self) -> Conflicts:
        """Schedules that do not fit the stage's epochs or learning rate."""
        plan = self.schedule
        if isinstance(plan, CosineSchedule) and plan.min_lr > self.learning_rate:
            yield "schedule.min_lr", f"must be at most the learning rate, {self.learning_rate:g}"
        if isinstance(plan, (LinearSchedule, PolySchedule)) and plan.warmup_epochs >= max(self.epochs, 1):
            yield "schedule.warmup_epochs", f"must be below the stage's epochs, {self.epochs}"


@dataclass(frozen=True)
class Pretrain(Training):
    """First stage: all connections, on D_w, the lambdas at one."""

    epochs: int = key(integer(0, 100_000), "epochs; 0 searches from random weights")


@dataclass(frozen=True)
class Search(Training):
    """Second stage: weights on D_w and lambdas on D_lambda in turn (Algorithm 1)."""

    gamma: float = key(number(), "weight of the lambdas' L1 norm (Eq. 9)", 0.001)
    lambda_learning_rate: Optional[float] = key(
        optional(_rate), "the lambdas' rate; null: as the weights'", None
    )
    lambda_momentum: Union[float, str] = key(
        either(_probability, choice("apg")), "momentum of APG-NAG; apg: (t-2)/(t+1) as derived (Eq. 13)", 0.9
    )
    ratio: Tuple[int, int] = key(_ratio, "weight steps to lambda steps", (1, 1))
    prune_every: int = key(EPOCHS, "epochs between two rebuilds without the dead connections", 5)
    patience: Optional[int] = key(
        optional(EPOCHS), "epochs without a change of the connections that end the search; null: never", None
    )
    regularization: str = key(
        choice(*REGULARIZATIONS), "what a connection's gamma follows (Section 3.4)", "uniform"
    )
    regularization_rule: str = key(
        choice("equation", "published"), "Eq. 17-19, or what the published code has instead", "equation"
    )
    gamma_base: float = key(number(), "gamma_0 of Eq. 19 (adaptive_latency only)", 0.0)
    latency_statistic: str = key(
        choice("median", "paper", "published"),
        "latencies: median of 50 runs, the paper's mean of 5, or the code's of 90",
        "median",
    )
    latency_batch: int = key(integer(1, 65_536), "latencies: images of a timed run", 1)
    latency_spread: float = key(
        _rate, "latencies: how wide the runs' middle half may be, over their median", 0.25
    )
    latency_table: Optional[str] = key(
        optional(text()), "file of `python -m dso_nas latency` to sum up instead of measuring (adaptive_latency only)",
        None
    )
    target_flops_share: Optional[float] = key(
        optional(number(0, 1, above=True, below=True)),
        "share of the supernet's multiply-adds at which the search ends; gamma is steered there; null: none", None
    )

    def conflicts(self) -> Conflicts:
        """What `Training` refuses, and settings that contradict the chosen order or regularisation."""
        yield from super().conflicts()
        chosen = self.regularization, self.regularization_rule
        if self.gamma_base and chosen != ("adaptive_latency", "equation"):
            yield "gamma_base", "must be 0 unless search.regularization is adaptive_latency, by the equation"
        if self.latency_table is not None and self.regularization != "adaptive_latency":
            yield "latency_table", "must be null unless search.regularization is adaptive_latency"


@dataclass(frozen=True)
class Retrain(Training):
    """Third stage: the found architecture from scratch, on all training images."""

    widths: Optional[Tuple[int, ...]] = key(
        optional(WIDTHS), "channels of each stage; null: the supernet's", None
    )
    width_multiplier: float = key(number(0, 100, above=True), "what all widths are multiplied by", 1.0)
    target_parameters: Optional[int] = key(
        optional(integer(1, 10**12)), "parameters that the multiplier is chosen for; null: none", None
    )
    target_flops: Optional[int] = key(
        optional(integer(1, 10**15)), "multiply-adds of an image that it is chosen for; null: none", None
    )
    target_mac: Optional[int] = key(
        optional(integer(1, 10**15)), "elements of memory access of an image that it is chosen for; null: none", None
    )
    target_latency: Optional[float] = key(
        optional(_rate), "milliseconds that it is chosen for, measured as search.latency_* say; null: none", None
    )
    drop_path: float = key(_probability, "largest probability of dropping a path; grows from 0", 0.0)
    drop_path_rule: str = key(
        choice("published", "uniform"), "the deeper the likelier, or the same for all paths", "published"
    )
    dropout: float = key(_probability, "probability of dropping a feature before the classifier", 0.0)
    auxiliary_weight: float = key(number(), "weight of the auxiliary head's loss; 0: no head", 0.0)
    decay_gamma: bool = key(boolean(), "weight decay on BatchNorm scales too, as published", False)
    label_smoothing: float = key(_probability, "share of the label spread over all classes", 0.0)
    cutout: int = key(integer(0, 1024), "side in pixels of the square cut out of an image; 0: none", 0)

    def conflicts(self) -> Conflicts:
        """What `Training` refuses, and two ways to say the width at once."""
        yield from super().conflicts()
        targets = [name for name in TARGETS if getattr(self, name) is not None]
        if len(targets) > 1:
            yield targets[1], f"must be null where retrain.{targets[0]} chooses the width"
        if targets and self.width_multiplier != 1.0:
            yield "width_multiplier", f"must be 1 where retrain.{targets[0]} chooses it"


@dataclass(frozen=True)
class Phase(Training):
    """One phase of training the found network for segmentation."""

    dataset: Optional[str] = key(
        optional(choice(*SEGMENTATION_SETS)), "which pictures; null: segmentation.dataset", None
    )


@dataclass(frozen=True)
class Segmentation(Section):
    """What search_seg.py searches on; pretrain and retrain then train the feature extractor on `data` (Section 4.4)."""

    dataset: str = key(choice(*SEGMENTATION_SETS), "pictures that the search is on")
    phases: Tuple[Phase, ...] = key(SectionListRule(Phase), "training of the found network, after retrain")
    root: Optional[str] = key(optional(text()), "folder of the pictures; null: none is needed", None)
    pretrained_from: Optional[str] = key(
        optional(text()), "folder of a train_imagenet.py run whose pretrain serves; null: this run's own", None
    )
    retrained_from: Optional[str] = key(
        optional(text()), "folder of a train_imagenet.py run whose retrain serves; null: this run's own", None
    )
    ratio: Tuple[int, int] = key(_ratio, "pictures of D_w to pictures of D_lambda", (4, 1))
    split_seed: int = key(integer(0, 2**31 - 1), "seed of that division", 0)
    crop: int = key(integer(16, 4096), "side in pixels of what the network sees", 513)
    scales: Tuple[float, float] = key(listing(_rate, 2, 2), "smallest and largest random scale", (0.5, 2.0))
    flip: bool = key(boolean(), "mirror half of the pictures left to right", True)
    jitter: float = key(_probability, "largest relative change of brightness, contrast and saturation", 0.0)
    output_stride: int = key(integer(1, 1024), "side of a picture over that of the last map", 16)
    head_channels: int = key(integer(1, 4096), "channels of the DeepLab v3 head", 256)
    dropout: float = key(_probability, "probability of dropping a feature of the head", 0.1)
    auxiliary_weight: float = key(number(), "weight of the auxiliary head's loss in the phases; 0: no head", 0.0)
    evaluation_scales: Tuple[float, ...] = key(
        listing(_rate, 1, 16), "scales that `evaluate` averages, besides the single one",
        (0.5, 0.75, 1.0, 1.25, 1.5, 1.75),
    )


@dataclass(frozen=True)
class Compare(Section):
    """What the found architecture is compared with, each trained as in retrain (Table 1, last rows)."""

    random_architectures: int = key(integer(0, 1000), "random architectures of the same scope", 3)
    full_network: bool = key(boolean(), "the supernet's own architecture, narrowed", True)
    tolerance: float = key(number(0, 1, above=True), "allowed relative difference of parameters", 0.05)
    epochs: Optional[int] = key(optional(EPOCHS), "epochs of their training; null: as retrain", None)


@dataclass(frozen=True)
class Checkpoint(Section):
    """When a stage writes a checkpoint besides at each epoch's end."""

    every_steps: Optional[int] = key(
        optional(integer(1, 10**9)), "steps between two; null: none by steps", None
    )
    every_minutes: Optional[float] = key(optional(_rate), "minutes between two; null: none by time", 10.0)


@dataclass(frozen=True)
class Recipe(Section):
    """All that decides what a run computes. Frozen, hashable, and equal to what its own YAML loads to."""

    name: str = key(text(), "the recipe's name")
    data: Data = key(SectionRule(Data), "the images")
    network: Union[Network, MobileNetwork] = key(KindRule(SPACES, "space", "normal"), "the supernet")
    pretrain: Pretrain = key(SectionRule(Pretrain), "the first stage")
    search: Search = key(SectionRule(Search), "the second stage")
    retrain: Retrain = key(SectionRule(Retrain), "the third stage")
    profile: str = key(choice(*PROFILES), "the profile that was laid over it", "default")
    seed: int = key(integer(0, 2**31 - 1), "seed of everything random but the division of the data", 0)
    dtype: str = key(choice(*DTYPES), "precision of training; float16 keeps float32 copies and needs a GPU", "float32")
    sync_batch_norm: bool = key(boolean(), "BatchNorm takes the statistics of all devices of a machine together", False)
    memory: Memory = key(SectionRule(Memory), "memory against time", Memory())
    segmentation: Optional[Segmentation] = key(
        SectionRule(Segmentation, optional=True), "segmentation; null: classification", None
    )
    compare: Compare = key(SectionRule(Compare), "comparisons", Compare())
    checkpoint: Checkpoint = key(SectionRule(Checkpoint), "checkpoints", Checkpoint())

    def conflicts(self) -> Conflicts:
        """Widths for another number of stages, what float16 is not for, and what the mobile space does not have."""
        widths, stages = self.retrain.widths, self.network.stages
        if widths is not None and len(widths) != stages:
            yield "retrain.widths", f"must have one entry for each of the network's {stages} stages"
        if self.dtype == "float16" and self.sync_batch_norm:
            yield "sync_batch_norm", "must be false where dtype is float16"
        if self.sync_batch_norm and self.memory.mirroring != "none":
            yield "sync_batch_norm", "must be false where memory.mirroring is not none: MXNet's layer cannot run again"
        if self.dtype == "float16" and self.segmentation is not None:
            yield "dtype", "must be float32 where there is a segmentation"
        if self.network.space == "mobile":
            yield from self._not_mobile()

    def _not_mobile(self) -> Conflicts:
        published = self.search.regularization_rule == "published"
        for name, there in (("segmentation", self.segmentation is not None),
                            ("retrain.drop_path", self.retrain.drop_path > 0),
                            ("retrain.auxiliary_weight", self.retrain.auxiliary_weight > 0),
                            ("search.regularization_rule", published and self.search.regularization in (
                                "adaptive_flops", "adaptive_mac"))):
            if there:
                yield name, "must be left out where network.space is mobile, it is for the normal space"

    def to_mapping(self) -> Dict[str, Any]:
        """The recipe as plain mappings, tuples and scalars."""
        return dataclasses.asdict(self)

    def to_yaml(self) -> str:
        """The recipe with every key resolved, as YAML that `load_recipe` reads back to an equal recipe."""
        return dump_yaml(self.to_mapping())

    def save(self, path: Union[str, Path]) -> None:
        """Write `to_yaml` to a file, whole or not at all.

        Raises:
            UserError: the file cannot be written.
        """
        write_durably(path, [self.to_yaml().encode("utf-8")])
