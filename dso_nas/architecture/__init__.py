"""Search space, genotypes, pruning, costs and random architectures: pure Python and NumPy, never MXNet."""
