"""Layers that the autoencoders of several families use. Parameters are named as in diffusers.

Letters: B videos, C channels, T frames, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from vidgen_dist import nn
from vidgen_dist.parallel.spatial_split import SpatialSplit

Strides = tuple[int, int, int]
"""Factors by which frames, rows and columns are reduced or increased."""


class FrameCache:
    """The last input frames of causal convolutions, for the next batch of frames of the same video.

    Args:
        split: Which rows of the video this rank has; by default all.
    """

    def __init__(self, split: SpatialSplit | None = None) -> None:
        self.split = split or SpatialSplit()
        self._frames: dict[int, nn.Tensor] = {}
        # False for the last batch, whose frames are not needed again.
        self.keeps = True

    def before(self, conv: nn.Module) -> nn.Tensor | None:
        """The frames that `store` got in the previous batch; None at the video's start."""
        return self._frames.pop(id(conv), None)

    def store(self, conv: nn.Module, frames: nn.Tensor) -> None:
        """Keep frames (B, C, kernel - 1, H, W), with the neighbours' rows, which are exchanged once."""
        if self.keeps:
            # A copy: a view would keep the whole batch of frames alive.
            self._frames[id(conv)] = nn.copy(frames)


class CausalConv3d(nn.Module):
    """A 3D convolution of (B, C, T, H, W) that sees no later frame.

    Before the first frame it sees the first frame repeated, and around the image its edge repeated.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int | Strides = 3, stride: Strides = (1, 1, 1)
    ) -> None:
        super().__init__()
        frames, *sides = (kernel_size,) * 3 if isinstance(kernel_size, int) else kernel_size
        above, left = ((side - 1) // 2 for side in sides)
        self._history = frames - 1
        self._edge = (left, left, above, above)
        self.conv = nn.Conv3d(in_channels, out_channels, kernel_size, stride)

    def construct(self, x: nn.Tensor, split: SpatialSplit, cache: FrameCache | None = None) -> nn.Tensor:
        """The frames of x. With a cache they follow the frames of the last call, and are stored in it."""
        before = None if cache is None else cache.before(self)
        padding = (*self._edge, self._history if before is None else 0, 0)
        if any(padding):
            x = split.pad(x, padding, "replicate")
        if before is not None:
            x = nn.cat([before, x], 2)
        if cache is not None and self._history:
            cache.store(self, x[:, :, -self._history :])
        return self.conv(x)


def to_channels(x: nn.Tensor, stride: Strides) -> nn.Tensor:
    """Move frames, rows and columns to channels.

    Args:
        x: (B, C, T, H, W).
        stride: How many frames, rows and columns become one; the channels grow by their product.
    """
    batch, channels, *size = x.shape
    frames, rows, columns = (n // s for n, s in zip(size, stride, strict=True))
    st, sh, sw = stride
    cut = nn.reshape(x, (batch, channels, frames, st, rows, sh, columns, sw)).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return nn.reshape(cut, (batch, channels * st * sh * sw, frames, rows, columns))


def from_channels(x: nn.Tensor, stride: Strides) -> nn.Tensor:
    """The inverse of `to_channels`.

    Args:
        x: (B, C * the product of `stride`, T, H, W).
        stride: How many frames, rows and columns each becomes.
    """
    batch, _, frames, rows, columns = x.shape
    st, sh, sw = stride
    cut = nn.reshape(x, (batch, -1, st, sh, sw, frames, rows, columns)).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return nn.reshape(cut, (batch, -1, frames * st, rows * sh, columns * sw))


def in_frame_batches(
    x: nn.Tensor, at_once: int, run: Callable[[nn.Tensor, FrameCache], nn.Tensor], split: SpatialSplit
) -> nn.Tensor:
    """Run x (B, C, T, h, W) through `at_once` frames at a time; the first batch also has the remainder."""
    frames = x.shape[2]
    batches = max(frames // at_once, 1)
    ends = [frames - at_once * later for later in reversed(range(batches))]
    cache = FrameCache(split)
    done = []
    for start, end in pairwise([0, *ends]):
        cache.keeps = end < frames
        done.append(run(x[:, :, start:end], cache))
    return done[0] if batches == 1 else nn.cat(done, axis=2)
