"""Mochi's configs, with diffusers' keys and defaults, and the sizes of latents and tokens."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, ClassVar

from pydantic.dataclasses import dataclass

from vidgen_dist.activations import DIFFUSERS, FEED_FORWARDS
from vidgen_dist.component_config import STRICT, AboveZero, Config, Items, OneOf, Positive
from vidgen_dist.encoders.config import T5Config
from vidgen_dist.families.family import Configs, IndexConfig
from vidgen_dist.schedulers.flow_match import FlowMatchEulerDiscreteScheduler

logger = logging.getLogger(__name__)

SPATIAL = 8
"""Pixels per latent along height and width. As in diffusers, whatever the checkpoint's VAE is."""

TEMPORAL = 6
"""Frames per latent frame. As in diffusers, too."""

POOL_HEADS = 8
"""Attention heads that pool the prompt into one vector."""

GROUPS = 32
"""Groups of every norm of the VAE, whatever the width."""

OCTAVES = (6, 7)
"""The VAE's encoder sees waves of each colour with these powers of 2 over half the colour's range."""

LATENT_FRAMES_AT_ONCE = 2
"""Latent frames that are decoded at a time. It affects memory, not the frames."""

LATENTS_MEAN = (
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
LATENTS_STD = (
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


@dataclass(frozen=True, config=STRICT)
class MochiIndex(IndexConfig):
    """The settings in `model_index.json`.

    Args:
        force_zeros_for_empty_prompt: Whether even the end token of an empty prompt is masked.
    """

    force_zeros_for_empty_prompt: bool = False


@dataclass(frozen=True, config=STRICT)
class TransformerConfig(Config):
    """`transformer/config.json`."""

    NAME: ClassVar = "MochiTransformer3DModel"
    HARMLESS: ClassVar = dict.fromkeys(
        ("qk_norm", "max_sequence_length"), "the reference takes them and does nothing with them"
    )

    patch_size: Positive = 2
    num_attention_heads: Positive = 24
    attention_head_dim: Positive = 128
    num_layers: Positive = 48
    pooled_projection_dim: Positive = 1536
    in_channels: Positive = 12
    out_channels: Positive | None = None
    text_embed_dim: Positive = 4096
    time_embed_dim: Positive = 256
    activation_fn: Annotated[str, OneOf(FEED_FORWARDS)] = "swiglu"

    def check(self) -> None:
        if self.attention_head_dim % 2:
            self.refuse("attention_head_dim", "an even number: positions rotate pairs of channels")
        if self.text_embed_dim % POOL_HEADS:
            allowed = f"a multiple of {POOL_HEADS}, the heads that pool the prompt"
            self.refuse("text_embed_dim", allowed)

    @property
    def inner_dim(self) -> int:
        """Width of the video's tokens."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def output_channels(self) -> int:
        """Channels of the prediction."""
        return self.out_channels or self.in_channels

    @property
    def patch(self) -> tuple[int, int, int]:
        """Latent frames, rows and columns of a token."""
        return 1, self.patch_size, self.patch_size


@dataclass(frozen=True, config=STRICT)
class VaeConfig(Config):
    """`vae/config.json`.

    Lists are in the encoder's order, from the pixels to the latents, also the decoder's.
    """

    NAME: ClassVar = "AutoencoderKLMochi"

    in_channels: Positive = 15
    out_channels: Positive = 3
    encoder_block_out_channels: Items[int] = (64, 128, 256, 384)
    decoder_block_out_channels: Items[int] = (128, 256, 512, 768)
    latent_channels: Positive = 12
    layers_per_block: Items[int] = (3, 3, 4, 6, 3)
    act_fn: Annotated[str, OneOf(DIFFUSERS, any_case=True)] = "silu"
    temporal_expansions: Items[Positive] = (1, 2, 3)
    spatial_expansions: Items[Positive] = (2, 2, 2)
    add_attention_block: Items[bool] = (False, True, True, True, True)
    latents_mean: Items[float] | None = LATENTS_MEAN
    latents_std: Items[float] | None = LATENTS_STD
    scaling_factor: AboveZero = 1.0

    def check(self) -> None:
        waves = 1 + 2 * len(OCTAVES)
        if self.in_channels % waves:
            self.refuse("in_channels", f"a multiple of {waves}: each colour comes with its waves")
        self._check_levels()
        for key in ("latents_mean", "latents_std"):
            statistics = getattr(self, key)
            if statistics is not None and len(statistics) != self.latent_channels:
                self.refuse(key, f"null or as many numbers as latent_channels, {self.latent_channels}")

    def _check_levels(self) -> None:
        levels = len(self.encoder_block_out_channels)
        if levels != len(self.decoder_block_out_channels):
            self.refuse("decoder_block_out_channels", f"{levels} entries, as encoder_block_out_channels")
        for key in ("encoder_block_out_channels", "decoder_block_out_channels"):
            if any(channels % GROUPS for channels in getattr(self, key)):
                self.refuse(key, f"multiples of {GROUPS}, the groups of the norms")
        self.check_lengths(
            {"layers_per_block": levels, "add_attention_block": levels}, "encoder_block_out_channels"
        )
        for key in ("temporal_expansions", "spatial_expansions"):
            if len(getattr(self, key)) != levels - 1:
                self.refuse(key, f"{levels - 1} entries, one between each pair of blocks")

    @property
    def spatial_compression_ratio(self) -> int:
        """Pixels per latent that the decoder makes, along height and width."""
        return math.prod(self.spatial_expansions)

    @property
    def temporal_compression_ratio(self) -> int:
        """Frames per latent frame that it makes."""
        return math.prod(self.temporal_expansions)

    def strides(self, level: int) -> tuple[int, int, int]:
        """Factors by which frames, rows and columns differ between two levels."""
        space = self.spatial_expansions[level]
        return self.temporal_expansions[level], space, space

    def decoded_frames(self, latent_frames: int) -> int:
        """Frames that latent frames are decoded to."""
        return (latent_frames - 1) * self.temporal_compression_ratio + 1


@plain_dataclass(frozen=True)
class MochiConfigs(Configs):
    """The configs of a checkpoint."""

    index: MochiIndex
    text_encoder: T5Config
    transformer: TransformerConfig
    vae: VaeConfig
    scheduler: FlowMatchEulerDiscreteScheduler

    def check(self) -> None:
        made = self.transformer.output_channels
        latents, width = self.vae.latent_channels, self.text_encoder.d_model
        for key, value, needed, of in (
            ("in_channels", self.transformer.in_channels, latents, "the VAE's latent_channels"),
            ("out_channels", made, self.transformer.in_channels, "in_channels"),
            ("text_embed_dim", self.transformer.text_embed_dim, width, "text_encoder's d_model"),
        ):
            if value != needed:
                self.refuse("transformer", self.transformer, key, f"{needed}, {of}")
        scheduler = self.scheduler.config
        if scheduler.use_dynamic_shifting:
            self.refuse("scheduler", scheduler, "use_dynamic_shifting", "false: Mochi's shift is a constant")
        if self.vae.spatial_compression_ratio != SPATIAL:
            logger.warning(
                "the VAE makes %d pixels per latent, not %d: videos have another size",
                self.vae.spatial_compression_ratio,
                SPATIAL,
            )

    def latent_size(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Channels, frames, rows and columns of a video's latents; the first frame has a latent frame of its
        own."""
        frames = (num_frames - 1) // TEMPORAL + 1
        return self.vae.latent_channels, frames, height // SPATIAL, width // SPATIAL
