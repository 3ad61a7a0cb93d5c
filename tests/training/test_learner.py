"""Steps of the learner: mirrored equals unmirrored, only what is asked for moves, devices agree."""

import mxnet as mx
import numpy as np
import pytest

from dso_nas.architecture.lambdas import LambdaLayout
from dso_nas.architecture.topology import BlockTopology, NetworkSpec
from dso_nas.errors import UserError
from dso_nas.networks.network import PublishedInitializer
from dso_nas.networks.supernet import SuperNet
from dso_nas.optimizers import APGNAG
from dso_nas.training.learner import Learner
from dso_nas.training.losses import ClassificationLoss
from dso_nas.training.memory import block_groups
from dso_nas.training.parallel import GradientExchange, choose_contexts, share_out

TOPOLOGY = BlockTopology(2, ("sep_conv_3x3", "max_pool_3x3", "avg_pool_3x3"))
RNG = np.random.default_rng(0)
DATA = RNG.normal(size=(8, 3, 8, 8)).astype(np.float32)
LABELS = RNG.integers(0, 4, 8).astype(np.float32)
START = {}


def make_learner(contexts=None, mirrored=False, scope="share"):
    contexts = contexts or [mx.cpu()]
    spec = NetworkSpec(TOPOLOGY, "cifar", (2, 1), (4, 6), 4, (3, 8, 8))
    network = SuperNet(LambdaLayout(spec, scope))
    network.initialize(PublishedInitializer(), ctx=contexts)
    network.hybridize_segments()
    groups = block_groups(len(network.segments)) if mirrored else None
    learner = Learner(network, contexts, ClassificationLoss(), "device", groups)
    weights = [p for name, p in network.collect_params().items() if name not in network.lambdas]
    learner.add_group("weights", weights, APGNAG(learning_rate=0.1, wd=1e-3))
    learner.add_group("lambdas", list(network.lambdas.values()), APGNAG(learning_rate=0.1, gamma=0.05))
    learner.load_state(START.setdefault(scope, learner.state()))
    return learner


def trained(learner, rounds=3):
    for _ in range(rounds):
        learner.step("weights", DATA, LABELS, 0.05)
        learner.step("lambdas", DATA, LABELS, 0.05)
    return learner.state()


@pytest.mark.parametrize("scope", ["share", "full"])
def test_mirrored_training_is_unmirrored_training(scope):
    plain, mirrored = (trained(make_learner(mirrored=flag, scope=scope)) for flag in (False, True))
    assert plain.keys() == mirrored.keys()
    for name in plain:
        np.testing.assert_allclose(mirrored[name], plain[name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("group", ["weights", "lambdas"])
def test_the_state_is_that_behind_the_last_step(group, mirrored):
    learner = make_learner(mirrored=mirrored)
    for _ in range(5):
        learner.step(group, DATA, LABELS, 0.05)
        at_once = learner.state()
        mx.nd.waitall()
        for name, value in learner.state().items():
            np.testing.assert_array_equal(at_once[name], value, err_msg=name)


class WatchfulLoss(ClassificationLoss):
    """Keeps the logits that losses and errors are taken of."""

    def of(self, logits, labels):
        self.for_losses = logits.copy()
        return super().of(logits, labels)

    def errors(self, outputs, labels):
        self.for_errors = outputs[0].copy()
        return super().errors(outputs, labels)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("images", [2, 4, 8])
def test_errors_are_of_the_outputs_that_losses_are_of(images, mirrored):
    """As many images as channels, among others, so that what runs again may have room for itself in the logits'."""
    learner, loss = make_learner(mirrored=mirrored), WatchfulLoss()
    learner._loss = loss
    for group in ("weights", "lambdas"):
        learner.step(group, DATA[:images], LABELS[:images], 0.05)
        np.testing.assert_array_equal(loss.for_errors.asnumpy(), loss.for_losses.asnumpy())


@pytest.mark.parametrize("mirrored", [False, True])
def test_batches_of_several_sizes_in_turn(mirrored):
    """As if every step were the first of a learner that has the state so far."""
    learner = make_learner(mirrored=mirrored)
    for images in (8, 4, 8, 2, 4):
        for group in ("weights", "lambdas"):
            fresh = make_learner(mirrored=mirrored)
            fresh.load_state(learner.state())
            results = [each.step(group, DATA[:images], LABELS[:images], 0.05) for each in (learner, fresh)]
            assert results[0].images == images
            assert results[0].losses[0].asscalar() == results[1].losses[0].asscalar()
            found, expected = (each.state() for each in (learner, fresh))
            for name, value in expected.items():
                np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_evaluation_between_steps_changes_nothing():
    plain, evaluated = make_learner(), make_learner()
    for learner in (plain, evaluated):
        for _ in range(3):
            learner.step("weights", DATA, LABELS, 0.05)
            if learner is evaluated:
                assert 0 <= learner.error([(DATA[:3], LABELS[:3])]) <= 1
            learner.step("lambdas", DATA, LABELS, 0.05)
    expected = plain.state()
    for name, value in evaluated.state().items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_statistics_move_once_a_step():
    plain, mirrored = make_learner(), make_learner(mirrored=True)
    for learner in (plain, mirrored):
        learner.step("weights", DATA, LABELS, 0.05)
    before, after = (learner.state() for learner in (plain, mirrored))
    moved = [name for name in before if "running" in name]
    assert moved
    for name in moved:
        np.testing.assert_array_equal(before[name], after[name])


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_step_moves_its_own_group_only(mirrored):
    learner = make_learner(mirrored=mirrored)
    start = learner.state()
    learner.step("lambdas", DATA, LABELS, 0.05)
    after = learner.state()
    for name, value in start.items():
        if name.startswith("parameter/") and "running" not in name:
            changed = not np.array_equal(value, after[name])
            assert changed == ("lambda" in name), name


def test_lambdas_and_velocities_survive_the_state():
    first = make_learner()
    state = trained(first)
    second = make_learner()
    second.load_state(state)
    one, two = trained(first, 2), trained(second, 2)
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def test_devices_take_the_same_step_from_the_same_sum():
    learner = make_learner([mx.cpu(0), mx.cpu(1)])
    trained(learner)
    for name, parameter in learner.network.collect_params().items():
        first, second = (copy.asnumpy() for copy in parameter.list_data())
        if "running" not in name:
            np.testing.assert_array_equal(first, second, err_msg=name)


def test_two_devices_give_the_gradient_of_one_where_batch_statistics_agree():
    doubled, labels = np.concatenate([DATA, DATA]), np.concatenate([LABELS, LABELS])
    one, two = make_learner(), make_learner([mx.cpu(0), mx.cpu(1)], mirrored=True)
    for learner in (one, two):
        learner.step("weights", doubled, labels, 0.05)
        learner.step("lambdas", doubled, labels, 0.05)
    single, shared = one.state(), two.state()
    for name, value in single.items():
        np.testing.assert_allclose(shared[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_unsynchronised_devices_cannot_happen():
    with pytest.raises(UserError, match="--kvstore"):
        GradientExchange(None, [mx.cpu(0), mx.cpu(1)])


def test_shares_cover_the_batch_in_order():
    parts = share_out(np.arange(7.0), [mx.cpu(0), mx.cpu(1), mx.cpu(2)])
    assert [part.shape[0] for part in parts] == [3, 2, 2]
    np.testing.assert_array_equal(np.concatenate([part.asnumpy() for part in parts]), np.arange(7.0))


@pytest.mark.parametrize("gpus, cpus, flag", [("0", None, "--gpus"), ("x", None, "--gpus"), (None, 0, "--cpus")])
def test_devices_that_are_not_there(gpus, cpus, flag):
    if mx.context.num_gpus():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match=flag):
        choose_contexts(gpus, cpus)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_a_number_behind_a_relu_shows_in_the_loss(value):
    learner = make_learner()
    weight = learner.network.collect_params()["stage1_unit1_1_conv3x3_weight"]
    weight.set_data(mx.nd.full(weight.shape, value))
    result = learner.step("weights", DATA, LABELS, 0.05)
    assert not np.isfinite(result.losses[0].asscalar())
