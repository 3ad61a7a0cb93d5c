"""A search space as the stages and tools ask for it, so that they are written once for all spaces.

Layout, pruning, costs and memory: all that needs no MXNet. `dso_nas.stages.spaces` adds networks and pictures. One line
of a recipe chooses the space.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Mapping, Optional, Sequence, Tuple

import numpy as np

from dso_nas.architecture.cost import Conventions, CostTable, network_cost
from dso_nas.architecture.genotype import Genotype
from dso_nas.architecture.lambdas import LambdaLayout
from dso_nas.architecture.memory_plan import MemoryPlan, plan_memory
from dso_nas.architecture.mobile import MobileLambdas, MobileSpec
from dso_nas.architecture.mobile_cost import mobile_cost, plan_mobile_memory
from dso_nas.architecture.mobile_genotype import MobileGenotype, is_settled, prune_mobile, random_mobile
from dso_nas.architecture.pruning import PruneResult, live_connections, prune
from dso_nas.architecture.sampling import random_genotype
from dso_nas.architecture.segmentation_cost import segmentation_cost
from dso_nas.architecture.topology import NetworkSpec
from dso_nas.errors import UserError

Values = Mapping[str, Any]


class NormalSpace:
    """Completely connected blocks (paper, section 3.1, normal setting).

    `spec` is the supernet's macro-structure, `layout` its lambda parameters.
    """

    def __init__(self, network: Any, classes: int, image_shape: Tuple[int, int, int]) -> None:
        self.spec: Any = NetworkSpec.of(network, classes, image_shape)
        self.layout: Any = LambdaLayout(self.spec, network.scope, network.packed)

    def full(self) -> Any:
        """The architecture with every connection."""
        return Genotype.full(self.spec, self.layout.scope)

    def prune(self, values: Values, previous: Optional[Values] = None) -> PruneResult:
        """What lambdas leave; see `dso_nas.architecture.pruning.prune`."""
        return prune(self.layout, values, previous)

    def live(self, genotype: Any) -> int:
        """Live connections of the whole network."""
        return live_connections(genotype, self.spec)

    def is_settled(self, genotype: Any) -> bool:
        """Whether the space itself says that the search has ended: this one never does."""
        return False

    def random(self, density: float, rng: np.random.Generator) -> Any:
        """An architecture whose every connection is kept with probability `density`."""
        return random_genotype(self.spec, self.layout.scope, density, rng)

    def transferred(self, genotype: Any) -> Any:
        """An architecture found in another macro-structure, for this one; see `Genotype.transferred`.

        Raises:
            UserError: it is of another space.
        """
        if genotype.space != self.full().space:
            raise UserError(f"--genotype: is of the space '{genotype.space}', the recipe's network of "
                            f"'{self.full().space}'; choose a recipe of its space")
        return genotype.transferred(self.spec)

    def widened(self, widths: Optional[Sequence[int]]) -> Any:
        """The macro-structure at other widths (None: its own)."""
        return self.spec if widths is None else self.spec.with_widths(widths)

    def placed(self, spec: Any) -> Any:
        """The macro-structure `spec` for this space's own images and classes."""
        return dataclasses.replace(spec, classes=self.spec.classes, image_shape=self.spec.image_shape,
                                   output_stride=self.spec.output_stride)

    def cost(self, spec: Any, genotype: Optional[Any] = None, conventions: Optional[Conventions] = None) -> CostTable:
        """Costs of every layer of a genotype's network, or of the supernet's."""
        return network_cost(spec, genotype, conventions)

    def plan(self, spec: Any, genotype: Optional[Any], images: int, mirroring: str, limit_mb: Optional[float],
             dtype: str = "float32", tuned: bool = False) -> MemoryPlan:
        """The memory plan of a supernet's step with `images` on a device; `tuned` where that is the CPU."""
        return plan_memory(spec, genotype, images, mirroring, limit_mb, dtype=dtype, tuned=tuned)


class SegmentationSpace(NormalSpace):
    """The normal space as the feature extractor of a segmentation network (section 4.4).

    `settings` is a recipe's `segmentation` section; images are of the crop's size.
    """

    def __init__(self, network: Any, classes: int, settings: Any) -> None:
        super().__init__(network, classes, (3, settings.crop, settings.crop))
        self.spec = dataclasses.replace(self.spec, output_stride=settings.output_stride)
        self.layout = LambdaLayout(self.spec, network.scope, network.packed)
        self.settings = settings

    def cost(self, spec: Any, genotype: Optional[Any] = None, conventions: Optional[Conventions] = None) -> CostTable:
        """See NormalSpace; at the crop, with the head."""
        return segmentation_cost(spec, genotype, self.settings.head_channels, conventions)

    def plan(self, spec: Any, genotype: Optional[Any], images: int, mirroring: str, limit_mb: Optional[float],
             dtype: str = "float32", tuned: bool = False) -> MemoryPlan:
        """See NormalSpace; with the head."""
        return plan_memory(spec, genotype, images, mirroring, limit_mb, self.settings.head_channels, dtype,
                           tuned)


class MobileSpace(NormalSpace):
    """MBConv operations, one lambda each (section 3.1, Eq. 3-4); a connection is an operation here."""

    def __init__(self, network: Any, classes: int, image_shape: Tuple[int, int, int]) -> None:
        self.spec = MobileSpec.of(network, classes, image_shape)
        self.layout = MobileLambdas(self.spec)

    def full(self) -> MobileGenotype:
        """See NormalSpace."""
        return MobileGenotype.full(self.spec)

    def prune(self, values: Values, previous: Optional[Values] = None) -> PruneResult:
        """See NormalSpace; a block that must have an operation keeps one."""
        return prune_mobile(self.layout, values, previous)

    def live(self, genotype: MobileGenotype) -> int:
        """See NormalSpace."""
        return genotype.num_live

    def is_settled(self, genotype: MobileGenotype) -> bool:
        """Whether every block has at most one operation left: the paper's rule for this space."""
        return is_settled(genotype)

    def random(self, density: float, rng: np.random.Generator) -> MobileGenotype:
        """See NormalSpace."""
        return random_mobile(self.spec, density, rng)

    def placed(self, spec: Any) -> Any:
        """See NormalSpace."""
        return dataclasses.replace(spec, classes=self.spec.classes, image_shape=self.spec.image_shape)

    def cost(self, spec: Any, genotype: Optional[Any] = None, conventions: Optional[Conventions] = None) -> CostTable:
        """See NormalSpace."""
        return mobile_cost(spec, genotype, conventions)

    def plan(self, spec: Any, genotype: Optional[Any], images: int, mirroring: str, limit_mb: Optional[float],
             dtype: str = "float32", tuned: bool = False) -> MemoryPlan:
        """See NormalSpace."""
        return plan_mobile_memory(spec, genotype, images, mirroring, limit_mb, dtype)


SPACES = {"normal": NormalSpace, "mobile": MobileSpace}
# What a space without its data has where the recipe does not say.
DEFAULT_SIZE, DEFAULT_CLASSES, SEGMENTATION_CLASSES = 32, 10, 21


def space_of(recipe: Any) -> NormalSpace:
    """A recipe's space without its data: images are 32x32 and classes 10 (21 in segmentation) unless the recipe says.

    Raises:
        UserError: a macro-structure that cannot be.
    """
    network = recipe.network
    if recipe.segmentation is not None:
        return SegmentationSpace(network, SEGMENTATION_CLASSES, recipe.segmentation)
    size = network.image_size or DEFAULT_SIZE
    return SPACES[network.space](network, network.classes or DEFAULT_CLASSES, (3, size, size))
