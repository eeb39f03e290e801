"""I2VGen-XL's UNet (Zhang et al. 2023, arXiv:2311.04145), with layers over frames between layers over images.

The image is used in three ways: its latents are appended to the noisy ones as channels; and tokens made from
its latents and from its CLIP vector follow those of the text, to which all frames attend. Parameters are
named as in diffusers.

Letters: B samples, F frames, f frames of this rank, N = B * f images, C channels, H rows, W columns, L text
tokens, M context tokens, X their width, E width of the time embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vidgen_dist import nn
from vidgen_dist.families.common.layers import FeedForward, TimestepEmbedding
from vidgen_dist.families.common.unet import (
    Context,
    DownBlock,
    FrameTransformer,
    ImageResnet,
    ImageTransformer,
    Lists,
    MidBlock,
    UpBlock,
    between_frames,
    down_inputs,
    run_unet,
    sharded_lists,
    up_inputs,
)
from vidgen_dist.families.common.unet_layers import (
    NORM_EPS,
    Attention,
    Downsample2D,
    Upsample2D,
    to_clips,
    to_images,
    to_tokens,
)
from vidgen_dist.families.i2vgen_xl.config import (
    CROSS_DOWN,
    CROSS_UP,
    HEADS_IN,
    IMAGE_HEADS,
    POOLED,
    UNetConfig,
)
from vidgen_dist.nn.embeddings import timestep_embedding
from vidgen_dist.parallel.frame_split import FrameSplit, FrameSplitGroupNorm, TemporalConv
from vidgen_dist.parallel.mesh import Mesh, alone

EPS = 1e-5
"""Epsilon of the norms of residual blocks, of convolutions over frames and of the output."""


class I2VGenXLUNet(nn.Module):
    """Predicts the noise in noisy latents.

    Args:
        config: `unet/config.json`.
        mesh: The gang that predicts together, each rank its frames; by default one rank.
    """

    # Sharded over the ranks of a gang: see `parallel.sharding`.
    sharded = sharded_lists("resnets", "temp_convs", "attentions", "temp_attentions")

    def __init__(self, config: UNetConfig, mesh: Mesh | None = None) -> None:
        super().__init__()
        self.config = config
        self.mesh = mesh or alone()
        channels, first = config.in_channels, config.block_out_channels[0]
        self.conv_in = _conv(2 * channels, first)
        self.transformer_in = _frame_transformer(config, first, HEADS_IN)
        self.time_embedding = TimestepEmbedding(first, config.time_dim)
        time, attended = config.time_dim, config.cross_attention_dim
        self.fps_embedding = ActivatedLayers([nn.Linear(first, time), nn.Linear(time, time)])
        self.context_embedding = ActivatedLayers(
            [nn.Linear(attended, time), nn.Linear(time, channels * attended)]
        )
        self.image_latents_proj_in = ActivatedLayers(
            [_conv(channels, 4 * channels), _conv(4 * channels, 4 * channels), _conv(4 * channels, channels)]
        )
        self.image_latents_temporal_encoder = ImageTemporalEncoder(channels)
        self.image_latents_context_embedding = ImageTokens(channels, config.cross_attention_dim)
        self.down_blocks = nn.ModuleList(_down_blocks(config))
        self.mid_block = _mid_block(config)
        self.up_blocks = nn.ModuleList(_up_blocks(config))
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, first, EPS)
        self.conv_out = _conv(first, config.out_channels)

    def construct(
        self,
        latents: nn.Tensor,
        timesteps: np.ndarray,
        fps: np.ndarray,
        text: nn.Tensor,
        image_latents: nn.Tensor,
        image_vector: nn.Tensor,
    ) -> nn.Tensor:
        """
        Args:
            latents: Noisy latents (B, 4, F, H, W).
            timesteps: (B,).
            fps: The videos' frames per second, (B,).
            text: Text hidden states (B, L, X).
            image_latents: The image's latents in the first frame; in every later frame its position in the
                clip, from above 0 to 1: (B, 4, F, H, W).
            image_vector: The image's CLIP vector, (B, X); zeros for the unconditional half.

        Returns:
            The prediction (B, 4, F, H, W), on every rank.
        """
        batch, _, frames = latents.shape[:3]
        split = FrameSplit.divide(self.mesh.sequence, frames)
        context = Context(
            split,
            time=self._time(timesteps, fps, latents.dtype),
            text=self._attended(text, image_latents[:, :, 0], image_vector),
        )
        image = self._image_frames(split.take(image_latents), context)
        x = self.conv_in(to_images(nn.cat([split.take(latents), image], 1)))
        x = self.transformer_in(x, context)
        x = run_unet(x, self.down_blocks, self.mid_block, self.up_blocks, context)
        x = self.conv_out(self.conv_norm_out(x, silu=True))
        return split.gather(to_clips(x, batch))

    def _time(self, timesteps: np.ndarray, fps: np.ndarray, dtype: Any) -> nn.Tensor:
        """The embedding of the time and of the frames per second, (B, E)."""

        def waves(values: np.ndarray) -> nn.Tensor:
            width = self.config.block_out_channels[0]
            return nn.from_numpy(timestep_embedding(values, width, flip_sin_to_cos=True, freq_shift=0), dtype)

        return nn.add(self.time_embedding(waves(timesteps)), self.fps_embedding(waves(fps)))

    def _attended(self, text: nn.Tensor, image_latents: nn.Tensor, image_vector: nn.Tensor) -> nn.Tensor:
        """The context of all frames of a sample: the text, the image's latents and its vector, (B, M, X)."""
        of_latents = self.image_latents_context_embedding(image_latents)
        of_vector = self.context_embedding(image_vector)
        of_vector = nn.reshape(of_vector, (len(text), self.config.in_channels, -1))
        return nn.cat([text, of_latents, of_vector], 1)

    def _image_frames(self, image_latents: nn.Tensor, context: Context) -> nn.Tensor:
        """The image's channels for this rank's frames, (B, 4, f, H, W)."""
        x = self.image_latents_proj_in(to_images(image_latents))
        return to_clips(between_frames(x, context, self.image_latents_temporal_encoder), context.batch)


class ActivatedLayers(nn.ModuleList):
    """Layers with activations between them, which the checkpoint numbers as layers, too."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__(layers[:1])
        for layer in layers[1:]:
            self.append(nn.Module())
            self.append(layer)

    def construct(self, x: nn.Tensor) -> nn.Tensor:
        first, *others = list(self)[::2]
        x = first(x)
        for layer in others:
            x = layer(nn.silu(x))
        return x


class ImageTokens(nn.ModuleList):
    """An image's latents (B, 4, H, W), of any size, to 64 tokens (B, 64, X)."""

    def __init__(self, channels: int, dim: int) -> None:
        # The checkpoint also numbers layers without weights.
        super().__init__(
            [
                _conv(channels, 8 * channels),
                nn.Module(),
                nn.Module(),
                _conv(8 * channels, 16 * channels, stride=2),
                nn.Module(),
                _conv(16 * channels, dim, stride=2),
            ]
        )

    def construct(self, latents: nn.Tensor) -> nn.Tensor:
        first, second, third = self[0], self[3], self[5]
        pooled = average_pool(nn.silu(first(latents)), POOLED)
        return to_tokens(third(nn.silu(second(pooled))))


class ImageTemporalEncoder(nn.Module):
    """Attention between the frames at each place of the image's latents, and a feed-forward."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, NORM_EPS)
        self.attn1 = Attention(channels, None, IMAGE_HEADS, channels)
        self.ff = FeedForward(channels, "gelu", 4 * channels)

    def construct(self, x: nn.Tensor) -> nn.Tensor:
        """(places, F, C) to the same."""
        x = nn.add(x, self.attn1(self.norm1(x)))
        return nn.add(x, self.ff(x))


class TemporalConvLayer(nn.Module):
    """Four convolutions over frames, each after a norm over the whole clip, with a residual."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()

        def stage(dropout: bool) -> nn.ModuleList:
            # The checkpoint also numbers the activation and, from the second on, a dropout.
            skipped = [nn.Module(), nn.Module()] if dropout else [nn.Module()]
            return nn.ModuleList(
                [FrameSplitGroupNorm(groups, channels, EPS), *skipped, TemporalConv(channels, channels)]
            )

        self.conv1 = stage(dropout=False)
        self.conv2, self.conv3, self.conv4 = (stage(dropout=True) for _ in range(3))

    def construct(self, x: nn.Tensor, context: Context) -> nn.Tensor:
        """x (N, C, H, W) to the same."""
        split, clips = context.split, to_clips(x, context.batch)
        for stage in (self.conv1, self.conv2, self.conv3, self.conv4):
            clips = stage[-1](stage[0](clips, split, silu=True), split)
        return nn.add(x, to_images(clips))


# Parts of the blocks. --------------------------------------------------------------------------


def _convolving(config: UNetConfig, inputs: Sequence[int], channels: int) -> Lists:
    """Residual blocks with these numbers of input channels, each followed by a convolution over frames."""
    groups = config.norm_num_groups
    return {
        "resnets": [ImageResnet(before, channels, config.time_dim, groups, EPS) for before in inputs],
        "temp_convs": [TemporalConvLayer(channels, groups) for _ in inputs],
    }


def _attending(config: UNetConfig, channels: int, layers: int) -> Lists:
    """Attention over an image's places, each followed by attention over frames."""
    heads, width = config.heads(channels), config.attention_head_dim
    attended, groups = config.cross_attention_dim, config.norm_num_groups
    return {
        "attentions": [
            ImageTransformer(heads, width, channels, 1, attended, groups, use_linear_projection=True)
            for _ in range(layers)
        ],
        "temp_attentions": [_frame_transformer(config, channels, heads) for _ in range(layers)],
    }


def _down_blocks(config: UNetConfig) -> list[DownBlock]:
    widths, layers = config.block_out_channels, config.layers_per_block
    blocks = []
    for i, (channels, kind) in enumerate(zip(widths, config.down_block_types, strict=True)):
        convolving = _convolving(config, down_inputs(widths, layers, i), channels)
        lists = {**convolving, **_attending(config, channels, layers if kind == CROSS_DOWN else 0)}
        last = i == len(widths) - 1
        blocks.append(DownBlock(lists, None if last else Downsample2D(channels, channels)))
    return blocks


def _mid_block(config: UNetConfig) -> MidBlock:
    channels = config.block_out_channels[-1]
    return MidBlock(_convolving(config, [channels] * 2, channels), _attending(config, channels, 1))


def _up_blocks(config: UNetConfig) -> list[UpBlock]:
    widths, layers = config.block_out_channels, config.layers_per_block + 1
    blocks = []
    for i, (channels, kind) in enumerate(zip(reversed(widths), config.up_block_types, strict=True)):
        convolving = _convolving(config, up_inputs(widths, layers, i), channels)
        lists = {**convolving, **_attending(config, channels, layers if kind == CROSS_UP else 0)}
        last = i == len(widths) - 1
        blocks.append(UpBlock(lists, None if last else Upsample2D(channels, channels)))
    return blocks


def _frame_transformer(config: UNetConfig, channels: int, heads: int) -> FrameTransformer:
    return FrameTransformer(channels, heads, config.attention_head_dim, 1, config.norm_num_groups)


def _conv(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)


def average_pool(x: nn.Tensor, size: int) -> nn.Tensor:
    """x (B, C, H, W) averaged over size * size windows, (B, C, size, size), as by torch's AdaptiveAvgPool2d.

    Windows overlap if the size does not divide the image's; in a smaller image, places are in several
    windows.
    """
    # In float32: the rounded weights of a window do not add up to 1.
    rows, columns = (nn.from_numpy(_window_shares(length, size)) for length in x.shape[2:])
    return nn.matmul(nn.matmul(rows, x.astype(nn.float32)), columns.permute(1, 0)).astype(x.dtype)


def _window_shares(length: int, windows: int) -> np.ndarray:
    """Each place's weight in each window's mean, (windows, length) float32."""
    shares = np.zeros((windows, length), np.float32)
    for i in range(windows):
        start, stop = i * length // windows, -(-(i + 1) * length // windows)
        shares[i, start:stop] = 1 / (stop - start)
    return shares
