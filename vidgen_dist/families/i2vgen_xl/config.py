"""I2VGen-XL's configs, with diffusers' keys and defaults, and the sizes of latents."""

from __future__ import annotations

from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic.dataclasses import dataclass

from vidgen_dist.component_config import STRICT, Items, OneOf, Positive
from vidgen_dist.encoders.config import ClipImageProcessorConfig, ClipTextConfig, ClipVisionConfig
from vidgen_dist.families.common.autoencoder_kl_config import AutoencoderKLConfig
from vidgen_dist.families.common.unet_config import BlocksConfig
from vidgen_dist.families.family import Configs
from vidgen_dist.schedulers.discrete import DiscreteScheduler

PLAIN_DOWN, CROSS_DOWN = "DownBlock3D", "CrossAttnDownBlock3D"
PLAIN_UP, CROSS_UP = "UpBlock3D", "CrossAttnUpBlock3D"

HEADS_IN = 8
"""Heads of the attention over frames before the blocks, whatever the checkpoint's sizes are."""

IMAGE_HEADS = 2
"""Heads of the attention over the frames of the image's latents."""

POOLED = 32
"""The image's latents are averaged to so many rows and columns, which become tokens."""

IMAGE_TOKENS = (POOLED // 4) ** 2
"""Tokens from the image's latents: two convolutions halve the rows and columns."""


@dataclass(frozen=True, config=STRICT)
class UNetConfig(BlocksConfig):
    """`unet/config.json`.

    Args:
        attention_head_dim: Width of a head; a block has as many heads as fit into its channels.
    """

    NAME: ClassVar = "I2VGenXLUNet"
    HARMLESS: ClassVar = {
        "sample_size": "the request has the size",
        "num_attention_heads": "the reference takes it and does not use it",
    }

    # The layers that see the image's latents have four channels, whatever the config says.
    in_channels: Literal[4] = 4
    out_channels: Literal[4] = 4
    down_block_types: Items[Annotated[str, OneOf((PLAIN_DOWN, CROSS_DOWN))]] = (
        CROSS_DOWN,
        CROSS_DOWN,
        CROSS_DOWN,
        PLAIN_DOWN,
    )
    up_block_types: Items[Annotated[str, OneOf((PLAIN_UP, CROSS_UP))]] = (
        PLAIN_UP,
        CROSS_UP,
        CROSS_UP,
        CROSS_UP,
    )
    layers_per_block: Positive = 2
    norm_num_groups: Positive = 32
    cross_attention_dim: Positive = 1024
    attention_head_dim: Positive = 64

    def check(self) -> None:
        self.check_per_block("down_block_types", "up_block_types")
        self.check_groups(self.norm_num_groups)
        if any(channels < self.attention_head_dim for channels in self._attending):
            fewest = min(self._attending)
            allowed = f"a whole number up to {fewest}, the channels of the narrowest block with attention"
            self.refuse("attention_head_dim", allowed)

    @property
    def _attending(self) -> list[int]:
        """Channels of the blocks with attention; the one in the middle always has it."""
        channels = self.block_out_channels
        down = [n for n, kind in zip(channels, self.down_block_types, strict=True) if kind == CROSS_DOWN]
        up = [n for n, kind in zip(reversed(channels), self.up_block_types, strict=True) if kind == CROSS_UP]
        return [*down, channels[-1], *up]

    def heads(self, channels: int) -> int:
        """Number of heads in a block with so many channels."""
        return channels // self.attention_head_dim


@plain_dataclass(frozen=True)
class I2VGenXLConfigs(Configs):
    """The configs of a checkpoint."""

    text_encoder: ClipTextConfig
    image_encoder: ClipVisionConfig
    feature_extractor: ClipImageProcessorConfig
    unet: UNetConfig
    vae: AutoencoderKLConfig
    scheduler: DiscreteScheduler[Any]

    def check(self) -> None:
        if self.vae.latent_channels != self.unet.in_channels:
            allowed = f"{self.unet.in_channels}, the UNet's in_channels"
            self.refuse("vae", self.vae, "latent_channels", allowed)
        for component, config, key in (
            ("text_encoder", self.text_encoder, "hidden_size"),
            ("image_encoder", self.image_encoder, "projection_dim"),
        ):
            needed = self.unet.cross_attention_dim
            if getattr(config, key) != needed:
                self.refuse(component, config, key, f"{needed}, the UNet's cross_attention_dim")
        side = self.image_encoder.image_size
        if self.feature_extractor.crop != (side, side):
            allowed = f"{side}, the image_encoder's image_size"
            self.refuse("feature_extractor", self.feature_extractor, "crop_size", allowed)

    @property
    def attended_tokens(self) -> int:
        """Tokens that every place of a frame attends to, at most: those of the text, of the image's latents
        and of the image's vector."""
        return self.text_encoder.max_position_embeddings + IMAGE_TOKENS + self.unet.in_channels

    def latent_size(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Channels, frames, rows and columns of a video's latents."""
        ratio = self.vae.spatial_compression_ratio
        return self.unet.in_channels, num_frames, height // ratio, width // ratio
