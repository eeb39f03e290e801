"""What CogVideoX checkpoints take.

Defaults are those of diffusers' CogVideoXPipeline, CogVideoXImageToVideoPipeline and
CogVideoXVideoToVideoPipeline; frames per second are those of the model cards (8, and 16 for 1.5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vidgen_dist.families.cogvideox.config import CogVideoXConfigs
from vidgen_dist.families.common.requests import PromptedRequest
from vidgen_dist.families.common.tasks import (
    IMAGE_TO_VIDEO,
    TEXT_TO_VIDEO,
    VIDEO_TO_VIDEO,
    TaskRules,
)
from vidgen_dist.request import RequestError
from vidgen_dist.schedulers.cogvideox import CogVideoXScheduler


@dataclass(frozen=True, kw_only=True)
class CogVideoXRequest(PromptedRequest):
    """The fields of all tasks."""

    negative_prompt: str
    num_frames: int | None
    use_dynamic_cfg: bool
    eta: float


@dataclass(frozen=True, kw_only=True)
class TextToVideoRequest(CogVideoXRequest):
    """A row for text-to-video."""

    num_frames: int


@dataclass(frozen=True, kw_only=True)
class ImageToVideoRequest(CogVideoXRequest):
    """A row for image-to-video."""

    image: Any
    num_frames: int


@dataclass(frozen=True, kw_only=True)
class VideoToVideoRequest(CogVideoXRequest):
    """A row for video-to-video.

    Args:
        num_frames: Frames of the clip that are used; None for all.
    """

    video: Any
    strength: float
    num_frames: int | None = None

    @property
    def steps(self) -> int:
        """Number of predictions: `strength` leaves out the first steps."""
        return min(int(self.num_inference_steps * self.strength), self.num_inference_steps)


def task_rules(configs: CogVideoXConfigs) -> Mapping[str, TaskRules[Any]]:
    """Task -> rules, for the tasks that the transformer's input channels allow."""
    if configs.takes_image:
        return {IMAGE_TO_VIDEO: _image_to_video(configs)}
    return {TEXT_TO_VIDEO: _text_to_video(configs), VIDEO_TO_VIDEO: _video_to_video(configs)}


def _text_to_video(configs: CogVideoXConfigs) -> TaskRules[TextToVideoRequest]:
    return TaskRules(
        request=TextToVideoRequest,
        defaults={**_defaults(configs), "num_frames": configs.transformer.sample_frames},
        multiples=_multiples(configs),
        check=lambda r: _check(r, configs),
        made_frames=lambda n: _made_frames(n, configs),
    )


def _image_to_video(configs: CogVideoXConfigs) -> TaskRules[ImageToVideoRequest]:
    return TaskRules(
        request=ImageToVideoRequest,
        # The reference pipeline does not use the checkpoint's size here.
        defaults={**_defaults(configs), "num_frames": 49},
        multiples=_multiples(configs),
        check=lambda r: _check(r, configs),
        made_frames=lambda n: _made_frames(n, configs),
    )


def _video_to_video(configs: CogVideoXConfigs) -> TaskRules[VideoToVideoRequest]:
    def check(r: VideoToVideoRequest) -> None:
        _check_strength(r)
        _check(r, configs)

    return TaskRules(
        request=VideoToVideoRequest,
        defaults={**_defaults(configs), "strength": 0.8},
        multiples=_multiples(configs),
        check=check,
        check_clip=lambda r, frames: _check_clip(r, frames, configs),
        made_frames=lambda n: _made_frames(n, configs),
    )


def _defaults(configs: CogVideoXConfigs) -> dict[str, Any]:
    """The defaults that all tasks share."""
    trained, spatial = configs.transformer, configs.vae.spatial_compression_ratio
    return {
        "negative_prompt": "",
        "height": trained.sample_height * spatial,
        "width": trained.sample_width * spatial,
        "num_inference_steps": 50,
        "guidance_scale": 6.0,
        "use_dynamic_cfg": False,
        "eta": 0.0,
        # The pipelines' own default, except for position tables, which fit one length only.
        "max_sequence_length": trained.max_text_seq_length if trained.has_position_table else 226,
        "fps": 16.0 if trained.patch_size_t else 8.0,
    }


def _multiples(configs: CogVideoXConfigs) -> dict[str, int]:
    multiple = configs.vae.spatial_compression_ratio * configs.transformer.patch_size
    return {"height": multiple, "width": multiple}


def _made_frames(num_frames: int, configs: CogVideoXConfigs) -> int:
    return configs.vae.decoded_frames(configs.vae.latent_frames(num_frames))


def _check(r: CogVideoXRequest, configs: CogVideoXConfigs) -> None:
    _check_steps(r, configs.scheduler)
    _check_positions(r, configs)


def _check_steps(r: CogVideoXRequest, scheduler: CogVideoXScheduler) -> None:
    first = scheduler.spaced_timesteps(r.num_inference_steps)[-r.steps]
    scheduler.check_start(r.num_inference_steps, first)


def _check_positions(r: CogVideoXRequest, configs: CogVideoXConfigs) -> None:
    trained, spatial = configs.transformer, configs.vae.spatial_compression_ratio
    if trained.has_position_table and r.max_sequence_length != trained.max_text_seq_length:
        allowed = f"this model's position table needs {trained.max_text_seq_length}"
        raise RequestError("max_sequence_length", r.max_sequence_length, allowed)
    for field, value, size in (
        ("height", r.height, trained.sample_height * spatial),
        ("width", r.width, trained.sample_width * spatial),
    ):
        if trained.use_learned_positional_embeddings and value != size:
            raise RequestError(field, value, f"this model's learned positions are for {size} only")
        # 1.5 counts rotary positions from the corner, and has them up to its training size.
        if trained.patch_size_t and value > size:
            raise RequestError(field, value, f"this model has positions up to {size}")


def _check_strength(r: VideoToVideoRequest) -> None:
    if r.steps < 1:
        allowed = f"{1 / r.num_inference_steps:g} or more, or no step of num_inference_steps is left"
        raise RequestError("strength", r.strength, allowed)


def _check_clip(r: VideoToVideoRequest, frames: int, configs: CogVideoXConfigs) -> None:
    if r.num_frames is not None and r.num_frames > frames:
        raise RequestError("num_frames", r.num_frames, f"at most the clip's {frames} frames")
    taken = r.num_frames or frames
    latent_frames = configs.vae.encoded_frames(taken)
    if configs.transformer.padding_frames(latent_frames):
        patch, per_latent = configs.transformer.frames_per_patch, configs.vae.frames_per_latent
        raise RequestError(
            "video",
            f"{taken} frames",
            f"a number of frames whose latent frames (here {latent_frames}) are a multiple of {patch}, such "
            f"as 1 + {per_latent} * (k * {patch} - 1); num_frames shortens a clip",
        )
