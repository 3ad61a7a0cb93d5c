"""Gluon networks: the supernet, the networks derived from a genotype, and the parts both are made of."""
