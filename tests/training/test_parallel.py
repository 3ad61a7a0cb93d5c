"""One device against two: the same lambdas and the same genotype; parts of batches; workers that are alone."""

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon

from dso_nas.architecture.lambdas import LambdaLayout
from dso_nas.architecture.pruning import prune
from dso_nas.architecture.topology import BlockTopology, NetworkSpec
from dso_nas.errors import UserError
from dso_nas.networks import blocks, network, operations
from dso_nas.networks.supernet import SuperNet
from dso_nas.optimizers import APGNAG
from dso_nas.training.learner import Learner
from dso_nas.training.losses import ClassificationLoss
from dso_nas.training.memory import block_groups
from dso_nas.training.parallel import GradientExchange
from dso_nas.training.workers import Workers, joined, workers
from tests.distributed.equality import largest_difference, make_learner, train


@pytest.mark.parametrize("kvstore", ["local", "device"])
def test_two_devices_train_as_one(kvstore):
    one, two = (train(make_learner(1, kvstore, devices), 1) for devices in (1, 2))
    assert largest_difference(one, two) < 1e-5
    assert (one["lambdas"] == 0).any() and (one["lambdas"] > 0).any()


def test_batch_norm_differs_and_so_the_comparison_sees_something():
    one, two = (train(make_learner(1, "device", devices, True), 1) for devices in (1, 2))
    assert largest_difference(one, {name: two[name] for name in one}) > 1e-3


def searched(devices, mirrored, monkeypatch):
    """Lambdas after every step, and the genotype, of a small search whose BatchNorms take no statistics of a batch."""
    def fixed(channels, prefix, fix_gamma=False):
        return gluon.nn.BatchNorm(in_channels=channels, scale=not fix_gamma, use_global_stats=True,
                                  prefix=f"{prefix}_", **operations.BATCH_NORM)

    for module in (operations, blocks, network):
        if hasattr(module, "batch_norm"):
            monkeypatch.setattr(module, "batch_norm", fixed)
    spec = NetworkSpec(BlockTopology(2, ("sep_conv_3x3", "avg_pool_3x3")), "cifar", (2, 1), (4, 6), 4, (3, 8, 8))
    layout = LambdaLayout(spec, "share")
    contexts = [mx.cpu(index) for index in range(devices)]
    supernet = SuperNet(layout)
    mx.random.seed(7)
    supernet.initialize(network.PublishedInitializer(), ctx=contexts)
    supernet.hybridize_segments()
    groups = block_groups(len(supernet.segments)) if mirrored else None
    learner = Learner(supernet, contexts, ClassificationLoss(), "device", groups)
    weights = [p for name, p in supernet.collect_params().items() if name not in supernet.lambdas]
    learner.add_group("weights", weights, APGNAG(learning_rate=0.1, momentum=0.9, wd=1e-3))
    learner.add_group("lambdas", list(supernet.lambdas.values()), APGNAG(learning_rate=0.1, momentum=0.5, gamma=0.55))
    rng, trajectory = np.random.default_rng(0), []
    for _ in range(8):
        data = rng.normal(size=(16, 3, 8, 8)).astype(np.float32)
        labels = rng.integers(0, 4, 16).astype(np.float32)
        learner.step("weights", data, labels, 0.1)
        learner.step("lambdas", data, labels, 0.1)
        trajectory.append(np.concatenate([value.ravel() for value in learner.values(supernet.lambdas).values()]))
    ones = {name: np.ones(shape, np.float32) for name, shape in layout.shapes().items()}
    return np.stack(trajectory), prune(layout, learner.values(supernet.lambdas), ones).genotype


@pytest.mark.parametrize("mirrored", [False, True])
def test_two_devices_find_what_one_finds(mirrored, monkeypatch):
    one, expected = searched(1, False, monkeypatch)
    two, found = searched(2, mirrored, monkeypatch)
    np.testing.assert_allclose(two, one, rtol=0, atol=1e-5)
    assert found == expected
    assert (one[-1] == 0).any() and (one[-1] > 0).any()


def exchange(rank, count, devices):
    made = GradientExchange("device", [mx.cpu(index) for index in range(devices)])
    made.workers = Workers()
    made.workers.rank, made.workers.count = rank, count
    return made


def test_parts_of_all_workers_cover_the_batch_as_devices_of_one_would():
    batch = np.arange(14.0)
    parts = [exchange(rank, 3, 2).own_part(batch) for rank in range(3)]
    np.testing.assert_array_equal(np.concatenate(parts), batch)
    # Each device's share is the one it would have among six devices of one worker.
    shares = [share for part in parts for share in np.array_split(part, 2)]
    assert [list(share) for share in shares] == [list(share) for share in np.array_split(batch, 6)]


def test_a_batch_too_small_for_all_workers_is_refused():
    with pytest.raises(UserError, match="--batch-size: a batch of 5 cannot be shared by 6 devices"):
        exchange(0, 3, 2).own_part(np.arange(5.0))


@pytest.mark.parametrize("kvstore", ["dist_sync", "dist_device_sync"])
def test_a_distributed_kvstore_needs_to_be_joined(kvstore, monkeypatch):
    monkeypatch.delenv("DMLC_ROLE", raising=False)
    with pytest.raises(UserError, match="has not joined"):
        GradientExchange(kvstore, [mx.cpu()])
    with pytest.raises(UserError, match="launch"):
        with joined(kvstore):
            pass


def test_a_process_that_is_alone_exchanges_nothing():
    with joined("device") as alone:
        assert alone is workers() and (alone.rank, alone.count) == (0, 1)
        np.testing.assert_array_equal(alone.gather("x", np.arange(3)), [[0, 1, 2]])
        np.testing.assert_array_equal(alone.sum("x", np.arange(3)), [0, 1, 2])
        assert alone.first(0.1) == 0.1
