"""HunyuanVideo's causal 3D autoencoder: videos to latents and back.

Source: Kong et al. 2024, "HunyuanVideo: A Systematic Framework For Large Video Generative Models"
(arXiv:2412.03603), section 4.1; the reference is diffusers 0.35.2, `AutoencoderKLHunyuanVideo`, whose
parameter names and configuration keys are used here.

Shapes: B videos, C channels, T frames, H rows, W columns; latents have Z channels and the smaller t, h, w.
Long videos go through in blended tiles of frames, as everywhere with these weights. A gang splits the video
into rows: each module works on its rank's rows, and gets what it needs of the others' through `SpatialSplit`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from vidgen_dist import nn
from vidgen_dist.families.common.autoencoder import VideoAutoencoder
from vidgen_dist.families.common.autoencoder_layers import CausalConv3d, Strides
from vidgen_dist.families.common.tiles import StridedTiles, Tiles, cut, in_frame_tiles
from vidgen_dist.families.hunyuan_video.config import FRAMES_OF_A_TILE, FRAMES_TO_THE_NEXT, VaeConfig
from vidgen_dist.nn.activations import activated, of_diffusers
from vidgen_dist.parallel.mesh import Mesh
from vidgen_dist.parallel.spatial_split import SpatialSplit, SpatialSplitGroupNorm

NORM_EPS = 1e-6


class ResnetBlock3D(nn.Module):
    """Two causal convolutions and a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, config: VaeConfig) -> None:
        super().__init__()
        self._activation = of_diffusers(config.act_fn)
        self.norm1 = SpatialSplitGroupNorm(config.norm_num_groups, in_channels, eps=NORM_EPS)
        self.conv1 = CausalConv3d(in_channels, out_channels)
        self.norm2 = SpatialSplitGroupNorm(config.norm_num_groups, out_channels, eps=NORM_EPS)
        self.conv2 = CausalConv3d(out_channels, out_channels)
        self.conv_shortcut = (
            CausalConv3d(in_channels, out_channels, 1) if in_channels != out_channels else None
        )

    def construct(self, x: nn.Tensor, split: SpatialSplit) -> nn.Tensor:
        """x (B, C, T, H, W) to (B, O, T, H, W)."""
        hidden = self.conv1(activated(self.norm1, self._activation, x, split), split)
        hidden = self.conv2(activated(self.norm2, self._activation, hidden, split), split)
        return nn.add(hidden, x if self.conv_shortcut is None else self.conv_shortcut(x, split))


class Attention(nn.Module):
    """Attention from every place to all places of its own frame and of earlier ones, with one head."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = SpatialSplitGroupNorm(groups, channels, eps=NORM_EPS)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def construct(self, x: nn.Tensor, split: SpatialSplit) -> nn.Tensor:
        """x (B, C, T, H, W) to the same."""
        places = nn.copy(self.group_norm(x, split).permute(0, 2, 3, 4, 1))
        query, key, value = (linear(places)[:, None] for linear in (self.to_q, self.to_k, self.to_v))
        mixed = split.attention(query, key, value, causal=True)[:, 0]
        return nn.add(x, self.to_out[0](mixed).permute(0, 4, 1, 2, 3))


class MidBlock3D(nn.Module):
    """Two residual blocks, with attention between them if the config has it."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        channels = config.block_out_channels[-1]
        self.attentions = nn.ModuleList()
        if config.mid_block_add_attention:
            self.attentions.append(Attention(channels, config.norm_num_groups))
        self.resnets = nn.ModuleList(ResnetBlock3D(channels, channels, config) for _ in range(2))

    def construct(self, x: nn.Tensor, split: SpatialSplit) -> nn.Tensor:
        x = self.resnets[0](x, split)
        for attention in self.attentions:
            x = attention(x, split)
        return self.resnets[1](x, split)


class Downsample3D(nn.Module):
    """A strided convolution that reduces frames, rows and columns of (B, C, T, H, W)."""

    def __init__(self, channels: int, strides: Strides) -> None:
        super().__init__()
        self.conv = CausalConv3d(channels, channels, stride=strides)

    def construct(self, x: nn.Tensor, split: SpatialSplit) -> nn.Tensor:
        return self.conv(x, split)


class Upsample3D(nn.Module):
    """More frames, rows and columns of (B, C, T, H, W), then a convolution; the first frame stays one."""

    def __init__(self, channels: int, strides: Strides) -> None:
        super().__init__()
        self._strides = strides
        self.conv = CausalConv3d(channels, channels)

    def construct(self, x: nn.Tensor, split: SpatialSplit) -> nn.Tensor:
        time, space, _ = self._strides
        parts = [nn.interpolate_nearest(x[:, :, :1], scale=(1, space, space))]
        if x.shape[2] > 1:
            parts.append(nn.interpolate_nearest(x[:, :, 1:], scale=(time, space, space)))
        return self.conv(nn.cat(parts, axis=2), split)


class DownBlock3D(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, level: int, config: VaeConfig) -> None:
        super().__init__()
        channels = [in_channels, *[out_channels] * config.layers_per_block]
        self.resnets = nn.ModuleList(ResnetBlock3D(i, o, config) for i, o in pairwise(channels))
        strides = config.strides(level)
        self.downsamplers = nn.ModuleList([Downsample3D(out_channels, strides)] if strides else [])

    def construct(self, x: nn.Tensor, split: SpatialSplit) -> nn.Tensor:
        for module in (*self.resnets, *self.downsamplers):
            x = module(x, split)
        return x


class UpBlock3D(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, level: int, config: VaeConfig) -> None:
        super().__init__()
        channels = [in_channels, *[out_channels] * (config.layers_per_block + 1)]
        self.resnets = nn.ModuleList(ResnetBlock3D(i, o, config) for i, o in pairwise(channels))
        strides = config.strides(level)
        self.upsamplers = nn.ModuleList([Upsample3D(out_channels, strides)] if strides else [])

    def construct(self, x: nn.Tensor, split: SpatialSplit) -> nn.Tensor:
        for module in (*self.resnets, *self.upsamplers):
            x = module(x, split)
        return x


class Encoder3D(nn.Module):
    """Frames (B, C, T, H, W) to the moments of the latents (B, 2 Z, t, h, w)."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        channels = config.block_out_channels
        self.conv_in = CausalConv3d(config.in_channels, channels[0])
        self.down_blocks = nn.ModuleList(
            DownBlock3D(i, o, level, config)
            for level, (i, o) in enumerate(pairwise([channels[0], *channels]))
        )
        self.mid_block = MidBlock3D(config)
        self.conv_norm_out = SpatialSplitGroupNorm(config.norm_num_groups, channels[-1], eps=NORM_EPS)
        self.conv_out = CausalConv3d(channels[-1], 2 * config.latent_channels)

    def construct(self, x: nn.Tensor, split: SpatialSplit) -> nn.Tensor:
        x = self.conv_in(x, split)
        for block in self.down_blocks:
            x = block(x, split)
        x = self.mid_block(x, split)
        return self.conv_out(self.conv_norm_out(x, split, silu=True), split)


class Decoder3D(nn.Module):
    """Latents (B, Z, t, h, w) to frames (B, C, T, H, W)."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        channels = config.block_out_channels[::-1]
        self.conv_in = CausalConv3d(config.latent_channels, channels[0])
        self.mid_block = MidBlock3D(config)
        self.up_blocks = nn.ModuleList(
            UpBlock3D(i, o, level, config) for level, (i, o) in enumerate(pairwise([channels[0], *channels]))
        )
        self.conv_norm_out = SpatialSplitGroupNorm(config.norm_num_groups, channels[-1], eps=NORM_EPS)
        self.conv_out = CausalConv3d(channels[-1], config.out_channels)

    def construct(self, x: nn.Tensor, split: SpatialSplit) -> nn.Tensor:
        x = self.conv_in(x, split)
        x = self.mid_block(x, split)
        for block in self.up_blocks:
            x = block(x, split)
        return self.conv_out(self.conv_norm_out(x, split, silu=True), split)


@dataclass(frozen=True)
class FrameTiles(StridedTiles):
    """Tiles of rows and columns, and of frames.

    Args:
        tile_sample_min_num_frames: Frames of a tile, without the one before it.
        tile_sample_stride_num_frames: Frames from one tile to the next.
    """

    tile_sample_min_num_frames: int = FRAMES_OF_A_TILE
    tile_sample_stride_num_frames: int = FRAMES_TO_THE_NEXT

    def cut_frames(self, ratio: int, *, decoding: bool) -> Tiles:
        """The tiles of the frames, at `ratio` frames per latent; as `cut`."""
        return cut(
            self.tile_sample_min_num_frames, self.tile_sample_stride_num_frames, ratio, decoding=decoding
        )


class AutoencoderKLHunyuanVideo(VideoAutoencoder):
    """HunyuanVideo's autoencoder. Long videos are processed in tiles of frames, with or without `use_tiling`.

    Args:
        config: `vae/config.json`.
        mesh: As in `VideoAutoencoder`.
    """

    config: VaeConfig
    tiles: FrameTiles = FrameTiles()

    def __init__(self, config: VaeConfig, mesh: Mesh | None = None) -> None:
        super().__init__(config, config.spatial_compression_ratio, mesh)
        self.encoder = Encoder3D(config)
        self.decoder = Decoder3D(config)
        self.quant_conv = nn.Conv3d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.post_quant_conv = nn.Conv3d(config.latent_channels, config.latent_channels, 1)

    def enable_tiling(self, **sizes: Any) -> None:
        tiles = replace(self.tiles, **sizes)
        for decoding in (False, True):
            tiles.cut_frames(self.config.temporal_compression_ratio, decoding=decoding)
        super().enable_tiling(**sizes)

    def _encode(self, video: nn.Tensor, split: SpatialSplit) -> nn.Tensor:
        return self.quant_conv(self.encoder(video, split))

    def _decode(self, latents: nn.Tensor, split: SpatialSplit) -> nn.Tensor:
        return self.decoder(self.post_quant_conv(latents), split)

    def _latent_rows(self, height: int) -> int:
        # Rows that are too few for a latent still get one.
        return -(-height // self.spatial_compression_ratio)

    def _in_parts(self, x: nn.Tensor, run: Callable[[nn.Tensor], nn.Tensor], *, decoding: bool) -> nn.Tensor:
        ratio = self.config.temporal_compression_ratio
        in_parts = super()._in_parts
        return in_frame_tiles(
            x,
            self.tiles.cut_frames(ratio, decoding=decoding),
            lambda part: in_parts(part, run, decoding=decoding),
            shortest=1 if decoding else ratio,
        )
