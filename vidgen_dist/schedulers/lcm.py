"""Latent consistency models' sampler (Luo et al. 2023, arXiv:2310.04378)."""

from __future__ import annotations

from dataclasses import dataclass as plain_dataclass
from typing import ClassVar, Literal

import numpy as np
from pydantic.dataclasses import dataclass

from vidgen_dist.component_config import STRICT, AboveZero, Items, Positive
from vidgen_dist.request import RequestError
from vidgen_dist.schedulers.discrete import (
    THRESHOLDING,
    DiscreteConfig,
    DiscreteScheduler,
    Fraction,
    draw,
    pred_original_sample,
    scalars,
)
from vidgen_dist.schedulers.fixed import TrainedStep, check_timesteps, fixed_timesteps
from vidgen_dist.schedulers.schedule import Memory, Schedule

_SIGMA_DATA = 0.5
"""Standard deviation of the data in the paper's boundary condition, section 4.1."""


@dataclass(frozen=True, config=STRICT)
class LCMConfig(DiscreteConfig):
    """`scheduler_config.json` of an `LCMScheduler`, which uses evenly spaced steps of the distillation."""

    NAME: ClassVar = "LCMScheduler"
    HARMLESS: ClassVar = {
        **THRESHOLDING,
        "set_alpha_to_one": "the steps end before the clean sample, wherever it is",
    }

    beta_start: Fraction = 0.00085
    beta_end: Fraction = 0.012
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "scaled_linear"
    original_inference_steps: Positive = 50
    clip_sample: bool = False
    clip_sample_range: AboveZero = 1.0
    timestep_scaling: AboveZero = 10.0
    rescale_betas_zero_snr: bool = False
    timesteps: Items[TrainedStep] | None = None

    def check(self) -> None:
        super().check()
        check_timesteps(self, self.num_train_timesteps - 1)
        if self.original_inference_steps > self.num_train_timesteps:
            allowed = f"a whole number from 1 to num_train_timesteps, {self.num_train_timesteps}"
            self.refuse("original_inference_steps", allowed)


@plain_dataclass(frozen=True, eq=False)
class LCMSchedule(Schedule):
    """From x_t to the clean sample, and back to the next t with fresh noise; the last step adds none.

    Args:
        timesteps: Descending, int64 (S,).
        alphas: ᾱ before each step, (S,).
        prediction_type: What the model predicts.
        clip: The largest value allowed in x₀, or None.
        timestep_scaling: How fast the boundary condition loses its effect.
    """

    alphas: np.ndarray
    prediction_type: str
    clip: float | None
    timestep_scaling: float

    def step(
        self, prediction: np.ndarray, i: int, sample: np.ndarray, memory: Memory, rng: np.random.Generator
    ) -> tuple[np.ndarray, Memory]:
        original = pred_original_sample(self.prediction_type, prediction, sample, self.alphas[i])
        if self.clip is not None:
            original = np.clip(original, -self.clip, self.clip)
        scaled = float(self.timesteps[i]) * self.timestep_scaling
        total = scaled**2 + _SIGMA_DATA**2
        skip, out = scalars(sample.dtype, _SIGMA_DATA**2 / total, scaled / total**0.5)
        denoised = out * original + skip * sample
        if i == len(self) - 1:
            return denoised, memory
        alpha = self.alphas[i + 1]
        signal, noise = scalars(sample.dtype, alpha**0.5, (1 - alpha) ** 0.5)
        return signal * denoised + noise * draw(rng, sample), memory


class LCMScheduler(DiscreteScheduler[LCMConfig]):
    """See `LCMSchedule`."""

    def schedule(self, num_inference_steps: int, *, eta: float = 0.0) -> LCMSchedule:
        timesteps = self.startable_timesteps(num_inference_steps)
        c = self.config
        return LCMSchedule(
            timesteps=timesteps,
            alphas=self.alphas_cumprod[timesteps],
            prediction_type=c.prediction_type,
            clip=c.clip_sample_range if c.clip_sample else None,
            timestep_scaling=c.timestep_scaling,
        )

    def spaced_timesteps(self, num_inference_steps: int) -> np.ndarray:
        """Steps of the distillation, as evenly spaced as possible, or the config's: descending, int64.

        Raises:
            RequestError: More steps than the distillation has, or not as many as the config's.
        """
        if self.config.timesteps is not None:
            return fixed_timesteps(self.config.timesteps, num_inference_steps).astype(np.int64)
        distilled = self.config.original_inference_steps
        if not 1 <= num_inference_steps <= distilled:
            allowed = f"a whole number from 1 to the scheduler's original_inference_steps, {distilled}"
            raise RequestError("num_inference_steps", num_inference_steps, allowed)
        stride = self.config.num_train_timesteps // distilled
        known = np.arange(distilled, 0, -1, dtype=np.int64) * stride - 1
        return known[
            np.floor(np.linspace(0, distilled, num_inference_steps, endpoint=False)).astype(np.int64)
        ]
