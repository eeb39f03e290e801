"""LTX-Video's configs, with diffusers' keys and defaults, and the sizes of latents, which are tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, ClassVar

from pydantic.dataclasses import dataclass

from vidgen_dist.activations import FEED_FORWARDS
from vidgen_dist.component_config import STRICT, AboveZero, Config, FromZero, Items, OneOf, Positive
from vidgen_dist.encoders.config import T5Config
from vidgen_dist.families.family import Configs
from vidgen_dist.schedulers.flow_match import FlowMatchEulerDiscreteScheduler

DOWN_BLOCK = "LTXVideoDownBlock3D"
DOWN_BLOCK_095 = "LTXVideo095DownBlock3D"
CONVOLUTION = "conv"

Stride = tuple[int, int, int]
"""How many frames, rows and columns become one, or are made of one."""

SHUFFLES: Mapping[str, Stride] = {
    "spatial": (1, 2, 2),
    "temporal": (2, 1, 1),
    "spatiotemporal": (2, 2, 2),
}
"""What is combined to one by 0.9.5's `downsample_type`, if that is not a convolution."""

HALVED: Stride = (2, 2, 2)
KEPT: Stride = (1, 1, 1)


@dataclass(frozen=True, config=STRICT)
class TransformerConfig(Config):
    """`transformer/config.json`."""

    NAME: ClassVar = "LTXVideoTransformer3DModel"

    in_channels: Positive = 128
    out_channels: Positive | None = 128
    num_attention_heads: Positive = 32
    attention_head_dim: Positive = 64
    cross_attention_dim: Positive = 2048
    num_layers: Positive = 28
    activation_fn: Annotated[str, OneOf(FEED_FORWARDS)] = "gelu-approximate"
    norm_elementwise_affine: bool = False
    norm_eps: FromZero = 1e-6
    caption_channels: Positive = 4096
    attention_bias: bool = True
    attention_out_bias: bool = True

    def check(self) -> None:
        if self.attention_head_dim % 2:
            self.refuse("attention_head_dim", "an even number: rotary positions rotate pairs of channels")
        if self.cross_attention_dim != self.inner_dim:
            allowed = f"num_attention_heads times attention_head_dim, {self.inner_dim}"
            self.refuse("cross_attention_dim", allowed)

    @property
    def inner_dim(self) -> int:
        """Width of the tokens."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def output_channels(self) -> int:
        """Channels of the prediction."""
        return self.out_channels or self.in_channels


@plain_dataclass(frozen=True)
class DownStage:
    """A block of the VAE's encoder.

    Args:
        kind: Its type.
        inputs, outputs: Channels.
        layers: Number of residual blocks.
        halves: Whether frames, rows and columns become fewer.
        shuffle: How many pixels are moved to channels for each of its outputs; None: it uses a convolution.
    """

    kind: str
    inputs: int
    outputs: int
    layers: int
    halves: bool
    shuffle: Stride | None

    @property
    def stride(self) -> Stride:
        """How many frames, rows and columns become one."""
        return self.shuffle or (HALVED if self.halves else KEPT)


@plain_dataclass(frozen=True)
class UpStage:
    """A block of the VAE's decoder.

    Args:
        before: Channels of its input.
        inputs, outputs: Channels before the residual blocks, after doubling, and after them.
        layers: Number of residual blocks.
        doubles: Whether frames, rows and columns are doubled.
        injects_noise: Whether its residual blocks add noise.
        residual: Whether the doubled input is added to the result of the doubling convolution.
        factor: By how much doubling divides the number of channels.
    """

    before: int
    inputs: int
    outputs: int
    layers: int
    doubles: bool
    injects_noise: bool
    residual: bool
    factor: int

    @property
    def stride(self) -> Stride:
        """How many frames, rows and columns are made of one."""
        return HALVED if self.doubles else KEPT


@dataclass(frozen=True, config=STRICT)
class VaeConfig(Config):
    """`vae/config.json`.

    Lists are in the encoder's order, from the pixels to the latents, also the decoder's. If a decoder's list
    is longer than `decoder_block_out_channels`, its end is used.
    """

    NAME: ClassVar = "AutoencoderKLLTXVideo"

    in_channels: Positive = 3
    out_channels: Positive = 3
    latent_channels: Positive = 128
    block_out_channels: Items[Positive] = (128, 256, 512, 512)
    down_block_types: Items[Annotated[str, OneOf((DOWN_BLOCK, DOWN_BLOCK_095))]] = (DOWN_BLOCK,) * 4
    decoder_block_out_channels: Items[Positive] = (128, 256, 512, 512)
    layers_per_block: Items[int] = (4, 3, 3, 3, 4)
    decoder_layers_per_block: Items[int] = (4, 3, 3, 3, 4)
    spatio_temporal_scaling: Items[bool] = (True, True, True, False)
    decoder_spatio_temporal_scaling: Items[bool] = (True, True, True, False)
    decoder_inject_noise: Items[bool] = (False,) * 5
    downsample_type: Items[Annotated[str, OneOf((CONVOLUTION, *SHUFFLES))]] = (CONVOLUTION,) * 4
    upsample_residual: Items[bool] = (False,) * 4
    upsample_factor: Items[Positive] = (1,) * 4
    timestep_conditioning: bool = False
    patch_size: Positive = 4
    patch_size_t: Positive = 1
    resnet_norm_eps: FromZero = 1e-6
    scaling_factor: AboveZero = 1.0
    encoder_causal: bool = True
    decoder_causal: bool = False
    spatial_compression_ratio: Positive | None = None
    temporal_compression_ratio: Positive | None = None

    def check(self) -> None:
        self._check_encoder()
        self._check_decoder()

    def _check_encoder(self) -> None:
        blocks = self._down_blocks
        lengths = {
            "down_block_types": blocks,
            "spatio_temporal_scaling": blocks,
            "layers_per_block": blocks + 1,
        }
        if DOWN_BLOCK_095 in self.down_block_types:
            lengths["downsample_type"] = blocks
        self.check_lengths(lengths, "block_out_channels")
        for stage in self.down_stages:
            if stage.shuffle and stage.inputs * math.prod(stage.shuffle) % stage.outputs:
                self.refuse("block_out_channels", "divisors of the previous number of channels, shuffled")
            if stage.kind == DOWN_BLOCK_095 and not stage.shuffle and stage.inputs != stage.outputs:
                self.refuse("block_out_channels", "the same on both sides of a block that shuffles no pixels")

    def _check_decoder(self) -> None:
        blocks = len(self.decoder_block_out_channels)
        lengths = {
            "decoder_spatio_temporal_scaling": blocks,
            "upsample_residual": blocks,
            "upsample_factor": blocks,
            "decoder_layers_per_block": blocks + 1,
            "decoder_inject_noise": blocks + 1,
        }
        self.check_lengths(lengths, "decoder_block_out_channels")
        for stage in self.up_stages:
            told = stage.injects_noise or self.timestep_conditioning
            if stage.inputs != stage.outputs and (told or stage.factor > 1):
                self.refuse(
                    "decoder_block_out_channels",
                    "numbers whose product with upsample_factor is the next one, where noise is injected, "
                    "the decoder gets the timestep or upsample_factor is above 1",
                )
            if stage.factor > 1 and not stage.doubles:
                self.refuse("upsample_factor", "1 for a block that does not scale")
            if stage.before % stage.factor or (stage.residual and (8 % stage.factor or stage.before % 8)):
                self.refuse("upsample_factor", "a divisor of the channels, and 8 with upsample_residual")

    @property
    def _down_blocks(self) -> int:
        # 0.9.5 also lists the channels before the first block.
        return len(self.block_out_channels) - (self.down_block_types[-1] == DOWN_BLOCK_095)

    @property
    def down_stages(self) -> tuple[DownStage, ...]:
        """The encoder's blocks, starting at the pixels."""
        channels = (*self.block_out_channels, self.block_out_channels[-1])
        return tuple(
            DownStage(
                kind=self.down_block_types[i],
                inputs=channels[i],
                outputs=channels[i + 1],
                layers=self.layers_per_block[i],
                halves=self.spatio_temporal_scaling[i],
                shuffle=self._shuffle(i),
            )
            for i in range(self._down_blocks)
        )

    def _shuffle(self, i: int) -> Stride | None:
        if self.down_block_types[i] != DOWN_BLOCK_095 or not self.spatio_temporal_scaling[i]:
            return None
        return SHUFFLES.get(self.downsample_type[i])

    @property
    def up_stages(self) -> tuple[UpStage, ...]:
        """The decoder's blocks, starting at the latents."""
        stages = []
        channels = self.decoder_block_out_channels[-1]
        for i, width in enumerate(reversed(self.decoder_block_out_channels), start=1):
            factor = self.upsample_factor[-i]
            stage = UpStage(
                before=channels,
                inputs=channels // factor,
                outputs=width // factor,
                layers=self.decoder_layers_per_block[-1 - i],
                doubles=self.decoder_spatio_temporal_scaling[-i],
                injects_noise=self.decoder_inject_noise[-1 - i],
                residual=self.upsample_residual[-i],
                factor=factor,
            )
            stages.append(stage)
            channels = stage.outputs
        return tuple(stages)

    @property
    def spatial(self) -> int:
        """Pixels per latent along height and width."""
        return self.spatial_compression_ratio or self.patch_size * 2 ** sum(self.spatio_temporal_scaling)

    @property
    def temporal(self) -> int:
        """Frames per latent frame."""
        return self.temporal_compression_ratio or self.patch_size_t * 2 ** sum(self.spatio_temporal_scaling)

    def decoded_frames(self, latent_frames: int) -> int:
        """Frames that latent frames are decoded to."""
        doublings = sum(stage.doubles for stage in self.up_stages)
        return ((latent_frames - 1) * 2**doublings + 1) * self.patch_size_t


@plain_dataclass(frozen=True)
class LTXConfigs(Configs):
    """The configs of a checkpoint."""

    text_encoder: T5Config
    transformer: TransformerConfig
    vae: VaeConfig
    scheduler: FlowMatchEulerDiscreteScheduler

    def check(self) -> None:
        channels, latents = self.transformer, self.vae.latent_channels
        for key, value in (("in_channels", channels.in_channels), ("out_channels", channels.output_channels)):
            if value != latents:
                allowed = f"{latents}, the VAE's latent_channels"
                self.refuse("transformer", self.transformer, key, allowed)

    def latent_size(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Channels, frames, rows and columns of a video's latents; the first frame has a latent frame of its
        own."""
        frames = (num_frames - 1) // self.vae.temporal + 1
        return self.vae.latent_channels, frames, height // self.vae.spatial, width // self.vae.spatial
