"""Mochi's asymmetric autoencoder: videos to latents of twelve channels, and back with a larger decoder.

The encoder sees colours together with their sines and cosines, and attends from each place to its own past;
the decoder has convolutions only. Every frame is normalised separately. Source: Genmo 2024, "Mochi 1"
(github.com/genmoai/mochi); the reference is diffusers 0.35.2, `AutoencoderKLMochi`, with the same parameter
names and configuration keys.

Shapes: B videos, C channels, T frames, H rows, W columns; latents have Z channels and the smaller t, h, w.
A gang splits the video into rows: each module works on its rank's rows, and gets what it needs of the others'
through `SpatialSplit`.
"""

from __future__ import annotations

import math

import numpy as np

from vidgen_dist import nn
from vidgen_dist.families.common.autoencoder import VideoAutoencoder
from vidgen_dist.families.common.autoencoder_layers import (
    CausalConv3d,
    FrameCache,
    Strides,
    from_channels,
    in_frame_batches,
)
from vidgen_dist.families.mochi.config import GROUPS, LATENT_FRAMES_AT_ONCE, OCTAVES, VaeConfig
from vidgen_dist.nn.activations import Activation, of_diffusers
from vidgen_dist.parallel.mesh import Mesh
from vidgen_dist.parallel.spatial_split import SpatialSplit, SpatialSplitGroupNorm

HEAD = 32
"""Channels of a head."""

HEAD_EPS = 1e-5
"""The smallest length that queries and keys are divided by."""


class FrameNorm(nn.Module):
    """Group norm of every frame of (B, C, T, H, W) separately, and an activation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm_layer = SpatialSplitGroupNorm(GROUPS, channels)

    def construct(self, x: nn.Tensor, split: SpatialSplit, activation: Activation | None = None) -> nn.Tensor:
        batch, channels, frames, height, width = x.shape
        alone = nn.reshape(x.permute(0, 2, 1, 3, 4), (batch * frames, channels, 1, height, width))
        normed = self.norm_layer(alone, split)
        if activation is not None:
            normed = activation(normed)
        return nn.reshape(normed, (batch, frames, channels, height, width)).permute(0, 2, 1, 3, 4)


class ResnetBlock3D(nn.Module):
    """Two causal convolutions with a residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = FrameNorm(channels)
        self.conv1 = CausalConv3d(channels, channels)
        self.norm2 = FrameNorm(channels)
        self.conv2 = CausalConv3d(channels, channels)

    def construct(self, x: nn.Tensor, cache: FrameCache) -> nn.Tensor:
        split = cache.split
        hidden = self.conv1(self.norm1(x, split, nn.silu), split, cache)
        return nn.add(self.conv2(self.norm2(hidden, split, nn.silu), split, cache), x)


class PastAttention(nn.Module):
    """Attention from every place to itself, in its own frame and in earlier ones."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self._heads = channels // HEAD
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(channels, channels, bias=False)
        self.to_v = nn.Linear(channels, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def construct(self, x: nn.Tensor) -> nn.Tensor:
        """x (B, C, T, H, W) to the same."""
        batch, channels, frames, height, width = x.shape
        places = nn.reshape(x.permute(0, 3, 4, 2, 1), (batch * height * width, frames, channels))
        mixed = self.to_v(places) if frames == 1 else self._mixed(places)
        mixed = nn.reshape(self.to_out[0](mixed), (batch, height, width, frames, channels))
        return mixed.permute(0, 4, 3, 1, 2)

    def _mixed(self, places: nn.Tensor) -> nn.Tensor:
        """(places, T, C) to the same."""
        count, frames, channels = places.shape
        # Queries and keys are divided by their lengths, which are root mean squares times sqrt(HEAD).
        query, key = (
            nn.rms_norm(self._in_heads(linear(places)), eps=HEAD_EPS**2 / HEAD)
            for linear in (self.to_q, self.to_k)
        )
        past = np.tril(np.ones((1, 1, frames, frames), np.bool_))
        mixed = nn.attention(
            query, key, self._in_heads(self.to_v(places)), mask=nn.from_numpy(past), scale=HEAD**-1.5
        )
        return nn.reshape(mixed.permute(0, 2, 1, 3), (count, frames, channels))

    def _in_heads(self, x: nn.Tensor) -> nn.Tensor:
        """(places, T, C) to (places, heads, T, HEAD)."""
        count, frames, _ = x.shape
        return nn.reshape(x, (count, frames, self._heads, HEAD)).permute(0, 2, 1, 3)


class Layers(nn.Module):
    """Residual blocks, each followed by attention if the config has it."""

    def __init__(self, channels: int, layers: int, attention: bool) -> None:
        super().__init__()
        attentions = layers if attention else 0
        self.resnets = nn.ModuleList([ResnetBlock3D(channels) for _ in range(layers)])
        self.norms = nn.ModuleList([FrameNorm(channels) for _ in range(attentions)])
        self.attentions = nn.ModuleList([PastAttention(channels) for _ in range(attentions)])

    def construct(self, x: nn.Tensor, cache: FrameCache) -> nn.Tensor:
        """x (B, C, T, H, W) to the same."""
        for i, resnet in enumerate(self.resnets):
            x = resnet(x, cache)
            if len(self.attentions):
                x = nn.add(self.attentions[i](self.norms[i](x, cache.split)), x)
        return x


class DownBlock3D(Layers):
    """A convolution that reduces frames, rows and columns, then layers."""

    def __init__(
        self, in_channels: int, out_channels: int, layers: int, strides: Strides, attention: bool
    ) -> None:
        super().__init__(out_channels, layers, attention)
        self.conv_in = CausalConv3d(in_channels, out_channels, strides, strides)

    def construct(self, x: nn.Tensor, cache: FrameCache) -> nn.Tensor:
        return super().construct(self.conv_in(x, cache.split, cache), cache)


class UpBlock3D(nn.Module):
    """Residual blocks, then more frames, rows and columns from channels."""

    def __init__(self, in_channels: int, out_channels: int, layers: int, strides: Strides) -> None:
        super().__init__()
        self._strides = strides
        self.resnets = nn.ModuleList([ResnetBlock3D(in_channels) for _ in range(layers)])
        self.proj = PlaceLinear(in_channels, out_channels * math.prod(strides))

    def construct(self, x: nn.Tensor, cache: FrameCache) -> nn.Tensor:
        for resnet in self.resnets:
            x = resnet(x, cache)
        return from_channels(self.proj(x), self._strides)


class PlaceLinear(nn.Linear):
    """A linear map of the channels of (B, C, T, H, W), at every place."""

    def construct(self, x: nn.Tensor) -> nn.Tensor:
        return nn.conv3d(x, nn.reshape(self.weight, (*self.weight.shape, 1, 1, 1)), self.bias)


def with_waves(x: nn.Tensor) -> nn.Tensor:
    """Append to colours (B, C, T, H, W) their sines and cosines, by octave: five times the channels."""
    batch, channels, *size = x.shape
    rates = np.array([2.0**octave * 2 * np.pi for octave in OCTAVES], np.float32)
    angles = nn.multiply(x[:, :, None], nn.from_numpy(rates.reshape(1, 1, -1, 1, 1, 1)))
    angles = nn.reshape(angles, (batch, channels * len(OCTAVES), *size))
    return nn.cat([x, nn.sin(angles), nn.cos(angles)], 1)


class Encoder3D(nn.Module):
    """Frames (B, C, T, H, W) to the moments of the latents (B, 2 Z, t, h, w)."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        channels = config.encoder_block_out_channels
        layers, attention = config.layers_per_block, config.add_attention_block
        self._activation = of_diffusers(config.act_fn)
        self.proj_in = PlaceLinear(config.in_channels, channels[0])
        self.block_in = Layers(channels[0], layers[0], attention[0])
        self.down_blocks = nn.ModuleList(
            DownBlock3D(channels[i], channels[i + 1], layers[i + 1], config.strides(i), attention[i + 1])
            for i in range(len(channels) - 1)
        )
        self.block_out = Layers(channels[-1], layers[-1], attention[-1])
        self.norm_out = FrameNorm(channels[-1])
        self.proj_out = PlaceLinear(channels[-1], 2 * config.latent_channels, bias=False)

    def construct(self, x: nn.Tensor, cache: FrameCache) -> nn.Tensor:
        # The angles are up to 800, which is too much for half precision.
        x = self.proj_in(with_waves(x.astype(nn.float32)).astype(x.dtype))
        for block in (self.block_in, *self.down_blocks, self.block_out):
            x = block(x, cache)
        return self.proj_out(self.norm_out(x, cache.split, self._activation))


class Decoder3D(nn.Module):
    """Latents (B, Z, t, h, w) to frames (B, C, T, H, W); the first ones have no past."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        channels, layers = config.decoder_block_out_channels, config.layers_per_block
        self._activation = of_diffusers(config.act_fn)
        self.conv_in = nn.Conv3d(config.latent_channels, channels[-1], 1)
        self.block_in = Layers(channels[-1], layers[-1], attention=False)
        self.up_blocks = nn.ModuleList(
            UpBlock3D(channels[-i - 1], channels[-i - 2], layers[-i - 2], config.strides(-i - 1))
            for i in range(len(channels) - 1)
        )
        self.block_out = Layers(channels[0], layers[0], attention=False)
        self.proj_out = PlaceLinear(channels[0], config.out_channels)

    def construct(self, x: nn.Tensor, cache: FrameCache) -> nn.Tensor:
        x = self.conv_in(x)
        for block in (self.block_in, *self.up_blocks, self.block_out):
            x = block(x, cache)
        return self.proj_out(self._activation(x))


class AutoencoderKLMochi(VideoAutoencoder):
    """Mochi's autoencoder.

    Args:
        config: `vae/config.json`.
        mesh: As in `VideoAutoencoder`.
    """

    config: VaeConfig

    def __init__(self, config: VaeConfig, mesh: Mesh | None = None) -> None:
        super().__init__(config, config.spatial_compression_ratio, mesh)
        self.encoder = Encoder3D(config)
        self.decoder = Decoder3D(config)
        self.latent_frames_at_once = LATENT_FRAMES_AT_ONCE

    def _encode(self, video: nn.Tensor, split: SpatialSplit) -> nn.Tensor:
        # All frames at once: attention sees the whole past.
        return in_frame_batches(video, video.shape[2], self.encoder, split)

    def _decode(self, latents: nn.Tensor, split: SpatialSplit) -> nn.Tensor:
        frames = in_frame_batches(latents, self.latent_frames_at_once, self.decoder, split)
        # The first latent frame belongs to the first frame alone.
        extra = self.config.temporal_compression_ratio - 1
        return frames[:, :, extra:] if frames.shape[2] > extra else frames
