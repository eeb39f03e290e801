"""What AnimateDiff checkpoints take.

Defaults are those of diffusers' AnimateDiffPipeline; frames per second are those of the model card (8).
"""

from __future__ import annotations

from dataclasses import dataclass

from vidgen_dist.families.animatediff.config import AnimateDiffConfigs
from vidgen_dist.families.common.fields import CLIP_SKIP, DECODE_CHUNK_SIZE
from vidgen_dist.families.common.requests import UNetRequest
from vidgen_dist.families.common.tasks import TEXT_TO_VIDEO, TaskRules
from vidgen_dist.request import RequestError

FIELDS = {"clip_skip": CLIP_SKIP, "decode_chunk_size": DECODE_CHUNK_SIZE}

SAMPLE_SIZE = 64
"""Rows and columns of the latents if the UNet's config does not say."""


@dataclass(frozen=True, kw_only=True)
class AnimateDiffRequest(UNetRequest):
    """A row for AnimateDiff."""


def task_rules(configs: AnimateDiffConfigs) -> dict[str, TaskRules[AnimateDiffRequest]]:
    """Task -> rules; there is one task."""
    ratio = configs.vae.spatial_compression_ratio
    size = (configs.unet.sample_size or SAMPLE_SIZE) * ratio
    longest = configs.motion_unet.motion_max_seq_length

    def check(r: AnimateDiffRequest) -> None:
        if r.num_frames > longest:
            allowed = f"up to {longest}, the motion adapter's motion_max_seq_length"
            raise RequestError("num_frames", r.num_frames, allowed)
        r.check(configs.text_encoder, configs.scheduler)

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
        # As diffusers requires; if it is not a multiple of the UNet's levels, it is halved to more than half.
        multiples={"height": ratio, "width": ratio},
        check=check,
        # Each frame is decoded separately.
        memory_only=("decode_chunk_size",),
    )
    return {TEXT_TO_VIDEO: of_task}
