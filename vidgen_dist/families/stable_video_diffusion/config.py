"""Stable Video Diffusion's configs, with diffusers' keys and defaults."""

from __future__ import annotations

from dataclasses import dataclass as plain_dataclass
from typing import Annotated, ClassVar

from pydantic.dataclasses import dataclass

from vidgen_dist.component_config import STRICT, Items, OneOf, Positive
from vidgen_dist.encoders.config import ClipImageProcessorConfig, ClipVisionConfig
from vidgen_dist.families.common.autoencoder_kl_config import ImageVaeConfig
from vidgen_dist.families.common.unet_config import BlocksConfig, PerBlock, per_block
from vidgen_dist.families.family import Configs
from vidgen_dist.schedulers.euler import EulerDiscreteScheduler

IMAGE_SIDE = 224
"""Pixels along each side of the image encoder's input. As in diffusers, whatever its config says."""

TIME_IDS = 3
"""Numbers that the UNet gets for a video: frames per second, motion and noise."""

GROUPS = 32
"""Groups of every norm of the UNet, whatever the width."""

ATTENDING_DOWN, ATTENDING_UP = "CrossAttnDownBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"
"""Blocks with transformers."""


@plain_dataclass(frozen=True)
class Level:
    """The layers of a block.

    Args:
        channels: C after each of them.
        layers: Residual blocks when halving the image; one more when doubling it.
        heads: Attention heads, within an image and between frames.
        cross_attention_dim: Width of the image's embedding.
        transformer_layers: Blocks of each transformer, equally many within images and between frames.
    """

    channels: int
    layers: int
    heads: int
    cross_attention_dim: int
    transformer_layers: int


@dataclass(frozen=True, config=STRICT, kw_only=True)
class UNetConfig(BlocksConfig):
    """`unet/config.json`.

    Lists are in the order in which the image is halved, from the pixels to the middle, except
    `up_block_types`.
    """

    NAME: ClassVar = "UNetSpatioTemporalConditionModel"
    HARMLESS: ClassVar = {"sample_size": "the request has the size"}

    in_channels: Positive = 8
    out_channels: Positive = 4
    down_block_types: Items[Annotated[str, OneOf((ATTENDING_DOWN, "DownBlockSpatioTemporal"))]] = (
        "CrossAttnDownBlockSpatioTemporal",
        "CrossAttnDownBlockSpatioTemporal",
        "CrossAttnDownBlockSpatioTemporal",
        "DownBlockSpatioTemporal",
    )
    up_block_types: Items[Annotated[str, OneOf((ATTENDING_UP, "UpBlockSpatioTemporal"))]] = (
        "UpBlockSpatioTemporal",
        "CrossAttnUpBlockSpatioTemporal",
        "CrossAttnUpBlockSpatioTemporal",
        "CrossAttnUpBlockSpatioTemporal",
    )
    addition_time_embed_dim: Positive = 256
    projection_class_embeddings_input_dim: Positive = 768
    layers_per_block: PerBlock = 2
    cross_attention_dim: PerBlock = 1024
    transformer_layers_per_block: PerBlock = 1
    num_attention_heads: PerBlock = (5, 10, 20, 20)
    num_frames: Positive = 25

    def check(self) -> None:
        self.check_groups(GROUPS)
        self.check_per_block("layers_per_block", "cross_attention_dim", "transformer_layers_per_block")
        self.check_per_block("down_block_types", "up_block_types")
        self.check_heads("num_attention_heads")
        if self.projection_class_embeddings_input_dim != TIME_IDS * self.addition_time_embed_dim:
            allowed = f"{TIME_IDS} times addition_time_embed_dim, {self.addition_time_embed_dim}"
            self.refuse("projection_class_embeddings_input_dim", allowed)

    def level(self, block: int) -> Level:
        """The sizes of a block's layers; blocks are numbered in the order of halving, -1 is the middle."""

        def of_block(value: int | tuple[int, ...]) -> int:
            return per_block(value, self.blocks)[block]

        return Level(
            channels=self.block_out_channels[block],
            layers=of_block(self.layers_per_block),
            heads=of_block(self.num_attention_heads),
            cross_attention_dim=of_block(self.cross_attention_dim),
            transformer_layers=of_block(self.transformer_layers_per_block),
        )


@dataclass(frozen=True, config=STRICT)
class VaeConfig(ImageVaeConfig):
    """`vae/config.json`: the encoder sees single images, the decoder mixes frames.

    Args:
        force_upcast: Whether the encoder computes in float32 where the other models use float16.
    """

    NAME: ClassVar = "AutoencoderKLTemporalDecoder"

    force_upcast: bool = True


@plain_dataclass(frozen=True)
class StableVideoDiffusionConfigs(Configs):
    """The configs of a checkpoint."""

    feature_extractor: ClipImageProcessorConfig
    image_encoder: ClipVisionConfig
    unet: UNetConfig
    vae: VaeConfig
    scheduler: EulerDiscreteScheduler

    def check(self) -> None:
        unet, latents = self.unet, self.vae.latent_channels
        if self.image_encoder.image_size != IMAGE_SIDE:
            self.refuse("image_encoder", self.image_encoder, "image_size", f"{IMAGE_SIDE}")
        if unet.in_channels != 2 * latents:
            self.refuse("unet", unet, "in_channels", f"{2 * latents}, twice the VAE's latent_channels")
        if unet.out_channels != latents:
            self.refuse("unet", unet, "out_channels", f"{latents}, the VAE's latent_channels")
        width = self.image_encoder.projection_dim
        if set(per_block(unet.cross_attention_dim, unet.blocks)) != {width}:
            self.refuse("unet", unet, "cross_attention_dim", f"{width}, the image encoder's projection_dim")

    def latent_size(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Frames, channels, rows and columns of a video's latents."""
        ratio = self.vae.spatial_compression_ratio
        return num_frames, self.vae.latent_channels, height // ratio, width // ratio
