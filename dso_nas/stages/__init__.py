"""The paper's three stages, their evaluation and the comparison with random architectures."""
