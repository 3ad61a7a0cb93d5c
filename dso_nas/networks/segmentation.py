"""Segmentation networks: a supernet's or a genotype's feature extractor below the DeepLab v3 head (paper, section 4.4).

The feature extractor is the classification network's without its classifier, with the same parameter names, at output
stride `spec.output_stride`. `spec.classes` counts the background. Pictures have the size of `spec.image_shape`: what is
resized is built for it.
"""

from __future__ import annotations

from typing import Any, Mapping, Optional, Tuple

import numpy as np
from gluoncv.model_zoo.deeplabv3 import _ASPPConv, _AsppPooling
from mxnet.gluon import HybridBlock, nn
from mxnet.gluon.contrib.nn import HybridConcurrent

from dso_nas.architecture.genotype import Genotype
from dso_nas.architecture.lambdas import LambdaLayout
from dso_nas.architecture.segmentation_cost import AUXILIARY_STAGE, HEAD_CHANNELS, aspp_rates, auxiliary_channels
from dso_nas.architecture.topology import NetworkSpec
from dso_nas.networks.derived import derived_units
from dso_nas.networks.network import Network
from dso_nas.networks.operations import BATCH_NORM, BatchNorm, ConvBNReLU, batch_norm, relu
from dso_nas.networks.supernet import SuperNet
from dso_nas.training.learner import load_parameters


class PixelClassifier(HybridBlock):
    """conv3x3-BN-ReLU, dropout, conv1x1, bilinear resizing to `size`: (B, in_channels, h, w) -> (B, classes, *size)."""

    def __init__(self, in_channels: int, channels: int, classes: int, size: Tuple[int, int], prefix: str,
                 dropout: float = 0.0) -> None:
        super().__init__(prefix="")
        self._dropout = dropout
        self._size = {"height": size[0], "width": size[1]}
        self.conv = ConvBNReLU(channels, in_channels, 3, f"{prefix}_conv")
        self.fc = nn.Conv2D(classes, 1, in_channels=channels, prefix=f"{prefix}_fc_")

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """See the class."""
        x = self.conv(x)
        if self._dropout:
            x = F.Dropout(x, p=self._dropout)
        return F.contrib.BilinearResize2D(self.fc(x), **self._size)


class DeepLabHead(HybridBlock):
    """final_bn, ReLU, atrous spatial pyramid pooling, conv1x1-BN-ReLU, classifier: (B, C, h, w) -> (B, classes, H, W).

    Pyramid pooling is conv1x1, conv3x3 at three rates and image pooling, `channels` each. final_bn is the feature
    extractor's: without it a stage's last sum would come unnormalised. `dropout` acts before the last convolution.
    """

    def __init__(self, spec: NetworkSpec, channels: int = HEAD_CHANNELS, dropout: float = 0.0) -> None:
        super().__init__(prefix="")
        self.bn = batch_norm(spec.widths[-1], "final_bn")
        self.aspp = _pyramid(spec, channels)
        self.project = ConvBNReLU(channels, len(self.aspp) * channels, 1, "deeplab_project")
        self.classifier = PixelClassifier(channels, channels, spec.classes, spec.image_shape[1:], "deeplab", dropout)

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """See the class."""
        return self.classifier(self.project(self.aspp(relu(F, self.bn(x)))))


def _pyramid(spec: NetworkSpec, channels: int) -> HybridConcurrent:
    """What GluonCV's `_ASPP` holds before its projection, which is 256 channels wide there whatever it is given."""
    width, (height, length) = spec.widths[-1], spec.stage_size(spec.stages)
    branches = HybridConcurrent(axis=1, prefix="deeplab_aspp_")
    with branches.name_scope():
        branches.add(ConvBNReLU(channels, width, 1, "conv1x1"))
        for rate in aspp_rates(spec):
            branches.add(_ASPPConv(width, channels, rate, BatchNorm, BATCH_NORM))
        branches.add(_AsppPooling(width, channels, BatchNorm, BATCH_NORM, height, length))
    return branches


class FCNHead(HybridBlock):
    """The auxiliary head: fcn_bn, ReLU, classifier on the third stage: (B, C, h, w) -> logits (B, classes, H, W).

    Raises:
        UserError: there is no third stage, or it is too narrow.
    """

    def __init__(self, spec: NetworkSpec, dropout: float = 0.0) -> None:
        super().__init__(prefix="")
        width, channels = auxiliary_channels(spec)
        self.bn = batch_norm(width, "fcn_bn")
        self.classifier = PixelClassifier(width, channels, spec.classes, spec.image_shape[1:], "fcn", dropout)

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """See the class."""
        return self.classifier(relu(F, self.bn(x)))


class SegmentationSuperNet(SuperNet):
    """The supernet below a DeepLab v3 head of `head_channels`: (B, channels, H, W) -> logits (B, classes, H, W).

    Raises:
        UserError: the genotype does not fit the network.
    """

    def __init__(self, layout: LambdaLayout, genotype: Optional[Genotype] = None, head_channels: int = HEAD_CHANNELS,
                 dropout: float = 0.0) -> None:
        super().__init__(layout, genotype, DeepLabHead(layout.spec, head_channels, dropout))


class DerivedSegmentationNetwork(Network):
    """The architecture `genotype` below a DeepLab v3 head: (B, channels, H, W) -> logits (B, classes, H, W).

    With `auxiliary` a call gives a pair, the FCN head's logits second. `drop_path` makes the network take path
    multipliers, `dropout` is the probability in both heads.

    Raises:
        UserError: the genotype does not fit the macro-structure, or that has no room for the auxiliary head.
    """

    def __init__(self, spec: NetworkSpec, genotype: Genotype, drop_path: bool = False,
                 head_channels: int = HEAD_CHANNELS, dropout: float = 0.0, auxiliary: bool = False) -> None:
        units = derived_units(spec, genotype, drop_path)
        beside = FCNHead(spec, dropout) if auxiliary else None
        # Behind the third stage's blocks, before its reduction where it has one.
        at = sum(spec.blocks[:AUXILIARY_STAGE]) + AUXILIARY_STAGE - 1
        super().__init__(spec, units, DeepLabHead(spec, head_channels, dropout), beside, at)
        self.genotype = genotype


def load_backbone(network: Network, arrays: Mapping[str, np.ndarray]) -> None:
    """Set the feature extractor of an initialised segmentation network from a classification network's checkpoint.

    `arrays` are 'parameter/NAME' entries as of `Learner.state`. Stem, units with their lambdas and final_bn are taken;
    classifier and auxiliary head are left, and the segmentation heads keep their values.

    Raises:
        UserError: a parameter is missing or has another shape.
    """
    backbone = nn.HybridSequential(prefix="")
    backbone.add(network.stem, *network.units, network.head.bn)
    load_parameters(backbone, arrays)
