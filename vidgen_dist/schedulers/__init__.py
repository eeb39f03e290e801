"""Samplers: from a checkpoint's `scheduler_config.json` to the steps of a render. Plain NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vidgen_dist.errors import Refused
from vidgen_dist.schedulers.ddim import CogVideoXDDIMScheduler
from vidgen_dist.schedulers.dpm import CogVideoXDPMScheduler
from vidgen_dist.schedulers.flow_match import FlowMatchEulerDiscreteScheduler

SCHEDULERS: dict[str, Any] = {
    "CogVideoXDDIMScheduler": CogVideoXDDIMScheduler,
    "CogVideoXDPMScheduler": CogVideoXDPMScheduler,
    "FlowMatchEulerDiscreteScheduler": FlowMatchEulerDiscreteScheduler,
}
"""Schedulers by the class name that `model_index.json` gives."""


def load_scheduler(class_name: str, config: Mapping[str, Any]) -> Any:
    """The scheduler of that name; which ones a family may have, its rules say.

    Raises:
        Refused: No such scheduler, or a config that it cannot have.
    """
    if class_name not in SCHEDULERS:
        raise Refused(f"scheduler {class_name!r} is not supported; allowed: {', '.join(sorted(SCHEDULERS))}")
    return SCHEDULERS[class_name].from_config(config)


__all__ = [
    "SCHEDULERS",
    "CogVideoXDDIMScheduler",
    "CogVideoXDPMScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "load_scheduler",
]
