"""Drop path: whole paths of a derived network left out at random while it trains (paper, section 4.2)."""

from __future__ import annotations

from typing import Any

import numpy as np

from dso_nas.architecture.topology import NetworkSpec, Unit


def published_probability(spec: NetworkSpec, unit: Unit, rate: float) -> float:
    """The published rule for a unit's paths: rate * (n + 1) / (depth + 2), the deeper the likelier.

    n = (stage - 1) * depth // 3 + (unit - 1) * levels, where depth is 12 * units + 2 layers for `units` units a stage.
    """
    depth = 12 * (max(spec.blocks) + 1) + 2
    place = (unit.stage - 1) * depth // 3 + (unit.unit - 1) * spec.topology.levels
    return min(rate * (place + 1) / (depth + 2), rate)


def path_probabilities(network: Any, rate: float, rule: str) -> np.ndarray:
    """Probability (num_paths,) that each path of `network` is dropped at the end of training.

    `rule` is 'published' (`published_probability`) or 'uniform' (`rate` everywhere).
    """
    parts = [np.zeros(0)]
    for block in network.units:
        paths = getattr(block, "num_paths", 0)
        if paths:
            probability = rate if rule == "uniform" else published_probability(network.spec, block.unit, rate)
            parts.append(np.full(paths, probability))
    return np.concatenate(parts)


def draw_paths(probabilities: np.ndarray, progress: float, images: int, rng: np.random.Generator) -> np.ndarray:
    """Multipliers (images, num_paths): 0 with `progress` (0 to 1) times the probability, else what keeps the mean."""
    dropped = progress * probabilities
    kept = rng.random((images, len(probabilities))) >= dropped
    return (kept / (1.0 - dropped)).astype(np.float32)
