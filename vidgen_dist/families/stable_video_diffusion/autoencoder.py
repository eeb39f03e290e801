"""Stable Video Diffusion's autoencoder: the encoder sees images, the decoder mixes the frames of a chunk.

Source: Blattmann et al. 2023, "Stable Video Diffusion" (arXiv:2311.15127); the reference is diffusers 0.35.2,
`AutoencoderKLTemporalDecoder`, with the same parameter names and configuration keys.

Letters: B videos, F frames, f of them on this rank, N = B * f images, H rows, W columns; latents have Z
channels and the smaller h, w.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from vidgen_dist import nn
from vidgen_dist.errors import Refused
from vidgen_dist.families.common.autoencoder_kl import EPS, ImageAttention, ImageAutoencoder
from vidgen_dist.families.common.unet_layers import Upsample2D, to_clips, to_images
from vidgen_dist.families.stable_video_diffusion.config import VaeConfig
from vidgen_dist.families.stable_video_diffusion.layers import SpatioTemporalResBlock
from vidgen_dist.parallel.frame_split import FRAME_AXIS, FrameSplit, TemporalConv
from vidgen_dist.parallel.mesh import Mesh

TEMPORAL_EPS = 1e-5
"""Epsilon of the norms over frames."""


def _resnet(channels: int, out_channels: int) -> SpatioTemporalResBlock:
    return SpatioTemporalResBlock(channels, out_channels, None, EPS, TEMPORAL_EPS, switched=True)


class MidBlockTemporalDecoder(nn.Module):
    """Residual blocks where the image is smallest, with attention between places after the first one."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        channels = config.block_out_channels[-1]
        self.attentions = nn.ModuleList([ImageAttention(channels, config.groups)])
        self.resnets = nn.ModuleList([_resnet(channels, channels) for _ in range(config.layers_per_block)])

    def construct(self, x: nn.Tensor, split: FrameSplit, batch: int) -> nn.Tensor:
        """x (N, C, H, W) to the same."""
        first, *others = self.resnets
        x = first(x, split, batch)
        # As in the reference: a single resnet has no attention after it, and a third one is not run.
        for attention, resnet in zip(self.attentions, others, strict=False):
            x = resnet(attention(x), split, batch)
        return x


class UpBlockTemporalDecoder(nn.Module):
    """Residual blocks, then twice the rows and columns, except in the last block."""

    def __init__(self, config: VaeConfig, in_channels: int, out_channels: int, doubles: bool) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * (config.layers_per_block + 1)
        self.resnets = nn.ModuleList([_resnet(*pair) for pair in pairwise(widths)])
        if doubles:
            self.upsamplers = nn.ModuleList([Upsample2D(out_channels, out_channels)])
        self._doubles = doubles

    def construct(self, x: nn.Tensor, split: FrameSplit, batch: int) -> nn.Tensor:
        for resnet in self.resnets:
            x = resnet(x, split, batch)
        return self.upsamplers[0](x) if self._doubles else x


class TemporalDecoder(nn.Module):
    """Decodes a clip's latents to its frames."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        channels = config.block_out_channels[::-1]
        last = len(channels) - 1
        self.conv_in = nn.Conv2d(config.latent_channels, channels[0], 3, padding=1)
        self.mid_block = MidBlockTemporalDecoder(config)
        self.up_blocks = nn.ModuleList(
            UpBlockTemporalDecoder(config, channels[max(i - 1, 0)], width, doubles=i < last)
            for i, width in enumerate(channels)
        )
        self.conv_norm_out = nn.GroupNorm(config.groups, channels[-1], EPS)
        self.conv_out = nn.Conv2d(channels[-1], config.out_channels, 3, padding=1)
        self.time_conv_out = TemporalConv(config.out_channels, config.out_channels)

    def construct(self, latents: nn.Tensor, split: FrameSplit) -> nn.Tensor:
        """(B, Z, f, h, w) to (B, 3, f, H, W)."""
        batch = len(latents)
        x = self.mid_block(self.conv_in(to_images(latents)), split, batch)
        for block in self.up_blocks:
            x = block(x, split, batch)
        x = self.conv_out(self.conv_norm_out(x, silu=True))
        return self.time_conv_out(to_clips(x, batch), split)


class AutoencoderKLTemporalDecoder(ImageAutoencoder):
    """Stable Video Diffusion's autoencoder.

    Args:
        config: `vae/config.json`.
        mesh: As in `ImageAutoencoder`.
    """

    config: VaeConfig

    def __init__(self, config: VaeConfig, mesh: Mesh | None = None) -> None:
        super().__init__(config, mesh)
        self.decoder = TemporalDecoder(config)

    def own_dtypes(self, dtype: str) -> dict[str, str]:
        """The encoder computes in float32 where the other models use float16, if the config says so."""
        upcast = self.config.force_upcast and dtype == "float16"
        return {"encoder.": "float32", "quant_conv.": "float32"} if upcast else {}

    def enable_tiling(self, **_: Any) -> None:
        """Refuse tiles, which the reference does not have either.

        Raises:
            Refused: Always.
        """
        raise Refused(
            "model.vae_tiling: Stable Video Diffusion's autoencoder works without tiles: leave it out; a "
            "smaller decode_chunk_size takes less memory"
        )

    def decode(self, latents: nn.Tensor, chunk: int | None = None) -> nn.Tensor:
        """Decode latents, scaled as those of `encode`, to frames, about [-1, 1].

        Args:
            latents: (B, Z, F, h, w).
            chunk: How many frames are decoded at a time, by default all: they do not depend on other frames.

        Returns:
            (B, 3, F, H, W) on the first rank; the others get (B, 3, F, 0, W).
        """
        chunks = nn.split(latents, chunk or latents.shape[FRAME_AXIS], FRAME_AXIS)
        done = [self._decode(each) for each in chunks]
        return done[0] if len(done) == 1 else nn.cat(done, FRAME_AXIS)

    def _decode(self, latents: nn.Tensor) -> nn.Tensor:
        split = FrameSplit.divide(self.mesh.gang, latents.shape[FRAME_AXIS])
        return self._gathered(self.decoder(split.take(latents), split), split)
