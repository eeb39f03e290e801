"""The tasks, and what a family says of one task from its configs alone."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vidgen_dist.errors import Refused
from vidgen_dist.request import RenderRequest
from vidgen_dist.weights.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

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


def check_classes(checkpoint: Checkpoint, allowed: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse a checkpoint whose components are not the family's.

    Args:
        checkpoint: Of which `model_index.json` is looked at.
        allowed: Component -> classes that it may be.

    Raises:
        Refused: Names the component, its class and those that it may be.
    """
    for component, classes in allowed.items():
        found = checkpoint.class_name(component)
        if found not in classes:
            raise Refused(
                f"{checkpoint.folder / 'model_index.json'}: {component} is a {found}; "
                f"allowed: {', '.join(classes)}"
            )


@functools.cache
def warn_of_frames(num_frames: int, made: int) -> None:
    """Say, once for each number of frames, that another one is made: reference pipelines round in silence."""
    if made != num_frames:
        logger.warning("num_frames %d makes %d frames with this model", num_frames, made)
