"""Latency: how long a network takes, measured, and what each live connection adds to that (paper, section 3.4).

A connection's latency is defined by the whole network's without it. What gamma follows from that is a rule of
`dso_nas.budgets.regularization`; whether it is measured at all, and when, its callers decide.
"""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import json
import time
from typing import Any, Callable, Dict, Iterator, Mapping, Sequence, Tuple

import mxnet as mx
import numpy as np

from dso_nas.architecture.block_genotype import BlockGenotype
from dso_nas.architecture.genotype import Genotype
from dso_nas.architecture.pruning import prune_block
from dso_nas.architecture.topology import NetworkSpec
from dso_nas.errors import UserError

# Of a genotype of any space.
Measure = Callable[[Any], float]

ATTEMPTS = 3
LARGEST_SPREAD = 0.25
_DIGEST = hashlib.sha1().digest_size


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a latency is taken: unrecorded runs, recorded ones, and 'mean' or 'median' of these."""

    warmup: int
    runs: int
    statistic: str


# The paper says nothing of a warm-up; without one its mean would hold the compilation.
PROTOCOLS = {
    "median": Protocol(10, 50, "median"),
    "paper": Protocol(1, 5, "mean"),
    "published": Protocol(10, 90, "mean"),
}


@dataclasses.dataclass(frozen=True)
class Latency:
    """Repeated runs of one network, in milliseconds for a batch.

    `value` is the protocol's statistic. `spread` is the width of the runs' middle half over their median: unlike the
    standard deviation it does not grow with one run that something else interrupted.
    """

    value: float
    median: float
    mean: float
    spread: float
    runs: int

    @classmethod
    def of(cls, milliseconds: Sequence[float], statistic: str) -> Latency:
        """The summary of recorded runs, all above zero; `statistic` is 'mean' or 'median'."""
        lower, median, upper = (float(value) for value in np.percentile(milliseconds, (25, 50, 75)))
        mean = float(np.mean(milliseconds))
        values = {"mean": mean, "median": median}
        return cls(values[statistic], median, mean, (upper - lower) / median, len(milliseconds))


def measure(network: Any, context: mx.Context, image_shape: Tuple[int, int, int], batch: int = 1,
            protocol: str = "median", largest_spread: float = LARGEST_SPREAD) -> Latency:
    """Time an initialised network, compiled as its owner wants it, in evaluation mode on one device.

    `image_shape` is (channels, height, width), `protocol` a key of PROTOCOLS. A measurement whose spread is too large
    is made again, three times in all. Draws no random number of MXNet's or NumPy's global generators, and records
    nothing, whatever is being recorded around it.

    Raises:
        UserError: every measurement's spread was above `largest_spread`.
    """
    images = mx.nd.array(np.random.default_rng(0).normal(size=(batch, *image_shape)), ctx=context)
    return timed(lambda: network(images).wait_to_read(), context, protocol, largest_spread)


def timed(action: Callable[[], None], context: mx.Context, protocol: str = "median",
          largest_spread: float = LARGEST_SPREAD) -> Latency:
    """Time what an action does on a device and waits for, as `measure` does.

    Raises:
        UserError: see `measure`.
    """
    plan = PROTOCOLS[protocol]
    # A training step that is still under way would be counted.
    mx.nd.waitall()
    spreads = []
    with mx.autograd.pause(train_mode=False):
        for _ in range(ATTEMPTS):
            times = [_milliseconds(action) for _ in range(plan.warmup + plan.runs)]
            latency = Latency.of(times[plan.warmup:], plan.statistic)
            if latency.spread <= largest_spread:
                return latency
            spreads.append(latency.spread)
    raise UserError(f"latency: on {context} the middle half of {plan.runs} runs is {100 * min(spreads):.0f}% of their "
                    f"median wide, more than {100 * largest_spread:g}%; free the device of other work, or allow more "
                    "(search.latency_spread, or --spread)")


def measure_built(build: Callable[[], Any], context: mx.Context, image_shape: Tuple[int, int, int], batch: int = 1,
                  protocol: str = "median", largest_spread: float = LARGEST_SPREAD) -> Latency:
    """`measure` of a network that `build` makes, without values, and that goes again.

    Raises:
        UserError: see `measure`.
    """
    try:
        with mx.autograd.pause(train_mode=False):
            return measure(compiled(build(), context), context, image_shape, batch, protocol, largest_spread)
    finally:
        # A Gluon block refers to itself: until it is collected, it keeps its memory on the device.
        gc.collect()


class RemovalLatencies:
    """Latencies of a network without each of its live connections, measured once for every structure.

    `measure` gives the milliseconds of a genotype's network.
    """

    def __init__(self, spec: Any, measure: Measure) -> None:
        self._spec = spec
        self._measure = measure
        self._known: Dict[bytes, float] = {}

    def of(self, genotype: Any) -> Dict[str, np.ndarray]:
        """Milliseconds (num_connections,) under the keys of `genotype.blocks`, not a number where a connection is dead.

        A shared connection is removed in all blocks at once.
        """
        latencies = {name: np.full(self._size, np.nan) for name in genotype.blocks}
        for name, position, fewer in self._without_each(genotype):
            latencies[name][position] = self._latency(fewer)
        return latencies

    @property
    def _size(self) -> int:
        """Connections of a block."""
        return self._spec.topology.num_connections

    def _without_each(self, genotype: Any) -> Iterator[Tuple[str, int, Any]]:
        return without_each(genotype)

    def _digest(self, genotype: Any) -> bytes:
        return structure_digest(self._spec, genotype)

    def _latency(self, genotype: Any) -> float:
        digest = self._digest(genotype)
        if digest not in self._known:
            self._known[digest] = float(self._measure(genotype))
        return self._known[digest]

    def state(self) -> Dict[str, np.ndarray]:
        """All that has been measured, for a checkpoint."""
        digests = np.frombuffer(b"".join(self._known), np.uint8).reshape(-1, _DIGEST)
        return {"structures": digests, "milliseconds": np.array(list(self._known.values()), np.float64)}

    def load_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take over what `state` gave."""
        self._known = {row.tobytes(): float(value) for row, value in zip(arrays["structures"], arrays["milliseconds"])}


def without_each(genotype: Genotype) -> Iterator[Tuple[str, int, Genotype]]:
    """Every live connection as (key in `blocks`, position in the packed vector, the pruned genotype without it)."""
    topology = genotype.topology
    for name, block in genotype.blocks.items():
        mask = block.mask(topology)
        for position in np.flatnonzero(mask):
            fewer = mask.copy()
            fewer[position] = False
            pruned = BlockGenotype.from_mask(topology, prune_block(topology, fewer))
            yield name, int(position), dataclasses.replace(genotype, blocks={**genotype.blocks, name: pruned})


def structure_digest(spec: NetworkSpec, genotype: Genotype) -> bytes:
    """The same 20 bytes for networks of `spec` that compute the same layers on the same sizes.

    Blocks of a stage may stand in any order but for the first, whose shortcut is another.
    """
    stages = []
    for stage in range(1, spec.stages + 1):
        units = [unit for unit in spec.block_units() if unit.stage == stage]
        first, *others = [json.dumps(genotype.block(unit).to_json()) for unit in units]
        stages.append([first, sorted(others)])
    content = json.dumps([stages, [sorted(live) for live in genotype.reductions]])
    return hashlib.sha1(content.encode()).digest()


def equation_factors(latencies: np.ndarray) -> np.ndarray:
    """(LAT - min) / (max - min) of Eq. 19, as printed: what slows the network most has the smallest factor.

    `latencies` are without each connection, not a number for a dead one, which has factor 1; so have all where the
    equation is undefined because none differ.
    """
    smallest, largest = _range(latencies)
    if smallest == largest:
        return np.ones_like(latencies)
    return np.where(np.isnan(latencies), 1.0, (latencies - smallest) / (largest - smallest))


def published_factors(latencies: np.ndarray) -> np.ndarray:
    """What the published code has for Eq. 19: from 1 for the connection that slows the network most to 0.5.

    1 - 0.5 (LAT - min) / (max - min), written so that it rounds alike; a dead connection has 1.
    """
    smallest, largest = _range(latencies)
    factors = 0.5 + 0.5 * (largest - latencies) / (largest - smallest + 1e-9)
    return np.where(np.isnan(latencies), 1.0, factors)


def _range(latencies: np.ndarray) -> Tuple[float, float]:
    live = latencies[~np.isnan(latencies)]
    return (float(live.min()), float(live.max())) if live.size else (0.0, 0.0)


def _milliseconds(action: Callable[[], None]) -> float:
    start = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - start)


def compiled(network: Any, context: mx.Context) -> Any:
    """A new network with weights of a usual size, compiled; the global random generators stay as they are."""
    network.initialize(mx.init.Zero(), ctx=context)
    draws = np.random.default_rng(0)
    for parameter in network.collect_params(".*weight").values():
        deviation = (2 / np.prod(parameter.shape[1:])) ** 0.5
        parameter.set_data(mx.nd.array(draws.normal(0, deviation, parameter.shape)))
    network.hybridize(static_alloc=True, static_shape=True)
    return network
