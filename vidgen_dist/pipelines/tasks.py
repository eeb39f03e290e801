"""The tasks, and what a family says of one task from its configs alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vidgen_dist.request import RenderRequest

TEXT_TO_VIDEO = "text-to-video"
IMAGE_TO_VIDEO = "image-to-video"
VIDEO_TO_VIDEO = "video-to-video"

MEDIA_OF_TASK: Mapping[str, str] = {IMAGE_TO_VIDEO: "image", VIDEO_TO_VIDEO: "video"}
"""The field that holds what a task is conditioned on, beside the prompt."""


def _any_clip(_request: RenderRequest, _frames: int) -> None:
    """Every clip will do."""


@dataclass(frozen=True)
class TaskRules:
    """What one checkpoint takes from a request for one task.

    Args:
        defaults: Values for the fields that a request may leave out.
        multiples: Fields that must be multiples of a number.
        optional: Fields that a request may have and that have no default.
        check: Says what else is wrong with a request whose defaults are filled in, by raising
            RequestError.
        check_clip: Likewise of a request and the frames that its clip turned out to have.
    """

    defaults: Mapping[str, Any]
    multiples: Mapping[str, int]
    check: Callable[[RenderRequest], None]
    optional: tuple[str, ...] = ()
    check_clip: Callable[[RenderRequest, int], None] = _any_clip
