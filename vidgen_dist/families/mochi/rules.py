"""What Mochi checkpoints take, read from their configs.

Defaults are those of diffusers' MochiPipeline; frames per second are those of the model card (30).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vidgen_dist.config import bad_key, select_sizes
from vidgen_dist.families.common.tasks import TEXT_TO_VIDEO, TaskRules, check_classes, warn_of_frames
from vidgen_dist.request import RenderRequest, RequestError
from vidgen_dist.schedulers import load_scheduler
from vidgen_dist.weights.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

SPATIAL = 8
"""Pixels per latent along height and width. As in diffusers, whatever the checkpoint's VAE makes of them."""

TEMPORAL = 6
"""Frames per latent frame, likewise."""


@dataclass(frozen=True)
class _Transformer:
    """What the rules read of `transformer/config.json`, with diffusers' defaults."""

    in_channels: int = 12
    out_channels: int | None = None
    patch_size: int = 2
    text_embed_dim: int = 4096


@dataclass(frozen=True)
class _Vae:
    latent_channels: int = 12


@dataclass(frozen=True)
class _T5:
    d_model: int = 512


@dataclass(frozen=True)
class Geometry:
    """How pixels become latents become tokens, and latents frames.

    Args:
        patch_size: Latents per token along height and width.
        latent_channels: Channels of the latents.
        decoded_spatial: Pixels that the VAE makes of a latent along height and width.
        decoded_temporal: Frames that it makes of a latent frame.
    """

    patch_size: int
    latent_channels: int
    decoded_spatial: int
    decoded_temporal: int

    @classmethod
    def of(cls, transformer: Mapping[str, Any], vae: Mapping[str, Any]) -> Geometry:
        """The geometry that the two models' configs give.

        Raises:
            Refused: Names the key whose value cannot be.
        """
        return cls(
            patch_size=select_sizes(_Transformer, transformer, "transformer").patch_size,
            latent_channels=select_sizes(_Vae, vae, "vae").latent_channels,
            decoded_spatial=_expansion(vae, "spatial_expansions", (2, 2, 2)),
            decoded_temporal=_expansion(vae, "temporal_expansions", (1, 2, 3)),
        )

    def latent_frames(self, num_frames: int) -> int:
        """Latent frames of a video: the first frame has one of its own."""
        return (num_frames - 1) // TEMPORAL + 1

    def decoded_frames(self, latent_frames: int) -> int:
        """Frames that the VAE makes of latent frames."""
        return (latent_frames - 1) * self.decoded_temporal + 1


def _expansion(vae: Mapping[str, Any], key: str, default: tuple[int, ...]) -> int:
    factors = vae.get(key, default)
    if not isinstance(factors, list | tuple) or not all(type(n) is int and n > 0 for n in factors):
        raise bad_key("vae", key, factors, "a list of whole numbers from 1")
    return math.prod(factors)


def read(checkpoint: Checkpoint) -> dict[str, TaskRules]:
    """Task -> rules, for the one task that there is.

    Raises:
        Refused: A class that is not Mochi's, or components that do not fit each other.
    """
    check_classes(checkpoint, _CLASSES)
    _check_fit(checkpoint)
    zeros_for_empty_prompt(checkpoint)
    geometry = Geometry.of(checkpoint.config("transformer"), checkpoint.config("vae"))
    if geometry.decoded_spatial != SPATIAL:
        logger.warning(
            "%s: the VAE makes %d pixels of a latent, which stands for %d: videos have another size",
            checkpoint.model,
            geometry.decoded_spatial,
            SPATIAL,
        )
    return {TEXT_TO_VIDEO: _task_rules(geometry)}


def zeros_for_empty_prompt(checkpoint: Checkpoint) -> bool:
    """`force_zeros_for_empty_prompt` of `model_index.json`: an empty prompt has not even an end token.

    Raises:
        Refused: It is neither true nor false.
    """
    zeros = checkpoint.model_index.get("force_zeros_for_empty_prompt", False)
    if not isinstance(zeros, bool):
        raise bad_key("model_index.json", "force_zeros_for_empty_prompt", zeros, "true or false")
    return zeros


_CLASSES = {
    "transformer": ("MochiTransformer3DModel",),
    "vae": ("AutoencoderKLMochi",),
    "text_encoder": ("T5EncoderModel",),
    "tokenizer": ("T5Tokenizer", "T5TokenizerFast"),
    "scheduler": ("FlowMatchEulerDiscreteScheduler",),
}


def _check_fit(checkpoint: Checkpoint) -> None:
    """Refuse components that cannot work with each other."""
    transformer = select_sizes(_Transformer, checkpoint.config("transformer"), "transformer")
    vae = select_sizes(_Vae, checkpoint.config("vae"), "vae")
    t5 = select_sizes(_T5, checkpoint.config("text_encoder"), "text_encoder")
    made = transformer.out_channels or transformer.in_channels
    wanted = (
        ("in_channels", transformer.in_channels, "the VAE's latent_channels", vae.latent_channels),
        ("out_channels", made, "in_channels", transformer.in_channels),
        ("text_embed_dim", transformer.text_embed_dim, "text_encoder's d_model", t5.d_model),
    )
    for key, value, other, needed in wanted:
        if value != needed:
            raise bad_key("transformer", key, value, f"{needed}, {other}")
    scheduler = load_scheduler(checkpoint.class_name("scheduler"), checkpoint.config("scheduler"))
    if scheduler.config["use_dynamic_shifting"]:
        raise bad_key("scheduler", "use_dynamic_shifting", True, "false: Mochi's shift is a constant")


def _task_rules(geometry: Geometry) -> TaskRules:
    multiple = SPATIAL * geometry.patch_size

    def check(request: RenderRequest) -> None:
        assert request.num_frames is not None
        if request.num_inference_steps == 1:
            raise RequestError(
                "num_inference_steps", 1, "2 or more: half of the steps go along a line, half along a curve"
            )
        warn_of_frames(
            request.num_frames, geometry.decoded_frames(geometry.latent_frames(request.num_frames))
        )

    return TaskRules(
        defaults={
            "negative_prompt": "",
            "height": 480,
            "width": 848,
            "num_frames": 19,
            "num_inference_steps": 64,
            "guidance_scale": 4.5,
            "max_sequence_length": 256,
            "fps": 30.0,
        },
        multiples={"height": multiple, "width": multiple},
        check=check,
    )
