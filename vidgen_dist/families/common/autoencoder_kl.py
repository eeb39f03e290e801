"""Stable Diffusion's autoencoder, which treats every frame as an image. Other families use its encoder too.

Source: Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models"
(arXiv:2112.10752). The reference is diffusers 0.35.2, `AutoencoderKL`, with the same parameter names and
configuration keys.

Letters: B videos, C channels, F frames, H rows, W columns; latents have Z channels and the smaller h, w; N
images, which are a video's frames.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from vidgen_dist import nn
from vidgen_dist.families.common.autoencoder import TiledAutoencoder, distribution
from vidgen_dist.families.common.autoencoder_kl_config import AutoencoderKLConfig, ImageVaeConfig
from vidgen_dist.families.common.tiles import OverlappingTiles
from vidgen_dist.families.common.unet_layers import (
    Attention,
    Downsample2D,
    ResnetBlock2D,
    Upsample2D,
    to_clips,
    to_image,
    to_images,
    to_tokens,
)
from vidgen_dist.parallel.frame_split import FRAME_AXIS, FrameSplit
from vidgen_dist.parallel.mesh import Mesh

EPS = 1e-6
"""Epsilon of every norm."""

TILE_OVERLAP = 0.25
"""Share of a tile that is blended with the previous tile."""

OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""The names of attention's linear maps in published files, and their names today."""


def resnet_block(config: ImageVaeConfig, channels: int, out_channels: int) -> ResnetBlock2D:
    """A residual block of an autoencoder."""
    return ResnetBlock2D(channels, out_channels, groups=config.groups, eps=EPS, activation=config.activation)


class ImageAttention(Attention):
    """Self-attention between an image's places, with one head, a norm in front and a residual."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__(channels, None, 1, channels, bias=True)
        self.group_norm = nn.GroupNorm(groups, channels, EPS)

    def construct(self, x: nn.Tensor) -> nn.Tensor:  # type: ignore[override]
        """x (N, C, H, W) to the same."""
        mixed = super().construct(to_tokens(self.group_norm(x)))
        return nn.add(x, to_image(mixed, x.shape[2:]))


class MidBlock2D(nn.Module):
    """Two residual blocks where the image is smallest, with attention between them if the config has it."""

    def __init__(self, config: ImageVaeConfig) -> None:
        super().__init__()
        channels = config.block_out_channels[-1]
        attentions = [ImageAttention(channels, config.groups)] if config.attends else []
        self.attentions = nn.ModuleList(attentions)
        self.resnets = nn.ModuleList([resnet_block(config, channels, channels) for _ in range(2)])

    def construct(self, x: nn.Tensor) -> nn.Tensor:
        """x (N, C, H, W) to the same."""
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x)


class DownEncoderBlock2D(nn.Module):
    """Residual blocks, then half the rows and columns, except in the last block."""

    def __init__(self, config: ImageVaeConfig, in_channels: int, out_channels: int, halves: bool) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * config.layers_per_block
        self.resnets = nn.ModuleList([resnet_block(config, *pair) for pair in pairwise(widths)])
        if halves:
            self.downsamplers = nn.ModuleList([Downsample2D(out_channels, out_channels, padding=0)])
        self._halves = halves

    def construct(self, x: nn.Tensor) -> nn.Tensor:
        for resnet in self.resnets:
            x = resnet(x)
        return self.downsamplers[0](x) if self._halves else x


class UpDecoderBlock2D(nn.Module):
    """Residual blocks, then twice the rows and columns, except in the last block."""

    def __init__(self, config: ImageVaeConfig, in_channels: int, out_channels: int, doubles: bool) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * (config.layers_per_block + 1)
        self.resnets = nn.ModuleList([resnet_block(config, *pair) for pair in pairwise(widths)])
        if doubles:
            self.upsamplers = nn.ModuleList([Upsample2D(out_channels, out_channels)])
        self._doubles = doubles

    def construct(self, x: nn.Tensor) -> nn.Tensor:
        for resnet in self.resnets:
            x = resnet(x)
        return self.upsamplers[0](x) if self._doubles else x


class Encoder(nn.Module):
    """Images (N, 3, H, W) to the moments of their latents, (N, 2 Z, h, w)."""

    def __init__(self, config: ImageVaeConfig) -> None:
        super().__init__()
        channels = config.block_out_channels
        last = len(channels) - 1
        self.conv_in = nn.Conv2d(config.in_channels, channels[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            DownEncoderBlock2D(config, channels[max(i - 1, 0)], width, halves=i < last)
            for i, width in enumerate(channels)
        )
        self.mid_block = MidBlock2D(config)
        self.conv_norm_out = nn.GroupNorm(config.groups, channels[-1], EPS)
        self.conv_out = nn.Conv2d(channels[-1], 2 * config.latent_channels, 3, padding=1)

    def construct(self, x: nn.Tensor) -> nn.Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        # SiLU, whatever activation the config has for the blocks.
        return self.conv_out(self.conv_norm_out(self.mid_block(x), silu=True))


class Decoder(nn.Module):
    """Latents (N, Z, h, w) to images (N, 3, H, W)."""

    def __init__(self, config: AutoencoderKLConfig) -> None:
        super().__init__()
        channels = config.block_out_channels[::-1]
        last = len(channels) - 1
        self.conv_in = nn.Conv2d(config.latent_channels, channels[0], 3, padding=1)
        self.mid_block = MidBlock2D(config)
        self.up_blocks = nn.ModuleList(
            UpDecoderBlock2D(config, channels[max(i - 1, 0)], width, doubles=i < last)
            for i, width in enumerate(channels)
        )
        self.conv_norm_out = nn.GroupNorm(config.groups, channels[-1], EPS)
        self.conv_out = nn.Conv2d(channels[-1], config.out_channels, 3, padding=1)

    def construct(self, latents: nn.Tensor) -> nn.Tensor:
        x = self.mid_block(self.conv_in(latents))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(self.conv_norm_out(x, silu=True))


class ImageAutoencoder(TiledAutoencoder):
    """An autoencoder that encodes single images. Frames are divided over the ranks of a gang.

    Args:
        config: `vae/config.json`.
        mesh: The ranks that decode together; by default one. All of them call `encode` and the family's
            decoding, with the same values.
    """

    config: ImageVaeConfig

    def __init__(self, config: ImageVaeConfig, mesh: Mesh | None) -> None:
        super().__init__(config, config.spatial_compression_ratio, mesh)
        moments = 2 * config.latent_channels
        self.encoder = Encoder(config)
        self.quant_conv: nn.Module | None = nn.Conv2d(moments, moments, 1)

    def own_key(self, key: str) -> str | None:
        """The module's name for a checkpoint's key, for `load_weights`."""
        path, _, name = key.rpartition(".")
        path, _, layer = path.rpartition(".")
        if ".attentions." in path and layer in OLD_NAMES:
            return f"{path}.{OLD_NAMES[layer]}.{name}"
        return key

    def encode(self, video: nn.Tensor) -> tuple[nn.Tensor, nn.Tensor]:
        """The distribution of the latents of a video's frames, each of them as a separate image.

        Every rank of a gang encodes all of them: the conditions are one or two images.

        Args:
            video: (B, 3, F, H, W) in [-1, 1].

        Returns:
            Mean and logarithm of the variance, each (B, Z, F, h, w). The mean is unscaled, the logarithm is
            within [-30, 20].
        """
        # The encoder may have another dtype than the other models.
        own = video.astype(self.encoder.conv_in.weight.dtype)
        moments = self._in_parts(own, self._encode, decoding=False)
        return distribution(moments, self.config.latent_channels)

    def _encode(self, video: nn.Tensor) -> nn.Tensor:
        moments = self.encoder(to_images(video))
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        return to_clips(moments, len(video))

    def _gathered(self, frames: nn.Tensor, split: FrameSplit) -> nn.Tensor:
        """The frames of all ranks, (B, 3, F, H, W), on the first rank; the others get (B, 3, F, 0, W)."""
        gathered = split.gather_at_first(frames)
        if gathered.shape[FRAME_AXIS]:
            return gathered
        batch, channels, _, _, width = frames.shape
        return nn.zeros((batch, channels, split.frames, 0, width), frames.dtype)


class AutoencoderKL(ImageAutoencoder):
    """Stable Diffusion's autoencoder.

    Args:
        config: `vae/config.json`.
        mesh: As in `ImageAutoencoder`.
    """

    config: AutoencoderKLConfig

    def __init__(self, config: AutoencoderKLConfig, mesh: Mesh | None = None) -> None:
        super().__init__(config, mesh)
        sample = config.sample_size
        self.tiles = OverlappingTiles(sample, sample, TILE_OVERLAP, TILE_OVERLAP)
        self.decoder = Decoder(config)
        if not config.use_quant_conv:
            self.quant_conv = None
        self.post_quant_conv: nn.Module | None = None
        if config.use_post_quant_conv:
            self.post_quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1)

    def decode(self, latents: nn.Tensor, chunk: int | None = None) -> nn.Tensor:
        """Decode latents, scaled as those of `encode`, to frames, about [-1, 1].

        Args:
            latents: (B, Z, F, h, w).
            chunk: How many frames a rank decodes at a time, by default all its frames. It affects memory, not
                the result.

        Returns:
            (B, 3, F, H, W) on the first rank; the others get (B, 3, F, 0, W).
        """
        split = FrameSplit.divide(self.mesh.gang, latents.shape[FRAME_AXIS])
        parts = nn.split(split.take(latents), chunk or split.held, FRAME_AXIS)
        done = [self._in_parts(part, self._decode, decoding=True) for part in parts]
        return self._gathered(done[0] if len(done) == 1 else nn.cat(done, FRAME_AXIS), split)

    def _decode(self, latents: nn.Tensor) -> nn.Tensor:
        images: Any = to_images(latents)
        if self.post_quant_conv is not None:
            images = self.post_quant_conv(images)
        return to_clips(self.decoder(images), len(latents))
