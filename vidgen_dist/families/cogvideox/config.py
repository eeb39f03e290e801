"""CogVideoX's configs, with diffusers' keys and defaults, and the sizes of latents and tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from vidgen_dist.activations import DIFFUSERS, FEED_FORWARDS
from vidgen_dist.component_config import STRICT, AboveZero, Config, FromZero, Items, OneOf, Positive
from vidgen_dist.encoders.config import T5Config
from vidgen_dist.families.family import Configs
from vidgen_dist.schedulers.cogvideox import CogVideoXScheduler

# Frames that go through the VAE at a time. Group norms cover a batch of frames, so other numbers change the
# picture: the weights were trained with these.
LATENT_FRAMES_AT_ONCE = 2
SAMPLE_FRAMES_AT_ONCE = 8

DOWN_BLOCK = "CogVideoXDownBlock3D"
UP_BLOCK = "CogVideoXUpBlock3D"


@dataclass(frozen=True, config=STRICT)
class TransformerConfig(Config):
    """`transformer/config.json`. Sizes are in latent pixels, but `sample_frames` counts frames of video."""

    NAME: ClassVar = "CogVideoXTransformer3DModel"
    HARMLESS: ClassVar = {"dropout": "training"}

    num_attention_heads: Positive = 30
    attention_head_dim: Positive = 64
    in_channels: Positive = 16
    out_channels: Positive = 16
    flip_sin_to_cos: bool = True
    freq_shift: float = 0.0
    time_embed_dim: Positive = 512
    ofs_embed_dim: Positive | None = None
    text_embed_dim: Positive = 4096
    num_layers: Positive = 30
    attention_bias: bool = True
    sample_width: Positive = 90
    sample_height: Positive = 60
    sample_frames: Positive = 49
    patch_size: Positive = 2
    patch_size_t: Positive | None = None
    temporal_compression_ratio: Positive = 4
    max_text_seq_length: Positive = 226
    activation_fn: Annotated[str, OneOf(FEED_FORWARDS)] = "gelu-approximate"
    timestep_activation_fn: Annotated[str, OneOf(DIFFUSERS, any_case=True)] = "silu"
    norm_elementwise_affine: bool = True
    norm_eps: FromZero = 1e-5
    spatial_interpolation_scale: float = 1.875
    temporal_interpolation_scale: float = 1.0
    use_rotary_positional_embeddings: bool = False
    use_learned_positional_embeddings: bool = False
    patch_bias: bool = True

    def check(self) -> None:
        for dim in {self.inner_dim, self.ofs_embed_dim or self.inner_dim}:
            if self.freq_shift == dim // 2:
                allowed = f"any but the number of frequencies, {dim // 2}, from which it is subtracted"
                self.refuse("freq_shift", allowed)
        if self.ofs_embed_dim is not None and self.ofs_embed_dim != self.time_embed_dim:
            self.refuse("ofs_embed_dim", f"null or time_embed_dim, {self.time_embed_dim}: the two are added")
        if self.use_rotary_positional_embeddings and self.attention_head_dim % 16:
            self.refuse("attention_head_dim", "a multiple of 16 (the rotary table is split over three axes)")
        if self.use_learned_positional_embeddings and not self.use_rotary_positional_embeddings:
            allowed = "false, unless use_rotary_positional_embeddings is true"
            self.refuse("use_learned_positional_embeddings", allowed)
        if self.has_position_table:
            self._check_position_table()

    def _check_position_table(self) -> None:
        if self.inner_dim % 16:
            self.refuse("attention_head_dim", "a multiple of 16 when multiplied by num_attention_heads")
        for key in ("spatial_interpolation_scale", "temporal_interpolation_scale"):
            if getattr(self, key) == 0:
                self.refuse(key, "any but 0: positions are divided by it")
        if self.frames_per_patch > 1:
            self.refuse("patch_size_t", "null or 1 where positions are added to the tokens")

    @property
    def inner_dim(self) -> int:
        """Width of the model's tokens."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def frames_per_patch(self) -> int:
        """Latent frames per token."""
        return self.patch_size_t or 1

    @property
    def has_position_table(self) -> bool:
        """Whether positions are added to the tokens (in 2b, and learned ones in I2V)."""
        return not self.use_rotary_positional_embeddings or self.use_learned_positional_embeddings

    def padding_frames(self, latent_frames: int) -> int:
        """Latent frames added in front, so that patches divide their number (CogVideoX 1.5)."""
        return -latent_frames % self.frames_per_patch


@dataclass(frozen=True, config=STRICT)
class VaeConfig(Config):
    """`vae/config.json`.

    `scaling_factor` and `invert_scale_latents` determine how a pipeline scales latents; `sample_height` and
    `sample_width` (pixels) determine the default tiles, half of each.
    """

    NAME: ClassVar = "AutoencoderKLCogVideoX"
    HARMLESS: ClassVar = dict.fromkeys(
        ("shift_factor", "latents_mean", "latents_std", "force_upcast"),
        "the reference takes them and does nothing with them",
    )

    in_channels: Positive = 3
    out_channels: Positive = 3
    down_block_types: Items[str] = (DOWN_BLOCK,) * 4
    up_block_types: Items[str] = (UP_BLOCK,) * 4
    block_out_channels: Items[Positive] = (128, 256, 256, 512)
    latent_channels: Positive = 16
    layers_per_block: Positive = 3
    act_fn: Annotated[str, OneOf(DIFFUSERS, any_case=True)] = "silu"
    norm_eps: FromZero = 1e-6
    norm_num_groups: Positive = 32
    temporal_compression_ratio: Annotated[float, Field(ge=1)] = 4.0
    sample_height: Positive = 480
    sample_width: Positive = 720
    scaling_factor: AboveZero = 1.15258426
    use_quant_conv: bool = False
    use_post_quant_conv: bool = False
    invert_scale_latents: bool = False

    def check(self) -> None:
        blocks = len(self.block_out_channels)
        for key, known in (("down_block_types", DOWN_BLOCK), ("up_block_types", UP_BLOCK)):
            if getattr(self, key) != (known,) * blocks:
                self.refuse(key, f"{known}, {blocks} times: as many as block_out_channels")
        if any(channels % self.norm_num_groups for channels in self.block_out_channels):
            self.refuse("block_out_channels", f"multiples of norm_num_groups, {self.norm_num_groups}")
        if not math.log2(self.temporal_compression_ratio).is_integer():
            self.refuse("temporal_compression_ratio", "a power of 2")
        # The published layout sizes these convolutions by the pixels' channels, but applies them to latents.
        if self.out_channels != self.latent_channels:
            for key in ("use_quant_conv", "use_post_quant_conv"):
                if getattr(self, key):
                    allowed = f"false, where latent_channels ({self.latent_channels}) is not out_channels"
                    self.refuse(key, allowed)

    @property
    def spatial_compression_ratio(self) -> int:
        """Pixels per latent, along rows and columns."""
        return 2 ** (len(self.block_out_channels) - 1)

    @property
    def temporal_levels(self) -> int:
        """How many blocks halve or double the frames."""
        return int(math.log2(self.temporal_compression_ratio))

    @property
    def frames_per_latent(self) -> int:
        """Frames per latent frame in the VAE: fewer than the pipelines assume if it lacks blocks."""
        # A block that halves frames also halves rows.
        return min(int(self.temporal_compression_ratio), self.spatial_compression_ratio)

    @property
    def image_scaling_factor(self) -> float:
        """Factor for an image's latents: 1.5 was trained with the inverse of the right factor."""
        return 1 / self.scaling_factor if self.invert_scale_latents else self.scaling_factor

    def latent_frames(self, num_frames: int) -> int:
        """Latent frames of a video, as the pipelines count them: the first frame has its own."""
        return (num_frames - 1) // int(self.temporal_compression_ratio) + 1

    def decoded_frames(self, latent_frames: int) -> int:
        """Frames that the VAE decodes latent frames to.

        It decodes batches of two latent frames. If their number is odd, the first batch has three, and only
        in such a batch does the first latent frame become a single frame.
        """
        per_latent = self.frames_per_latent
        return per_latent * latent_frames - (per_latent - 1 if latent_frames % 2 else 0)

    def encoded_frames(self, frames: int) -> int:
        """Latent frames that the VAE encodes a clip to."""
        return (frames - 1) // self.frames_per_latent + 1


@plain_dataclass(frozen=True)
class CogVideoXConfigs(Configs):
    """The configs of a checkpoint."""

    text_encoder: T5Config
    transformer: TransformerConfig
    vae: VaeConfig
    scheduler: CogVideoXScheduler

    def check(self) -> None:
        channels, latents = self.transformer.in_channels, self.vae.latent_channels
        if channels not in (latents, 2 * latents):
            allowed = (
                f"{latents}, the VAE's latent_channels (text- and video-to-video), or twice as many "
                f"(image-to-video)"
            )
            self.refuse("transformer", self.transformer, "in_channels", allowed)

    @property
    def takes_image(self) -> bool:
        """Whether the transformer's input includes an image's latents."""
        return self.transformer.in_channels == 2 * self.vae.latent_channels

    def latent_size(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Frames, channels, rows and columns of the latents that are denoised for a video, including frames
        added in front."""
        frames = self.vae.latent_frames(num_frames)
        frames += self.transformer.padding_frames(frames)
        spatial = self.vae.spatial_compression_ratio
        return frames, self.vae.latent_channels, height // spatial, width // spatial
