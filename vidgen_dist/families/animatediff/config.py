"""AnimateDiff's configs, with diffusers' keys and defaults, and the combination of an image UNet and a motion
adapter to a video UNet."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from vidgen_dist.activations import DIFFUSERS
from vidgen_dist.component_config import STRICT, AboveZero, Items, OneOf, Positive
from vidgen_dist.encoders.config import ClipTextConfig
from vidgen_dist.errors import ConfigError
from vidgen_dist.families.common.autoencoder_kl_config import AutoencoderKLConfig
from vidgen_dist.families.common.unet_config import BlocksConfig, PerBlock, per_block
from vidgen_dist.families.family import Configs
from vidgen_dist.schedulers.discrete import DiscreteScheduler

ATTENDING_DOWN, ATTENDING_UP = "CrossAttnDownBlockMotion", "CrossAttnUpBlockMotion"
"""Blocks whose images attend to the prompt."""

OF_VIDEOS = {
    "CrossAttnDownBlock2D": ATTENDING_DOWN,
    "DownBlock2D": "DownBlockMotion",
    "CrossAttnUpBlock2D": ATTENDING_UP,
    "UpBlock2D": "UpBlockMotion",
}
"""Type of an image block -> its type with motion modules."""


@dataclass(frozen=True, config=STRICT, kw_only=True)
class UNetConfig(BlocksConfig):
    """What `unet/config.json` of image UNets and of video UNets share.

    Lists are in the order in which the image is halved, from the pixels to the middle, except
    `up_block_types`.
    """

    sample_size: Positive | None = None
    in_channels: Positive = 4
    out_channels: Positive = 4
    layers_per_block: PerBlock = 2
    downsample_padding: Annotated[int, Field(ge=0, le=1)] = 1
    mid_block_scale_factor: AboveZero = 1.0
    act_fn: Annotated[str, OneOf(DIFFUSERS, any_case=True)] = "silu"
    norm_num_groups: Positive = 32
    norm_eps: AboveZero = 1e-5
    cross_attention_dim: PerBlock = 1280
    transformer_layers_per_block: PerBlock = 1
    use_linear_projection: bool = False

    def check(self) -> None:
        self.check_groups(self.norm_num_groups)
        self.check_per_block(
            "layers_per_block", "cross_attention_dim", "transformer_layers_per_block", "down_block_types"
        )
        self.check_per_block("up_block_types")


@dataclass(frozen=True, config=STRICT, kw_only=True)
class UNet2DConditionConfig(UNetConfig):
    """`unet/config.json` of a Stable Diffusion 1.5 checkpoint; its motion modules come from an adapter.

    `attention_head_dim` is the number of heads: diffusers keeps the wrong name.
    """

    NAME: ClassVar = "UNet2DConditionModel"
    HARMLESS: ClassVar = {
        "dropout": "training",
        "time_cond_proj_dim": "AnimateDiff gives a UNet no weight of guidance, also one distilled with it",
        "upcast_attention": "the reference does not copy it to its video UNet",
        "addition_embed_type_num_heads": "for an embedding that is refused",
    }

    down_block_types: Items[Annotated[str, OneOf([name for name in OF_VIDEOS if "Down" in name])]] = (
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    )
    up_block_types: Items[Annotated[str, OneOf([name for name in OF_VIDEOS if "Up" in name])]] = (
        "UpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
    )
    attention_head_dim: PerBlock = 8

    def check(self) -> None:
        super().check()
        self.check_heads("attention_head_dim")


@dataclass(frozen=True, config=STRICT, kw_only=True)
class UNetMotionConfig(UNetConfig):
    """`unet/config.json` of a video UNet; or what an image UNet and a motion adapter make together."""

    NAME: ClassVar = "UNetMotionModel"
    HARMLESS: ClassVar = {
        "time_cond_proj_dim": "AnimateDiff gives a UNet no weight of guidance, also one distilled with it"
    }

    down_block_types: Items[Annotated[str, OneOf((ATTENDING_DOWN, "DownBlockMotion"))]] = (
        "CrossAttnDownBlockMotion",
        "CrossAttnDownBlockMotion",
        "CrossAttnDownBlockMotion",
        "DownBlockMotion",
    )
    up_block_types: Items[Annotated[str, OneOf((ATTENDING_UP, "UpBlockMotion"))]] = (
        "UpBlockMotion",
        "CrossAttnUpBlockMotion",
        "CrossAttnUpBlockMotion",
        "CrossAttnUpBlockMotion",
    )
    num_attention_heads: PerBlock = 8
    transformer_layers_per_mid_block: Positive | None = None
    temporal_transformer_layers_per_block: PerBlock = 1
    temporal_transformer_layers_per_mid_block: Positive | Items[Positive] = 1
    motion_num_attention_heads: PerBlock = 8
    motion_max_seq_length: Positive = 32
    use_motion_mid_block: bool = True

    def check(self) -> None:
        super().check()
        self.check_heads("num_attention_heads")
        check_motion(
            self,
            heads="motion_num_attention_heads",
            layers="temporal_transformer_layers_per_block",
            in_middle="temporal_transformer_layers_per_mid_block",
        )

    def level(self, block: int) -> Level:
        """The sizes of a block's layers; blocks are numbered in the order of halving, -1 is the middle."""
        channels = self.block_out_channels[block]

        def of_block(value: int | tuple[int, ...]) -> int:
            return per_block(value, self.blocks)[block]

        return Level(
            channels=channels,
            layers=of_block(self.layers_per_block),
            heads=of_block(self.num_attention_heads),
            cross_attention_dim=of_block(self.cross_attention_dim),
            transformer_layers=of_block(self.transformer_layers_per_block),
            motion_heads=of_block(self.motion_num_attention_heads),
            motion_layers=of_block(self.temporal_transformer_layers_per_block),
        )

    @property
    def middle(self) -> Level:
        """The sizes of the middle block's layers."""
        below = self.level(-1)
        motion = self.temporal_transformer_layers_per_mid_block
        return Level(
            channels=below.channels,
            layers=1,
            heads=below.heads,
            cross_attention_dim=below.cross_attention_dim,
            transformer_layers=self.transformer_layers_per_mid_block or below.transformer_layers,
            motion_heads=below.motion_heads,
            motion_layers=motion if isinstance(motion, int) else motion[0],
        )


@plain_dataclass(frozen=True)
class Level:
    """The layers of a block.

    Args:
        channels: C after each of them.
        layers: Residual blocks when halving the image; one more when doubling it.
        heads: Attention heads within an image.
        cross_attention_dim: Width of the prompt's tokens.
        transformer_layers: Blocks of each transformer within an image.
        motion_heads: Attention heads between frames.
        motion_layers: Blocks of each transformer between frames.
    """

    channels: int
    layers: int
    heads: int
    cross_attention_dim: int
    transformer_layers: int
    motion_heads: int
    motion_layers: int


@dataclass(frozen=True, config=STRICT)
class MotionAdapterConfig(BlocksConfig):
    """`config.json` of a motion adapter."""

    NAME: ClassVar = "MotionAdapter"
    HARMLESS: ClassVar = {
        "motion_norm_num_groups": "the UNet's norms are used",
    }

    motion_layers_per_block: PerBlock = 2
    motion_transformer_layers_per_block: PerBlock = 1
    motion_transformer_layers_per_mid_block: Positive | Items[Positive] = 1
    motion_num_attention_heads: PerBlock = 8
    motion_max_seq_length: Positive = 32
    use_motion_mid_block: bool = True

    def check(self) -> None:
        self.check_per_block("motion_layers_per_block")
        check_motion(
            self,
            heads="motion_num_attention_heads",
            layers="motion_transformer_layers_per_block",
            in_middle="motion_transformer_layers_per_mid_block",
        )


def check_motion(config: BlocksConfig, *, heads: str, layers: str, in_middle: str) -> None:
    """Check that the keys that describe motion modules fit the blocks."""
    config.check_heads(heads)
    config.check_per_block(layers)
    middle = getattr(config, in_middle)
    if isinstance(middle, tuple) and len(middle) != 1:
        config.refuse(in_middle, "a whole number, or a list of one")
    if any(channels % 2 for channels in config.block_out_channels):
        config.refuse("block_out_channels", "even numbers: positions are sines and cosines")


_COMMON = tuple(field.name for field in dataclasses.fields(UNetConfig))


@plain_dataclass(frozen=True)
class AnimateDiffConfigs(Configs):
    """The configs of a checkpoint, and of the adapter that is added to it."""

    text_encoder: ClipTextConfig
    unet: UNet2DConditionConfig | UNetMotionConfig
    vae: AutoencoderKLConfig
    scheduler: DiscreteScheduler[Any]
    motion_adapter: MotionAdapterConfig | None = None

    def check(self) -> None:
        if isinstance(self.unet, UNet2DConditionConfig) and self.motion_adapter is not None:
            self._check_adapter(self.unet, self.motion_adapter)
        unet = self.motion_unet
        latents, width = self.vae.latent_channels, self.text_encoder.hidden_size
        for key in ("in_channels", "out_channels"):
            if getattr(unet, key) != latents:
                self.refuse("unet", self.unet, key, f"{latents}, the VAE's latent_channels")
        if set(per_block(unet.cross_attention_dim, unet.blocks)) != {width}:
            self.refuse("unet", self.unet, "cross_attention_dim", f"{width}, the text encoder's hidden_size")

    def _check_adapter(self, unet: UNet2DConditionConfig, adapter: MotionAdapterConfig) -> None:
        if adapter.block_out_channels != unet.block_out_channels:
            allowed = f"{unet.block_out_channels}, the UNet's"
            self.refuse("motion_adapter", adapter, "block_out_channels", allowed)
        layers = per_block(unet.layers_per_block, unet.blocks)
        if per_block(adapter.motion_layers_per_block, unet.blocks) != layers:
            allowed = f"{unet.layers_per_block}, the UNet's layers_per_block"
            self.refuse("motion_adapter", adapter, "motion_layers_per_block", allowed)

    @functools.cached_property
    def motion_unet(self) -> UNetMotionConfig:
        """The video UNet: the checkpoint's, or its image UNet with the adapter, as diffusers'
        `UNetMotionModel.from_unet2d` makes it.

        Raises:
            ConfigError: It needs an adapter, and there is none.
        """
        unet, adapter = self.unet, self.motion_adapter
        if isinstance(unet, UNetMotionConfig):
            return unet
        if adapter is None:
            raise ConfigError(
                "unet is for images; AnimateDiff needs a motion adapter to make videos with it: name it "
                "with --adapter (model.adapter), such as guoyww/animatediff-motion-adapter-v1-5-2"
            )
        return UNetMotionConfig(
            **{name: getattr(unet, name) for name in _COMMON},
            down_block_types=tuple(OF_VIDEOS[name] for name in unet.down_block_types),
            up_block_types=tuple(OF_VIDEOS[name] for name in unet.up_block_types),
            num_attention_heads=unet.attention_head_dim,
            temporal_transformer_layers_per_block=adapter.motion_transformer_layers_per_block,
            temporal_transformer_layers_per_mid_block=adapter.motion_transformer_layers_per_mid_block,
            motion_num_attention_heads=adapter.motion_num_attention_heads,
            motion_max_seq_length=adapter.motion_max_seq_length,
            use_motion_mid_block=adapter.use_motion_mid_block,
        )

    def latent_size(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Channels, frames, rows and columns of a video's latents."""
        ratio = self.vae.spatial_compression_ratio
        return self.unet.in_channels, num_frames, height // ratio, width // ratio
