"""Configs of the text and image encoders, with transformers' keys and defaults. No MindSpore."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from vidgen_dist.activations import TRANSFORMERS
from vidgen_dist.config import STRICT, AboveZero, Config, FromZero, OneOf, Positive

Activation = Annotated[str, OneOf(TRANSFORMERS)]


@dataclass(frozen=True, config=STRICT)
class T5Config(Config):
    """T5's config. `dense_act_fn` and `is_gated_act` follow from `feed_forward_proj` where the file does not
    say."""

    NAME: ClassVar = "T5EncoderModel"
    TELLS_UNKNOWN: ClassVar = False

    vocab_size: Positive = 32128
    d_model: Positive = 512
    d_kv: Positive = 64
    d_ff: Positive = 2048
    num_layers: Positive = 6
    num_heads: Positive = 8
    # Half of the buckets are for each direction.
    relative_attention_num_buckets: Annotated[int, Field(ge=4, multiple_of=2)] = 32
    relative_attention_max_distance: Positive = 128
    layer_norm_epsilon: FromZero = 1e-6
    feed_forward_proj: str = "relu"
    dense_act_fn: Activation | None = None
    is_gated_act: bool | None = None
    model_type: Literal["t5", "mt5"] = "t5"

    def check(self) -> None:
        gate, _, activation = self.feed_forward_proj.rpartition("-")
        if gate not in ("", "gated"):
            self.refuse("feed_forward_proj", "an activation or gated-activation, as in relu and gated-gelu")
        if self.dense_act_fn is None and activation not in TRANSFORMERS:
            self.refuse("feed_forward_proj", "an activation among " + ", ".join(TRANSFORMERS))
        least = self.relative_attention_num_buckets // 4 + 1
        if self.relative_attention_max_distance < least:
            allowed = f"{least} or more: nearer distances have their own buckets"
            self.refuse("relative_attention_max_distance", allowed)

    @property
    def gated(self) -> bool:
        """Whether the feed-forward has a gate (T5 v1.1)."""
        return self.feed_forward_proj.startswith("gated-") if self.is_gated_act is None else self.is_gated_act

    @property
    def activation(self) -> str:
        """transformers' name of the feed-forward's activation."""
        if self.dense_act_fn is not None:
            return self.dense_act_fn
        # T5 v1.1's "gelu" is the tanh form.
        return "gelu_new" if self.feed_forward_proj == "gated-gelu" else self.feed_forward_proj.split("-")[-1]


@dataclass(frozen=True, config=STRICT)
class LlamaConfig(Config):
    """LLaMA's config. A family makes a subclass, which says how many of the blocks it uses.

    Class attributes:
        UNUSED_LAYERS: Blocks at the end whose output the family does not use, 1 or more: neither they nor the
            norm behind them are loaded.
    """

    NAME: ClassVar = "LlamaModel"
    TELLS_UNKNOWN: ClassVar = False
    UNUSED_LAYERS: ClassVar[int]

    vocab_size: Positive = 32000
    hidden_size: Positive = 4096
    intermediate_size: Positive = 11008
    num_hidden_layers: Positive = 32
    num_attention_heads: Positive = 32
    num_key_value_heads: Positive | None = None
    head_dim: Positive | None = None
    hidden_act: Activation = "silu"
    rms_norm_eps: FromZero = 1e-6
    rope_theta: float = 10000.0
    attention_bias: bool = False
    mlp_bias: bool = False
    rope_scaling: dict[str, Any] | None = None

    def check(self) -> None:
        scaling = self.rope_scaling or {}
        if scaling and scaling.get("rope_type", scaling.get("type")) != "default":
            self.refuse(
                "rope_scaling", "null, or an object whose rope_type is default: positions are LLaMA 3's"
            )
        if self.layers < 0:
            allowed = f"{self.UNUSED_LAYERS} or more: as many at the end are not used"
            self.refuse("num_hidden_layers", allowed)
        if self.num_attention_heads % self.key_heads:
            allowed = f"a divisor of num_attention_heads, {self.num_attention_heads}"
            self.refuse("num_key_value_heads", allowed)
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            self.refuse("hidden_size", f"a multiple of num_attention_heads, {self.num_attention_heads}")
        if self.head_size % 2:
            key = "head_dim" if self.head_dim else "hidden_size"
            self.refuse(key, "one that gives heads of an even width")

    @property
    def key_heads(self) -> int:
        """Heads of keys and values: each serves as many heads of queries."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_size(self) -> int:
        """Width of a head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def layers(self) -> int:
        """Blocks that are run."""
        return self.num_hidden_layers - self.UNUSED_LAYERS


@dataclass(frozen=True, config=STRICT)
class ClipConfig(Config):
    """What CLIP's text and image encoders have in common."""

    TELLS_UNKNOWN: ClassVar = False

    hidden_size: Positive
    intermediate_size: Positive
    num_attention_heads: Positive
    num_hidden_layers: Positive = 12
    hidden_act: Activation = "quick_gelu"
    layer_norm_eps: FromZero = 1e-5

    def check(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            self.refuse("hidden_size", f"a multiple of num_attention_heads, {self.num_attention_heads}")


@dataclass(frozen=True, config=STRICT)
class ClipTextConfig(ClipConfig):
    """CLIP's text config."""

    NAME: ClassVar = "CLIPTextModel"
    # Some checkpoints want padding masked; none of these families' does.
    ONLY: ClassVar = {"use_attention_mask": False}

    hidden_size: Positive = 512
    intermediate_size: Positive = 2048
    num_attention_heads: Positive = 8
    vocab_size: Positive = 49408
    max_position_embeddings: Positive = 77
    eos_token_id: int = 49407


@dataclass(frozen=True, config=STRICT)
class ClipVisionConfig(ClipConfig):
    """CLIP's config of images."""

    NAME: ClassVar = "CLIPVisionModelWithProjection"

    hidden_size: Positive = 768
    intermediate_size: Positive = 3072
    num_attention_heads: Positive = 12
    projection_dim: Positive = 512
    num_channels: Literal[3] = 3
    image_size: Positive = 224
    patch_size: Positive = 32

    def check(self) -> None:
        super().check()
        if self.patch_size > self.image_size:
            self.refuse("patch_size", f"a whole number from 1 up to image_size, {self.image_size}")

    @property
    def patches(self) -> int:
        """Patches of an image; what is left at its right and lower edge is not seen."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True, config=STRICT)
class ClipImageProcessorConfig(Config):
    """`preprocessor_config.json`, of which the UNet families use what is here: they resize by themselves.

    Args:
        image_mean, image_std: Of red, green and blue in [0, 1], which an encoder sees without them.
        crop_size: Side of what the encoder sees, or its `height` and `width`.
    """

    NAME: ClassVar = "CLIPImageProcessor"
    TELLS_UNKNOWN: ClassVar = False

    image_mean: Annotated[tuple[float, float, float], Field(strict=False)] = (
        0.48145466,
        0.4578275,
        0.40821073,
    )
    image_std: Annotated[tuple[AboveZero, AboveZero, AboveZero], Field(strict=False)] = (
        0.26862954,
        0.26130258,
        0.27577711,
    )
    crop_size: Positive | dict[str, Positive] = 224

    def check(self) -> None:
        if isinstance(self.crop_size, dict) and self.crop_size.keys() != {"height", "width"}:
            self.refuse("crop_size", "a whole number from 1, or an object with height and width")

    @property
    def crop(self) -> tuple[int, int]:
        """Height and width of what the encoder sees."""
        if isinstance(self.crop_size, dict):
            return self.crop_size["height"], self.crop_size["width"]
        return self.crop_size, self.crop_size
