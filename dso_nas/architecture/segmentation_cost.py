"""What a segmentation network costs: the feature extractor at the crop, the DeepLab v3 head, the auxiliary one.

The head's measures are here too, as costs and networks both need them. (Paper, section 4.4.)
"""

from __future__ import annotations

from typing import List, Optional, Tuple

from dso_nas.architecture.cost import Conventions, CostTable, Layer, Size, backbone_layers, cost_table
from dso_nas.architecture.genotype import Genotype
from dso_nas.architecture.topology import NetworkSpec
from dso_nas.errors import UserError

HEAD_CHANNELS = 256
AUXILIARY_STAGE = 3
_RATES = (6, 12, 18)
# The auxiliary head has this part of its stage's channels, as GluonCV's FCN head.
_AUXILIARY_PART = 4


def aspp_rates(spec: NetworkSpec) -> Tuple[int, ...]:
    """Dilations of the head's three 3x3 convolutions: 6, 12, 18, doubled at output stride 8 (DeepLab v3)."""
    return tuple(2 * rate if spec.output_stride == 8 else rate for rate in _RATES)


def auxiliary_channels(spec: NetworkSpec) -> Tuple[int, int]:
    """Channels that the auxiliary head takes from the third stage, and those of its own convolution.

    Raises:
        UserError: there is no third stage, or it is too narrow.
    """
    if spec.stages < AUXILIARY_STAGE:
        raise UserError(f"auxiliary_weight: the auxiliary head needs {AUXILIARY_STAGE} stages, network.blocks has "
                        f"{spec.stages}; set it to 0")
    width = spec.widths[AUXILIARY_STAGE - 1]
    if width < _AUXILIARY_PART:
        raise UserError(f"auxiliary_weight: the auxiliary head needs a width of {_AUXILIARY_PART} in stage "
                        f"{AUXILIARY_STAGE}, not {width}; set it to 0 or widen the network")
    return width, width // _AUXILIARY_PART


def segmentation_cost(spec: NetworkSpec, genotype: Optional[Genotype] = None, head_channels: int = HEAD_CHANNELS,
                      conventions: Optional[Conventions] = None) -> CostTable:
    """Costs of every layer of a segmentation network for one crop of `spec.image_shape`.

    Bilinear resizing has no multiply-adds here, as BatchNorm has none, but its memory access.

    Raises:
        GenotypeError: the genotype does not fit the network.
        UserError: an auxiliary head is asked for where the network has no room for it.
    """
    conventions = conventions or Conventions()
    layers = backbone_layers(spec, genotype) + _head_layers(spec, head_channels)
    if conventions.aux_head:
        layers += _auxiliary_layers(spec)
    return cost_table(layers, conventions)


def _head_layers(spec: NetworkSpec, channels: int) -> List[Layer]:
    width, size = spec.widths[-1], spec.stage_size(spec.stages)
    # GluonCV's parts name their parameters themselves.
    part = "deeplab_aspp_hybridsequential"
    pooling = f"{part}{len(_RATES)}"
    return [
        Layer("head", "final_bn", "batch_norm", width, width, 1, size, size),
        Layer("head", "deeplab_aspp_conv1x1", "conv", width, channels, 1, size, size),
        *(Layer("head", f"{part}{index}_conv0", "conv", width, channels, 3, size, size)
          for index in range(len(_RATES))),
        Layer("head", f"{pooling}_pool0", "avg_pool", width, width, size[0], size, (1, 1), batch_norm=False),
        Layer("head", f"{pooling}_conv0", "conv", width, channels, 1, (1, 1), (1, 1)),
        _resize("head", f"{pooling}_resize", channels, (1, 1), size),
        Layer("head", "deeplab_project", "conv", (len(_RATES) + 2) * channels, channels, 1, size, size),
        *_classifier_layers(spec, "head", "deeplab", channels, channels, size),
    ]


def _auxiliary_layers(spec: NetworkSpec) -> List[Layer]:
    width, channels = auxiliary_channels(spec)
    size = spec.stage_size(AUXILIARY_STAGE)
    return [
        Layer("aux", "fcn_bn", "batch_norm", width, width, 1, size, size),
        *_classifier_layers(spec, "aux", "fcn", width, channels, size),
    ]


def _classifier_layers(spec: NetworkSpec, unit: str, prefix: str, width: int, channels: int,
                       size: Size) -> List[Layer]:
    classes = spec.classes
    return [
        Layer(unit, f"{prefix}_conv", "conv", width, channels, 3, size, size),
        Layer(unit, f"{prefix}_fc", "conv", channels, classes, 1, size, size, batch_norm=False, bias=True),
        _resize(unit, f"{prefix}_resize", classes, size, spec.image_shape[1:]),
    ]


def _resize(unit: str, name: str, channels: int, before: Size, after: Size) -> Layer:
    return Layer(unit, name, "resize", channels, channels, 1, before, after, batch_norm=False)
