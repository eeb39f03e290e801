"""Configs of image autoencoders, with diffusers' keys and defaults. Without MindSpore."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic.dataclasses import dataclass

from vidgen_dist.activations import DIFFUSERS
from vidgen_dist.component_config import STRICT, AboveZero, Config, Items, OneOf, Positive

GROUPS = 32
"""Groups of norms if a config does not have them."""


@dataclass(frozen=True, config=STRICT)
class ImageVaeConfig(Config):
    """What the configs of `AutoencoderKL` and similar models share.

    Args:
        scaling_factor: The encoder's latents are multiplied by this.
    """

    in_channels: Positive = 3
    out_channels: Literal[3] = 3
    down_block_types: Items[Literal["DownEncoderBlock2D"]] = ("DownEncoderBlock2D",)
    block_out_channels: Items[Positive] = (64,)
    layers_per_block: Positive = 1
    latent_channels: Positive = 4
    sample_size: Positive = 32
    scaling_factor: AboveZero = 0.18215

    def check(self) -> None:
        self.check_blocks("down_block_types")
        if any(channels % self.groups for channels in self.block_out_channels):
            self.refuse("block_out_channels", f"multiples of {self.groups}, the groups of norms")

    def check_blocks(self, key: str) -> None:
        """Check that a list has one entry per block width."""
        blocks = len(self.block_out_channels)
        if len(getattr(self, key)) != blocks:
            self.refuse(key, f"a list of {blocks}, as many as block_out_channels has")

    @property
    def groups(self) -> int:
        """Groups of every norm."""
        return GROUPS

    @property
    def activation(self) -> str:
        """diffusers' name for the residual blocks' activation."""
        return "silu"

    @property
    def attends(self) -> bool:
        """Whether there is attention between places where the image is smallest."""
        return True

    @property
    def spatial_compression_ratio(self) -> int:
        """Pixels per latent, along rows and columns."""
        return int(2 ** (len(self.block_out_channels) - 1))


@dataclass(frozen=True, config=STRICT)
class AutoencoderKLConfig(ImageVaeConfig):
    """`vae/config.json` of Stable Diffusion's autoencoder."""

    NAME: ClassVar = "AutoencoderKL"
    HARMLESS: ClassVar = {
        "force_upcast": "the reference's pipelines of AnimateDiff and I2VGen-XL do not upcast"
    }

    up_block_types: Items[Literal["UpDecoderBlock2D"]] = ("UpDecoderBlock2D",)
    act_fn: Annotated[str, OneOf(DIFFUSERS, any_case=True)] = "silu"
    norm_num_groups: Positive = GROUPS
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    def check(self) -> None:
        super().check()
        self.check_blocks("up_block_types")

    @property
    def groups(self) -> int:
        return self.norm_num_groups

    @property
    def activation(self) -> str:
        return self.act_fn

    @property
    def attends(self) -> bool:
        return self.mid_block_add_attention
