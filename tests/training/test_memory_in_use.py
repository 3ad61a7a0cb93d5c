"""What a step leaves behind: nothing, in any network that the stages train."""

from __future__ import annotations

import ctypes

import mxnet as mx
import numpy as np
import pytest

from dso_nas.networks.network import PublishedInitializer
from dso_nas.optimizers import APGNAG
from dso_nas.recipes import load_recipe
from dso_nas.stages.segmentation import SegmentationSpace
from dso_nas.stages.spaces import make_space
from dso_nas.training.learner import Learner
from dso_nas.training.losses import ClassificationLoss, SegmentationLoss

STEPS = 15
# Bytes a step. MXNet's concat leaves 900 behind for every array it joins: of the five of GluonCV's pyramid, 4,500.
ALLOWED = {"demo": 1_000, "mobile-demo": 1_000, "seg-demo": 5_500}


class Allocated(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]


def in_use():
    """Bytes that are allocated and not freed."""
    mx.nd.waitall()
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        pytest.skip("the C library does not say what is allocated")
    libc.mallinfo2.restype = Allocated
    return libc.mallinfo2().uordblks


def make_learner(name, searching):
    recipe = load_recipe(name, None, [] if name == "mobile-demo" else ["retrain.drop_path=0.2"])
    if recipe.segmentation is None:
        space, loss = make_space(recipe.network, 4, (3, 16, 16)), ClassificationLoss()
    else:
        space, loss = SegmentationSpace(recipe.network, 4, recipe.segmentation), SegmentationLoss()
    genotype = space.random(0.6, np.random.default_rng(0))
    network = space.supernet(genotype) if searching else space.derived(space.spec, genotype, recipe.retrain)
    network.initialize(PublishedInitializer())
    learner = Learner(network, [mx.cpu()], loss)
    lambdas = network.lambdas if searching else {}
    parameters = network.collect_params().items()
    learner.add_group("weights", [p for key, p in parameters if key not in lambdas], APGNAG(learning_rate=0.01))
    if lambdas:
        learner.add_group("lambdas", list(lambdas.values()), APGNAG(learning_rate=0.01, gamma=1e-4))
    return learner


@pytest.mark.parametrize("kind", ["weights", "lambdas", "derived"])
@pytest.mark.parametrize("name", ["demo", "mobile-demo", "seg-demo"])
def test_a_step_leaves_nothing_behind(name, kind):
    learner = make_learner(name, kind != "derived")
    random, side = np.random.default_rng(0), learner.network.spec.image_shape[1]
    data = random.standard_normal((2, 3, side, side)).astype(np.float32)
    labels = random.integers(0, 4, (2, side, side) if name == "seg-demo" else 2).astype(np.float32)
    width = learner.network.num_paths
    paths = np.ones((2, width), np.float32) if width else None

    def steps():
        for _ in range(STEPS):
            learner.step("weights" if kind == "derived" else kind, data, labels, 0.01, paths)
        return in_use()

    totals = [steps() for _ in range(5)]
    # What stays behind in every step does so in the best of times, too; a cache that grows once does not.
    assert min(np.diff(totals)) < ALLOWED[name] * STEPS
