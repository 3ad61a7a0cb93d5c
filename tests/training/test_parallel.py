"""One device against two: the same lambdas and the same genotype; parts of batches; workers that are alone."""

import os
import re
import subprocess
import sys

import mxnet as mx
import numpy as np
import pytest

from dso_nas.errors import UserError
from dso_nas.networks import operations
from dso_nas.training import parallel
from dso_nas.training.parallel import GradientExchange
from dso_nas.training.workers import Workers, joined, workers
from tests.distributed.equality import largest_difference, make_learner, train
from tests.training.small_search import searched


@pytest.mark.parametrize("kvstore", ["local", "device"])
def test_two_devices_train_as_one(kvstore):
    one, two = (train(make_learner(1, kvstore, devices), 1) for devices in (1, 2))
    assert largest_difference(one, two) < 1e-5
    assert (one["lambdas"] == 0).any() and (one["lambdas"] > 0).any()


def test_batch_norm_differs_and_so_the_comparison_sees_something():
    one, two = (train(make_learner(1, "device", devices, True), 1) for devices in (1, 2))
    assert largest_difference(one, {name: two[name] for name in one}) > 1e-3


@pytest.mark.parametrize("mirrored", [False, True])
def test_two_devices_find_what_one_finds(mirrored, monkeypatch):
    # BatchNorms that take no statistics of a batch.
    monkeypatch.setitem(operations.BATCH_NORM, "use_global_stats", True)
    one, expected = searched(1, False, synchronised=False)
    two, found = searched(2, mirrored, synchronised=False)
    np.testing.assert_allclose(two, one, rtol=0, atol=1e-5)
    assert found == expected
    assert (one[-1] == 0).any() and (one[-1] > 0).any()


def test_two_devices_with_batch_norms_of_both_find_what_one_finds():
    environment = {**os.environ, parallel.BUFFERS_VARIABLE: str(parallel.BUFFERS)}
    done = subprocess.run([sys.executable, "-m", "tests.training.small_search"], env=environment, capture_output=True,
                          text=True, timeout=120, check=False)
    found = re.search(r"differ by (\S+), the genotype is the same, (\d+) lambdas are zero", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found.group(1)) < 1e-5 and int(found.group(2)) > 0


def test_batch_norms_of_several_cpu_devices_need_buffers(monkeypatch):
    monkeypatch.setenv(parallel.BUFFERS_VARIABLE, "64")
    with pytest.raises(UserError, match="sync_batch_norm: .* MXNET_CPU_TEMP_COPY=4096"):
        parallel.check_can_synchronise([mx.cpu(0), mx.cpu(1)])
    parallel.check_can_synchronise([mx.cpu(0)])
    monkeypatch.setenv(parallel.BUFFERS_VARIABLE, "4096")
    parallel.check_can_synchronise([mx.cpu(0), mx.cpu(1)])


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
