"""DPM-Solver++ (2M, SDE) as CogVideoX-5b and 1.5 use it (Lu et al. 2022, arXiv 2211.01095)."""

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
from vidgen_dist.schedulers.discrete import draw, scalars
from vidgen_dist.schedulers.schedule import Memory


@dataclass(frozen=True, config=STRICT)
class CogVideoXDPMConfig(CogVideoXSchedulerConfig):
    """`scheduler_config.json` of a `CogVideoXDPMScheduler`."""

    NAME: ClassVar = "CogVideoXDPMScheduler"


class CogVideoXDPMSchedule(CogVideoXSchedule):
    """Second-order multistep sampler in λ = log(√ᾱ / √(1 - ᾱ)); every step adds fresh noise.

    It remembers `previous`, the x₀ that the step before predicted. Noise of the sample's shape is drawn once
    in the first and the last step and twice in the others: the reference also draws for the first-order step
    that it then replaces by the second-order one.
    """

    def step(
        self, prediction: np.ndarray, i: int, sample: np.ndarray, memory: Memory, rng: np.random.Generator
    ) -> tuple[np.ndarray, Memory]:
        alpha, alpha_next, following = self._alphas(int(self.timesteps[i]))
        original = self._pred_original_sample(prediction, sample, alpha)
        # ᾱ is 0 at a first step without signal and 1 at the end: λ is then infinite, as intended.
        with np.errstate(divide="ignore"):
            here, there = _log_snr(alpha), _log_snr(alpha_next)
            h = there - here
            keep, add, spread = scalars(
                sample.dtype,
                ((1 - alpha_next) / (1 - alpha)) ** 0.5 * np.exp(-h),
                np.expm1(-2 * h) * alpha_next**0.5,
                (1 - alpha_next) ** 0.5 * (1 - np.exp(-2 * h)) ** 0.5,
            )
            noise = draw(rng, sample)
            towards = original
            if "previous" in memory and following >= 0:
                timestep_back = int(self.timesteps[i - 1])
                r = (here - _log_snr(self.alphas_cumprod[timestep_back])) / h
                now, before = scalars(sample.dtype, 1 + 1 / (2 * r), 1 / (2 * r))
                towards = now * original - before * memory["previous"]
                noise = draw(rng, sample)
        return keep * sample - add * towards + spread * noise, {"previous": original}


class CogVideoXDPMScheduler(CogVideoXScheduler):
    """See `CogVideoXDPMSchedule`."""

    SCHEDULE = CogVideoXDPMSchedule


def _log_snr(alpha: np.floating) -> np.floating:
    """λ, half the logarithm of the signal-to-noise ratio."""
    return np.log((alpha / (1 - alpha)) ** 0.5)
