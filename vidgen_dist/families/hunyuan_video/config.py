"""HunyuanVideo's configs, with diffusers' keys and defaults, and the sizes of latents and tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from vidgen_dist.activations import DIFFUSERS
from vidgen_dist.component_config import STRICT, AboveZero, Config, Items, OneOf, Positive
from vidgen_dist.encoders.config import ClipTextConfig, LlamaConfig
from vidgen_dist.families.family import Configs
from vidgen_dist.schedulers.flow_match import FlowMatchEulerDiscreteScheduler

CLIP_TOKENS = 77
"""Tokens of a prompt for CLIP, whatever `max_sequence_length` is."""

# The VAE processes long videos in tiles: each has FRAMES_OF_A_TILE frames and the frame before them, and one
# begins every FRAMES_TO_THE_NEXT frames. Other numbers would change the picture.
FRAMES_OF_A_TILE = 16
FRAMES_TO_THE_NEXT = 12

DOWN_BLOCK = "HunyuanVideoDownBlock3D"
UP_BLOCK = "HunyuanVideoUpBlock3D"

Even = Annotated[int, Field(multiple_of=2)]


@dataclass(frozen=True, config=STRICT)
class LlamaTextConfig(LlamaConfig):
    """`text_encoder/config.json`."""

    UNUSED_LAYERS: ClassVar = 2


@dataclass(frozen=True, config=STRICT)
class TransformerConfig(Config):
    """`transformer/config.json`.

    Args:
        rope_axes_dim: Channels of a head that time, height and width rotate, in pairs.
    """

    NAME: ClassVar = "HunyuanVideoTransformer3DModel"

    in_channels: Positive = 16
    out_channels: Positive | None = 16
    num_attention_heads: Positive = 24
    attention_head_dim: Positive = 128
    num_layers: Positive = 20
    num_single_layers: Positive = 40
    num_refiner_layers: Positive = 2
    mlp_ratio: float = 4.0
    patch_size: Positive = 2
    patch_size_t: Positive = 1
    guidance_embeds: bool = True
    text_embed_dim: Positive = 4096
    pooled_projection_dim: Positive = 768
    rope_theta: float = 256.0
    # JSON has lists.
    rope_axes_dim: Annotated[tuple[Even, Even, Even], Field(strict=False)] = (16, 56, 56)

    def check(self) -> None:
        if sum(self.rope_axes_dim) != self.attention_head_dim:
            allowed = f"numbers that sum to attention_head_dim, {self.attention_head_dim}"
            self.refuse("rope_axes_dim", allowed)

    @property
    def inner_dim(self) -> int:
        """Width of the model's tokens."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def mlp_dim(self) -> int:
        """Width of the feed-forwards, except the refiner's."""
        return int(self.inner_dim * self.mlp_ratio)

    @property
    def output_channels(self) -> int:
        """Channels of the prediction."""
        return self.out_channels or self.in_channels

    @property
    def patch(self) -> tuple[int, int, int]:
        """Latent frames, rows and columns of a token."""
        return self.patch_size_t, self.patch_size, self.patch_size


@dataclass(frozen=True, config=STRICT)
class VaeConfig(Config):
    """`vae/config.json`."""

    NAME: ClassVar = "AutoencoderKLHunyuanVideo"

    in_channels: Positive = 3
    out_channels: Positive = 3
    latent_channels: Positive = 16
    down_block_types: Items[str] = (DOWN_BLOCK,) * 4
    up_block_types: Items[str] = (UP_BLOCK,) * 4
    block_out_channels: Items[Positive] = (128, 256, 512, 512)
    layers_per_block: Positive = 2
    act_fn: Annotated[str, OneOf(DIFFUSERS, any_case=True)] = "silu"
    norm_num_groups: Positive = 32
    scaling_factor: AboveZero = 0.476986
    spatial_compression_ratio: Positive = 8
    temporal_compression_ratio: Positive = 4
    mid_block_add_attention: bool = True

    def check(self) -> None:
        channels = self.block_out_channels
        blocks = len(channels)
        for key, known in (("down_block_types", DOWN_BLOCK), ("up_block_types", UP_BLOCK)):
            if getattr(self, key) != (known,) * blocks:
                self.refuse(key, f"{known}, {blocks} times: as many as block_out_channels")
        if any(n % self.norm_num_groups for n in channels):
            self.refuse("block_out_channels", f"multiples of norm_num_groups, {self.norm_num_groups}")
        # The reference's decoder supports nothing else, and its blocks do not double frames more often.
        if self.temporal_compression_ratio != 4:
            self.refuse("temporal_compression_ratio", "4")
        if blocks < 3:
            allowed = "3 or more: frames are halved between two pairs of blocks"
            self.refuse("block_out_channels", allowed)
        ratio = self.spatial_compression_ratio
        if not math.log2(ratio).is_integer() or ratio > 2**blocks:
            allowed = f"a power of 2, up to {2**blocks}: each block halves once"
            self.refuse("spatial_compression_ratio", allowed)

    def strides(self, level: int) -> tuple[int, int, int] | None:
        """Factors by which a block changes frames, rows and columns at its end; None if it changes none.

        Args:
            level: The block's number, from 0, in the encoder or the decoder.
        """
        last = len(self.block_out_channels) - 1
        space = 2 if level < int(math.log2(self.spatial_compression_ratio)) else 1
        time = 2 if last - int(math.log2(self.temporal_compression_ratio)) <= level < last else 1
        return None if (time, space) == (1, 1) else (time, space, space)

    def decoded_frames(self, latent_frames: int) -> int:
        """Frames that latent frames are decoded to."""
        return (latent_frames - 1) * self.temporal_compression_ratio + 1


@plain_dataclass(frozen=True)
class HunyuanVideoConfigs(Configs):
    """The configs of a checkpoint."""

    text_encoder: LlamaTextConfig
    text_encoder_2: ClipTextConfig
    transformer: TransformerConfig
    vae: VaeConfig
    scheduler: FlowMatchEulerDiscreteScheduler

    def check(self) -> None:
        latents = self.vae.latent_channels
        for key, needed, of in (
            ("in_channels", latents, "the VAE's latent_channels"),
            ("out_channels", latents, "the VAE's latent_channels"),
            ("text_embed_dim", self.text_encoder.hidden_size, "text_encoder's hidden_size"),
            ("pooled_projection_dim", self.text_encoder_2.hidden_size, "text_encoder_2's hidden_size"),
        ):
            value = getattr(self.transformer, key)
            # Without out_channels, these are in_channels.
            if value is not None and value != needed:
                self.refuse("transformer", self.transformer, key, f"{needed}, {of}")
        clip, scheduler = self.text_encoder_2, self.scheduler.config
        if clip.max_position_embeddings < CLIP_TOKENS:
            self.refuse("text_encoder_2", clip, "max_position_embeddings", f"{CLIP_TOKENS} or more")
        if scheduler.use_dynamic_shifting:
            allowed = "false: HunyuanVideo's shift is a constant"
            self.refuse("scheduler", scheduler, "use_dynamic_shifting", allowed)

    @property
    def pixels_of_a_token(self) -> int:
        """Pixels per latent, along height and width."""
        return self.vae.spatial_compression_ratio * self.transformer.patch_size

    def latent_size(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Channels, frames, rows and columns of a video's latents; the first frame has a latent frame of its
        own."""
        frames = (num_frames - 1) // self.vae.temporal_compression_ratio + 1
        spatial = self.vae.spatial_compression_ratio
        return self.vae.latent_channels, frames, height // spatial, width // spatial
