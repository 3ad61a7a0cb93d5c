"""The networks and pictures of every search space; what needs no MXNet is in `dso_nas.architecture.spaces`."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional, Tuple

import numpy as np

from dso_nas.architecture import spaces
from dso_nas.architecture.genotype import SHARED
from dso_nas.networks.derived import DerivedNetwork
from dso_nas.networks.mobile import MobileNetwork, MobileSuperNet
from dso_nas.networks.supernet import SuperNet
from dso_nas.reporting.mobile_picture import draw_mobile
from dso_nas.reporting.structure import draw_structure


class NormalSpace(spaces.NormalSpace):
    """Completely connected blocks."""

    def supernet(self, genotype: Optional[Any] = None) -> Any:
        """The supernet of what `genotype` keeps, without values."""
        return SuperNet(self.layout, genotype)

    def derived(self, spec: Any, genotype: Any, settings: Any = None) -> Any:
        """The derived network, with what the recipe's section `settings` (retrain) adds to it."""
        if settings is None:
            return DerivedNetwork(spec, genotype)
        return DerivedNetwork(spec, genotype, settings.drop_path > 0, settings.dropout, settings.auxiliary_weight > 0)

    def draw(self, genotype: Any, stem: str, values: Mapping[str, np.ndarray], title: str) -> None:
        """Write `stem`.svg and .png: the architecture, and the lambdas `values` it was found with."""
        draw_structure(genotype, stem, self._by_block(values), title)

    def _by_block(self, values: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """Packed lambda vectors under the keys of a genotype's blocks."""
        vectors = self.layout.to_units(values)
        blocks = self.spec.block_units()
        if self.layout.scope == "share":
            return {SHARED: vectors[blocks[0].name]}
        return {unit.name: vectors[unit.name] for unit in blocks}


class MobileSpace(spaces.MobileSpace, NormalSpace):
    """MBConv operations."""

    def supernet(self, genotype: Optional[Any] = None) -> MobileSuperNet:
        """See NormalSpace."""
        return MobileSuperNet(self.layout, genotype)

    def derived(self, spec: Any, genotype: Any, settings: Any = None) -> MobileNetwork:
        """See NormalSpace; neither drop path nor an auxiliary head is there."""
        return MobileNetwork(spec, genotype, 0.0 if settings is None else settings.dropout)

    def draw(self, genotype: Any, stem: str, values: Mapping[str, np.ndarray], title: str) -> None:
        """See NormalSpace; as Fig. 7 has it."""
        draw_mobile(genotype, self.spec, stem, title)


SPACES = {"normal": NormalSpace, "mobile": MobileSpace}


def make_space(network: Any, classes: int, image_shape: Tuple[int, int, int]) -> NormalSpace:
    """The space that a recipe's section `network` names.

    Raises:
        UserError: a macro-structure that cannot be.
    """
    return SPACES[network.space](network, classes, image_shape)
