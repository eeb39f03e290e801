"""What the toy takes from a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vidgen_toy.config import ToyConfigs

from vidgen_dist.families.common.tasks import IMAGE_TO_VIDEO, TaskRules
from vidgen_dist.kinds import Number
from vidgen_dist.request import Field, ResolvedRequest

FIELDS = {"first_guidance_scale": Field(Number(0, 1e6), "the first frame's weight of guidance")}


@dataclass(frozen=True, kw_only=True)
class ToyRequest(ResolvedRequest):
    """A row for the toy family. Guidance grows from the first frame to the last."""

    image: Any
    num_frames: int
    first_guidance_scale: float
    guidance_scale: float

    @property
    def is_guided(self) -> bool:
        return self.guidance_scale > 1


def task_rules(configs: ToyConfigs) -> dict[str, TaskRules[ToyRequest]]:
    """Task -> rules."""
    ratio = configs.vae.spatial_compression_ratio
    defaults = {
        "height": 8 * ratio,
        "width": 12 * ratio,
        "num_frames": 3,
        "num_inference_steps": 4,
        "first_guidance_scale": 1.0,
        "guidance_scale": 3.0,
        "fps": 8.0,
    }
    of_task = TaskRules(request=ToyRequest, defaults=defaults, multiples={"height": ratio, "width": ratio})
    return {IMAGE_TO_VIDEO: of_task}
