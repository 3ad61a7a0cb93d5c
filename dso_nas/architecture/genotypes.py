"""Genotype files of any search space."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Union

from dso_nas.architecture import genotype_file
from dso_nas.architecture.genotype import Genotype
from dso_nas.architecture.mobile_genotype import MobileGenotype

AnyGenotype = Union[Genotype, MobileGenotype]

_BY_SPACE: Dict[str, Any] = {genotype_file.SPACE: Genotype, genotype_file.MOBILE: MobileGenotype}


def load_genotype(path: Union[str, Path]) -> AnyGenotype:
    """Read and check a genotype's JSON file, of the search space that it names.

    Raises:
        GenotypeError: naming the file and the key that is wrong.
    """
    content = genotype_file.read(path)
    return _BY_SPACE[genotype_file.space_of(content, str(path))].from_json(content, str(path))
