"""What AnimateDiff takes from a row.

Defaults are those of diffusers' AnimateDiffPipeline; frames per second are those of the model card (8).
"""

from __future__ import annotations

from dataclasses import dataclass

from vidgen_dist.families.animatediff.config import AnimateDiffConfigs
from vidgen_dist.families.common.fields import CLIP_SKIP, DECODE_CHUNK_SIZE
from vidgen_dist.families.common.tasks import TEXT_TO_VIDEO, TaskRules
from vidgen_dist.request import RequestError, ResolvedRequest

FIELDS = {"clip_skip": CLIP_SKIP, "decode_chunk_size": DECODE_CHUNK_SIZE}

SAMPLE_SIZE = 64
"""Rows and columns of the latents where the UNet's config does not say."""


@dataclass(frozen=True, kw_only=True)
class AnimateDiffRequest(ResolvedRequest):
    """A row for AnimateDiff."""

    prompt: str
    negative_prompt: str
    num_frames: int
    guidance_scale: float
    eta: float
    clip_skip: int
    decode_chunk_size: int

    @property
    def is_guided(self) -> bool:
        """Whether each step predicts with the prompt and without."""
        return self.guidance_scale > 1.0


def task_rules(configs: AnimateDiffConfigs) -> dict[str, TaskRules[AnimateDiffRequest]]:
    """Task -> rules, for the one task that there is."""
    ratio = configs.vae.spatial_compression_ratio
    size = (configs.unet.sample_size or SAMPLE_SIZE) * ratio
    longest, layers = configs.motion_unet.motion_max_seq_length, configs.text_encoder.num_hidden_layers

    def check(r: AnimateDiffRequest) -> None:
        if r.num_frames > longest:
            allowed = f"up to {longest} with this motion adapter, whose motion_max_seq_length it is"
            raise RequestError("num_frames", r.num_frames, allowed)
        if r.clip_skip > layers:
            allowed = f"up to {layers}, the layers of the text encoder"
            raise RequestError("clip_skip", r.clip_skip, allowed)
        configs.scheduler.predictions(r.num_inference_steps)

    of_task = TaskRules(
        request=AnimateDiffRequest,
        defaults={
            "negative_prompt": "",
            "height": size,
            "width": size,
            "num_frames": 16,
            "num_inference_steps": 50,
            "guidance_scale": 7.5,
            "eta": 0.0,
            "clip_skip": 0,
            "decode_chunk_size": 16,
            "fps": 8.0,
        },
        # As diffusers asks; what is no multiple of the UNet's levels is halved to more than half.
        multiples={"height": ratio, "width": ratio},
        check=check,
    )
    return {TEXT_TO_VIDEO: of_task}
