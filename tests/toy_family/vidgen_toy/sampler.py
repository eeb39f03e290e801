"""Adams and Bashforth's two-step method: each step goes by the slope here and the one before."""

from __future__ import annotations

from dataclasses import dataclass as plain_dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from vidgen_dist.component_config import STRICT, Config
from vidgen_dist.schedulers.schedule import Memory, Schedule


@dataclass(frozen=True, config=STRICT)
class TwoStepConfig(Config):
    """`scheduler/scheduler_config.json`."""

    NAME: ClassVar = "TwoStepScheduler"

    switch_at: Annotated[float, Field(ge=0, le=1)] = 0.5


@plain_dataclass(frozen=True, eq=False)
class TwoStepSchedule(Schedule):
    """Steps from σ = 1 to 0, which are their timesteps too."""

    def step(
        self, prediction: np.ndarray, i: int, sample: np.ndarray, memory: Memory, rng: np.random.Generator
    ) -> tuple[np.ndarray, Memory]:
        sigmas = np.append(self.timesteps, np.float32(0))
        slope = prediction
        if "slope" in memory:
            slope = np.float32(1.5) * prediction - np.float32(0.5) * memory["slope"]
        return sample + (sigmas[i + 1] - sigmas[i]) * slope, {"slope": prediction}


@plain_dataclass(frozen=True)
class TwoStepScheduler:
    """Makes `TwoStepSchedule`s."""

    config: TwoStepConfig

    def schedule(self, num_inference_steps: int) -> TwoStepSchedule:
        """So many steps."""
        return TwoStepSchedule(np.linspace(1, 0, num_inference_steps, endpoint=False, dtype=np.float32))
