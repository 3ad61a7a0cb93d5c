"""Drop path of the derived networks, against the recorded calls of the published operator."""

from __future__ import annotations

import numpy as np
import pytest

from dso_nas.networks.derived import DerivedNetwork
from dso_nas.networks.drop_path import path_probabilities
from symbols.networks import find_layout, network_spec, pruned_genotype

CASES = ["C_cifar_share_L4_sp50", "C_cifar_full_L4_sp30", "C_cifar_adflops_L3_sp80", "C_cifar_share_L2_sp30"]


@pytest.mark.parametrize("name", CASES)
def test_as_many_paths_with_the_published_probabilities(name, golden):
    arrays, stem, arguments = golden.section_c(name)
    lambdas = arguments.pop("load_param")
    spec = network_spec(f"{stem}_evaluation", **arguments)
    genotype = pruned_genotype(find_layout(spec, list(lambdas)), lambdas)
    network = DerivedNetwork(spec, genotype, drop_path=True)
    ours = path_probabilities(network, 0.5, "published")
    assert network.num_paths == len(arrays["droppath/p"])
    assert np.sort(ours) == pytest.approx(np.sort(arrays["droppath/p"]), abs=1e-6)
