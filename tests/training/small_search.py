"""A small search on one device or on two, step by step; as a program, with BatchNorms over both devices.

    python -m tests.training.small_search      # prints how far two devices' lambdas are from one's

The program needs MXNET_CPU_TEMP_COPY in its environment, which MXNet reads when it is loaded.
"""

from __future__ import annotations

from typing import Any, List, Tuple

import dso_nas  # noqa: F401  (before MXNet)

# isort: split
import mxnet as mx
import numpy as np

from dso_nas.architecture.genotype import Genotype
from dso_nas.architecture.lambdas import LambdaLayout
from dso_nas.architecture.pruning import prune
from dso_nas.architecture.topology import BlockTopology, NetworkSpec
from dso_nas.networks.network import PublishedInitializer
from dso_nas.networks.operations import synchronise
from dso_nas.networks.supernet import SuperNet
from dso_nas.optimizers import APGNAG
from dso_nas.training.learner import Learner
from dso_nas.training.losses import ClassificationLoss
from dso_nas.training.memory import block_groups
from dso_nas.training.parallel import check_can_synchronise

LAYOUT = LambdaLayout(NetworkSpec(BlockTopology(2, ("sep_conv_3x3", "avg_pool_3x3")), "cifar", (2, 1), (4, 6), 4,
                                  (3, 8, 8)), "share")


def searched(devices: int, mirrored: bool, synchronised: bool) -> Tuple[np.ndarray, Genotype]:
    """Lambdas after every step, and the genotype."""
    contexts = [mx.cpu(index) for index in range(devices)]
    supernet = SuperNet(LAYOUT)
    if synchronised:
        check_can_synchronise(contexts)
        synchronise(supernet, devices)
    learner = made_learner(supernet, contexts, mirrored)
    rng, trajectory = np.random.default_rng(0), []
    for _ in range(8):
        data = rng.normal(size=(16, 3, 8, 8)).astype(np.float32)
        labels = rng.integers(0, 4, 16).astype(np.float32)
        learner.step("weights", data, labels, 0.1)
        learner.step("lambdas", data, labels, 0.1)
        trajectory.append(np.concatenate([value.ravel() for value in learner.values(supernet.lambdas).values()]))
    ones = {name: np.ones(shape, np.float32) for name, shape in LAYOUT.shapes().items()}
    return np.stack(trajectory), prune(LAYOUT, learner.values(supernet.lambdas), ones).genotype


def made_learner(supernet: SuperNet, contexts: List[mx.Context], mirrored: bool) -> Any:
    """Initial values, both optimizers."""
    mx.random.seed(7)
    supernet.initialize(PublishedInitializer(), ctx=contexts)
    groups = block_groups(len(supernet.segments)) if mirrored else None
    learner = Learner(supernet, contexts, ClassificationLoss(), "device", groups)
    weights = [p for name, p in supernet.collect_params().items() if name not in supernet.lambdas]
    learner.add_group("weights", weights, APGNAG(learning_rate=0.1, momentum=0.9, wd=1e-3))
    learner.add_group("lambdas", list(supernet.lambdas.values()), APGNAG(learning_rate=0.1, momentum=0.5, gamma=0.75))
    return learner


def main() -> None:
    """Compare two devices with one."""
    (one, expected), (two, found) = searched(1, False, True), searched(2, False, True)
    print(f"lambdas differ by {np.abs(two - one).max():.1e}, the genotype is "
          f"{'the same' if found == expected else 'another'}, {int((one[-1] == 0).sum())} lambdas are zero")


if __name__ == "__main__":
    main()
