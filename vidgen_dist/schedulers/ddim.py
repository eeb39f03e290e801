"""DDIM (Song et al. 2020, arXiv:2010.02502), as Stable Diffusion, AnimateDiff and I2VGen-XL use it."""

from __future__ import annotations

from dataclasses import dataclass as plain_dataclass
from typing import ClassVar

import numpy as np
from pydantic.dataclasses import dataclass

from vidgen_dist.component_config import STRICT, AboveZero
from vidgen_dist.schedulers.discrete import (
    THRESHOLDING,
    DiscreteConfig,
    DiscreteScheduler,
    draw,
    pred_original_sample,
    scalars,
)
from vidgen_dist.schedulers.schedule import Memory, Schedule


@dataclass(frozen=True, config=STRICT)
class DDIMConfig(DiscreteConfig):
    """`scheduler_config.json` of a `DDIMScheduler`."""

    NAME: ClassVar = "DDIMScheduler"
    HARMLESS: ClassVar = THRESHOLDING

    clip_sample: bool = True
    clip_sample_range: AboveZero = 1.0
    set_alpha_to_one: bool = True
    rescale_betas_zero_snr: bool = False


@plain_dataclass(frozen=True, eq=False)
class DDIMSchedule(Schedule):
    """DDIM's steps; if `eta` is above 0, each draws noise of the sample's shape.

    Args:
        timesteps: Descending, int64 (S,).
        alphas: ᾱ before each step, (S,).
        alphas_next: ᾱ after each step, (S,).
        prediction_type: What the model predicts.
        clip: The largest value allowed in x₀, or None.
        eta: Share of the noise that is added again.
    """

    alphas: np.ndarray
    alphas_next: np.ndarray
    prediction_type: str
    clip: float | None
    eta: float

    def step(
        self, prediction: np.ndarray, i: int, sample: np.ndarray, memory: Memory, rng: np.random.Generator
    ) -> tuple[np.ndarray, Memory]:
        alpha, alpha_next = self.alphas[i], self.alphas_next[i]
        original = pred_original_sample(self.prediction_type, prediction, sample, alpha)
        epsilon = self._pred_epsilon(prediction, original, sample, alpha)
        if self.clip is not None:
            # ε stays as it was before clipping.
            original = np.clip(original, -self.clip, self.clip)
        # Formulas (12) and (16) of the paper.
        deviation = self.eta * ((1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next)) ** 0.5
        add, point, spread = scalars(
            sample.dtype, alpha_next**0.5, (1 - alpha_next - deviation**2) ** 0.5, deviation
        )
        stepped = add * original + point * epsilon
        return (stepped + spread * draw(rng, sample) if self.eta > 0 else stepped), memory

    def _pred_epsilon(
        self, prediction: np.ndarray, original: np.ndarray, sample: np.ndarray, alpha: np.floating
    ) -> np.ndarray:
        signal, noise = scalars(sample.dtype, alpha**0.5, (1 - alpha) ** 0.5)
        if self.prediction_type == "epsilon":
            return prediction
        if self.prediction_type == "v_prediction":
            return signal * prediction + noise * sample
        return (sample - signal * original) / noise


class DDIMScheduler(DiscreteScheduler[DDIMConfig]):
    """See `DDIMSchedule`."""

    def schedule(self, num_inference_steps: int, *, eta: float = 0.0) -> DDIMSchedule:
        timesteps = self.startable_timesteps(num_inference_steps)
        c = self.config
        following = timesteps - c.num_train_timesteps // num_inference_steps
        clean = self.final_alpha_cumprod(c.set_alpha_to_one)
        return DDIMSchedule(
            timesteps=timesteps,
            alphas=self.alphas_cumprod[timesteps],
            alphas_next=np.where(following >= 0, self.alphas_cumprod[following], clean),
            prediction_type=c.prediction_type,
            clip=c.clip_sample_range if c.clip_sample else None,
            eta=eta,
        )
