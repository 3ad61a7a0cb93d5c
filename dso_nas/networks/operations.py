"""The candidate operations of the normal search space (paper, section 3.1), each ending in BatchNorm and ReLU.

Parameters bear the published code's names, so every block here takes the full prefix of its names from the caller.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any, Tuple

import numpy as np
from mxnet.gluon import HybridBlock, nn

from dso_nas.architecture.cpu_kernels import fits_blocks, is_wide
from dso_nas.architecture.topology import Operation
from dso_nas.training import programs
from dso_nas.training.programs import has_gradients, learns, trains_on_cpu

BATCH_NORM = {"epsilon": 2e-5, "momentum": 0.9}


def constant(F: Any, values: np.ndarray) -> Any:
    """An array of these numbers, which no gradient goes to."""
    given = programs.constant(values)
    if given is not None:
        return given
    runs = [(len(list(run)), number) for number, run in groupby(values.ravel().tolist())]
    parts = [F.full((length,), number, dtype=values.dtype.name) for length, number in runs]
    return (parts[0] if len(parts) == 1 else F.concat(*parts, dim=0)).reshape(values.shape)


def convolved(F: Any, x: Any, weight: Any, learned: bool, **options: Any) -> Any:
    """MXNet's Convolution without bias; `learned` is whether the gradient of `weight` is wanted."""
    if learned or not (has_gradients() and trains_on_cpu()):
        return F.Convolution(x, weight, no_bias=True, **options)
    # Of a convolution without bias MXNet on the CPU takes the gradient of the weights or not by what lies behind the
    # end of a list, often for nothing; with a bias, here of zeros, that place is in the list.
    bias = constant(F, np.zeros(options["num_filter"], np.float32))
    return F.Convolution(x, weight, bias, no_bias=False, **options)


class Conv2D(nn.Conv2D):
    """Gluon's convolution without bias: (B, in_channels, H, W) -> (B, channels, H/stride, W/stride)."""

    def hybrid_forward(self, F: Any, x: Any, weight: Any) -> Any:
        """See the class."""
        options = {name: value for name, value in self._kwargs.items() if name != "no_bias"}
        return convolved(F, x, weight, learns(self.weight.name), **options)


def convolution(channels: int, in_channels: int, kernel: int, prefix: str, stride: int = 1, groups: int = 1,
                dilation: int = 1) -> Conv2D:
    """A convolution without bias, padded so that stride 1 keeps the size; its weight is called `{prefix}_weight`."""
    return Conv2D(channels, kernel, strides=stride, padding=dilation * (kernel // 2), dilation=dilation,
                  groups=groups, in_channels=in_channels, use_bias=False, prefix=f"{prefix}_")


class BatchNorm(nn.BatchNorm):
    """MXNet's BatchNorm, of one device's images, or with `devices` above one of those of all devices of the process.

    Every device must then run the layer: each waits in it for the others.
    """

    devices = 1

    def hybrid_forward(self, F: Any, x: Any, gamma: Any, beta: Any, running_mean: Any, running_var: Any) -> Any:
        """See the class."""
        arrays = (x, gamma, beta, running_mean, running_var)
        if self.devices == 1:
            return super().hybrid_forward(F, *arrays)
        options = {name: value for name, value in self._kwargs.items() if name != "axis"}
        # The devices find each other by the key, which must not serve other numbers of channels or devices as well.
        key = f"{self.prefix}{self.gamma.shape[0]}x{self.devices}"
        return F.contrib.SyncBatchNorm(*arrays, ndev=self.devices, key=key, **options)


def synchronise(network: HybridBlock, devices: int) -> None:
    """Let every BatchNorm of a network that is not compiled yet take the statistics of `devices` devices together."""
    def tell(block: HybridBlock) -> None:
        if isinstance(block, BatchNorm):
            block.devices = devices

    network.apply(tell)


def batch_norm(channels: int, prefix: str, fix_gamma: bool = False) -> BatchNorm:
    """BatchNorm with epsilon 2e-5 and momentum 0.9; `fix_gamma` holds the scale at one (paper, section 4.1)."""
    return BatchNorm(in_channels=channels, scale=not fix_gamma, prefix=f"{prefix}_", **BATCH_NORM)


def relu(F: Any, x: Any) -> Any:
    """max(x, 0), in a third of the time that the operator of that name takes on the CPU; but NaN becomes zero."""
    return F.Activation(x, act_type="relu")


def global_average(F: Any, x: Any) -> Any:
    """The mean over each map: (B, C, H, W) -> (B, C, 1, 1)."""
    # Not Pooling, whose backward, and that of the BatchNorm before it, have no fast kernel on the CPU.
    return F.mean(x, axis=(2, 3), keepdims=True)


def depthwise(F: Any, x: Any, weight: Any, channels: int, kernel: Tuple[int, int], learned: bool = False) -> Any:
    """Every channel of `x` (B, C, H, W) convolved with its kernel of `weight` (C, 1, *kernel); sizes stay."""
    return convolved(F, x, weight, learned, kernel=kernel, pad=(kernel[0] // 2, kernel[1] // 2), num_filter=channels,
                     num_group=channels)


def into_blocks(F: Any, x: Any, channels: int) -> Any:
    """`x` (B, C, H, W) and its gradient as they are, in oneDNN's layout, for training on the CPU.

    By a convolution, which alone chooses its layout. Sums of gradients take a third of the time where all of them are
    in that layout, and BatchNorm a tenth.
    """
    if not (trains_on_cpu() and fits_blocks(channels)):
        return x
    return depthwise(F, x, constant(F, np.ones((channels, 1, 1, 1), np.float32)), channels, (1, 1))


class DepthwiseConv(Conv2D):
    """A kxk convolution of every channel with a kernel of its own, without bias: (B, C, H, W) -> (B, C, H, W).

    A graph that learns a wide kernel on the CPU splits it, if it is not dilated: the three middle columns are one
    convolution, and every other column is one whose result is moved sideways. oneDNN has no fast weight gradient for
    more than three columns; all else is faster undivided.
    """

    def __init__(self, channels: int, kernel: int, prefix: str, dilation: int = 1) -> None:
        super().__init__(channels, kernel, padding=dilation * (kernel // 2), dilation=dilation, groups=channels,
                         in_channels=channels, use_bias=False, prefix=f"{prefix}_")
        self._channels_in = channels
        self._kernel = kernel
        self._wide = is_wide(kernel, dilation) and fits_blocks(channels)

    @property
    def is_split(self) -> bool:
        """Whether it is several convolutions in the graph that is being traced."""
        return self._wide and trains_on_cpu() and learns(self.weight.name)

    def hybrid_forward(self, F: Any, x: Any, weight: Any) -> Any:
        """See the class."""
        if not self.is_split:
            return super().hybrid_forward(F, x, weight)
        channels, size, middle = self._channels_in, self._kernel, self._kernel // 2
        columns = F.slice_axis(weight, axis=3, begin=middle - 1, end=middle + 2)
        terms = [depthwise(F, x, columns, channels, (size, 3), learned=True)]
        for at in (*range(middle - 1), *range(middle + 2, size)):
            column = F.slice_axis(weight, axis=3, begin=at, end=at + 1)
            values = depthwise(F, x, column, channels, (size, 1), learned=True)
            # Moved by a convolution with a single one, which keeps to oneDNN's layout.
            move = np.zeros((channels, 1, 1, size), np.float32)
            move[..., at] = 1
            terms.append(depthwise(F, values, constant(F, move), channels, (1, size)))
        return F.add_n(*terms)


class ConvBNReLU(HybridBlock):
    """Convolution, BatchNorm, ReLU: (B, in_channels, H, W) -> (B, channels, H/stride, W/stride)."""

    def __init__(self, channels: int, in_channels: int, kernel: int, prefix: str, stride: int = 1,
                 fix_gamma: bool = False, dilation: int = 1) -> None:
        super().__init__(prefix="")
        self.conv = convolution(channels, in_channels, kernel, prefix, stride, dilation=dilation)
        self.bn = batch_norm(channels, f"{prefix}_bn", fix_gamma)

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """See the class."""
        return relu(F, self.bn(self.conv(x)))


class CandidateOperation(HybridBlock):
    """What ends in BatchNorm and ReLU: (B, C, H, W) -> (B, C, H, W).

    An operation makes its BatchNorm `bn`, and gives to `_end` what comes before it.
    """

    bn: BatchNorm

    def __init__(self, channels: int, activate: bool) -> None:
        super().__init__(prefix="")
        self._channels = channels
        self._activate = activate

    def _end(self, F: Any, x: Any) -> Any:
        """BatchNorm, and ReLU unless that is left to the caller."""
        return relu(F, self.bn(x)) if self._activate else self.bn(x)


class SeparableConv(CandidateOperation):
    """Depthwise kxk, pointwise 1x1, BatchNorm, ReLU: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, operation: Operation, channels: int, prefix: str, fix_gamma: bool, dilation: int,
                 activate: bool) -> None:
        super().__init__(channels, activate)
        self.depthwise = DepthwiseConv(channels, operation.kernel, f"{prefix}_sep", dilation)
        self.pointwise = convolution(channels, channels, 1, prefix)
        self.bn = batch_norm(channels, f"{prefix}_bn", fix_gamma)

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """See the class."""
        return self._end(F, self.pointwise(self.depthwise(x)))


class MaxPool(CandidateOperation):
    """3x3 maximum with stride 1, BatchNorm, ReLU: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, operation: Operation, channels: int, prefix: str, fix_gamma: bool, dilation: int,
                 activate: bool) -> None:
        super().__init__(channels, activate)
        self._kernel = operation.kernel
        self.bn = batch_norm(channels, f"{prefix}_bn", fix_gamma)

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """See the class."""
        # A pool leaves its result in its input's layout, and the gradient, in static graphs, in the plain one.
        x = into_blocks(F, x, self._channels)
        pooled = F.Pooling(x, kernel=(self._kernel,) * 2, pad=(self._kernel // 2,) * 2, pool_type="max")
        return self._end(F, pooled)


class AvgPool(CandidateOperation):
    """3x3 mean with stride 1 that counts the padding, BatchNorm, ReLU: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, operation: Operation, channels: int, prefix: str, fix_gamma: bool, dilation: int,
                 activate: bool) -> None:
        super().__init__(channels, activate)
        self._kernel = operation.kernel
        self._dtype = "float32"
        self.bn = batch_norm(channels, f"{prefix}_bn", fix_gamma)

    def cast(self, dtype: Any) -> None:
        """See Block; the mean's constant weights follow."""
        super().cast(dtype)
        self._dtype = dtype

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """See the class."""
        # A constant depthwise convolution: the same numbers as Pooling, several times faster on the CPU.
        side = self._kernel
        weight = np.full((self._channels, 1, side, side), 1 / side**2, self._dtype)
        return self._end(F, depthwise(F, x, constant(F, weight), self._channels, (side, side)))


_BY_KIND = {"sep_conv": SeparableConv, "max_pool": MaxPool, "avg_pool": AvgPool}


def make_operation(operation: Operation, channels: int, prefix: str, fix_gamma: bool = False,
                   dilation: int = 1, activate: bool = True) -> CandidateOperation:
    """Build `operation`; its parameters are called `{prefix}_{token}_...` as in the published code.

    `dilation` spreads the depthwise kernel of a separable convolution, for backbones that keep their resolution. Pools
    have no weights that were learned on a coarser map, and MXNet's Pooling no dilation: their window stays 3x3.
    Without `activate` the ReLU is left to the caller.
    """
    return _BY_KIND[operation.kind](operation, channels, f"{prefix}_{operation.token}", fix_gamma, dilation, activate)
