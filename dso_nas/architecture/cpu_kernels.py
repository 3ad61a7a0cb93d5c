"""For which sizes oneDNN has fast depthwise kernels: what a network that trains on the CPU goes by."""

from __future__ import annotations

# Channels that its layouts hold side by side, at least.
_BLOCK = 8
# Columns of the widest kernel with a fast weight gradient.
_COLUMNS = 3


def fits_blocks(channels: int) -> bool:
    """Whether so many channels have fast kernels at all."""
    return channels % _BLOCK == 0


def is_wide(kernel: int, dilation: int) -> bool:
    """Whether a kernel (kernel x kernel) is worth splitting by columns; a dilated one is slow however it is split."""
    return kernel > _COLUMNS and dilation == 1
