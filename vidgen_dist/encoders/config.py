"""Configs of the text and image encoders, with transformers' keys and defaults. Without MindSpore.

Keys may be spelled as in transformers 4 or 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from vidgen_dist.activations import TRANSFORMERS
from vidgen_dist.component_config import STRICT, AboveZero, Config, FromZero, OneOf, Positive, bad_key
from vidgen_dist.reference_keys import reference_keys

ActivationName = Annotated[str, OneOf(TRANSFORMERS)]

_HARMLESS = {
    "a name or a note": (
        *("architectures", "finetuning_task", "id2label", "label2id", "model_type", "name_or_path"),
        *("num_labels", "prefix", "problem_type", "task_specific_params", "tokenizer_class"),
        "transformers_version",
    ),
    "the tokenizer has its own special tokens": (
        *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id"),
    ),
    "training": (
        *("attention_dropout", "classifier_dropout", "dropout", "dropout_rate", "gradient_checkpointing"),
        *("initializer_factor", "initializer_range", "tf_legacy_loss"),
    ),
    "the run has its dtype": ("dtype", "torch_dtype", "use_bfloat16"),
    "how it is computed, and what is returned in addition": (
        *("attn_implementation", "chunk_size_feed_forward", "experts_implementation", "output_attentions"),
        *("output_hidden_states", "output_past", "pretraining_tp", "return_dict", "tie_last_hidden_states"),
        *("torchscript", "use_cache"),
    ),
    "for decoders, and for what comes after the encoder": (
        *("add_cross_attention", "cross_attention_hidden_size", "is_encoder_decoder", "num_decoder_layers"),
        *("scale_decoder_outputs", "tie_encoder_decoder", "tie_word_embeddings"),
    ),
}


@dataclass(frozen=True, config=STRICT)
class EncoderConfig(Config):
    """What the configs of all encoders have in common."""

    HARMLESS: ClassVar = {
        **dict.fromkeys(reference_keys("GenerationConfig").defaults, "text generation"),
        **{key: why for why, keys in _HARMLESS.items() for key in keys},
    }


@dataclass(frozen=True, config=STRICT)
class T5Config(EncoderConfig):
    """T5's config. `dense_act_fn` and `is_gated_act` follow from `feed_forward_proj` if the file does not
    have them."""

    NAME: ClassVar = "T5EncoderModel"

    vocab_size: Positive = 32128
    d_model: Positive = 512
    d_kv: Positive = 64
    d_ff: Positive = 2048
    num_layers: Positive = 6
    num_heads: Positive = 8
    # Each direction has half of the buckets.
    relative_attention_num_buckets: Annotated[int, Field(ge=4, multiple_of=2)] = 32
    relative_attention_max_distance: Positive = 128
    layer_norm_epsilon: FromZero = 1e-6
    feed_forward_proj: str = "relu"
    dense_act_fn: ActivationName | None = None
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
        """transformers' name for the feed-forward's activation."""
        if self.dense_act_fn is not None:
            return self.dense_act_fn
        # T5 v1.1's "gelu" is the tanh approximation.
        return "gelu_new" if self.feed_forward_proj == "gated-gelu" else self.feed_forward_proj.split("-")[-1]


@dataclass(frozen=True, config=STRICT)
class LlamaConfig(EncoderConfig):
    """LLaMA's config. A family makes a subclass that says how many of the blocks it uses.

    Class attributes:
        UNUSED_LAYERS: Blocks at the end whose output the family does not use, 1 or more. Neither they nor the
            norm after them are loaded.
    """

    NAME: ClassVar = "LlamaModel"
    HARMLESS: ClassVar = {
        **EncoderConfig.HARMLESS,
        "max_position_embeddings": "positions are computed for any number of tokens",
    }
    ONLY: ClassVar = {"partial_rotary_factor": 1.0, "is_causal": True}
    UNUSED_LAYERS: ClassVar[int]

    vocab_size: Positive = 32000
    hidden_size: Positive = 4096
    intermediate_size: Positive = 11008
    num_hidden_layers: Positive = 32
    num_attention_heads: Positive = 32
    num_key_value_heads: Positive | None = None
    head_dim: Positive | None = None
    hidden_act: ActivationName = "silu"
    rms_norm_eps: FromZero = 1e-6
    rope_theta: float = 10000.0
    attention_bias: bool = False
    mlp_bias: bool = False

    @classmethod
    def normalise_keys(cls, raw: Mapping[str, Any]) -> Mapping[str, Any]:
        """As in the base class; transformers 5 has `rope_parameters` for `rope_theta` and `rope_scaling`."""
        raw = super().normalise_keys(raw)
        thetas = {"rope_theta": raw["rope_theta"]} if raw.get("rope_theta") is not None else {}
        positions = {key: raw[key] for key in ("rope_parameters", "rope_scaling") if raw.get(key)}
        for key, told in positions.items():
            _check_positions(cls.NAME, key, told)
            if "rope_theta" in told:
                thetas[f"{key}.rope_theta"] = told["rope_theta"]
        for name, theta in thetas.items():
            for other in thetas:
                if thetas[other] != theta:
                    raise bad_key(cls.NAME, name, theta, f"{thetas[other]}, as {other} is; or leave it out")
        others = {key: value for key, value in raw.items() if key not in (*positions, "rope_theta")}
        return others if not thetas else {**others, "rope_theta": next(iter(thetas.values()))}

    def check(self) -> None:
        if self.layers < 0:
            allowed = f"{self.UNUSED_LAYERS} or more: so many at the end are not used"
            self.refuse("num_hidden_layers", allowed)
        if self.num_attention_heads % self.key_heads:
            allowed = f"a divisor of num_attention_heads, {self.num_attention_heads}"
            self.refuse("num_key_value_heads", allowed)
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            self.refuse("hidden_size", f"a multiple of num_attention_heads, {self.num_attention_heads}")
        if self.head_size % 2:
            key = "head_dim" if self.head_dim else "hidden_size"
            self.refuse(key, "a value that gives heads of an even width")

    @property
    def key_heads(self) -> int:
        """Heads of keys and values; several query heads share each of them."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_size(self) -> int:
        """Width of a head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def layers(self) -> int:
        """Number of blocks that are run."""
        return self.num_hidden_layers - self.UNUSED_LAYERS


def _check_positions(model: str, key: str, told: Any) -> None:
    """Check that a config's rotary positions are those of LLaMA 3.

    Raises:
        ConfigError: Positions that are scaled, differ between layers, or rotate only a part of a head.
    """
    if not isinstance(told, dict):
        raise bad_key(model, key, told, "an object or null")
    kind = told.get("rope_type", told.get("type"))
    if kind is None and not told.keys() <= {"rope_theta", "partial_rotary_factor"}:
        raise bad_key(
            model, key, told, "null, or an object with a rope_type for all layers, which is default"
        )
    if kind not in (None, "default"):
        raise bad_key(model, key, told, f"null, or an object whose rope_type is default, not {kind}")
    if told.get("partial_rotary_factor") not in (None, 1):
        raise bad_key(model, key, told, "null, or an object whose partial_rotary_factor is 1")


@dataclass(frozen=True, config=STRICT)
class ClipConfig(EncoderConfig):
    """What CLIP's text and image encoders have in common."""

    hidden_size: Positive
    intermediate_size: Positive
    num_attention_heads: Positive
    num_hidden_layers: Positive = 12
    hidden_act: ActivationName = "quick_gelu"
    layer_norm_eps: FromZero = 1e-5

    def check(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            self.refuse("hidden_size", f"a multiple of num_attention_heads, {self.num_attention_heads}")


@dataclass(frozen=True, config=STRICT)
class ClipTextConfig(ClipConfig):
    """CLIP's text config."""

    NAME: ClassVar = "CLIPTextModel"
    HARMLESS: ClassVar = {**EncoderConfig.HARMLESS, "projection_dim": "there is no projection"}
    # Some checkpoints want padding masked; none of those that these families use.
    ONLY: ClassVar = {"use_attention_mask": False, "is_causal": True}

    hidden_size: Positive = 512
    intermediate_size: Positive = 2048
    num_attention_heads: Positive = 8
    vocab_size: Positive = 49408
    max_position_embeddings: Positive = 77
    eos_token_id: int = 49407


@dataclass(frozen=True, config=STRICT)
class ClipVisionConfig(ClipConfig):
    """CLIP's config for images."""

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
        """Patches of an image; the rest at its right and lower edges is not used."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True, config=STRICT)
class ClipImageProcessorConfig(Config):
    """`preprocessor_config.json`. Only the keys that the UNet families use: they resize images themselves.

    Args:
        image_mean, image_std: Of red, green and blue in [0, 1]; subtracted, and divided by.
        crop_size: Side of the encoder's input, or its `height` and `width`.
    """

    NAME: ClassVar = "CLIPImageProcessor"
    HARMLESS: ClassVar = dict.fromkeys(
        (
            *(
                "data_format",
                "default_to_square",
                "device",
                "disable_grouping",
                "do_center_crop",
                "do_convert_rgb",
            ),
            *(
                "do_normalize",
                "do_pad",
                "do_rescale",
                "do_resize",
                "feature_extractor_type",
                "image_processor_type",
            ),
            *(
                "image_seq_length",
                "input_data_format",
                "pad_size",
                "processor_class",
                "resample",
                "rescale_factor",
            ),
            *("return_tensors", "size", "use_square_size"),
        ),
        "the pipelines decide what is done to an image, whatever this key says",
    )

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
        """Height and width of the encoder's input."""
        if isinstance(self.crop_size, dict):
            return self.crop_size["height"], self.crop_size["width"]
        return self.crop_size, self.crop_size
