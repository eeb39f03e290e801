"""The tasks, and what a family says of one task from its configs alone."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from vidgen_dist.request import ResolvedRequest

logger = logging.getLogger(__name__)

TEXT_TO_VIDEO = "text-to-video"
IMAGE_TO_VIDEO = "image-to-video"
VIDEO_TO_VIDEO = "video-to-video"

R = TypeVar("R", bound=ResolvedRequest)


def _all_well(*_: Any) -> None:
    """Nothing is wrong with it."""


@dataclass(frozen=True, kw_only=True)
class TaskRules(Generic[R]):
    """What one checkpoint takes from a request for one task.

    Args:
        request: The request with every default filled in. Its fields are what the task takes; those without a
            default there must come from `defaults` or from the row.
        defaults: Values for the fields that a request may leave out.
        multiples: Fields that must be multiples of a number.
        check: Says what else is wrong with a request, by raising RequestError.
        check_clip: Likewise of a request and the frames that its clip turned out to have.
        late: Defaults of fields that the family takes only since there are ledgers of it; where a row has
            one, its fingerprint leaves the field out.
    """

    request: type[R]
    defaults: Mapping[str, Any]
    multiples: Mapping[str, int] = field(default_factory=dict)
    check: Callable[[R], None] = _all_well
    check_clip: Callable[[R, int], None] = _all_well
    late: Mapping[str, Any] = field(default_factory=dict)


@functools.cache
def warn_of_frames(num_frames: int, made: int) -> None:
    """Say, once for each number of frames, that another one is made: reference pipelines round in silence."""
    if made != num_frames:
        logger.warning("num_frames %d makes %d frames with this model", num_frames, made)
