"""CogVideoX's causal 3D autoencoder: videos to latents and back.

Source: "CogVideoX: Text-to-Video Diffusion Models with An Expert Transformer" (arXiv:2408.06072),
section 2.1; the reference is diffusers 0.35.2, `AutoencoderKLCogVideoX`, with the same parameter names and
configuration keys. The norm of the decoder is that of MoVQ (arXiv:2209.09002).

Shapes: B videos, C channels, T frames, H rows, W columns; latents have Z channels and the smaller
t, h, w. A video is processed in batches of a few frames; each causal convolution stores its last input frames
in a `FrameCache` for the next batch. A gang splits the video into rows: each module works on its rank's rows,
and gets what it needs of the others' through `SpatialSplit`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

from vidgen_dist import nn
from vidgen_dist.families.cogvideox.config import LATENT_FRAMES_AT_ONCE, SAMPLE_FRAMES_AT_ONCE, VaeConfig
from vidgen_dist.families.common.autoencoder import VideoAutoencoder
from vidgen_dist.families.common.autoencoder_layers import FrameCache, in_frame_batches
from vidgen_dist.families.common.tiles import OverlappingTiles
from vidgen_dist.nn.activations import of_diffusers
from vidgen_dist.parallel.mesh import Mesh
from vidgen_dist.parallel.spatial_split import SpatialSplit, SpatialSplitGroupNorm, join_bands

# The spatial norms and the encoder's last norm do not follow `norm_eps`.
FIXED_NORM_EPS = 1e-6


class CausalConv3d(nn.Module):
    """A 3D convolution, (B, C, T, H, W) -> (B, O, T, H, W), that sees no later frame.

    Before the first frame it sees the first frame repeated. With `pad_mode` "first" and "constant" there are
    zeros around the image, and the cache carries frames over; with "replicate" the image's edge is repeated,
    and each batch of frames begins anew.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        pad_mode: Literal["first", "constant", "replicate"] = "first",
    ) -> None:
        super().__init__()
        self.edge = edge = (kernel_size - 1) // 2
        self.kernel_size = kernel_size
        self.replicates = pad_mode == "replicate"
        self.replicated_edge = (edge, edge, edge, edge, kernel_size - 1, 0)
        self.conv = nn.Conv3d(in_channels, out_channels, kernel_size)

    def construct(self, x: nn.Tensor, cache: FrameCache) -> nn.Tensor:
        history = self.kernel_size - 1
        if history == 0:
            return self.conv(x)
        if self.replicates:
            return self.conv(cache.split.pad(x, self.replicated_edge, mode="replicate"))
        before = cache.before(self)
        bands = cache.split.around(x, self.edge, self.edge)
        first = tuple(band[:, :, :1] for band in bands)
        x = join_bands([*([first] * history if before is None else [(before,)]), bands])
        cache.store(self, x[:, :, -history:])
        padding = (0, cache.split.padding(self.edge), self.edge)
        return nn.conv3d(x, self.conv.weight, self.conv.bias, padding=padding)


class SpatialNorm3D(nn.Module):
    """Group norm of x (B, C, T, H, W), scaled and shifted by maps of the latents zq (B, Z, t, h, w)."""

    def __init__(self, channels: int, latent_channels: int, groups: int) -> None:
        super().__init__()
        self.norm_layer = SpatialSplitGroupNorm(groups, channels, eps=FIXED_NORM_EPS)
        self.conv_y = CausalConv3d(latent_channels, channels, kernel_size=1)
        self.conv_b = CausalConv3d(latent_channels, channels, kernel_size=1)

    def construct(self, x: nn.Tensor, split: SpatialSplit, zq: nn.Tensor) -> nn.Tensor:
        batch, channels, frames, height, width = x.shape
        latent_rows = zq.shape[3]
        zq = stretch_frames(zq, frames)
        # A convolution of one pixel commutes with stretching, so it is applied to the few latents. Rows are
        # never stretched: each row of latents broadcasts over its rows of x.
        scale, shift = (
            nn.interpolate_nearest(conv.conv(zq), size=(frames, latent_rows, width)).reshape(
                batch, channels, frames, latent_rows, 1, width
            )
            for conv in (self.conv_y, self.conv_b)
        )
        normed = self.norm_layer(x, split).reshape(
            batch, channels, frames, latent_rows, height // latent_rows, width
        )
        return nn.multiply_add(normed, scale, shift).reshape(x.shape)


def stretch_frames(x: nn.Tensor, frames: int) -> nn.Tensor:
    """x (B, C, t, H, W) with each frame repeated, `frames` in all.

    If that is an odd number above 1, the first frame is not repeated and the others share the rest, as the
    upsamplers do it.
    """
    alone = 1 if frames > 1 and frames % 2 == 1 else 0
    times = (frames - alone) // (x.shape[2] - alone)
    if times == 1:
        return x
    sources = [*range(alone), *(i for i in range(alone, x.shape[2]) for _ in range(times))]
    return nn.cat([x[:, :, i : i + 1] for i in sources], axis=2)


class ResnetBlock3D(nn.Module):
    """Two causal convolutions and a shortcut; norms depend on the latents if `latent_channels` is given."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        config: VaeConfig,
        latent_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.activation = of_diffusers(config.act_fn)
        self.norm1 = block_norm(in_channels, config, latent_channels)
        self.conv1 = CausalConv3d(in_channels, out_channels)
        self.norm2 = block_norm(out_channels, config, latent_channels)
        self.conv2 = CausalConv3d(out_channels, out_channels)
        self.conv_shortcut = nn.Conv3d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def construct(self, x: nn.Tensor, cache: FrameCache, *zq: nn.Tensor) -> nn.Tensor:
        """x (B, C, T, H, W) to (B, O, T, H, W); zq (B, Z, t, h, w) if the norms need it."""
        hidden = self.conv1(self.activation(self.norm1(x, cache.split, *zq)), cache)
        hidden = self.conv2(self.activation(self.norm2(hidden, cache.split, *zq)), cache)
        return nn.add(hidden, x if self.conv_shortcut is None else self.conv_shortcut(x))


def block_norm(channels: int, config: VaeConfig, latent_channels: int | None) -> nn.Module:
    if latent_channels is None:
        return SpatialSplitGroupNorm(config.norm_num_groups, channels, eps=config.norm_eps)
    return SpatialNorm3D(channels, latent_channels, config.norm_num_groups)


class Downsample3D(nn.Module):
    """Halve the rows and columns of x (B, C, T, H, W), and with `compress_time` the frames."""

    def __init__(self, channels: int, compress_time: bool) -> None:
        super().__init__()
        self.compress_time = compress_time
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def construct(self, x: nn.Tensor, split: SpatialSplit) -> nn.Tensor:
        if self.compress_time:
            x = halve_frames(x)
        return convolve_frames(split.pad(x, (0, 1, 0, 1)), self.conv, padding=(0, 0))


class Upsample3D(nn.Module):
    """Double the rows and columns of x (B, C, T, H, W), and with `compress_time` the frames."""

    def __init__(self, channels: int, compress_time: bool) -> None:
        super().__init__()
        self.compress_time = compress_time
        self.conv = nn.Conv2d(channels, channels, 3)

    def construct(self, x: nn.Tensor, split: SpatialSplit) -> nn.Tensor:
        # Rows are exchanged before they are stretched, and the second of each two is not needed.
        x = split.extend(x, 1, 1)
        frames, height, width = x.shape[2:]
        larger = nn.interpolate_nearest(x, size=(frames, 2 * height, 2 * width))
        if not split.whole:
            larger = larger[:, :, :, 1:-1]
        x = convolve_frames(larger, self.conv, padding=(split.padding(1), 1))
        if not self.compress_time or frames == 1:
            return x
        # Frames are doubled last: the convolution works on single frames, and would compute each one twice.
        return stretch_frames(x, 2 * frames - frames % 2)


def convolve_frames(x: nn.Tensor, conv: nn.Conv2d, padding: tuple[int, int]) -> nn.Tensor:
    """A 2D convolution of every frame of x (B, C, T, H, W), padded by zero rows and columns."""
    # As a 3D convolution over one frame, which needs no transposing.
    outputs, inputs, *kernel = conv.weight.shape
    weight = conv.weight.reshape(outputs, inputs, 1, *kernel)
    return nn.conv3d(x, weight, conv.bias, stride=(1, *conv.stride), padding=(0, *padding))


def halve_frames(x: nn.Tensor) -> nn.Tensor:
    """Means of pairs of frames of x (B, C, T, H, W); if T is odd, the first frame stays as it is."""
    odd = x.shape[2] % 2
    if x.shape[2] == 1:
        return x
    means = nn.multiply(nn.add(x[:, :, odd::2], x[:, :, odd + 1 :: 2]), 0.5)
    return nn.cat([x[:, :, :1], means], axis=2) if odd else means


class DownBlock3D(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, config: VaeConfig, level: int) -> None:
        super().__init__()
        channels = [in_channels, *[out_channels] * config.layers_per_block]
        self.resnets = resnets(channels, config)
        self.downsamplers = resampler(Downsample3D, out_channels, config, level)

    def construct(self, x: nn.Tensor, cache: FrameCache) -> nn.Tensor:
        for resnet in self.resnets:
            x = resnet(x, cache)
        for downsampler in self.downsamplers:
            x = downsampler(x, cache.split)
        return x


class MidBlock3D(nn.Module):
    def __init__(self, config: VaeConfig, latent_channels: int | None = None) -> None:
        super().__init__()
        self.resnets = resnets([config.block_out_channels[-1]] * 3, config, latent_channels)

    def construct(self, x: nn.Tensor, cache: FrameCache, *zq: nn.Tensor) -> nn.Tensor:
        for resnet in self.resnets:
            x = resnet(x, cache, *zq)
        return x


class UpBlock3D(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, config: VaeConfig, level: int) -> None:
        super().__init__()
        channels = [in_channels, *[out_channels] * (config.layers_per_block + 1)]
        self.resnets = resnets(channels, config, config.latent_channels)
        self.upsamplers = resampler(Upsample3D, out_channels, config, level)

    def construct(self, x: nn.Tensor, cache: FrameCache, zq: nn.Tensor) -> nn.Tensor:
        for resnet in self.resnets:
            x = resnet(x, cache, zq)
        for upsampler in self.upsamplers:
            x = upsampler(x, cache.split)
        return x


def resnets(channels: Sequence[int], config: VaeConfig, latent_channels: int | None = None) -> nn.ModuleList:
    """Residual blocks from each number of channels to the next."""
    return nn.ModuleList(ResnetBlock3D(i, o, config, latent_channels) for i, o in pairwise(channels))


def resampler(
    kind: type[Downsample3D] | type[Upsample3D], channels: int, config: VaeConfig, level: int
) -> nn.ModuleList:
    """The resampler that ends a block; the last block has none."""
    if level == len(config.block_out_channels) - 1:
        return nn.ModuleList()
    return nn.ModuleList([kind(channels, compress_time=level < config.temporal_levels)])


class Encoder3D(nn.Module):
    """Frames (B, C, T, H, W) to the moments of the latents (B, 2 Z, t, h, w)."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        channels = list(config.block_out_channels)
        self.conv_in = CausalConv3d(config.in_channels, channels[0])
        self.down_blocks = nn.ModuleList(
            DownBlock3D(i, o, config, level)
            for level, (i, o) in enumerate(pairwise([channels[0], *channels]))
        )
        self.mid_block = MidBlock3D(config)
        self.norm_out = SpatialSplitGroupNorm(config.norm_num_groups, channels[-1], eps=FIXED_NORM_EPS)
        self.conv_out = CausalConv3d(channels[-1], 2 * config.latent_channels)

    def construct(self, x: nn.Tensor, cache: FrameCache) -> nn.Tensor:
        x = self.conv_in(x, cache)
        for block in self.down_blocks:
            x = block(x, cache)
        x = self.mid_block(x, cache)
        return self.conv_out(nn.silu(self.norm_out(x, cache.split)), cache)


class Decoder3D(nn.Module):
    """Latents (B, Z, t, h, w) to frames (B, C, T, H, W)."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        channels = list(reversed(config.block_out_channels))
        self.conv_in = CausalConv3d(config.latent_channels, channels[0])
        self.mid_block = MidBlock3D(config, config.latent_channels)
        steps = pairwise([channels[0], *channels])
        self.up_blocks = nn.ModuleList(
            UpBlock3D(before, after, config, level) for level, (before, after) in enumerate(steps)
        )
        self.norm_out = SpatialNorm3D(channels[-1], config.latent_channels, config.norm_num_groups)
        self.conv_out = CausalConv3d(channels[-1], config.out_channels)

    def construct(self, zq: nn.Tensor, cache: FrameCache) -> nn.Tensor:
        x = self.conv_in(zq, cache)
        x = self.mid_block(x, cache, zq)
        for block in self.up_blocks:
            x = block(x, cache, zq)
        return self.conv_out(nn.silu(self.norm_out(x, cache.split, zq)), cache)


class AutoencoderKLCogVideoX(VideoAutoencoder):
    """CogVideoX's autoencoder. Its tiles are by default half the configuration's sample size.

    Args:
        config: `vae/config.json`.
        mesh: As in `VideoAutoencoder`.

    Attributes:
        use_slicing: Process the videos of a batch one by one, which takes less memory.
    """

    config: VaeConfig

    def __init__(self, config: VaeConfig, mesh: Mesh | None = None) -> None:
        super().__init__(config, config.spatial_compression_ratio, mesh)
        self.encoder = Encoder3D(config)
        self.decoder = Decoder3D(config)
        moments, latents = 2 * config.latent_channels, config.latent_channels
        self.quant_conv = nn.Conv3d(moments, moments, 1) if config.use_quant_conv else None
        self.post_quant_conv = nn.Conv3d(latents, latents, 1) if config.use_post_quant_conv else None
        self.use_slicing = False
        self.tiles = OverlappingTiles(config.sample_height // 2, config.sample_width // 2)

    def _encode(self, video: nn.Tensor, split: SpatialSplit) -> nn.Tensor:
        return in_frame_batches(video, SAMPLE_FRAMES_AT_ONCE, self._encode_frames, split)

    def _decode(self, latents: nn.Tensor, split: SpatialSplit) -> nn.Tensor:
        return in_frame_batches(latents, LATENT_FRAMES_AT_ONCE, self._decode_frames, split)

    def _encode_frames(self, frames: nn.Tensor, cache: FrameCache) -> nn.Tensor:
        moments = self.encoder(frames, cache)
        return moments if self.quant_conv is None else self.quant_conv(moments)

    def _decode_frames(self, latents: nn.Tensor, cache: FrameCache) -> nn.Tensor:
        if self.post_quant_conv is not None:
            latents = self.post_quant_conv(latents)
        return self.decoder(latents, cache)

    def _in_parts(self, x: nn.Tensor, run: Callable[[nn.Tensor], nn.Tensor], *, decoding: bool) -> nn.Tensor:
        in_parts = super()._in_parts
        if not self.use_slicing or x.shape[0] == 1:
            return in_parts(x, run, decoding=decoding)
        slices = (x[i : i + 1] for i in range(x.shape[0]))
        return nn.cat([in_parts(part, run, decoding=decoding) for part in slices], axis=0)
