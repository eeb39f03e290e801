"""What LTX-Video checkpoints take.

Defaults are those of diffusers' LTXPipeline and LTXImageToVideoPipeline; frames per second of the file are
those of the model card (24).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeVar

from vidgen_dist.families.common.requests import PromptedRequest
from vidgen_dist.families.common.tasks import IMAGE_TO_VIDEO, TEXT_TO_VIDEO, TaskRules
from vidgen_dist.families.ltx.config import LTXConfigs
from vidgen_dist.kinds import Number
from vidgen_dist.request import MAX_FPS, MIN_FPS, Field

MULTIPLE = 32
"""Height and width must be multiples of this, whatever the checkpoint's VAE is."""

FIELDS = {
    "frame_rate": Field(
        Number(MIN_FPS, MAX_FPS),
        "LTX-Video: frames per second that the model is told; `fps` is the file's",
    ),
    "decode_timestep": Field(
        Number(0, 1), "LTX-Video's decoder from 0.9.1 on: the timestep, or noise level, that it is told"
    ),
    "decode_noise_scale": Field(
        Number(0, 1),
        "LTX-Video's decoder from 0.9.1 on: the noise that is added to the latents; by default "
        "`decode_timestep`",
    ),
}
"""Fields of rows that no other family takes."""


@dataclass(frozen=True, kw_only=True)
class LTXRequest(PromptedRequest):
    """A row for LTX-Video."""

    negative_prompt: str
    num_frames: int
    guidance_rescale: float
    frame_rate: float
    decode_timestep: float
    decode_noise_scale: float | None = None

    @property
    def decoded_noise(self) -> float:
        """Share of noise in the latents, for a decoder that gets the timestep."""
        return self.decode_timestep if self.decode_noise_scale is None else self.decode_noise_scale


@dataclass(frozen=True, kw_only=True)
class LTXImageRequest(LTXRequest):
    """A row with a given first frame."""

    image: Any


R = TypeVar("R", bound=LTXRequest)


def task_rules(configs: LTXConfigs) -> dict[str, TaskRules[Any]]:
    """Task -> rules; every checkpoint supports both tasks."""
    return {
        TEXT_TO_VIDEO: _task_rules(configs, LTXRequest),
        IMAGE_TO_VIDEO: _task_rules(configs, LTXImageRequest),
    }


def _task_rules(configs: LTXConfigs, request: type[R]) -> TaskRules[R]:
    multiple = math.lcm(MULTIPLE, configs.vae.spatial)

    def check(r: R) -> None:
        configs.scheduler.check_count(r.num_inference_steps)

    def made_frames(num_frames: int) -> int:
        _, latent_frames, _, _ = configs.latent_size(num_frames, multiple, multiple)
        return configs.vae.decoded_frames(latent_frames)

    return TaskRules(
        request=request,
        defaults={
            "negative_prompt": "",
            "height": 512,
            "width": 704,
            "num_frames": 161,
            "num_inference_steps": 50,
            "guidance_scale": 3.0,
            "guidance_rescale": 0.0,
            "max_sequence_length": 128,
            "frame_rate": 25.0,
            # No effect if the VAE does not get the timestep (0.9.0), as in diffusers.
            "decode_timestep": 0.0,
            "fps": 24.0,
        },
        multiples={"height": multiple, "width": multiple},
        check=check,
        made_frames=made_frames,
    )
