"""Float16 training as far as a CPU can go: networks of the operators that it has, and float32 as an oracle."""

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon

from dso_nas.errors import UserError
from dso_nas.networks.network import PublishedInitializer
from dso_nas.optimizers import APGNAG
from dso_nas.recipes import load_recipe
from dso_nas.stages.run import Run
from dso_nas.training import learner as learner_module
from dso_nas.training.learner import LOSS_SCALE, Learner
from dso_nas.training.loop import Means
from dso_nas.training.losses import ClassificationLoss
from dso_nas.training.parallel import choose_contexts

RNG = np.random.default_rng(3)
DATA = RNG.normal(size=(12, 3, 4, 4)).astype(np.float32)
LABELS = RNG.integers(0, 4, 12).astype(np.float32)
MATRIX = RNG.normal(size=(4, 6)).astype(np.float32)
VALUES = {"tiny_weight": MATRIX, "lambda_tiny": np.array([[0.9, 0.7, 0.5]], np.float32)}
HALF = [mx.cpu(0), mx.cpu(1)]


class Branches(gluon.HybridBlock):
    """Maps 3x4x4 to 6x4x4: lambda-weighted pools and identity, summed, BatchNorm, ReLU, and the input."""

    def __init__(self):
        super().__init__(prefix="")
        self.lam = self.params.get("lambda_tiny", shape=(1, 3))
        self.bn = gluon.nn.BatchNorm(in_channels=3, prefix="bn_")

    def hybrid_forward(self, F, x, lam):
        """See the class."""
        window = dict(kernel=(3, 3), stride=(1, 1), pad=(1, 1))
        branches = (F.Pooling(x, pool_type="max", **window), F.Pooling(x, pool_type="avg", **window), x)
        scaled = [F.broadcast_mul(branch, F.reshape(F.slice_axis(lam, axis=1, begin=i, end=i + 1), (1, 1, 1, 1)))
                  for i, branch in enumerate(branches)]
        return F.concat(F.relu(self.bn(F.add_n(*scaled))), x, dim=1)


class Head(gluon.HybridBlock):
    """Logits W p of the pooled maps p, with dropout's operators but none dropped: there is no float16 dot."""

    def __init__(self):
        super().__init__(prefix="")
        self.weight = self.params.get("tiny_weight", shape=(4, 6))

    def hybrid_forward(self, F, x, weight):
        """See the class."""
        pooled = F.Dropout(F.Pooling(x, global_pool=True, pool_type="avg", kernel=(1, 1)), p=0)
        return F.sum(F.broadcast_mul(F.reshape(pooled, (0, 1, -1)), F.expand_dims(weight, axis=0)), axis=2)


class Tiny(gluon.HybridBlock):
    """The two in a chain, as a learner wants it."""

    def __init__(self):
        super().__init__(prefix="")
        self.body, self.head = Branches(), Head()
        self.segments = (self.body, self.head)
        self.lambdas = {"lambda_tiny": self.body.lam}

    def hybrid_forward(self, F, x):
        """See the class."""
        return self.head(self.body(x))

    def hybridize_segments(self):
        """See Network."""
        for segment in self.segments:
            segment.hybridize()


def make_learner(dtype="float16", contexts=None, values=VALUES, mirrored=False, gamma=0.01, clip=None):
    contexts = contexts or [mx.cpu()]
    network = Tiny()
    network.initialize(PublishedInitializer(), ctx=contexts)
    network.cast(dtype)
    network.hybridize_segments()
    learner = Learner(network, contexts, ClassificationLoss(), "device", [(0, 1)] if mirrored else None)
    others = [p for name, p in network.collect_params().items() if name not in network.lambdas]
    learner.add_group("weights", others, APGNAG(wd=1e-3, clip_gradient=clip))
    learner.add_group("lambdas", list(network.lambdas.values()), APGNAG(gamma=gamma, clip_gradient=clip))
    learner.load_state({**learner.state(), **{f"parameter/{name}": value for name, value in values.items()}})
    return learner


def train(learner, steps, rate=0.05):
    return [sum(part.asscalar() for part in learner.step(group, DATA, LABELS, rate).losses)
            for _ in range(steps) for group in ("weights", "lambdas")]


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_networks_are_cast_but_for_batch_norm():
    run = Run(load_recipe("demo", overrides=["dtype=float16"]), None, None, [mx.cpu()])
    kinds = {name: np.dtype(p.dtype).name for name, p in run.compiled(Tiny()).collect_params().items()}
    assert kinds.pop("tiny_weight") == kinds.pop("lambda_tiny") == "float16"
    assert set(kinds.values()) == {"float32"} and len(kinds) == 4


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("contexts", [HALF[:1], HALF])
def test_float16_follows_float32(contexts, mirrored):
    half, whole = (make_learner(dtype, contexts, mirrored=mirrored) for dtype in ("float16", "float32"))
    np.testing.assert_allclose(train(half, 5), train(whole, 5), rtol=5e-3)
    states = half.state(), whole.state()
    assert states[0].keys() == states[1].keys()
    for name, value in states[1].items():
        assert states[0][name].dtype == np.float32
        np.testing.assert_allclose(states[0][name], value, rtol=0.02, atol=5e-3, err_msg=name)
    for parameter in half.network.collect_params("tiny|lambda").values():
        for copy, master in zip(parameter.list_data(), half._masters(parameter)):
            np.testing.assert_array_equal(copy.asnumpy(), master.asnumpy().astype(np.float16))
        assert len(half._masters(parameter)) == len(contexts)
    half.average_statistics()
    assert 0 <= half.error([(DATA, LABELS)]) <= 1


def operators(action, folder):
    """How often each operator ran in `action`, by MXNet's profiler."""
    mx.nd.waitall()
    mx.profiler.set_config(profile_imperative=True, aggregate_stats=True, filename=str(folder / "profile.json"))
    mx.profiler.set_state("run")
    action()
    mx.nd.waitall()
    mx.profiler.set_state("stop")
    table = mx.profiler.dumps(reset=True).split("\noperator\n")[1].split("\n\n")[0]
    counts = {name: int(count) for name, count, *_ in map(str.split, table.splitlines()[3:])}
    # The engine's own work, as often as Python happens to free and to read arrays.
    return {name: count for name, count in counts.items()
            if name not in ("DeleteVariable", "DeleteOperator", "WaitForVar")}


def bound(network, parameters):
    """The network as MXNet's executor, which writes gradients of these parameters into their own arrays."""
    symbol, everything = network(mx.sym.var("data")), network.collect_params()
    arrays = {"data": mx.nd.array(DATA), **{name: p.data() for name, p in everything.items()}}
    return symbol.bind(mx.cpu(), {name: arrays[name] for name in symbol.list_arguments()},
                       {p.name: p.grad() for p in parameters},
                       {name: "write" if everything.get(name) in parameters else "null"
                        for name in symbol.list_arguments()},
                       {name: arrays[name] for name in symbol.list_auxiliary_states()})


def test_float32_training_is_a_plain_loop(tmp_path):
    learner, plain = make_learner("float32"), make_learner("float32").network
    parameters = [p for name, p in plain.collect_params().items() if "running" not in name and "lambda" not in name]
    updater = mx.optimizer.get_updater(APGNAG(wd=1e-3, learning_rate=0.05, rescale_grad=1 / len(DATA),
                                              param_dict=dict(enumerate(parameters))))

    def by_hand():
        executor = bound(plain, parameters)
        for _ in range(3):
            data, labels = mx.nd.array(DATA), mx.nd.array(LABELS)
            data.copyto(executor.arg_dict["data"])
            outputs = executor.forward(is_train=True)[0].detach()
            outputs.attach_grad()
            with autograd.record():
                losses = ClassificationLoss().of(outputs, labels)
            losses.backward()
            executor.backward([outputs.grad])
            updater(list(range(len(parameters))), [p.grad() for p in parameters], [p.data() for p in parameters])
            losses.sum(), (outputs.argmax(axis=1) != labels).sum()

    ours = operators(lambda: [learner.step("weights", DATA, LABELS, 0.05) for _ in range(3)], tmp_path)
    # Whether the gradients are numbers.
    assert (ours.pop("multi_all_finite"), ours.pop("broadcast_div")) == (3, 3)
    assert ours == operators(by_hand, tmp_path) and ours["log_softmax"] == 3
    mx.nd.waitall()
    for name, parameter in plain.collect_params().items():
        np.testing.assert_array_equal(learner.state()[f"parameter/{name}"], parameter.data().asnumpy(), err_msg=name)


def test_float32_training_is_gluons():
    learner, plain = make_learner("float32"), make_learner("float32").network
    parameters = [p for name, p in plain.collect_params().items() if "running" not in name and "lambda" not in name]
    trainer = gluon.Trainer(parameters, APGNAG(wd=1e-3), kvstore=None)
    trainer.set_learning_rate(0.05)
    for _ in range(3):
        learner.step("weights", DATA, LABELS, 0.05)
        with autograd.record():
            losses = ClassificationLoss().of(plain(mx.nd.array(DATA)), mx.nd.array(LABELS))
        losses.backward()
        trainer.step(len(DATA))
    for name, parameter in plain.collect_params().items():
        np.testing.assert_array_equal(learner.state()[f"parameter/{name}"], parameter.data().asnumpy(), err_msg=name)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("contexts", [HALF[:1], HALF])
def test_a_resumed_run_is_the_whole_run(dtype, contexts):
    whole, resumed = make_learner(dtype, contexts), make_learner(dtype, contexts, values={})
    train(whole, 3)
    resumed.load_state(whole.state())
    assert_equal(resumed.state(), whole.state())
    assert train(resumed, 3) == train(whole, 3)
    assert_equal(resumed.state(), whole.state())


@pytest.mark.parametrize("dtypes", [("float16", "float32"), ("float32", "float16")])
def test_a_checkpoint_goes_on_in_the_other_precision(dtypes):
    first, second = map(make_learner, dtypes)
    train(first, 2)
    second.load_state(first.state())
    assert_equal(second.state(), first.state())
    np.testing.assert_allclose(train(second, 2), train(first, 2), rtol=5e-3)


def test_steps_too_small_for_float16_add_up_in_the_copies():
    learner = make_learner(values={"tiny_weight": np.ones((4, 6), np.float32)})
    weight = learner.network.head.weight
    train(learner, 1, rate=1e-5)
    moved = learner.state()["parameter/tiny_weight"]
    np.testing.assert_array_equal(weight.data().asnumpy(), 1)
    assert (moved != 1).any() and np.abs(moved - 1).max() < 2**-12


def test_lambdas_reach_zero_in_both_copies():
    learner = make_learner(values={"lambda_tiny": np.array([[0.9, 1e-3, 0.9]], np.float32)}, gamma=1.0)
    train(learner, 1, rate=0.02)
    lambdas = learner.network.body.lam
    for array in (lambdas.data(), learner._masters(lambdas)[0]):
        np.testing.assert_array_equal(array.asnumpy() == 0, [[False, True, False]])


@pytest.mark.parametrize("clip", [None, 1e-3])
def test_the_step_is_of_the_unscaled_gradient(monkeypatch, clip):
    start = VALUES["tiny_weight"].astype(np.float16).astype(np.float32)
    moves = []
    for dtype, factor in (("float32", 1), ("float16", 1), ("float16", 8)):
        monkeypatch.setattr(learner_module, "LOSS_SCALE", factor * LOSS_SCALE)
        learner = make_learner(dtype, values={**VALUES, "tiny_weight": start}, clip=clip)
        learner.step("weights", DATA, LABELS, 0.05)
        moves.append(learner.state()["parameter/tiny_weight"] - start)
    largest = np.abs(moves[0]).max()
    assert largest > (1e-5 if clip else 1e-3)
    for move in moves[1:]:
        np.testing.assert_allclose(move, moves[0], atol=0.02 * largest)


@pytest.mark.parametrize("mirrored", [False, True])
def test_gradients_are_those_of_the_scaled_mean_loss(mirrored):
    half, whole = (make_learner(dtype, mirrored=mirrored) for dtype in ("float16", "float32"))
    for learner in (half, whole):
        learner.step("lambdas", DATA, LABELS, 0.0)
    wanted = whole.network.body.lam.grad().asnumpy() * LOSS_SCALE / len(DATA)
    np.testing.assert_allclose(half.network.body.lam.grad().asnumpy(), wanted, atol=0.02 * np.abs(wanted).max())


def test_set_values_stay_set():
    learner = make_learner(contexts=HALF)
    train(learner, 1)
    learner.set_values({"lambda_tiny": np.array([[0, 0.1, 2]], np.float32)})
    value = learner.values(learner.network.lambdas)["lambda_tiny"]
    np.testing.assert_array_equal(value, np.array([[0, 0.1, 2]], np.float32))
    learner.step("weights", DATA, LABELS, 0.05)
    for copy in learner.network.body.lam.list_data():
        np.testing.assert_array_equal(copy.asnumpy(), value.astype(np.float16))


@pytest.mark.parametrize("contexts", [HALF[:1], HALF])
@pytest.mark.parametrize("group", ["weights", "lambdas"])
def test_an_overflow_shows_in_the_loss(monkeypatch, contexts, group):
    monkeypatch.setattr(learner_module, "LOSS_SCALE", 2.0**30)
    means = Means()
    means.add(7, group, make_learner(contexts=contexts).step(group, DATA, LABELS, 0.05))
    with pytest.raises(FloatingPointError) as error:
        means.drain()
    assert error.value.args == (7,)


def test_every_array_is_looked_at_for_infinities():
    arrays = [mx.nd.ones(3, dtype=dtype) for dtype in ("float16", "float32") for _ in range(201)]
    assert learner_module._all_finite(arrays).asscalar() == 1
    for index in (0, 200, 201, 401):
        for bad in (np.inf, -np.inf, np.nan):
            arrays[index][2] = bad
            assert learner_module._all_finite(arrays).asscalar() == 0
            arrays[index][2] = 1


def test_the_loss_is_computed_in_float32():
    logits = mx.nd.array([[0.0, 3.0], [12.0, -12.0]], dtype="float16")
    labels = mx.nd.array([0, 1])
    scores = logits.asnumpy().astype(np.float64)
    exact = np.log(np.exp(scores).sum(axis=1)) - scores[[0, 1], [0, 1]]
    loss = ClassificationLoss(auxiliary_weight=0.5)
    for outputs, factor in ((logits, 1), ((logits, logits), 1.5)):
        losses = loss(outputs, labels)
        assert losses.dtype == np.float32
        np.testing.assert_allclose(losses.asnumpy(), factor * exact, rtol=1e-5)
    # Of more than 2048 classes float16 cannot number each.
    many = np.zeros((1, 3001), np.float16)
    many[0, 2999] = 1
    assert loss.errors(mx.nd.array(many, dtype="float16"), mx.nd.array([2999])).asscalar() == 0


@pytest.mark.parametrize("cpus", [None, 1, 2])
def test_a_cpu_cannot(monkeypatch, cpus):
    monkeypatch.setattr(mx.context, "num_gpus", lambda: 0)
    with pytest.raises(UserError, match="--dtype float16: needs a GPU, MXNet has no float16 Convolution") as error:
        choose_contexts(None, cpus, "float16")
    assert "\n" not in str(error.value)


def test_not_for_segmentation():
    with pytest.raises(UserError, match="dtype"):
        load_recipe("seg-demo", overrides=["dtype=float16"])
