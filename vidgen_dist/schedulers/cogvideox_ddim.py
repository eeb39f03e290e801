"""DDIM as CogVideoX-2b uses it (Song et al. 2020, "Denoising Diffusion Implicit Models")."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic.dataclasses import dataclass

from vidgen_dist.component_config import STRICT
from vidgen_dist.schedulers.cogvideox import (
    CogVideoXSchedule,
    CogVideoXScheduler,
    CogVideoXSchedulerConfig,
)
from vidgen_dist.schedulers.discrete import scalars
from vidgen_dist.schedulers.schedule import Memory


@dataclass(frozen=True, config=STRICT)
class CogVideoXDDIMConfig(CogVideoXSchedulerConfig):
    """`scheduler_config.json` of a `CogVideoXDDIMScheduler`."""

    NAME: ClassVar = "CogVideoXDDIMScheduler"


class CogVideoXDDIMSchedule(CogVideoXSchedule):
    """DDIM over a noise schedule with a shifted SNR; the steps draw no noise, whatever `eta` is."""

    def step(
        self,
        prediction: np.ndarray,
        i: int,
        sample: np.ndarray,
        memory: Memory,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, Memory]:
        alpha, alpha_next, _ = self._alphas(int(self.timesteps[i]))
        original = self._pred_original_sample(prediction, sample, alpha)
        # Formula (12) of the paper with σ = 0, and ε written as what remains of x_t without x₀.
        keep = ((1 - alpha_next) / (1 - alpha)) ** 0.5
        keep, add = scalars(sample.dtype, keep, alpha_next**0.5 - alpha**0.5 * keep)
        return keep * sample + add * original, memory


class CogVideoXDDIMScheduler(CogVideoXScheduler):
    """See `CogVideoXDDIMSchedule`."""

    SCHEDULE = CogVideoXDDIMSchedule
