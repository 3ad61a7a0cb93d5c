"""The supernet: every connection of every block, each scaled by a lambda (paper, sections 3.1 and 3.2)."""

from __future__ import annotations

from typing import Dict, List, Optional

import mxnet as mx
from mxnet.gluon import HybridBlock, Parameter

from dso_nas.architecture.genotype import Genotype
from dso_nas.architecture.lambdas import REDUCTION, LambdaLayout
from dso_nas.networks.blocks import ReductionBlock, SearchBlock
from dso_nas.networks.network import Network


class SuperNet(Network):
    """All connections that `genotype` keeps (default: all) of `layout.spec`, with the lambda parameters of `layout`.

    Lambdas keep the full shapes of `layout.shapes()` whatever is pruned; pruned entries get no gradient. `lambdas`
    holds the parameters by name, without those that no kept block reads any more. `head` is as in Network.

    Raises:
        UserError: the genotype does not fit the network.
    """

    def __init__(self, layout: LambdaLayout, genotype: Optional[Genotype] = None,
                 head: Optional[HybridBlock] = None) -> None:
        spec = layout.spec
        genotype = genotype or Genotype.full(spec, layout.scope)
        genotype.check_fits(spec)
        pool = {name: Parameter(name, shape=shape, init=mx.init.One()) for name, shape in layout.shapes().items()}
        units: List[HybridBlock] = []
        for unit in spec.units():
            lambdas = {key: pool[name] for key, name in layout.names_of(unit).items()}
            dilation = spec.stage_dilation(unit.stage)
            if unit.kind == "reduction":
                units.append(ReductionBlock(unit, genotype.reduction(unit), lambdas[REDUCTION],
                                            spec.reduction_stride(unit.stage), dilation=dilation))
            else:
                units.append(SearchBlock(unit, spec.topology, genotype.block(unit), lambdas, dilation))
        super().__init__(spec, units, head)
        self.layout = layout
        self.genotype = genotype
        read = self.collect_params()
        self.lambdas: Dict[str, Parameter] = {name: pool[name] for name in pool if name in read}
