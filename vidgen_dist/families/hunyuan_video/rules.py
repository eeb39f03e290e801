"""What HunyuanVideo checkpoints take, read from their configs.

Defaults are those of diffusers' HunyuanVideoPipeline; frames per second are those of the model card (15).
"""

from __future__ import annotations

import functools
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

MULTIPLE = 16
"""Of height and width: diffusers asks for it whatever the checkpoint's sizes are."""

CLIP_TOKENS = 77
"""Tokens of a prompt for CLIP, whatever `max_sequence_length` is."""


@dataclass(frozen=True)
class _Transformer:
    """What the rules read of `transformer/config.json`, with diffusers' defaults."""

    in_channels: int = 16
    out_channels: int | None = 16
    patch_size: int = 2
    patch_size_t: int = 1
    text_embed_dim: int = 4096
    pooled_projection_dim: int = 768


@dataclass(frozen=True)
class _Vae:
    latent_channels: int = 16
    spatial_compression_ratio: int = 8
    temporal_compression_ratio: int = 4


@dataclass(frozen=True)
class _Llama:
    hidden_size: int = 4096


@dataclass(frozen=True)
class _Clip:
    hidden_size: int = 512
    max_position_embeddings: int = CLIP_TOKENS


@dataclass(frozen=True)
class Geometry:
    """How pixels become latents become tokens.

    Args:
        spatial: Pixels per latent along height and width.
        temporal: Frames per latent frame.
        patch_size: Latents per token along height and width.
        patch_size_t: Latent frames per token.
        latent_channels: Channels of the latents.
    """

    spatial: int
    temporal: int
    patch_size: int
    patch_size_t: int
    latent_channels: int

    @classmethod
    def of(cls, transformer: Mapping[str, Any], vae: Mapping[str, Any]) -> Geometry:
        """The geometry that the two models' configs give.

        Raises:
            Refused: Names the key whose value cannot be.
        """
        tokens, latents = (
            select_sizes(_Transformer, transformer, "transformer"),
            select_sizes(_Vae, vae, "vae"),
        )
        return cls(
            spatial=latents.spatial_compression_ratio,
            temporal=latents.temporal_compression_ratio,
            patch_size=tokens.patch_size,
            patch_size_t=tokens.patch_size_t,
            latent_channels=latents.latent_channels,
        )

    def latent_frames(self, num_frames: int) -> int:
        """Latent frames of a video: the first frame has one of its own."""
        return (num_frames - 1) // self.temporal + 1

    def decoded_frames(self, latent_frames: int) -> int:
        """Frames that the VAE makes of latent frames."""
        return (latent_frames - 1) * self.temporal + 1


def read(checkpoint: Checkpoint) -> dict[str, TaskRules]:
    """Task -> rules, for the one task that there is.

    Raises:
        Refused: A class that is not HunyuanVideo's, a scheduler's config that cannot be, or components that
            do not fit each other.
    """
    check_classes(checkpoint, _CLASSES)
    _check_fit(checkpoint)
    geometry = Geometry.of(checkpoint.config("transformer"), checkpoint.config("vae"))
    return {TEXT_TO_VIDEO: _task_rules(geometry)}


_CLASSES = {
    "transformer": ("HunyuanVideoTransformer3DModel",),
    "vae": ("AutoencoderKLHunyuanVideo",),
    "text_encoder": ("LlamaModel",),
    "text_encoder_2": ("CLIPTextModel",),
    "tokenizer": ("LlamaTokenizer", "LlamaTokenizerFast", "PreTrainedTokenizerFast"),
    "tokenizer_2": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "scheduler": ("FlowMatchEulerDiscreteScheduler",),
}


def _check_fit(checkpoint: Checkpoint) -> None:
    """Refuse components that cannot work with each other."""
    transformer = select_sizes(_Transformer, checkpoint.config("transformer"), "transformer")
    vae = select_sizes(_Vae, checkpoint.config("vae"), "vae")
    llama = select_sizes(_Llama, checkpoint.config("text_encoder"), "text_encoder")
    clip = select_sizes(_Clip, checkpoint.config("text_encoder_2"), "text_encoder_2")
    scheduler = load_scheduler(checkpoint.class_name("scheduler"), checkpoint.config("scheduler"))
    for key, needed, of in (
        ("in_channels", vae.latent_channels, "the VAE's latent_channels"),
        ("out_channels", vae.latent_channels, "the VAE's latent_channels"),
        ("text_embed_dim", llama.hidden_size, "text_encoder's hidden_size"),
        ("pooled_projection_dim", clip.hidden_size, "text_encoder_2's hidden_size"),
    ):
        value = getattr(transformer, key)
        # No out_channels are as many as in_channels.
        if value is not None and value != needed:
            raise bad_key("transformer", key, value, f"{needed}, {of}")
    longest = clip.max_position_embeddings
    if longest < CLIP_TOKENS:
        raise bad_key("text_encoder_2", "max_position_embeddings", longest, f"{CLIP_TOKENS} or more")
    if scheduler.config["use_dynamic_shifting"]:
        raise bad_key("scheduler", "use_dynamic_shifting", True, "false: HunyuanVideo's shift is a constant")


def guided(request: RenderRequest) -> bool:
    """Whether a request whose defaults are filled in is rendered against its negative prompt, too."""
    assert request.true_cfg_scale is not None
    return request.true_cfg_scale > 1 and request.negative_prompt is not None


def _task_rules(geometry: Geometry) -> TaskRules:
    multiple = math.lcm(MULTIPLE, geometry.spatial * geometry.patch_size)

    def check(request: RenderRequest) -> None:
        assert request.num_frames is not None
        latent_frames = geometry.latent_frames(request.num_frames)
        if latent_frames % geometry.patch_size_t:
            raise RequestError(
                "num_frames",
                request.num_frames,
                f"a number of frames whose latent frames (here {latent_frames}) are a multiple of "
                f"{geometry.patch_size_t}",
            )
        warn_of_frames(request.num_frames, geometry.decoded_frames(latent_frames))
        assert request.true_cfg_scale is not None
        if request.true_cfg_scale > 1 and not guided(request):
            _warn_of_guidance(request.true_cfg_scale)

    return TaskRules(
        defaults={
            "height": 720,
            "width": 1280,
            "num_frames": 129,
            "num_inference_steps": 50,
            "true_cfg_scale": 1.0,
            "guidance_scale": 6.0,
            "max_sequence_length": 256,
            "fps": 15.0,
        },
        multiples={"height": multiple, "width": multiple},
        check=check,
        optional=("negative_prompt",),
    )


@functools.cache
def _warn_of_guidance(true_cfg_scale: float) -> None:
    """Say it once for each weight: the reference pipeline is silent."""
    logger.warning("true_cfg_scale %g does nothing in rows without a negative_prompt", true_cfg_scale)
