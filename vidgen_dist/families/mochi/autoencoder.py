"""Mochi's asymmetric autoencoder: videos to twelve channels of latents, and back by a larger decoder.

The encoder sees colours beside sines and cosines of them, and lets each place attend to its own past; the
decoder is convolutions alone. Every frame is normalised by itself. Source: Genmo 2024, "Mochi 1"
(github.com/genmoai/mochi); the reference is diffusers 0.35.2, `AutoencoderKLMochi`, whose parameter names and
configuration keys are used here.

Shapes: B videos, C channels, T frames, H rows, W columns; latents have Z channels and the smaller t, h, w.
Over the ranks of a gang a video is split into rows: each module works on a rank's own, and says through
`Rows` what it needs of the others'.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vidgen_dist import nn
from vidgen_dist.config import bad_key, check_sizes, select_config
from vidgen_dist.families.common.autoencoder import VideoAutoencoder
from vidgen_dist.families.common.autoencoder_layers import (
    CausalConv3d,
    FrameCache,
    Steps,
    from_channels,
    in_frame_batches,
)
from vidgen_dist.nn.activations import DIFFUSERS, Activation
from vidgen_dist.parallel.mesh import Mesh
from vidgen_dist.parallel.rows import GroupNorm, Rows

NAME = "AutoencoderKLMochi"

GROUPS = 32
"""Of every norm, whatever the width."""

HEAD = 32
"""Channels of a head."""

HEAD_EPS = 1e-5
"""The least length by which queries and keys are divided."""

OCTAVES = (6, 7)
"""The encoder sees a colour's waves of 2 to these, over its range's half."""


LATENT_FRAMES_AT_ONCE = 2
"""Of a video that is decoded: memory is that of so many, frames are those of all at once."""


@dataclass(frozen=True)
class AutoencoderConfig:
    """The keys of a Mochi autoencoder's config.json, with the reference's defaults.

    Lists are in the encoder's order, from the pixels to the latents, also those of the decoder.

    Raises:
        Refused: Widths, lengths and an activation that cannot be.
    """

    in_channels: int = 15
    out_channels: int = 3
    encoder_block_out_channels: Sequence[int] = (64, 128, 256, 384)
    decoder_block_out_channels: Sequence[int] = (128, 256, 512, 768)
    latent_channels: int = 12
    layers_per_block: Sequence[int] = (3, 3, 4, 6, 3)
    act_fn: str = "silu"
    temporal_expansions: Sequence[int] = (1, 2, 3)
    spatial_expansions: Sequence[int] = (2, 2, 2)
    add_attention_block: Sequence[bool] = (False, True, True, True, True)
    latents_mean: Sequence[float] | None = (
        -0.06730895953510081,
        -0.038011381506090416,
        -0.07477820912866141,
        -0.05565264470995561,
        0.012767231469026969,
        -0.04703542746246419,
        0.043896967884726704,
        -0.09346305707025976,
        -0.09918314763016893,
        -0.008729793427399178,
        -0.011931556316503654,
        -0.0321993391887285,
    )
    latents_std: Sequence[float] | None = (
        0.9263795028493863,
        0.9248894543193766,
        0.9393059390890617,
        0.959253732819592,
        0.8244560132752793,
        0.917259975397747,
        0.9294154431013696,
        1.3720942357788521,
        0.881393668867029,
        0.9168315692124348,
        0.9185249279345552,
        0.9274757570805041,
    )
    scaling_factor: float = 1.0

    @classmethod
    def from_mapping(cls, config: Mapping[str, Any]) -> AutoencoderConfig:
        """Read a parsed config.json; keys of no meaning here (`_class_name`, …) are passed over."""
        return select_config(cls, config, NAME)

    def __post_init__(self) -> None:
        check_sizes(self, NAME)
        if self.act_fn.lower() not in DIFFUSERS:
            self._refuse("act_fn", "one of " + ", ".join(DIFFUSERS))
        waves = 1 + 2 * len(OCTAVES)
        if self.in_channels % waves:
            self._refuse("in_channels", f"a multiple of {waves}: each colour comes with its waves")
        self._check_levels()
        for key in ("latents_mean", "latents_std"):
            statistics = getattr(self, key)
            if statistics is not None and len(statistics) != self.latent_channels:
                self._refuse(key, f"null or as many numbers as latent_channels, {self.latent_channels}")

    def _check_levels(self) -> None:
        levels = len(self.encoder_block_out_channels)
        if levels != len(self.decoder_block_out_channels):
            self._refuse("decoder_block_out_channels", f"{levels} entries, as encoder_block_out_channels")
        for key in ("encoder_block_out_channels", "decoder_block_out_channels"):
            if any(channels % GROUPS for channels in getattr(self, key)):
                self._refuse(key, f"multiples of {GROUPS}, the groups of the norms")
        for key in ("layers_per_block", "add_attention_block"):
            if len(getattr(self, key)) < levels:
                self._refuse(key, f"{levels} entries or more, for the blocks of encoder_block_out_channels")
        for key in ("temporal_expansions", "spatial_expansions"):
            if len(getattr(self, key)) != levels - 1:
                self._refuse(key, f"{levels - 1} entries, one between each two blocks")

    def _refuse(self, key: str, allowed: str) -> None:
        raise bad_key(NAME, key, getattr(self, key), allowed)

    @property
    def activation(self) -> Activation:
        """Of the two ends; the blocks' is always SiLU."""
        return DIFFUSERS[self.act_fn.lower()]

    @property
    def spatial_compression_ratio(self) -> int:
        return math.prod(self.spatial_expansions)

    @property
    def temporal_compression_ratio(self) -> int:
        return math.prod(self.temporal_expansions)

    def steps(self, level: int) -> Steps:
        """By how much the level-th and the next one's frames, rows and columns differ."""
        space = self.spatial_expansions[level]
        return self.temporal_expansions[level], space, space


class FrameNorm(nn.Module):
    """Group norm of every frame of (B, C, T, H, W) by itself, and what is activated of it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm_layer = GroupNorm(GROUPS, channels)

    def construct(self, x: nn.Tensor, rows: Rows, activation: Activation | None = None) -> nn.Tensor:
        batch, channels, frames, height, width = x.shape
        alone = nn.reshape(x.permute(0, 2, 1, 3, 4), (batch * frames, channels, 1, height, width))
        normed = self.norm_layer(alone, rows)
        if activation is not None:
            normed = activation(normed)
        return nn.reshape(normed, (batch, frames, channels, height, width)).permute(0, 2, 1, 3, 4)


class ResnetBlock3D(nn.Module):
    """Two causal convolutions beside what goes in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = FrameNorm(channels)
        self.conv1 = CausalConv3d(channels, channels)
        self.norm2 = FrameNorm(channels)
        self.conv2 = CausalConv3d(channels, channels)

    def construct(self, x: nn.Tensor, cache: FrameCache) -> nn.Tensor:
        rows = cache.rows
        hidden = self.conv1(self.norm1(x, rows, nn.silu), rows, cache)
        return nn.add(self.conv2(self.norm2(hidden, rows, nn.silu), rows, cache), x)


class PastAttention(nn.Module):
    """Attention of every place to itself, in its own frame and in those before it."""

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
    """Residual blocks, each with attention behind it where the config has it."""

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
                x = nn.add(self.attentions[i](self.norms[i](x, cache.rows)), x)
        return x


class DownBlock3D(Layers):
    """Fewer frames, rows and columns by a convolution, and layers behind it."""

    def __init__(
        self, in_channels: int, out_channels: int, layers: int, steps: Steps, attention: bool
    ) -> None:
        super().__init__(out_channels, layers, attention)
        self.conv_in = CausalConv3d(in_channels, out_channels, steps, steps)

    def construct(self, x: nn.Tensor, cache: FrameCache) -> nn.Tensor:
        return super().construct(self.conv_in(x, cache.rows, cache), cache)


class UpBlock3D(nn.Module):
    """Residual blocks, and more frames, rows and columns made of channels behind them."""

    def __init__(self, in_channels: int, out_channels: int, layers: int, steps: Steps) -> None:
        super().__init__()
        self._steps = steps
        self.resnets = nn.ModuleList([ResnetBlock3D(in_channels) for _ in range(layers)])
        self.proj = PlaceLinear(in_channels, out_channels * math.prod(steps))

    def construct(self, x: nn.Tensor, cache: FrameCache) -> nn.Tensor:
        for resnet in self.resnets:
            x = resnet(x, cache)
        return from_channels(self.proj(x), self._steps)


class PlaceLinear(nn.Linear):
    """A linear map of the channels of (B, C, T, H, W), at every place."""

    def construct(self, x: nn.Tensor) -> nn.Tensor:
        return nn.conv3d(x, nn.reshape(self.weight, (*self.weight.shape, 1, 1, 1)), self.bias)


def with_waves(x: nn.Tensor) -> nn.Tensor:
    """Colours (B, C, T, H, W) with sines, then cosines of each, octave by octave: five times the channels."""
    batch, channels, *size = x.shape
    rates = np.array([2.0**octave * 2 * np.pi for octave in OCTAVES], np.float32)
    angles = nn.multiply(x[:, :, None], nn.from_numpy(rates.reshape(1, 1, -1, 1, 1, 1)))
    angles = nn.reshape(angles, (batch, channels * len(OCTAVES), *size))
    return nn.cat([x, nn.sin(angles), nn.cos(angles)], 1)


class Encoder3D(nn.Module):
    """Frames (B, C, T, H, W) to the moments of the latents (B, 2 Z, t, h, w)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        channels = config.encoder_block_out_channels
        layers, attention = config.layers_per_block, config.add_attention_block
        self._activation = config.activation
        self.proj_in = PlaceLinear(config.in_channels, channels[0])
        self.block_in = Layers(channels[0], layers[0], attention[0])
        self.down_blocks = nn.ModuleList(
            DownBlock3D(channels[i], channels[i + 1], layers[i + 1], config.steps(i), attention[i + 1])
            for i in range(len(channels) - 1)
        )
        self.block_out = Layers(channels[-1], layers[-1], attention[-1])
        self.norm_out = FrameNorm(channels[-1])
        self.proj_out = PlaceLinear(channels[-1], 2 * config.latent_channels, bias=False)

    def construct(self, x: nn.Tensor, cache: FrameCache) -> nn.Tensor:
        # The angles are up to 800, too many for half precision.
        x = self.proj_in(with_waves(x.astype(nn.float32)).astype(x.dtype))
        for block in (self.block_in, *self.down_blocks, self.block_out):
            x = block(x, cache)
        return self.proj_out(self.norm_out(x, cache.rows, self._activation))


class Decoder3D(nn.Module):
    """Latents (B, Z, t, h, w) to frames (B, C, T, H, W), of which the first ones have no past."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        channels, layers = config.decoder_block_out_channels, config.layers_per_block
        self._activation = config.activation
        self.conv_in = nn.Conv3d(config.latent_channels, channels[-1], 1)
        self.block_in = Layers(channels[-1], layers[-1], attention=False)
        self.up_blocks = nn.ModuleList(
            UpBlock3D(channels[-i - 1], channels[-i - 2], layers[-i - 2], config.steps(-i - 1))
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
        config: A parsed config.json with diffusers' keys; missing ones take the reference's defaults.
        mesh: As `VideoAutoencoder` has it.

    Raises:
        Refused: A configuration that cannot be.
    """

    config: AutoencoderConfig

    def __init__(self, config: Mapping[str, Any], mesh: Mesh | None = None) -> None:
        known = AutoencoderConfig.from_mapping(config)
        super().__init__(known, known.spatial_compression_ratio, mesh)
        self.encoder = Encoder3D(known)
        self.decoder = Decoder3D(known)

    def _encode(self, video: nn.Tensor, rows: Rows) -> nn.Tensor:
        # At once: its attention sees all of the past.
        return in_frame_batches(video, video.shape[2], self.encoder, rows)

    def _decode(self, latents: nn.Tensor, rows: Rows) -> nn.Tensor:
        frames = in_frame_batches(latents, LATENT_FRAMES_AT_ONCE, self.decoder, rows)
        # The first latent frame is the first frame's alone.
        extra = self.config.temporal_compression_ratio - 1
        return frames[:, :, extra:] if frames.shape[2] > extra else frames
