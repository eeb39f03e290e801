"""What I2VGen-XL checkpoints take.

Defaults are those of diffusers' I2VGenXLPipeline. The file's frames per second are those of VGen, the
authors' own code (8), whatever `target_fps` the model gets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from vidgen_dist.families.common.fields import CLIP_SKIP, DECODE_CHUNK_SIZE
from vidgen_dist.families.common.requests import UNetRequest
from vidgen_dist.families.common.tasks import IMAGE_TO_VIDEO, TaskRules
from vidgen_dist.families.i2vgen_xl.config import I2VGenXLConfigs
from vidgen_dist.kinds import Number
from vidgen_dist.request import MAX_FPS, MIN_FPS, Field

MULTIPLE = 8
"""Height and width must be multiples of this: diffusers requires it whatever the checkpoint's sizes are."""

FIELDS = {
    "target_fps": Field(
        Number(MIN_FPS, MAX_FPS),
        "I2VGen-XL: frames per second that the model is told; `fps` is the file's",
    ),
    "clip_skip": CLIP_SKIP,
    "decode_chunk_size": DECODE_CHUNK_SIZE,
}
"""Fields of rows that few families take."""


@dataclass(frozen=True, kw_only=True)
class I2VGenXLRequest(UNetRequest):
    """A row for I2VGen-XL."""

    image: Any
    target_fps: float


def task_rules(configs: I2VGenXLConfigs) -> dict[str, TaskRules[I2VGenXLRequest]]:
    """Task -> rules; there is one task."""
    multiple = math.lcm(MULTIPLE, configs.vae.spatial_compression_ratio)

    def check(r: I2VGenXLRequest) -> None:
        r.check(configs.text_encoder, configs.scheduler)

    of_task = TaskRules(
        request=I2VGenXLRequest,
        defaults={
            "negative_prompt": "",
            "height": 704,
            "width": 1280,
            "num_frames": 16,
            "num_inference_steps": 50,
            "guidance_scale": 9.0,
            "eta": 0.0,
            "target_fps": 16.0,
            "clip_skip": 1,
            "decode_chunk_size": 1,
            "fps": 8.0,
        },
        multiples={"height": multiple, "width": multiple},
        check=check,
        # Each frame is decoded separately.
        memory_only=("decode_chunk_size",),
    )
    return {IMAGE_TO_VIDEO: of_task}
