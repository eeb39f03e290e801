"""LTX-Video's autoencoder: videos to few latents with many channels, and back.

In 0.9.0 the decoder mirrors the encoder. From 0.9.1 on the decoder gets the noise level of the latents and
does the last denoising step itself; 0.9.5's encoder moves pixels to channels. Source: HaCohen et al. 2024,
"LTX-Video: Realtime Video Latent Diffusion" (arXiv:2501.00103); the reference is diffusers 0.35.2,
`AutoencoderKLLTXVideo`, with the same parameter names and configuration keys.

Shapes: B videos, C channels, T frames, H rows, W columns; latents have Z channels and the smaller t, h, w.
A gang splits the video into rows: each module works on its rank's rows, and gets what it needs of the others'
through `SpatialSplit`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vidgen_dist import nn
from vidgen_dist.families.common.autoencoder import VideoAutoencoder
from vidgen_dist.families.common.autoencoder_layers import from_channels, to_channels
from vidgen_dist.families.common.layers import SinusoidEmbedding
from vidgen_dist.families.common.tiles import StridedTiles
from vidgen_dist.families.ltx.config import DOWN_BLOCK, HALVED, DownStage, Stride, UpStage, VaeConfig
from vidgen_dist.parallel.mesh import Mesh
from vidgen_dist.parallel.spatial_split import SpatialSplit, join_bands

PIXEL_NORM_EPS = 1e-8


@dataclass(frozen=True)
class Pass:
    """What modules get in addition to their input, in one run of the encoder or decoder.

    Args:
        split: Which rows of the video this rank has.
        rng: Injected noise is drawn from it.
    """

    split: SpatialSplit
    rng: np.random.Generator | None = None

    def noise(self, like: nn.Tensor) -> nn.Tensor:
        """Noise for frames (B, C, T, h, W), the same for all frames and channels: (1, 1, 1, h, W).

        Drawn for all rows, so that every rank gets its part of the same noise.
        """
        if self.rng is None:
            raise ValueError("rng is missing, and this decoder's config has decoder_inject_noise")
        rows, width = like.shape[3:]
        scale = rows // self.split.sizes[self.split.gang.index]
        height = rows if self.split.gang.size == 1 else scale * sum(self.split.sizes)
        drawn = nn.from_numpy(self.rng.standard_normal((1, 1, 1, height, width)).astype(np.float32))
        return nn.copy(self.split.take(drawn, scale)).astype(like.dtype)


class CausalConv3d(nn.Module):
    """A 3D convolution of x (B, C, T, H, W), zeros around the image.

    Before the first frame it sees the first frame repeated, as often as the kernel reaches back. If it is not
    causal, the first frame is repeated half as often, and so is the last frame after the end.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, causal: bool = True
    ) -> None:
        super().__init__()
        self.edge = (kernel_size - 1) // 2
        self.before, self.after = (2 * self.edge, 0) if causal else (self.edge, self.edge)
        self.conv = nn.Conv3d(in_channels, out_channels, kernel_size, stride)

    def construct(self, x: nn.Tensor, on: Pass) -> nn.Tensor:
        if not self.edge:
            return self.conv(x)
        bands = on.split.around(x, self.edge, self.edge)
        first = tuple(band[:, :, :1] for band in bands)
        last = tuple(band[:, :, -1:] for band in bands)
        x = join_bands([*[first] * self.before, bands, *[last] * self.after])
        padding = (0, on.split.padding(self.edge), self.edge)
        return nn.conv3d(x, self.conv.weight, self.conv.bias, stride=self.conv.stride, padding=padding)


class ResnetBlock3d(nn.Module):
    """Two convolutions and a shortcut.

    Args:
        in_channels, out_channels: If these differ, the shortcut has a norm and a convolution.
        eps: Epsilon of the shortcut's norm.
        causal: Whether the convolutions are causal.
        injects_noise: Whether noise, scaled per channel, is added after each convolution.
        takes_time: Whether a time embedding scales and shifts after each norm.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        eps: float,
        causal: bool,
        injects_noise: bool = False,
        takes_time: bool = False,
    ) -> None:
        super().__init__()
        self.conv1 = CausalConv3d(in_channels, out_channels, causal=causal)
        self.conv2 = CausalConv3d(out_channels, out_channels, causal=causal)
        widens = in_channels != out_channels
        self.norm3 = nn.LayerNorm(in_channels, eps) if widens else None
        self.conv_shortcut = CausalConv3d(in_channels, out_channels, kernel_size=1) if widens else None

        def parameter(name: str, *shape: int, wanted: bool) -> nn.Parameter | None:
            return nn.empty_parameter(shape, name) if wanted else None

        self.per_channel_scale1 = parameter("per_channel_scale1", in_channels, 1, 1, wanted=injects_noise)
        self.per_channel_scale2 = parameter("per_channel_scale2", in_channels, 1, 1, wanted=injects_noise)
        self.scale_shift_table = parameter("scale_shift_table", 4, in_channels, wanted=takes_time)

    def construct(self, x: nn.Tensor, on: Pass, time: nn.Tensor | None = None) -> nn.Tensor:
        """x (B, C, T, H, W) to (B, O, T, H, W); time (B, 4 C) if `takes_time`."""
        affine = [] if self.scale_shift_table is None else modulation(time, self.scale_shift_table)
        hidden = self.conv1(activate(x, *affine[:2]), on)
        # Step by step to save memory: earlier tensors are freed.
        hidden = add_noise(hidden, self.per_channel_scale1, on)
        hidden = activate(hidden, *affine[2:])
        hidden = self.conv2(hidden, on)
        hidden = add_noise(hidden, self.per_channel_scale2, on)
        if self.norm3 is not None and self.conv_shortcut is not None:
            normed = self.norm3(x.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3)
            x = self.conv_shortcut(normed, on)
        return nn.add(hidden, x)


def modulation(time: nn.Tensor, table: nn.Tensor) -> list[nn.Tensor]:
    """Shifts and scales in turn, each (B, C, 1, 1, 1), from the time (B, K C) and a table (K, C)."""
    count, channels = table.shape
    values = nn.add(nn.reshape(time, (-1, count, channels)), table)
    return [nn.reshape(values[:, k], (-1, channels, 1, 1, 1)) for k in range(count)]


def activate(x: nn.Tensor, shift: nn.Tensor | None = None, scale: nn.Tensor | None = None) -> nn.Tensor:
    """x (B, C, T, H, W) normed over its channels, scaled and shifted if these are given, then SiLU."""
    normed = nn.channel_rms_norm(x, PIXEL_NORM_EPS)
    if shift is not None and scale is not None:
        normed = nn.multiply_add(normed, nn.add(scale, 1.0), shift)
    return nn.silu(normed)


def add_noise(x: nn.Tensor, scale: nn.Tensor | None, on: Pass) -> nn.Tensor:
    """x (B, C, T, H, W) plus noise times scale (C, 1, 1), if there is one."""
    return x if scale is None else nn.multiply_add(on.noise(x), scale[None, :, None], x)


class Downsampler3d(nn.Module):
    """Pixels moved to channels by a convolution, plus means of groups of the input's channels (0.9.5)."""

    def __init__(self, in_channels: int, out_channels: int, stride: Stride, causal: bool) -> None:
        super().__init__()
        self.stride = stride
        size = math.prod(stride)
        self.group = in_channels * size // out_channels
        self.conv = CausalConv3d(in_channels, out_channels // size, causal=causal)

    def construct(self, x: nn.Tensor, on: Pass) -> nn.Tensor:
        if self.stride[0] > 1:
            x = nn.cat([x[:, :, : self.stride[0] - 1], x], 2)
        residual = group_means(to_channels(x, self.stride), self.group)
        return nn.add(to_channels(self.conv(x, on), self.stride), residual)


def group_means(x: nn.Tensor, group: int) -> nn.Tensor:
    """Means of each `group` neighbouring channels of x (B, C, T, H, W)."""
    if group == 1:
        return x
    batch, channels, *size = x.shape
    grouped = nn.reshape(x, (batch, channels // group, group, *size))
    total = grouped[:, :, 0]
    for i in range(1, group):
        total = nn.add(total, grouped[:, :, i])
    return nn.multiply(total, 1.0 / group)


class Upsampler3d(nn.Module):
    """Twice the frames except the first, twice the rows and columns, and `factor` times fewer channels."""

    def __init__(self, channels: int, factor: int, residual: bool, causal: bool) -> None:
        super().__init__()
        self.residual = residual
        # Channels are repeated if moving them to pixels alone would leave fewer.
        self.repeats = 8 // factor
        self.conv = CausalConv3d(channels, channels * 8 // factor, causal=causal)

    def construct(self, x: nn.Tensor, on: Pass) -> nn.Tensor:
        # The first frame is doubled too, and the first of the two is dropped.
        larger = from_channels(self.conv(x, on), HALVED)[:, :, 1:]
        if not self.residual:
            return larger
        shuffled = from_channels(x, HALVED)[:, :, 1:]
        return nn.add(larger, nn.cat([shuffled] * self.repeats, 1))


class DownBlock3D(nn.Module):
    """Residual blocks, then half the frames, rows and columns; 0.9.0 widens last, 0.9.5 in halving."""

    def __init__(self, stage: DownStage, config: VaeConfig) -> None:
        super().__init__()
        eps, causal = config.resnet_norm_eps, config.encoder_causal
        inputs, outputs = stage.inputs, stage.outputs
        self.resnets = nn.ModuleList(ResnetBlock3d(inputs, inputs, eps, causal) for _ in range(stage.layers))
        self.downsamplers = nn.ModuleList()
        if stage.shuffle:
            self.downsamplers.append(Downsampler3d(inputs, outputs, stage.shuffle, causal))
        elif stage.halves:
            self.downsamplers.append(CausalConv3d(inputs, inputs, stride=2, causal=causal))
        widens = stage.kind == DOWN_BLOCK and inputs != outputs
        self.conv_out = ResnetBlock3d(inputs, outputs, eps, causal) if widens else None

    def construct(self, x: nn.Tensor, on: Pass) -> nn.Tensor:
        for resnet in self.resnets:
            x = resnet(x, on)
        for downsampler in self.downsamplers:
            x = downsampler(x, on)
        return x if self.conv_out is None else self.conv_out(x, on)


class TimedResnets(nn.Module):
    """Residual blocks of one width, with a time embedding of their own."""

    def __init__(
        self, channels: int, layers: int, eps: float, causal: bool, injects_noise: bool, takes_time: bool
    ) -> None:
        super().__init__()
        self.time_embedder = SinusoidEmbedding(4 * channels) if takes_time else None
        self.resnets = nn.ModuleList(
            ResnetBlock3d(channels, channels, eps, causal, injects_noise, takes_time) for _ in range(layers)
        )

    def construct(self, x: nn.Tensor, on: Pass, timestep: np.ndarray | None = None) -> nn.Tensor:
        """x (B, C, T, H, W), timestep (B,) if the config has `timestep_conditioning`."""
        time = None if self.time_embedder is None else self.time_embedder(timestep, x.dtype)
        for resnet in self.resnets:
            x = resnet(x, on, time)
        return x


class UpBlock3D(TimedResnets):
    """Twice the frames, rows and columns, then residual blocks."""

    def __init__(self, stage: UpStage, config: VaeConfig) -> None:
        eps, causal = config.resnet_norm_eps, config.decoder_causal
        super().__init__(
            stage.outputs, stage.layers, eps, causal, stage.injects_noise, config.timestep_conditioning
        )
        narrows = stage.inputs != stage.outputs
        self.conv_in = ResnetBlock3d(stage.inputs, stage.outputs, eps, causal) if narrows else None
        self.upsamplers = nn.ModuleList()
        if stage.doubles:
            channels = stage.outputs * stage.factor
            self.upsamplers.append(Upsampler3d(channels, stage.factor, stage.residual, causal))

    def construct(self, x: nn.Tensor, on: Pass, timestep: np.ndarray | None = None) -> nn.Tensor:
        if self.conv_in is not None:
            x = self.conv_in(x, on)
        for upsampler in self.upsamplers:
            x = upsampler(x, on)
        return super().construct(x, on, timestep)


class Encoder3d(nn.Module):
    """Frames (B, C, T, H, W) to the latents' moments (B, Z + 1, t, h, w): one variance for all channels."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.patch = config.patch_size_t, config.patch_size
        causal, stages = config.encoder_causal, config.down_stages
        inputs = config.in_channels * config.patch_size**2
        self.conv_in = CausalConv3d(inputs, stages[0].inputs, causal=causal)
        self.down_blocks = nn.ModuleList(DownBlock3D(stage, config) for stage in stages)
        width, layers = stages[-1].outputs, config.layers_per_block[-1]
        self.mid_block = TimedResnets(
            width, layers, config.resnet_norm_eps, causal, injects_noise=False, takes_time=False
        )
        self.conv_out = CausalConv3d(width, config.latent_channels + 1, causal=causal)

    def construct(self, x: nn.Tensor, on: Pass) -> nn.Tensor:
        x = self.conv_in(self._patchify(x), on)
        for block in self.down_blocks:
            x = block(x, on)
        return self.conv_out(activate(self.mid_block(x, on)), on)

    def _patchify(self, x: nn.Tensor) -> nn.Tensor:
        batch, channels, frames, height, width = x.shape
        pt, p = self.patch
        cut = nn.reshape(x, (batch, channels, frames // pt, pt, height // p, p, width // p, p))
        # In a patch, columns come before rows.
        return nn.reshape(
            cut.permute(0, 1, 3, 7, 5, 2, 4, 6), (batch, -1, frames // pt, height // p, width // p)
        )


class Decoder3d(nn.Module):
    """Latents (B, Z, t, h, w) to frames (B, C, T, H, W)."""

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.patch = config.patch_size_t, config.patch_size
        causal, stages = config.decoder_causal, config.up_stages
        told = config.timestep_conditioning
        width = config.decoder_block_out_channels[-1]
        self.conv_in = CausalConv3d(config.latent_channels, width, causal=causal)
        self.mid_block = TimedResnets(
            width,
            config.decoder_layers_per_block[-1],
            config.resnet_norm_eps,
            causal,
            config.decoder_inject_noise[-1],
            told,
        )
        self.up_blocks = nn.ModuleList(UpBlock3D(stage, config) for stage in stages)
        width = stages[-1].outputs
        self.conv_out = CausalConv3d(width, config.out_channels * config.patch_size**2, causal=causal)
        self.time_embedder = SinusoidEmbedding(2 * width) if told else None
        self.scale_shift_table = nn.empty_parameter((2, width), "scale_shift_table") if told else None
        self.timestep_scale_multiplier = nn.empty_parameter((), "timestep_scale_multiplier") if told else None

    def construct(self, latents: nn.Tensor, on: Pass, timestep: np.ndarray | None) -> nn.Tensor:
        if self.timestep_scale_multiplier is not None:
            if timestep is None:
                raise ValueError("timestep is missing, and this decoder's config has timestep_conditioning")
            timestep = np.asarray(timestep, np.float32) * nn.to_numpy(self.timestep_scale_multiplier)
        x = self.mid_block(self.conv_in(latents, on), on, timestep)
        for block in self.up_blocks:
            x = block(x, on, timestep)
        affine = []
        if self.time_embedder is not None:
            affine = modulation(self.time_embedder(timestep, x.dtype), self.scale_shift_table)
        return self._unpatchify(self.conv_out(activate(x, *affine), on))

    def _unpatchify(self, x: nn.Tensor) -> nn.Tensor:
        batch, _, frames, height, width = x.shape
        pt, p = self.patch
        cut = nn.reshape(x, (batch, -1, pt, p, p, frames, height, width))
        return nn.reshape(
            cut.permute(0, 1, 5, 2, 6, 4, 7, 3), (batch, -1, frames * pt, height * p, width * p)
        )


class AutoencoderKLLTXVideo(VideoAutoencoder):
    """LTX-Video's autoencoder.

    Args:
        config: `vae/config.json`.
        mesh: As in `VideoAutoencoder`.

    Attributes:
        latents_mean, latents_std: Normalise latents for the transformer, (Z,).
    """

    config: VaeConfig
    tiles = StridedTiles(512, 512, 448, 448)

    def __init__(self, config: VaeConfig, mesh: Mesh | None = None) -> None:
        super().__init__(config, config.spatial, mesh)
        self.encoder = Encoder3d(config)
        self.decoder = Decoder3d(config)
        self.latents_mean = nn.empty_parameter((config.latent_channels,), "latents_mean")
        self.latents_std = nn.empty_parameter((config.latent_channels,), "latents_std")

    def encode(self, video: nn.Tensor) -> tuple[nn.Tensor, nn.Tensor]:
        """As `VideoAutoencoder.encode`; the variance is the same for all channels."""
        mean, logvar = super().encode(video)
        return mean, nn.cat([logvar] * self.config.latent_channels, 1)

    def decode(
        self,
        latents: nn.Tensor,
        timestep: np.ndarray | None = None,
        rng: np.random.Generator | None = None,
    ) -> nn.Tensor:
        """As `VideoAutoencoder.decode`.

        Args:
            timestep: (B,), 0 to 1; for `timestep_conditioning`.
            rng: Noise is drawn from it, for `decoder_inject_noise`; in the same state on all ranks.

        Raises:
            ValueError: `timestep` or `rng` is missing, and the config needs it.
        """
        return self._decode_by(lambda x, split: self.decoder(x, Pass(split, rng), timestep), latents)

    def _encode(self, video: nn.Tensor, split: SpatialSplit) -> nn.Tensor:
        return self.encoder(video, Pass(split))
