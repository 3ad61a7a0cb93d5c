"""APG-NAG against the published trajectories, a float64 oracle, and the LASSO's known answers."""

from __future__ import annotations

import dso_nas  # noqa: F401  prepares the process before MXNet is loaded

# isort: split
import json
import pickle
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon

from dso_nas.errors import UserError
from dso_nas.optimizers import APGNAG, CosineSchedule, apg_momentum

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
MANIFEST = json.loads((GOLDEN / "manifest.json").read_text())
TRAJECTORIES = sorted(name for name in MANIFEST if name.startswith("A_"))


# --- the published trajectories ---


class FirstParameterLags:
    """The published code read the rate before counting the update: a step's first parameter lagged.

    The package counts first, as MXNet's optimizers do: replicas on two devices would drift apart otherwise.
    """

    def __init__(self, schedule):
        self.schedule, self.base_lr, self.seen = schedule, schedule.base_lr, 0

    def __call__(self, num_update):
        lag, self.seen = num_update - self.seen, num_update
        return self.schedule(num_update - lag)


def flops_gamma(lambdas, gamma):
    """Adaptive FLOPs as published: by the number of live operations, two-entry lambdas plain."""
    result = {}
    for name, values in lambdas.items():
        levels = {2: None, 68: 3, 124: 4}[values.size]
        if levels is None:
            result[name] = gamma
            continue
        packed, live, start = values.ravel(), 2, 0
        for level in range(2, levels + 1):
            size = 1 + 4 * (level - 1)
            live += sum(packed[start + k * size : start + (k + 1) * size].any() for k in range(2))
            start += 4 * size
        result[name] = gamma * (live + np.count_nonzero(packed[start:]) + 1) / (6 * levels + 1)
    return result


def mac_gamma(lambdas, gamma):
    """Adaptive MAC as published: a constant by operation."""
    factors = {"1": 0.986, "2": 1.0, "3": 0.447, "4": 0.447}
    return {name: gamma * (0.448 if "after" in name else factors[name[-1]]) for name in lambdas}


def latency_gamma(golden, lambdas, gamma):
    """Adaptive latency: an array for every lambda, recorded with the trajectory."""
    return {name: gamma * golden.get(f"latency_gamma/{name}", np.float32(1)) for name in lambdas}


def gamma_rule(name, golden, gamma):
    if "adflops" in name:
        return lambda lambdas: flops_gamma(lambdas, gamma)
    if "admac" in name:
        return lambda lambdas: mac_gamma(lambdas, gamma)
    if "adlatency" in name:
        return lambda lambdas: latency_gamma(golden, lambdas, gamma)
    return lambda lambdas: gamma


def create(entry, **options):
    names = dict(enumerate(entry["update_order"]))
    keys = ("momentum", "clip_gradient", "rescale_grad", "wd")
    options.update({key: entry[key] for key in keys if key in entry})
    return mx.optimizer.create("apgnag", param_idx2name=names, learning_rate=entry["lr"], **options)


def follow(optimizer, golden, names, before_step=lambda step, weights: None):
    """Make the recorded updates; every weight and momentum has to be the recorded one after each."""
    updater = mx.optimizer.get_updater(optimizer)
    weights = {name: mx.nd.array(golden[f"{name}/init"]) for name in names}
    for step in range(len(golden[f"{names[0]}/grad"])):
        before_step(step, weights)
        for index, name in enumerate(names):
            updater(index, mx.nd.array(golden[f"{name}/grad"][step]), weights[name])
            for key, value in (("weight", weights[name]), ("mom", updater.states[index])):
                recorded, where = golden[f"{name}/{key}"][step], f"{key} of {name}, step {step}"
                np.testing.assert_allclose(value.asnumpy(), recorded, rtol=1e-5, atol=1e-6, err_msg=where)


@pytest.mark.parametrize("name", TRAJECTORIES)
def test_equals_the_published_trajectory(name):
    entry, golden = MANIFEST[name], dict(np.load(GOLDEN / f"{name}.npz", allow_pickle=False))
    schedule = FirstParameterLags(CosineSchedule(0.1, epoch_size=4, period=2, min_lr=1e-4))
    optimizer = create(entry, lr_scheduler=schedule if name.endswith("sched") else None)
    rule, flags = gamma_rule(name, golden, entry["gamma"]), golden.get("flags_lambda_weight")

    def before_step(step, weights):
        optimizer.set_gamma(rule({n: w.asnumpy() for n, w in weights.items() if n.startswith("lambda")}))
        if flags is not None:
            optimizer.update_lambdas, optimizer.update_weights = map(bool, flags[step])

    follow(optimizer, golden, entry["update_order"], before_step)
    optimizer.assert_thresholded()


def test_equals_the_published_retraining_which_decays_gammas():
    entry, golden = MANIFEST["G_misc_nag_cos"], dict(np.load(GOLDEN / "G_misc_nag_cos.npz"))
    schedule = CosineSchedule(0.05, epoch_size=4, period=2, min_lr=1e-4)
    follow(create(entry, lr_scheduler=schedule, decay_gamma=True), golden, entry["update_order"])
    with pytest.raises(AssertionError, match="bn0_gamma"):
        follow(create(entry, lr_scheduler=schedule), golden, entry["update_order"])


# --- a float64 oracle ---

BATCH, WIDTH, STEPS = 8, 6, 200
LR, GAMMA, CLIP, WD = 0.1, 0.2, 0.3, 3e-3
NAMES = ("lambda_layer_2_1", "lambda_after", "fc1_weight", "fc1_bias")


class Oracle:
    """A convex problem (else rounding would grow) and its optimizer, in NumPy and float64."""

    def __init__(self, mu=lambda t: 0.9, gamma=GAMMA):
        rng = np.random.default_rng(3)
        self.mu = mu
        self.gamma = gamma if isinstance(gamma, dict) else dict.fromkeys(NAMES, gamma)
        self.inputs = rng.normal(size=(STEPS, BATCH, 3 * WIDTH)).astype(np.float32)
        self.values = {
            "lambda_layer_2_1": (rng.random((1, WIDTH)) < 0.5) * 2.0,
            "lambda_after": (rng.random((1, WIDTH)) < 0.5) * 2.0,
            "fc1_weight": rng.normal(size=(WIDTH, WIDTH)),
            "fc1_bias": rng.normal(size=WIDTH),
        }
        self.targets = np.array([self.predict(x) for x in self.inputs], dtype=np.float32)
        self.targets += 0.1 * rng.normal(size=self.targets.shape).astype(np.float32)
        self.values.update({name: np.ones_like(value) for name, value in self.values.items()})
        self.initial = {name: value.copy() for name, value in self.values.items()}
        self.momenta = {name: np.zeros_like(value) for name, value in self.values.items()}

    def predict(self, x):
        p, (a, b, c) = self.values, np.split(x, 3, axis=1)
        return a * p["lambda_layer_2_1"] + b * p["lambda_after"] + c @ p["fc1_weight"].T + p["fc1_bias"]

    def grads(self, x, target):
        error, (a, b, c) = self.predict(x) - target, np.split(x, 3, axis=1)
        return {
            "lambda_layer_2_1": (error * a).sum(0, keepdims=True),
            "lambda_after": (error * b).sum(0, keepdims=True),
            "fc1_weight": error.T @ c,
            "fc1_bias": error.sum(0),
        }

    def run(self, grads=None):
        for t in range(1, STEPS + 1):
            gradients = grads[t - 1] if grads else self.grads(self.inputs[t - 1], self.targets[t - 1])
            for name, gradient in gradients.items():
                self.step(t, name, np.clip(gradient / BATCH, -CLIP, CLIP))
        return self.values

    def step(self, t, name, g):
        w, v = self.values[name], self.momenta[name]
        if name.startswith("lambda"):
            point = w - LR * g
            z = np.sign(point) * np.maximum(np.abs(point) - LR * self.gamma[name], 0)
            v[:] = z - w + self.mu(t - 1) * v
            w[:] = np.maximum(0, z + self.mu(t) * v)
        else:
            g = g + (WD * w if name.endswith("_weight") else 0)
            v[:] = 0.9 * v + g
            w[:] = w - LR * (g + 0.9 * v)


def options(**more):
    return {"learning_rate": LR, "momentum": 0.9, "gamma": GAMMA, "clip_gradient": CLIP, "wd": WD, **more}


class Problem(gluon.HybridBlock):
    """The oracle's problem as a Gluon block."""

    def __init__(self, initial):
        super().__init__(prefix="")
        for name, value in initial.items():
            parameter = self.params.get(name, shape=value.shape, init=mx.init.Constant(mx.nd.array(value)))
            setattr(self, name, parameter)

    def hybrid_forward(self, F, x, target, lambda_layer_2_1, lambda_after, fc1_weight, fc1_bias):
        return loss(F, x, target, lambda_layer_2_1, lambda_after, fc1_weight, fc1_bias)


def loss(F, x, target, lambda_layer_2_1, lambda_after, fc1_weight, fc1_bias):
    a, b, c = F.split(x, num_outputs=3)
    scaled = F.broadcast_mul(a, lambda_layer_2_1) + F.broadcast_mul(b, lambda_after)
    return F.sum(F.square(scaled + F.FullyConnected(c, fc1_weight, fc1_bias, num_hidden=WIDTH) - target)) / 2


def assert_equal(found, oracle):
    for name, expected in oracle.values.items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-6, atol=1e-6, err_msg=name)
        if name.startswith("lambda"):
            np.testing.assert_array_equal(found[name] == 0, expected == 0, err_msg=name)


def train(oracle, contexts, kvstore="device", update_on_kvstore=None, **more):
    network = Problem(oracle.initial)
    network.initialize(ctx=contexts)
    network.hybridize()
    parameters, arguments = network.collect_params(), options(**more)
    trainer = gluon.Trainer(parameters, "apgnag", arguments, kvstore, update_on_kvstore=update_on_kvstore)
    for x, target in zip(oracle.inputs, oracle.targets):
        parts = [gluon.utils.split_and_load(mx.nd.array(a), contexts) for a in (x, target)]
        with autograd.record():
            losses = [network(*part) for part in zip(*parts)]
        autograd.backward(losses)
        trainer.step(BATCH)
    return network, trainer


@pytest.mark.parametrize(
    "devices, kvstore, update_on_kvstore",
    [
        (1, None, None),
        (1, "local", False),
        (1, "device", None),
        (2, "local", False),
        (2, "local", True),
        (2, "device", False),
        (2, "device", True),
    ],
)
def test_trainer_equals_the_oracle(devices, kvstore, update_on_kvstore):
    oracle = Oracle()
    oracle.run()
    contexts = [mx.cpu(k) for k in range(devices)]
    network, trainer = train(oracle, contexts, kvstore, update_on_kvstore)
    for context in contexts:
        assert_equal({n: p.data(context).asnumpy() for n, p in network.collect_params().items()}, oracle)
    assert (oracle.values["lambda_layer_2_1"] == 0).any() and (oracle.values["lambda_layer_2_1"] > 0).any()
    trainer.optimizer.assert_thresholded()


def growing_momentum(t):
    return t / (t + 9)


@pytest.mark.parametrize("momentum, mu", [("apg", apg_momentum), (growing_momentum, growing_momentum)])
def test_scheduled_momentum_equals_the_oracle(momentum, mu):
    oracle = Oracle(mu)
    oracle.run()
    network, trainer = train(oracle, [mx.cpu(0), mx.cpu(1)], "local", False, momentum=momentum)
    assert_equal({n: p.data(mx.cpu(1)).asnumpy() for n, p in network.collect_params().items()}, oracle)
    assert trainer.optimizer.lambda_step == STEPS


@pytest.mark.parametrize("devices", [1, 2])
def test_gamma_by_entry_equals_the_oracle(devices):
    gamma = {"lambda_layer_2_1": np.linspace(0, 0.6, WIDTH)[None], "lambda_after": 0.1, "lambda_gone": 1}
    oracle = Oracle(gamma=gamma)
    oracle.run()
    contexts = [mx.cpu(k) for k in range(devices)]
    network, _ = train(oracle, contexts, "local", False, gamma=gamma)
    assert_equal({n: p.data(contexts[-1]).asnumpy() for n, p in network.collect_params().items()}, oracle)


@pytest.mark.parametrize("devices, on_kvstore", [(1, "1"), (2, "0"), (2, "1")])
def test_module_equals_the_oracle(devices, on_kvstore, monkeypatch):
    monkeypatch.setenv("MXNET_UPDATE_ON_KVSTORE", on_kvstore)
    oracle = Oracle()
    oracle.run()
    variables = [mx.sym.Variable(name, shape=value.shape) for name, value in oracle.initial.items()]
    symbol = mx.sym.MakeLoss(loss(mx.sym, mx.sym.Variable("x"), mx.sym.Variable("target"), *variables))
    module = mx.mod.Module(symbol, ["x", "target"], None, context=[mx.cpu(k) for k in range(devices)])
    module.bind([("x", (BATCH, 3 * WIDTH)), ("target", (BATCH, WIDTH))])
    module.init_params(arg_params={name: mx.nd.array(value) for name, value in oracle.initial.items()})
    module.init_optimizer("local", "apgnag", options(rescale_grad=1 / BATCH))
    for x, target in zip(oracle.inputs, oracle.targets):
        module.forward_backward(mx.io.DataBatch([mx.nd.array(x), mx.nd.array(target)]))
        module.update()
    assert_equal({name: value.asnumpy() for name, value in module.get_params()[0].items()}, oracle)
    module._optimizer.assert_thresholded()


def representable(rng, shape):
    """Give float64 values that float16 holds exactly."""
    return rng.normal(size=shape).astype(np.float16).astype(np.float64)


@pytest.mark.parametrize("together", [True, False])
def test_multi_precision_equals_the_oracle(together):
    oracle, rng = Oracle(), np.random.default_rng(5)
    grads = [{name: representable(rng, oracle.values[name].shape) for name in NAMES} for _ in range(STEPS)]
    start = {name: oracle.values[name].astype(np.float16) for name in NAMES}
    oracle.values.update({name: value.astype(np.float64) for name, value in start.items()})
    oracle.run(grads)
    optimizer = mx.optimizer.create(
        "apgnag",
        **options(rescale_grad=1 / BATCH, multi_precision=True, param_idx2name=dict(enumerate(NAMES))),
    )
    updater = mx.optimizer.get_updater(optimizer)
    weights = [mx.nd.array(start[name], dtype="float16") for name in NAMES]
    for step in grads:
        gradients = [mx.nd.array(step[name], dtype="float16") for name in NAMES]
        if together:
            updater(list(range(len(NAMES))), gradients, weights)
        else:
            for index, (gradient, weight) in enumerate(zip(gradients, weights)):
                updater(index, gradient, weight)
    masters = {name: updater.states[index][0].asnumpy() for index, name in enumerate(NAMES)}
    assert_equal(masters, oracle)
    for index, name in enumerate(NAMES):
        np.testing.assert_array_equal(weights[index].asnumpy(), masters[name].astype(np.float16))
        np.testing.assert_allclose(updater.states[index][1].asnumpy(), oracle.momenta[name], atol=1e-6)


def test_multi_precision_through_a_trainer():
    network = gluon.nn.HybridSequential(prefix="")
    network.lambda_after = network.params.get("lambda_after", shape=(1, 2), init="ones")
    network.cast("float16")
    network.initialize()
    trainer = gluon.Trainer(network.collect_params(), "apgnag", options(multi_precision=True))
    for _ in range(20):
        with autograd.record():
            out = (network.lambda_after.data() * mx.nd.array([[0, -2]], dtype="float16")).sum()
        out.backward()
        trainer.step(1)
    lambdas = network.lambda_after.data()
    assert lambdas.dtype == np.float16 and lambdas[0, 0].asscalar() == 0 < lambdas[0, 1].asscalar()


# --- LASSO ---


def lasso(design, target, gamma, momentum, lr, steps):
    """Solve min 1/2 |A x - b|^2 + gamma |x|_1 over x >= 0 by APG-NAG from x = 1."""
    optimizer = APGNAG(learning_rate=lr, momentum=momentum, gamma=gamma, param_idx2name={0: "lambda_x"})
    updater, x = mx.optimizer.get_updater(optimizer), mx.nd.ones((design.shape[1],))
    design, target = mx.nd.array(design), mx.nd.array(target)
    for _ in range(steps):
        updater(0, mx.nd.dot(design.T, mx.nd.dot(design, x) - target), x)
    return x.asnumpy()


def coordinate_descent(design, target, gamma, sweeps=500):
    x, squares = np.zeros(design.shape[1]), (design**2).sum(0)
    residual = target.copy()
    for _ in range(sweeps):
        for j, column in enumerate(design.T):
            new = max(0.0, x[j] + (column @ residual - gamma) / squares[j])
            residual += column * (x[j] - new)
            x[j] = new
    return x


@pytest.mark.parametrize("momentum", [0.9, "apg"])
def test_lasso_of_an_orthonormal_design_has_the_closed_form(momentum):
    rng = np.random.default_rng(0)
    design, _ = np.linalg.qr(rng.normal(size=(40, 20)))
    target = design @ (rng.random(20) * 2 * (rng.random(20) < 0.4)) + 0.02 * rng.normal(size=40)
    answer = np.maximum(0, design.T @ target - 0.1)
    found = lasso(design, target, 0.1, momentum, lr=0.3, steps=300)
    assert 0 < np.count_nonzero(answer) < 20
    np.testing.assert_array_equal(found != 0, answer != 0)
    np.testing.assert_allclose(found, answer, atol=1e-5)


@pytest.mark.parametrize("momentum", [0.9, "apg"])
@pytest.mark.parametrize("seed", range(2))
def test_lasso_of_a_correlated_design_recovers_the_support(momentum, seed):
    rng = np.random.default_rng(seed)
    design = rng.normal(size=(60, 24)) + rng.normal(size=(60, 1))
    truth = np.where(rng.random(24) < 0.3, 0.5 + rng.random(24), 0)
    target = design @ truth + 0.05 * rng.normal(size=60)
    answer = coordinate_descent(design, target, gamma=6.0)
    largest = np.linalg.eigvalsh(design.T @ design)[-1]
    found = lasso(design, target, 6.0, momentum, lr=0.5 / largest, steps=1500)
    assert 0 < np.count_nonzero(answer) < 24
    np.testing.assert_array_equal(found != 0, answer != 0)
    np.testing.assert_allclose(found, answer, atol=1e-4)


# --- what must not pass in silence ---


def step_once(name="lambda_a", **more):
    optimizer = mx.optimizer.create("apgnag", param_idx2name={0: name}, **options(**more))
    weight = mx.nd.array([[0.5, -0.5]])
    mx.optimizer.get_updater(optimizer)(0, mx.nd.zeros((1, 2)), weight)
    return optimizer, weight.asnumpy()


def test_only_updates_of_lambdas_above_a_zero_gamma_count_as_thresholded():
    assert step_once()[0].thresholded_entries == 2
    assert step_once(gamma={"lambda_a": [[0.0, 0.1]]})[0].thresholded_entries == 1
    for unthresholded in ({"name": "fc1_weight"}, {"gamma": 0.0}, {"lambda_name": "alpha"}):
        optimizer, _ = step_once(**unthresholded)
        with pytest.raises(UserError, match="no lambda went through the soft-threshold"):
            optimizer.assert_thresholded()


def test_a_lambda_that_is_not_due_is_clamped_only():
    optimizer = mx.optimizer.create("apgnag", param_idx2name={0: "lambda_a"}, **options())
    optimizer.update_lambdas = False
    updater, weight = mx.optimizer.get_updater(optimizer), mx.nd.array([[0.5, -0.5]])
    updater(0, mx.nd.ones((1, 2)), weight)
    np.testing.assert_array_equal(weight.asnumpy(), [[0.5, 0]])
    assert not updater.states[0].asnumpy().any() and optimizer.lambda_step == 0
    with pytest.raises(UserError):
        optimizer.assert_thresholded()


def test_a_new_gamma_holds_from_the_next_update():
    optimizer, _ = step_once(gamma={"lambda_a": [[0.1, 0.2]]})
    optimizer.set_gamma({"lambda_a": mx.nd.array([[0.3, 0.4]])})
    weight = mx.nd.ones((1, 2))
    mx.optimizer.get_updater(optimizer)(0, mx.nd.zeros((1, 2)), weight)
    np.testing.assert_allclose(weight.asnumpy(), 1 - 1.9 * LR * np.array([[0.3, 0.4]]), rtol=1e-6)


def test_another_lambda_name_is_honoured():
    assert step_once("alpha_1", lambda_name="alpha")[0].thresholded_entries == 2


@pytest.mark.parametrize(
    "gamma, named",
    [
        (None, "lambda_a"),
        ({"lambda_b": 0.1}, "lambda_a"),
        ({"lambda_a": [0.1, 0.1, 0.1]}, r"\(3,\).*\(1, 2\)"),
        ({"lambda_a": -0.1}, "lambda_a"),
        ({"lambda_a": float("nan")}, "lambda_a"),
        ({"lambda_a": "much"}, "much"),
        ([0.1, 0.1], "one array"),
        (-1.0, "zero or more"),
    ],
)
def test_a_bad_gamma_is_an_error(gamma, named):
    with pytest.raises(UserError, match=named):
        step_once(gamma=gamma)


@pytest.mark.parametrize("momentum", ["nag", 1.0, -0.1, None, "0.9"])
def test_a_bad_momentum_is_an_error(momentum):
    with pytest.raises(UserError, match="momentum"):
        step_once(momentum=momentum)


def test_a_parameter_without_a_name_is_an_error():
    optimizer = mx.optimizer.create("apgnag", **options())
    with pytest.raises(UserError, match="param_idx2name"):
        mx.optimizer.get_updater(optimizer)(7, mx.nd.ones((2,)), mx.nd.ones((2,)))


def test_an_error_on_the_kvstore_is_raised_by_the_check():
    oracle = Oracle()
    oracle.inputs, oracle.targets = oracle.inputs[:1], oracle.targets[:1]
    gamma = {"lambda_after": 0.1}
    _, trainer = train(oracle, [mx.cpu(0), mx.cpu(1)], "local", True, gamma=gamma)
    mx.nd.waitall()
    with pytest.raises(UserError, match="lambda_layer_2_1"):
        trainer.optimizer.assert_thresholded()


# --- state ---


def test_hundreds_of_parameters_at_once_equal_one_by_one():
    rng = np.random.default_rng(1)
    names = {k: f"lambda_{k}" if k % 3 == 0 else f"conv{k}_weight" for k in range(150)}
    start = [rng.normal(size=(k % 5 + 1, 3)) for k in names]
    grads = [[rng.normal(size=value.shape) for value in start] for _ in range(3)]
    results = []
    for together in (True, False):
        updater = mx.optimizer.get_updater(mx.optimizer.create("apgnag", param_idx2name=names, **options()))
        weights = [mx.nd.array(value) for value in start]
        for step in grads:
            arrays = [mx.nd.array(grad) for grad in step]
            if together:
                updater(list(names), arrays, weights)
            for index in () if together else names:
                updater(index, arrays[index], weights[index])
        results.append([weight.asnumpy() for weight in weights])
    for one, other in zip(*results):
        np.testing.assert_array_equal(one, other)


def test_the_state_is_one_array_and_resumes_exactly():
    rng = np.random.default_rng(2)
    grads = [mx.nd.array(rng.normal(size=(1, 4))) for _ in range(12)]

    def run(steps, weight, momentum=None, begin=0):
        more = options(momentum="apg", begin_lambda_step=begin)
        optimizer = APGNAG(param_idx2name={0: "lambda_a"}, **more)
        updater = mx.optimizer.get_updater(optimizer)
        if momentum is not None:
            updater.states[0], updater.states_synced[0] = momentum, True
        for grad in steps:
            updater(0, grad, weight)
        return weight, updater.states[0], optimizer.lambda_step

    whole, _, _ = run(grads, mx.nd.ones((1, 4)))
    weight, momentum, step = run(grads[:5], mx.nd.ones((1, 4)))
    assert momentum.shape == (1, 4) and step == 5
    resumed, _, _ = run(grads[5:], weight, momentum, step)
    np.testing.assert_array_equal(whole.asnumpy(), resumed.asnumpy())


def test_learning_rate_multipliers_reach_the_threshold():
    optimizer = mx.optimizer.create("apgnag", param_idx2name={0: "lambda_a"}, **options())
    optimizer.set_lr_mult({"lambda_a": 0.5})
    weight = mx.nd.ones((1, 1))
    mx.optimizer.get_updater(optimizer)(0, mx.nd.zeros((1, 1)), weight)
    assert weight.asscalar() == pytest.approx(1 - 1.9 * 0.5 * LR * GAMMA, rel=1e-6)


@pytest.mark.parametrize("momentum", [0.9, "apg"])
def test_can_be_pickled(momentum):
    optimizer, _ = step_once(momentum=momentum, gamma={"lambda_a": [[0.1, 0.2]]})
    copy = pickle.loads(pickle.dumps(optimizer))
    assert copy.thresholded_entries == 2 and copy.momentum(3) == optimizer.momentum(3)
