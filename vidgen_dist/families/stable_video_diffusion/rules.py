"""What Stable Video Diffusion checkpoints take.

Defaults are those of diffusers' StableVideoDiffusionPipeline; the number of frames is the checkpoint's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from vidgen_dist.families.common.fields import DECODE_CHUNK_SIZE
from vidgen_dist.families.common.tasks import IMAGE_TO_VIDEO, TaskRules
from vidgen_dist.families.stable_video_diffusion.config import StableVideoDiffusionConfigs
from vidgen_dist.kinds import Number, Whole
from vidgen_dist.request import MAX_FPS, MIN_FPS, Field, ResolvedRequest

MULTIPLE = 8
"""Height and width must be multiples of this, whatever the checkpoint's VAE is. As in diffusers."""

FILE_FPS = "file_fps"

FIELDS = {
    "min_guidance_scale": Field(
        Number(0, 1e6), "Stable Video Diffusion: guidance scale of the first frame", usual=True
    ),
    "max_guidance_scale": Field(
        Number(0, 1e6),
        "Stable Video Diffusion: guidance scale of the last frame; those between rise evenly; 1 or less "
        "turns guidance off",
        usual=True,
    ),
    "motion_bucket_id": Field(
        Whole(0, 255), "Stable Video Diffusion: how much should move; the model is told it", usual=True
    ),
    "noise_aug_strength": Field(
        Number(0, 1e6),
        "Stable Video Diffusion: noise that is added to the image; more gives more motion and less of the "
        "image; the model is told it too",
        usual=True,
    ),
    "decode_chunk_size": DECODE_CHUNK_SIZE,
    FILE_FPS: Field(
        Number(MIN_FPS, MAX_FPS),
        "Stable Video Diffusion, whose model is told `fps`: frames per second of the file, if they differ",
        not_sampling="it is output.fps",
    ),
}
"""This family's fields of rows."""


@dataclass(frozen=True, kw_only=True)
class StableVideoDiffusionRequest(ResolvedRequest):
    """A row for Stable Video Diffusion. See `FIELDS` for the fields; the model gets `fps`."""

    image: Any
    num_frames: int
    min_guidance_scale: float
    max_guidance_scale: float
    motion_bucket_id: int
    noise_aug_strength: float
    decode_chunk_size: int | None = None
    file_fps: float | None = None

    @property
    def is_guided(self) -> bool:
        return self.max_guidance_scale > 1

    @property
    def written_fps(self) -> float:
        return self.fps if self.file_fps is None else self.file_fps


def task_rules(
    configs: StableVideoDiffusionConfigs,
) -> dict[str, TaskRules[StableVideoDiffusionRequest]]:
    """Task -> rules; there is one task."""
    multiple = math.lcm(MULTIPLE, configs.vae.spatial_compression_ratio)

    def check(r: StableVideoDiffusionRequest) -> None:
        configs.scheduler.predictions(r.num_inference_steps)

    of_task = TaskRules(
        request=StableVideoDiffusionRequest,
        defaults={
            "height": 576,
            "width": 1024,
            "num_frames": configs.unet.num_frames,
            "num_inference_steps": 25,
            "min_guidance_scale": 1.0,
            "max_guidance_scale": 3.0,
            "motion_bucket_id": 127,
            "noise_aug_strength": 0.02,
            "fps": 7.0,
        },
        multiples={"height": multiple, "width": multiple},
        check=check,
        file_fps=FILE_FPS,
    )
    return {IMAGE_TO_VIDEO: of_task}
