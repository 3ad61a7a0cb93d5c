"""The networks that ProxylessNAS found: known points for the mobile space's builder."""

from __future__ import annotations

from dso_nas.architecture.mobile import MobileSpec
from dso_nas.architecture.mobile_genotype import MobileGenotype

# Parameters with BatchNorm's gamma and beta, for 1000 classes; a block's kernel and expansion, group by group.
KNOWN = {
    "gpu": (7_119_848, "k5e3 - - - | k7e3 - - k3e3 | k7e6 - - k5e3 | k5e6 - k3e3 k5e3 | k7e6 k7e6 k7e6 k5e6 | k7e6"),
    "cpu": (4_361_648, "k3e6 k3e3 k3e3 k3e3 | k3e6 k3e3 k3e3 k5e3 | k3e6 - - k3e3 | k5e6 k3e3 k3e3 k3e3 | "
                       "k5e6 k5e3 k5e3 k3e3 | k5e6"),
}
TINY = MobileSpec(4, 6, ((6, 2, 1), (8, 2, 2), (8, 1, 1)), 12, ("mb3_3x3", "mb6_3x3", "mb3_5x5"), 5, (3, 15, 13))


def known_network(name: str):
    """Macro-structure, genotype and parameters of the network that was found for 'gpu' or 'cpu'."""
    spec = MobileSpec.named(name)
    parameters, text = KNOWN[name]
    words = text.replace("|", " ").split()
    blocks = {unit.name: () if word == "-" else (f"mb{word[3]}_{word[1]}x{word[1]}",)
              for unit, word in zip(spec.units(), words)}
    return spec, MobileGenotype(spec.operations, blocks), parameters
