"""`timesteps` in a scheduler's config: a model distilled to a few steps is sampled at just these.

diffusers takes the list as an argument of `set_timesteps`; here it stands among the scheduler's settings, so
that a run file or a sampling contract can give it.
"""

from __future__ import annotations

from typing import Annotated, Protocol

import numpy as np
from pydantic import Field

from vidgen_dist.component_config import Items
from vidgen_dist.request import RequestError

TrainedStep = Annotated[int, Field(ge=0)]


class _Fixed(Protocol):
    @property
    def timesteps(self) -> Items[int] | Items[float] | None: ...

    @property
    def num_train_timesteps(self) -> int: ...

    def refuse(self, key: str, allowed: str) -> None: ...


def check_timesteps(config: _Fixed, last: float, *excluding: str) -> None:
    """Check a config's `timesteps`, if it has any.

    Args:
        config: The config.
        last: The largest timestep that is allowed.
        excluding: Keys that say otherwise where the steps are; all must be false.

    Raises:
        ConfigError: They do not descend, the first is too large, or another key says otherwise.
    """
    if config.timesteps is None:
        return
    descending = bool(np.all(np.diff(config.timesteps) < 0))
    if not descending or config.timesteps[0] > last:
        config.refuse("timesteps", f"null or descending numbers from {last:g} at most")
    for key in excluding:
        if getattr(config, key):
            config.refuse(key, "false where the config has timesteps")


def fixed_timesteps(timesteps: Items[int] | Items[float], num_inference_steps: int) -> np.ndarray:
    """The timesteps of a rendering, (num_inference_steps,).

    Raises:
        RequestError: The row asks for another number of steps.
    """
    if num_inference_steps != len(timesteps):
        allowed = f"{len(timesteps)}, for the scheduler's timesteps are a list of so many"
        raise RequestError("num_inference_steps", num_inference_steps, allowed)
    return np.asarray(timesteps)
