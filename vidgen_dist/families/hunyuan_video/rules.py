"""What HunyuanVideo checkpoints take.

Defaults are those of diffusers' HunyuanVideoPipeline; frames per second are those of the model card (15).
"""

from __future__ import annotations

import functools
import logging
import math
from dataclasses import dataclass

from vidgen_dist.families.common.requests import PromptedRequest
from vidgen_dist.families.common.tasks import TEXT_TO_VIDEO, TaskRules
from vidgen_dist.families.hunyuan_video.config import HunyuanVideoConfigs
from vidgen_dist.kinds import Number
from vidgen_dist.request import Field, RequestError

logger = logging.getLogger(__name__)

MULTIPLE = 16
"""Height and width must be multiples of this: diffusers requires it whatever the checkpoint's sizes are."""

FIELDS = {
    "true_cfg_scale": Field(
        Number(0, 1e6),
        "HunyuanVideo, whose model is told `guidance_scale`: scale of the guidance away from "
        "`negative_prompt`; 1 or less, or no negative prompt, turns it off",
    ),
}
"""Fields of rows that no other family takes."""


@dataclass(frozen=True, kw_only=True)
class HunyuanVideoRequest(PromptedRequest):
    """A row for HunyuanVideo."""

    negative_prompt: str | None = None
    num_frames: int
    true_cfg_scale: float

    @property
    def is_guided(self) -> bool:
        """Whether each step also predicts with the negative prompt; `guidance_scale` is embedded."""
        return self.true_cfg_scale > 1 and self.negative_prompt is not None


def task_rules(configs: HunyuanVideoConfigs) -> dict[str, TaskRules[HunyuanVideoRequest]]:
    """Task -> rules; there is one task."""
    multiple = math.lcm(MULTIPLE, configs.pixels_of_a_token)

    def check(r: HunyuanVideoRequest) -> None:
        configs.scheduler.check_count(r.num_inference_steps)
        _, latent_frames, _, _ = configs.latent_size(r.num_frames, r.height, r.width)
        of_a_token = configs.transformer.patch_size_t
        if latent_frames % of_a_token:
            allowed = f"a number of frames whose latent frames (here {latent_frames}) are a multiple of "
            raise RequestError("num_frames", r.num_frames, f"{allowed}{of_a_token}")
        if r.true_cfg_scale > 1 and not r.is_guided:
            _warn_of_guidance()

    def made_frames(num_frames: int) -> int:
        _, latent_frames, _, _ = configs.latent_size(num_frames, multiple, multiple)
        return configs.vae.decoded_frames(latent_frames)

    of_task = TaskRules(
        request=HunyuanVideoRequest,
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
        made_frames=made_frames,
    )
    return {TEXT_TO_VIDEO: of_task}


@functools.cache
def _warn_of_guidance() -> None:
    """Warn once in a process; the reference pipeline is silent."""
    logger.warning("true_cfg_scale has no effect in rows without a negative_prompt")
