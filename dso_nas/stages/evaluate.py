"""The test values of a retrained checkpoint."""

from __future__ import annotations

from typing import Any, Dict, Tuple

from dso_nas.architecture.genotypes import AnyGenotype
from dso_nas.stages.retrain import build_derived, retrain_spec
from dso_nas.stages.run import Run, finished_checkpoint
from dso_nas.training.learner import Learner, load_parameters


def evaluate(run: Run, genotype: AnyGenotype) -> Dict[str, float]:
    """Test values, `test_error` (a fraction) among them, of the network in the run's `retrain` folder.

    Raises:
        UserError: retraining has not ended, or its checkpoint is of another architecture.
    """
    phase, network = retrained_network(run, genotype)
    return phase.test(Learner(network, run.contexts, phase.loss(), run.kvstore))


def retrained_network(run: Run, genotype: AnyGenotype) -> Tuple[Run, Any]:
    """The last phase of the run's retraining and its network, as the checkpoint in the run's `retrain` folder has it.

    Raises:
        UserError: see `evaluate`.
    """
    phase, folder = run.phases()[-1]
    checkpoint = finished_checkpoint(run.folder.path / folder, folder)
    spec, _ = retrain_spec(run, genotype)
    network = build_derived(phase, phase.space.placed(spec), genotype)
    load_parameters(network, checkpoint.arrays)
    return phase, network
