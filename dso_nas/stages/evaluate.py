"""The test error of a retrained checkpoint."""

from __future__ import annotations

from dso_nas.architecture.genotype import Genotype
from dso_nas.stages.retrain import build_derived, retrain_spec
from dso_nas.stages.run import Run, finished_checkpoint
from dso_nas.training.learner import Learner, load_parameters
from dso_nas.training.losses import ClassificationLoss


def evaluate(run: Run, genotype: Genotype) -> float:
    """Test error (a fraction) of the network in the run's `retrain` folder.

    Raises:
        UserError: retraining has not ended, or its checkpoint is of another architecture.
    """
    checkpoint = finished_checkpoint(run.folder.retrain, "retrain")
    spec, _ = retrain_spec(run, genotype)
    network = build_derived(run, spec, genotype)
    load_parameters(network, checkpoint.arrays)
    return Learner(network, run.contexts, ClassificationLoss(), run.kvstore).error(run.plain_batches(run.dataset.test))
