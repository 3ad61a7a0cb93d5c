"""Do workers train what one worker trains with the whole batch?

`python tests/distributed/equality.py --runs 100 -n 2 -s 1` starts a job of workers and servers on this machine for
every run, each rank with weights and lambdas of its own, and compares every step's lambdas and the last weights with
those of one process that starts from rank 0's and takes the whole batches; two optimizers move weights and lambdas in
turn. A run that differs by more than 1e-5 of the largest value (or by a bit, among the workers) has failed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import dso_nas  # noqa: E402,F401  (before MXNet)

STEPS = 10
BATCH = 12
TOLERANCE = 1e-5


def make_learner(start: int, kvstore: Optional[str], devices: int, normalization: bool = False) -> Any:
    """A network of two lambda-weighted branches, with or without BatchNorm, its values drawn by `start`."""
    import mxnet as mx
    from mxnet.gluon import nn

    from dso_nas.optimizers import APGNAG
    from dso_nas.training.learner import Learner
    from dso_nas.training.losses import ClassificationLoss

    class Branches(nn.HybridBlock):
        def __init__(self) -> None:
            super().__init__(prefix="")
            self.left = nn.Conv2D(4, 3, padding=1, in_channels=3, prefix="left_")
            self.right = nn.Conv2D(4, 1, in_channels=3, prefix="right_")
            self.norm = nn.BatchNorm(in_channels=4, prefix="norm_") if normalization else None
            self.dense = nn.Dense(5, in_units=4 * 6 * 6, prefix="dense_")
            self.scale = self.params.get("lambda_scale", shape=(1, 2))

        @property
        def segments(self) -> Tuple[Any, ...]:
            return (self,)

        def hybrid_forward(self, F: Any, x: Any, scale: Any) -> Any:
            both = F.stack(F.relu(self.left(x)), F.relu(self.right(x)), axis=-1)
            mixed = F.dot(both, F.reshape(scale, (2,)))
            return self.dense(self.norm(mixed) if self.norm is not None else mixed)

    network = Branches()
    mx.random.seed(start)
    contexts = [mx.cpu(index) for index in range(devices)]
    network.initialize(mx.init.Uniform(0.3), ctx=contexts)
    network.scale.set_data(mx.nd.random.uniform(0.5, 1, (1, 2)))
    learner = Learner(network, contexts, ClassificationLoss(), kvstore)
    weights = [p for p in network.collect_params().values() if p is not network.scale]
    learner.add_group("weights", weights, APGNAG(learning_rate=0.1, momentum=0.9, wd=1e-3, clip_gradient=1.0))
    learner.add_group("lambdas", [network.scale], APGNAG(learning_rate=0.05, momentum=0.9, gamma=1.0))
    return learner


def train(learner: Any, seed: int) -> Dict[str, Any]:
    """Ten steps of each optimizer; lambdas after every one, and all that a checkpoint would hold."""
    import numpy as np

    rng = np.random.default_rng(seed)
    lambdas = []
    for step in range(STEPS):
        for kind in ("weights", "lambdas"):
            data = rng.normal(size=(BATCH, 3, 6, 6)).astype(np.float32)
            labels = rng.integers(0, 5, BATCH).astype(np.float32)
            learner.step(kind, data, labels, 0.1 / (1 + step))
        lambdas.append(learner.network.scale.list_data()[0].asnumpy())
    return {**learner.state(), "lambdas": np.stack(lambdas)}


def work(folder: Path, run: int, kvstore: str) -> None:
    """What a worker of run `run` does."""
    import numpy as np

    from dso_nas.training.workers import joined

    with joined(kvstore) as workers:
        result = train(make_learner(1000 * run + workers.rank, kvstore, 1), run)
        np.savez(folder / f"{workers.rank}.npz", **result)


def largest_difference(first: Dict[str, Any], second: Dict[str, Any]) -> float:
    """Over all arrays, as a share of the array's largest value (of one, if that is less)."""
    import numpy as np

    assert first.keys() == second.keys()
    return max(float(np.abs(first[name] - second[name]).max()) / max(1.0, float(np.abs(first[name]).max()))
               for name in first)


def compare(run: int, workers: int, servers: int, kvstore: str) -> float:
    """The largest difference between the workers of a run and the single process; infinite if workers differ."""
    import numpy as np

    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, str(Path(__file__).resolve()), "--worker", scratch, "--run", str(run),
                   "--kvstore", kvstore]
        subprocess.run([sys.executable, "-m", "dso_nas", "launch", "-n", str(workers), "-s", str(servers), *command],
                       cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=120)
        results = [dict(np.load(Path(scratch) / f"{rank}.npz")) for rank in range(workers)]
    for other in results[1:]:
        if any(not np.array_equal(results[0][name], other[name]) for name in results[0]):
            return float("inf")
    return largest_difference(train(make_learner(1000 * run, None, 1), run), results[0])


def main(arguments: Optional[List[str]] = None) -> int:
    """Carry out a command line; 1 if a run failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("-n", "--workers", type=int, default=2)
    parser.add_argument("-s", "--servers", type=int, default=1)
    parser.add_argument("--kvstore", default="dist_sync", choices=("dist_sync", "dist_device_sync"))
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--run", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        work(options.worker, options.run, options.kvstore)
        return 0
    differences = []
    for run in range(options.runs):
        differences.append(compare(run, options.workers, options.servers, options.kvstore))
        print(f"run {run + 1}: largest difference {differences[-1]:.1e}", flush=True)
    right = sum(difference <= TOLERANCE for difference in differences)
    print(f"{right} of {options.runs} runs of {options.workers} workers and {options.servers} servers by "
          f"{options.kvstore} equal one worker; largest difference {max(differences):.1e}")
    return 0 if right == options.runs else 1


if __name__ == "__main__":
    sys.exit(main())
