"""One configuration in a process of its own: `python -m benchmarks.worker TASK JSON` prints one line of JSON."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List

import mxnet as mx
import numpy as np
from mxnet import gluon

from benchmarks.cases import CASES, Case
from benchmarks.literal import LiteralNet, forward_backward
from dso_nas.architecture.genotype import SHARED, Genotype
from dso_nas.architecture.memory_plan import MB, plan_memory
from dso_nas.architecture.sampling import random_genotype
from dso_nas.networks.network import PublishedInitializer
from dso_nas.networks.supernet import SuperNet
from dso_nas.optimizers import apg_nag  # noqa: F401  (registers the optimizer)
from dso_nas.training.learner import Learner
from dso_nas.training.losses import ClassificationLoss
from dso_nas.training.memory import Chain
from dso_nas.training.programs import trace

KINDS = ("weights", "lambdas")
Step = Callable[[str], Any]


def fill(network: Any) -> None:
    """Values that depend on a parameter's name alone: the same in every network that has it."""
    network.initialize(PublishedInitializer())
    for name, parameter in network.collect_params().items():
        if name.endswith("weight") or name in network.lambdas:
            random = np.random.default_rng(list(name.encode()))
            spread = random.uniform(0.5, 1, parameter.shape) if name in network.lambdas else random.normal(
                0, np.sqrt(2 / np.prod(parameter.shape[1:])), parameter.shape)
            parameter.set_data(mx.nd.array(spread))


def images(case: Case) -> List[np.ndarray]:
    """A batch (B, 3, H, W) of noise and labels (B,)."""
    random = np.random.default_rng(0)
    data = random.normal(size=(case.batch, 3, case.side, case.side)).astype(np.float32)
    return [data, random.integers(0, case.classes, case.batch).astype(np.float32)]


def optimizer(kind: str) -> mx.optimizer.Optimizer:
    """As in the search."""
    options = {"gamma": 1e-3} if kind == "lambdas" else {"wd": 3e-4}
    return mx.optimizer.create("apgnag", learning_rate=0.01, momentum=0.9, clip_gradient=2.0, **options)


def parameters_of(network: Any, kind: str) -> List[Any]:
    """The weights, or the lambdas."""
    return [p for name, p in network.collect_params().items() if (name in network.lambdas) == (kind == "lambdas")]


def literal_step(network: Any, data: np.ndarray, labels: np.ndarray) -> Step:
    """As the published code steps: every gradient is computed, and those of one kind are used."""
    trained = {kind: [p for p in parameters_of(network, kind) if p.grad_req != "null"] for kind in KINDS}
    trainers = {kind: gluon.Trainer(trained[kind], optimizer(kind), kvstore=None) for kind in KINDS}
    x, y = mx.nd.array(data), mx.nd.array(labels)

    def step(kind: str) -> None:
        forward_backward(network, x, y, ClassificationLoss())
        trainers[kind].step(len(data), ignore_stale_grad=True)

    return step


def our_step(learner: Learner, data: np.ndarray, labels: np.ndarray) -> Step:
    """As the stages step."""
    return lambda kind: learner.step(kind, data, labels, 0.01)


def our_learner(network: Any, mirrored: bool) -> Learner:
    """What the stages train a network with."""
    # Which groups of segments they are does not depend on the batch.
    plan = plan_memory(network.spec, network.genotype, 1, "block" if mirrored else "none", tuned=True)
    learner = Learner(network, [mx.cpu()], ClassificationLoss(), None, plan.groups)
    for kind in KINDS:
        learner.add_group(kind, parameters_of(network, kind), optimizer(kind))
    return learner


def build(case: Case, way: str) -> Any:
    """The network of a case with its values, compiled."""
    network = LiteralNet(case.layout()) if way == "literal" else SuperNet(case.layout())
    fill(network)
    if way == "literal":
        network.hybridize()
    else:
        network.hybridize_segments()
    return network


def stepper(network: Any, case: Case, way: str) -> Step:
    """A function that makes one step of a kind."""
    data, labels = images(case)
    if way == "literal":
        return literal_step(network, data, labels)
    return our_step(our_learner(network, way == "mirrored"), data, labels)


def timed(step: Step, kind: str) -> float:
    """Seconds of one step, to its end."""
    mx.nd.waitall()
    start = time.perf_counter()
    step(kind)
    mx.nd.waitall()
    return time.perf_counter() - start


def steps(case: str, way: str, warm_up: int) -> Dict[str, Any]:
    """Seconds of a weight step for every line of standard input, a line each; nothing at the end of the input."""
    step = stepper(build(CASES[case], way), CASES[case], way)
    for _ in range(warm_up):
        timed(step, "weights")
    for _ in sys.stdin:
        print(timed(step, "weights"), flush=True)
    return {}


def resident(field: str) -> float:
    """MB that the process has in memory: VmRSS now, VmHWM at most since the mark was set back."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+)", status).group(1)) / 1024


def speed(case: str, way: str, warm_up: int, repetitions: int) -> Dict[str, Any]:
    """Median seconds of a weight and of a lambda step."""
    return medians(stepper(build(CASES[case], way), CASES[case], way), warm_up, repetitions)


def medians(step: Step, warm_up: int, repetitions: int) -> Dict[str, float]:
    """Medians over `repetitions` steps of each kind, after `warm_up` steps, in which memory is touched first."""
    result = {}
    for kind in KINDS:
        for _ in range(warm_up):
            timed(step, kind)
        result[kind] = float(np.median([timed(step, kind) for _ in range(repetitions)]))
    return result


def memory(case: str, way: str) -> Dict[str, Any]:
    """MB that weight steps take at their peak beyond the network itself: graphs, activations, gradients, momentum."""
    network = build(CASES[case], way)
    mx.nd.waitall()
    before = resident("VmRSS")
    step = stepper(network, CASES[case], way)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    for _ in range(2):
        step("weights")
        mx.nd.waitall()
    return {"peak_mb": resident("VmHWM") - before}


def planned(case: str, way: str) -> Dict[str, Any]:
    """MB that MXNet's own planner gives the whole graph of a weight step; the literal one has all gradients.

    Mirrored, what `dso_nas.architecture.memory_plan` gives, of which MXNet has no graph.
    """
    network, data = build(CASES[case], way), images(CASES[case])[0]
    if way == "mirrored":
        return {"planned_mb": round(plan_memory(network.spec, None, len(data), tuned=True).activations / MB)}
    names = [p.name for kind in (KINDS if way == "literal" else KINDS[:1]) for p in parameters_of(network, kind)]
    ours = way != "literal"
    symbol = trace(network, ["data"], names, mx.cpu()).symbol if ours else network(mx.sym.var("data"))
    requests = {name: "write" if name in names else "null" for name in symbol.list_arguments()}
    executor = mx.sym.sum(symbol).simple_bind(mx.cpu(), data=data.shape, grad_req=requests)
    return {"planned_mb": int(re.search(r"Total (\d+) MB", executor.debug_str()).group(1))}


def gradients(case: str, way: str, path: str) -> Dict[str, Any]:
    """Write outputs and every gradient of one batch to an .npz file."""
    network = build(CASES[case], way)
    data, labels = (mx.nd.array(array) for array in images(CASES[case]))
    if way == "literal":
        outputs, _ = forward_backward(network, data, labels, ClassificationLoss())
    else:
        outputs = static_pass(network, data, labels)
    arrays = {name: p.grad().asnumpy() for name, p in network.collect_params().items() if p.grad_req != "null"}
    np.savez(path, outputs=outputs.asnumpy(), **arrays)
    return {}


def static_pass(network: Any, data: Any, labels: Any) -> Any:
    """Outputs, and gradients of weights and lambdas, by the graphs of their steps."""
    chain = Chain(network, [data])
    for kind in KINDS:
        chain.add_group(kind, [p.name for p in parameters_of(network, kind) if p.grad_req != "null"])
        outputs = chain.forward(kind, data)
        kept = outputs[0].copy()
        chain.backward(kind, ClassificationLoss().gradients(outputs, labels)[1])
    return kept


def genotype_with(case: Case, percent: int) -> Genotype:
    """Of random genotypes the one whose live connections are nearest to `percent` of all."""
    spec, random = case.layout().spec, np.random.default_rng(percent)
    if percent == 100:
        return Genotype.full(spec, "share")
    wanted = percent / 100 * spec.topology.num_connections
    drawn = [random_genotype(spec, "share", density, random) for density in np.linspace(0.1, 0.9, 200)]
    return min(drawn, key=lambda genotype: abs(genotype.blocks[SHARED].num_connections - wanted))


def live(case: str, percent: int, warm_up: int, repetitions: int) -> Dict[str, Any]:
    """Step times with a share of the connections left, and the seconds that the rebuild took."""
    full, genotype = build(CASES[case], "plain"), genotype_with(CASES[case], percent)
    data, labels = images(CASES[case])
    start = time.perf_counter()
    arrays = Learner(full, [mx.cpu()], ClassificationLoss()).state()
    network = SuperNet(CASES[case].layout(), genotype)
    network.initialize(PublishedInitializer())
    learner = our_learner(network, mirrored=False)
    learner.load_state(arrays)
    # The static graphs are made at the first step of a kind.
    for kind in KINDS:
        learner.prepare(kind, data)
    mx.nd.waitall()
    rebuild = time.perf_counter() - start
    return {"rebuild": rebuild, "connections": genotype.blocks[SHARED].num_connections,
            **medians(our_step(learner, data, labels), warm_up, repetitions)}


def limits(case: str) -> Dict[str, Any]:
    """What this machine does: GB a second read and written by a copy, multiply-adds a second of a convolution."""
    x = mx.nd.ones((64, 96, 64, 64))
    weight = mx.nd.ones((96, 96, 1, 1))
    copy = min(timed(lambda _: x.copy(), "") for _ in range(7))
    conv = min(timed(lambda _: mx.nd.Convolution(x, weight, kernel=(1, 1), num_filter=96, no_bias=True), "")
               for _ in range(7))
    return {"bandwidth": 2 * x.size * 4 / copy / 1e9, "multiply_adds": x.size * 96 / conv / 1e9}


TASKS = {"speed": speed, "memory": memory, "planned": planned, "gradients": gradients, "live": live, "limits": limits,
         "steps": steps}

if __name__ == "__main__":
    print(json.dumps(TASKS[sys.argv[1]](**json.loads(sys.argv[2]))))
