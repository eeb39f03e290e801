"""A UNet over the frames of a clip: blocks that halve the image, one in the middle, blocks that double it.

A family says which layers each block has; the order of computation is defined here. A layer takes images and
the step's `Context`. Each kind of layer has its own list, with the checkpoint's name (`resnets`,
`attentions`, …), and the lists are iterated in lockstep, so that a gang can shard each of them.

Source: Ronneberger et al. 2015 (arXiv:1505.04597), and Rombach et al. 2022 (arXiv:2112.10752).

Letters: B samples, f frames of this rank, N = B * f images, samples first; C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from vidgen_dist import nn
from vidgen_dist.families.common.unet_layers import (
    PROJECTION_EPS,
    BasicTransformerBlock,
    Downsample2D,
    ResnetBlock2D,
    Transformer2DModel,
    Upsample2D,
    to_clips,
    to_image,
    to_images,
    to_tokens,
)
from vidgen_dist.parallel.frame_split import FrameSplit, FrameSplitGroupNorm


@dataclass(frozen=True)
class Context:
    """What the layers of a step get in addition to the images.

    Args:
        split: How the clip's frames are divided.
        time: The time embedding, (B, E).
        text: What a sample's images attend to: (B, M, X).
    """

    split: FrameSplit
    time: nn.Tensor
    text: nn.Tensor

    @property
    def batch(self) -> int:
        """B."""
        return len(self.time)


Lists = Mapping[str, Sequence[nn.Module]]
"""Layers of a block by the names of their lists, in the order in which they run. A list may be empty, so that
a model's class can name it as sharded for all its blocks."""


class ImageResnet(ResnetBlock2D):
    """A residual block of a UNet."""

    def construct(self, x: nn.Tensor, context: Context) -> nn.Tensor:  # type: ignore[override]
        return super().construct(x, context.time)


class ImageTransformer(Transformer2DModel):
    """A transformer within each image, with attention to the prompt."""

    def construct(self, x: nn.Tensor, context: Context) -> nn.Tensor:
        return super().construct(x, context.text)


class FrameTransformer(nn.Module):
    """Transformer blocks over the frames at each place, with a residual.

    Args:
        channels: C.
        heads, head_dim: Attention heads, and their width.
        layers: Number of blocks.
        groups: Groups of the norm in front, which covers the whole clip.
        positions: The largest number of frames for which there are positions; None: frames have none.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        head_dim: int,
        layers: int,
        groups: int,
        positions: int | None = None,
    ) -> None:
        super().__init__()
        inner = heads * head_dim
        self.norm = FrameSplitGroupNorm(groups, channels, PROJECTION_EPS)
        self.proj_in = nn.Linear(channels, inner)
        self.transformer_blocks = nn.ModuleList(
            [
                BasicTransformerBlock(inner, heads, head_dim, double_self_attention=True, positions=positions)
                for _ in range(layers)
            ]
        )
        self.proj_out = nn.Linear(inner, channels)

    def construct(self, x: nn.Tensor, context: Context) -> nn.Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        normed = to_images(self.norm(to_clips(x, context.batch), context.split))
        return nn.add(x, between_frames(normed, context, self._mix))

    def _mix(self, tokens: nn.Tensor) -> nn.Tensor:
        tokens = self.proj_in(tokens)
        for block in self.transformer_blocks:
            tokens = block(tokens)
        return self.proj_out(tokens)


def between_frames(x: nn.Tensor, context: Context, run: Callable[[nn.Tensor], nn.Tensor]) -> nn.Tensor:
    """As `tokens_between_frames`, for images x (N, C, H, W)."""
    return to_image(tokens_between_frames(to_tokens(x), context, run), x.shape[2:])


def tokens_between_frames(
    tokens: nn.Tensor, context: Context, run: Callable[[nn.Tensor], nn.Tensor]
) -> nn.Tensor:
    """Run a function that mixes the frames of each place.

    Args:
        tokens: The places of images, (N, H * W, C).
        context: The step's context.
        run: Takes all frames of some places, each place a sequence, (B * n, F, C), and returns the same
            shape. It must not communicate with other ranks: see `FrameSplit.over_time`.

    Returns:
        (N, H * W, C).
    """
    batch = context.batch
    images, places, channels = tokens.shape

    def of_places(clip: nn.Tensor) -> nn.Tensor:
        _, frames, own, _ = clip.shape
        sequences = nn.reshape(clip.permute(0, 2, 1, 3), (batch * own, frames, channels))
        return nn.reshape(run(sequences), (batch, own, frames, channels)).permute(0, 2, 1, 3)

    mixed = context.split.over_time(nn.reshape(tokens, (batch, images // batch, places, channels)), of_places)
    return nn.reshape(mixed, tokens.shape)


def sharded_lists(*names: str) -> tuple[str, ...]:
    """The value of `sharded` for a UNet whose blocks have lists with these names."""
    blocks = ("down_blocks.*", "mid_block", "up_blocks.*")
    return tuple(f"{block}.{name}" for block in blocks for name in names)


class _LockstepBlock(nn.Module):
    """Layers in lists that are iterated in lockstep; empty lists are skipped."""

    def __init__(self, lists: Lists) -> None:
        super().__init__()
        self._names = tuple(name for name, layers in lists.items() if layers)
        for name, layers in lists.items():
            setattr(self, name, nn.ModuleList(layers))

    def _in_lockstep(self, names: Iterable[str]) -> Iterator[tuple[nn.Module, ...]]:
        """The first layers of these lists, then the second ones, and so on. Lists may be sharded."""
        return zip(*(getattr(self, name) for name in names), strict=True)


class DownBlock(_LockstepBlock):
    """Layers at one size of the image, then a layer that halves it.

    Args:
        lists: The layers.
        downsampler: Halves the image; None in the last block.
    """

    def __init__(self, lists: Lists, downsampler: Downsample2D | None) -> None:
        super().__init__(lists)
        self.downsamplers = None if downsampler is None else nn.ModuleList([downsampler])

    def construct(self, x: nn.Tensor, context: Context) -> list[nn.Tensor]:
        """x (N, C, H, W) to its state after each layer: all are skip connections, and the last goes on."""
        kept = []
        for layers in self._in_lockstep(self._names):
            x = _run(layers, x, context)
            kept.append(x)
        if self.downsamplers is not None:
            kept.append(self.downsamplers[0](x))
        return kept


class MidBlock(_LockstepBlock):
    """Layers at the smallest size of the image.

    Args:
        outer: Lists with one layer more than the others: they run before and after each of the others.
        inner: The other lists.
    """

    def __init__(self, outer: Lists, inner: Lists) -> None:
        super().__init__({**outer, **inner})
        self._outer, self._inner = (
            tuple(name for name in some if name in self._names) for some in (outer, inner)
        )

    def construct(self, x: nn.Tensor, context: Context) -> nn.Tensor:
        outer = self._in_lockstep(self._outer)
        x = _run(next(outer), x, context)
        for layers in self._in_lockstep(self._inner):
            x = _run(layers, x, context)
            x = _run(next(outer), x, context)
        return x


class UpBlock(_LockstepBlock):
    """Layers at one size of the image, each with a skip connection; then a layer that doubles it.

    Args:
        lists: The layers.
        upsampler: Doubles the image; None in the last block.
    """

    def __init__(self, lists: Lists, upsampler: Upsample2D | None) -> None:
        super().__init__(lists)
        self.upsamplers = None if upsampler is None else nn.ModuleList([upsampler])

    def construct(self, x: nn.Tensor, left: list[nn.Tensor], context: Context) -> nn.Tensor:
        """
        Args:
            x: (N, C, H, W).
            left: The skip connections; this block removes its own from the end.
            context: The step's context.
        """
        for layers in self._in_lockstep(self._names):
            x = _run(layers, nn.cat([x, left.pop()], 1), context)
        if self.upsamplers is None:
            return x
        # An image of odd size is halved to more than half of it.
        return self.upsamplers[0](x, left[-1].shape[2:])


def run_unet(
    x: nn.Tensor,
    down_blocks: Iterable[nn.Module],
    mid_block: nn.Module,
    up_blocks: Iterable[nn.Module],
    context: Context,
) -> nn.Tensor:
    """Images (N, C, H, W) through all blocks."""
    left = [x]
    for block in down_blocks:
        left += block(left[-1], context)
    x = mid_block(left[-1], context)
    for block in up_blocks:
        x = block(x, left, context)
    return x


def _run(layers: Iterable[nn.Module], x: nn.Tensor, context: Context) -> nn.Tensor:
    for layer in layers:
        x = layer(x, context)
    return x


def down_inputs(channels: Sequence[int], layers: int, block: int) -> list[int]:
    """C before each layer of a block that halves the image.

    Args:
        channels: C after each of these blocks.
        layers: Number of layers in the block.
        block: The block's number.
    """
    return [channels[max(block - 1, 0)]] + [channels[block]] * (layers - 1)


def up_inputs(channels: Sequence[int], layers: int, block: int) -> list[int]:
    """C before each layer of a block that doubles the image, with the skip connection.

    Args:
        channels: C after each block that halves the image.
        layers: Number of layers in the block, one more than in its counterpart.
        block: The block's number.
    """
    upwards = list(reversed(channels))
    own, below = upwards[block], upwards[max(block - 1, 0)]
    above = upwards[min(block + 1, len(upwards) - 1)]
    before = [below] + [own] * (layers - 1)
    left = [own] * (layers - 1) + [above]
    return [a + b for a, b in zip(before, left, strict=True)]
