"""What the CogVideoX samplers share: their config, their tables, and the noising of clean latents."""

from __future__ import annotations

from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from typing import ClassVar, Literal, Self

import numpy as np
from pydantic.dataclasses import dataclass

from vidgen_dist.component_config import STRICT, AboveZero
from vidgen_dist.schedulers import tables
from vidgen_dist.schedulers.discrete import (
    DiscreteConfig,
    DiscreteScheduler,
    Fraction,
    pred_original_sample,
)
from vidgen_dist.schedulers.schedule import Schedule


@dataclass(frozen=True, config=STRICT)
class CogVideoXSchedulerConfig(DiscreteConfig):
    """`scheduler_config.json` of any of these samplers, with diffusers' keys and defaults."""

    HARMLESS: ClassVar = dict.fromkeys(
        ("clip_sample", "clip_sample_range", "sample_max_value"),
        "no CogVideoX sampler of the reference clips x₀",
    )

    beta_start: Fraction = 0.00085
    beta_end: Fraction = 0.012
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "scaled_linear"
    set_alpha_to_one: bool = True
    rescale_betas_zero_snr: bool = False
    snr_shift_scale: AboveZero = 3.0


@plain_dataclass(frozen=True, eq=False)
class CogVideoXSchedule(Schedule):
    """Steps over a discrete noise schedule: x_t = √ᾱ_t x₀ + √(1 - ᾱ_t) ε.

    Args:
        timesteps: Descending, int64 (S,).
        alphas_cumprod: ᾱ of every training step.
        final_alpha_cumprod: ᾱ of the clean sample.
        stride: Training steps from one step to the next.
        prediction_type: What the model predicts.
    """

    alphas_cumprod: np.ndarray
    final_alpha_cumprod: np.floating
    stride: int
    prediction_type: str

    def skip(self, first: int) -> Self:
        """The schedule without its first steps."""
        return replace(self, timesteps=self.timesteps[first:])

    def add_noise(self, original_samples: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Clean latents with the first step's noise; any shape, the latents' dtype."""
        alpha = self.alphas_cumprod[int(self.timesteps[0])].astype(original_samples.dtype)
        return np.sqrt(alpha) * original_samples + np.sqrt(1 - alpha) * noise

    def _alphas(self, timestep: int) -> tuple[np.floating, np.floating, int]:
        """ᾱ at `timestep` and at the next step, and that step; below 0 it is the clean sample."""
        following = timestep - self.stride
        alpha_next = self.alphas_cumprod[following] if following >= 0 else self.final_alpha_cumprod
        return self.alphas_cumprod[timestep], alpha_next, following

    def _pred_original_sample(
        self, model_output: np.ndarray, sample: np.ndarray, alpha: np.floating
    ) -> np.ndarray:
        return pred_original_sample(self.prediction_type, model_output, sample, alpha)


class CogVideoXScheduler(DiscreteScheduler[CogVideoXSchedulerConfig]):
    """A noise schedule, and the sampler's steps over it.

    Attributes:
        config: `scheduler_config.json`.
        alphas_cumprod: ᾱ, shape (num_train_timesteps,).
    """

    SCHEDULE: ClassVar[type[CogVideoXSchedule]]

    def schedule(self, num_inference_steps: int, *, eta: float = 0.0) -> CogVideoXSchedule:
        """The steps of a rendering; `eta` is accepted as in diffusers, and has no effect.

        Raises:
            RequestError: More steps than were trained, or a step beyond the last trained one.
        """
        return self.SCHEDULE(
            timesteps=self.spaced_timesteps(num_inference_steps),
            alphas_cumprod=self.alphas_cumprod,
            final_alpha_cumprod=self.final_alpha_cumprod(self.config.set_alpha_to_one),
            stride=self.config.num_train_timesteps // num_inference_steps,
            prediction_type=self.config.prediction_type,
        )

    def _noise_schedule(self) -> np.ndarray:
        c = self.config
        return tables.alphas_cumprod(self._betas(double=True), c.snr_shift_scale, c.rescale_betas_zero_snr)
