"""What Mochi checkpoints take.

Defaults are those of diffusers' MochiPipeline; frames per second are those of the model card (30).
"""

from __future__ import annotations

from dataclasses import dataclass

from vidgen_dist.families.common.requests import PromptedRequest
from vidgen_dist.families.common.tasks import TEXT_TO_VIDEO, TaskRules
from vidgen_dist.families.mochi.config import SPATIAL, MochiConfigs
from vidgen_dist.request import RequestError


@dataclass(frozen=True, kw_only=True)
class MochiRequest(PromptedRequest):
    """A row for Mochi."""

    negative_prompt: str
    num_frames: int


def task_rules(configs: MochiConfigs) -> dict[str, TaskRules[MochiRequest]]:
    """Task -> rules; there is one task."""
    multiple = SPATIAL * configs.transformer.patch_size

    def check(r: MochiRequest) -> None:
        if r.num_inference_steps == 1:
            allowed = "2 or more: half of the steps go along a line, half along a curve"
            raise RequestError("num_inference_steps", 1, allowed)
        configs.scheduler.check_count(r.num_inference_steps)

    def made_frames(num_frames: int) -> int:
        _, latent_frames, _, _ = configs.latent_size(num_frames, multiple, multiple)
        return configs.vae.decoded_frames(latent_frames)

    of_task = TaskRules(
        request=MochiRequest,
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
        made_frames=made_frames,
    )
    return {TEXT_TO_VIDEO: of_task}
