"""The search stage: what a rebuild carries over, when it ends, what it refuses."""

import numpy as np
import pytest

from dso_nas.architecture.genotype import Genotype
from dso_nas.architecture.memory_plan import plan_memory
from dso_nas.errors import UserError
from dso_nas.stages.search import SearchTask, search


def run_epoch(task, epoch=0):
    for _ in task.train(epoch, 0):
        pass


def kill(task, name, columns):
    """Set entries of a lambda to zero, as the optimizer leaves them."""
    for copy in task.network.lambdas[name].list_data():
        value = copy.asnumpy()
        value[0, columns] = 0
        copy[:] = value


def test_a_rebuild_carries_weights_lambdas_and_momentum_over(make_run):
    task = SearchTask(make_run("search.gamma=0.001"))
    run_epoch(task)
    kill(task, "lambda_layer_2_2", [0, 1, 2, 3])
    kill(task, "lambda_after", [0])
    before = task.learner.state()
    live = task.genotype
    task._rebuild(task._pruned())
    after = task.learner.state()
    assert task.genotype != live and len(after) < len(before)
    assert not any("2_max_pool" in name or "output_conv_5_" in name for name in after)
    for name, value in after.items():
        if "lambda" not in name:
            np.testing.assert_array_equal(value, before[name], err_msg=name)
    pruned = np.array(before["parameter/lambda_after"])
    pruned[0, 4] = 0
    np.testing.assert_array_equal(after["parameter/lambda_after"], pruned)
    momentum = after["optimizer/lambdas/0/lambda_after"]
    assert (momentum[pruned == 0] == 0).all() and (momentum[pruned > 0] != 0).any()


def test_a_dead_connection_never_comes_back(make_run):
    task = SearchTask(make_run())
    dead = None
    for epoch in range(3):
        run_epoch(task, epoch)
        task.end_epoch(epoch)
        now = {name: value == 0 for name, value in task._current().items()}
        if dead is not None:
            assert all(now[name][was].all() for name, was in dead.items())
        dead = now
    assert any(mask.any() for mask in dead.values())


def test_it_ends_when_the_connections_have_not_changed(make_run):
    task = SearchTask(make_run("search.patience=2"))
    full, fewer = np.ones(10, np.float32), np.array([0.0] + [1.0] * 9, np.float32)
    for history, ends in [([full] * 5, False), ([full, fewer, fewer], False), ([full, fewer, fewer, 2 * fewer], True),
                          ([fewer, fewer, full * fewer, 0 * full], False)]:
        task.history = history
        assert task.finished() == ends


def test_a_search_leaves_a_genotype_and_stops_early(make_run):
    run = make_run("pretrain.epochs=0", "search.patience=1", "search.epochs=12", "search.gamma=0.5")
    genotype = search(run)
    assert Genotype.load(run.folder.genotype) == genotype
    assert genotype.source["converged"] and genotype.source["epochs"] < 12
    with np.load(run.folder.search / "lambdas.npz") as lambdas:
        assert lambdas["lambda_after"].shape == (genotype.source["epochs"], 6)


def test_full_scope_with_adaptive_flops(make_run):
    task = SearchTask(make_run("network.scope=full", "search.regularization=adaptive_flops"))
    run_epoch(task)
    values = task.end_epoch(0)
    assert 0 < values["live_connections"] <= 2 * 18


def test_the_same_seed_gives_the_same_bits(make_run):
    states = []
    for name in ("one", "two"):
        task = SearchTask(make_run(name=name))
        run_epoch(task)
        states.append(task.learner.state())
    for name, value in states[0].items():
        np.testing.assert_array_equal(value, states[1][name], err_msg=name)


def test_two_devices_prune_alike(make_run):
    task = SearchTask(make_run(contexts=2))
    run_epoch(task)
    task.end_epoch(0)
    for parameter in task.network.lambdas.values():
        first, second = (copy.asnumpy() for copy in parameter.list_data())
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_memory_limit_chooses_what_is_mirrored(make_run, share):
    spec = make_run().spec
    most, least = (plan_memory(spec, None, 50, mirroring).total_mb for mirroring in ("none", "block"))
    limit = least + share * (most - least) + 0.01
    automatic, kept = ("memory.mirroring=auto", f"memory.limit_mb={limit}"), ("memory.mirroring=none",)
    states = []
    for name, overrides in (("one", automatic), ("two", kept)):
        task = SearchTask(make_run(*overrides, name=name))
        run_epoch(task)
        states.append(task.learner.state())
    for name, value in states[0].items():
        np.testing.assert_allclose(value, states[1][name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_memory_limit_that_is_too_small_is_said(make_run):
    with pytest.raises(UserError, match="memory.limit_mb"):
        SearchTask(make_run("memory.mirroring=auto", "memory.limit_mb=0.001"))


def test_pretraining_comes_first(make_run):
    with pytest.raises(UserError, match="pretrain has not run here"):
        search(make_run())
