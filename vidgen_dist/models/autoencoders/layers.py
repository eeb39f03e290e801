"""What autoencoders of several families are made of. Parameters are named as in diffusers.

Letters: B videos, C channels, T frames, H rows, W columns.
"""

from __future__ import annotations

from vidgen_dist import nn
from vidgen_dist.parallel.rows import Rows

Steps = tuple[int, int, int]
"""By how much frames, rows and columns are fewer, or more."""


class CausalConv3d(nn.Module):
    """A 3D convolution of (B, C, T, H, W) that sees no later frame.

    Before the first frame stands the first frame again, around the image its edge.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int | Steps = 3, stride: Steps = (1, 1, 1)
    ) -> None:
        super().__init__()
        frames, *sides = (kernel_size,) * 3 if isinstance(kernel_size, int) else kernel_size
        above, left = ((side - 1) // 2 for side in sides)
        self._padding = (left, left, above, above, frames - 1, 0)
        self.conv = nn.Conv3d(in_channels, out_channels, kernel_size, stride)

    def construct(self, x: nn.Tensor, rows: Rows) -> nn.Tensor:
        return self.conv(rows.pad(x, self._padding, "replicate") if any(self._padding) else x)


def to_channels(x: nn.Tensor, stride: Steps) -> nn.Tensor:
    """x (B, C, T, H, W), `stride` frames, rows and columns of it as channels."""
    batch, channels, *size = x.shape
    frames, rows, columns = (n // s for n, s in zip(size, stride, strict=True))
    st, sh, sw = stride
    cut = nn.reshape(x, (batch, channels, frames, st, rows, sh, columns, sw)).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return nn.reshape(cut, (batch, channels * st * sh * sw, frames, rows, columns))


def from_channels(x: nn.Tensor, stride: Steps) -> nn.Tensor:
    """What `to_channels` takes to x."""
    batch, _, frames, rows, columns = x.shape
    st, sh, sw = stride
    cut = nn.reshape(x, (batch, -1, st, sh, sw, frames, rows, columns)).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return nn.reshape(cut, (batch, -1, frames * st, rows * sh, columns * sw))
