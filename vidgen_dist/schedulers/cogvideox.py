"""What the CogVideoX samplers share: their config, their tables, and the noising of clean latents."""

from __future__ import annotations

from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from vidgen_dist.config import STRICT, AboveZero, Config, Items, Positive
from vidgen_dist.errors import Refused
from vidgen_dist.request import RequestError
from vidgen_dist.schedulers import tables
from vidgen_dist.schedulers.schedule import Schedule

Share = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True, config=STRICT)
class CogVideoXSchedulerConfig(Config):
    """`scheduler_config.json` of any sampler, with diffusers' keys and defaults; each has its `NAME`."""

    # They are in every published config; no CogVideoX sampler clips.
    HARMLESS: ClassVar = ("clip_sample", "clip_sample_range", "sample_max_value")

    num_train_timesteps: Positive = 1000
    beta_start: Share = 0.00085
    beta_end: Share = 0.012
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "scaled_linear"
    trained_betas: Items[Share] | None = None
    set_alpha_to_one: bool = True
    steps_offset: Annotated[int, Field(ge=0)] = 0
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    timestep_spacing: Literal["leading", "linspace", "trailing"] = "leading"
    rescale_betas_zero_snr: bool = False
    snr_shift_scale: AboveZero = 3.0

    def check(self) -> None:
        length = self.num_train_timesteps
        if self.trained_betas is not None and len(self.trained_betas) != length:
            self.refuse("trained_betas", f"null or {length} numbers between 0 and 1, one a training step")


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
        """Clean latents as they are before the first step; any shape, in the latents' type."""
        alpha = self.alphas_cumprod[int(self.timesteps[0])].astype(original_samples.dtype)
        return np.sqrt(alpha) * original_samples + np.sqrt(1 - alpha) * noise

    def _alphas(self, timestep: int) -> tuple[np.floating, np.floating, int]:
        """ᾱ at `timestep` and at the step after it, and that step; below 0 it is the clean sample."""
        following = timestep - self.stride
        alpha_next = self.alphas_cumprod[following] if following >= 0 else self.final_alpha_cumprod
        return self.alphas_cumprod[timestep], alpha_next, following

    def _pred_original_sample(
        self, model_output: np.ndarray, sample: np.ndarray, alpha: np.floating
    ) -> np.ndarray:
        """x₀ as the model sees it from x_t, in the sample's type."""
        signal, noise = scalars(sample.dtype, alpha**0.5, (1 - alpha) ** 0.5)
        if self.prediction_type == "epsilon":
            if signal == 0:
                raise Refused(
                    "scheduler's prediction_type: 'epsilon' is not allowed where a render starts without "
                    "signal (rescale_betas_zero_snr and the last training step); 'sample' or 'v_prediction'"
                )
            return (sample - noise * model_output) / signal
        if self.prediction_type == "v_prediction":
            return signal * sample - noise * model_output
        return model_output


class CogVideoXScheduler:
    """A noise schedule, and the samplers' steps over it.

    Attributes:
        config: `scheduler_config.json`.
        alphas_cumprod: ᾱ, shape (num_train_timesteps,).
    """

    SCHEDULE: ClassVar[type[CogVideoXSchedule]]

    def __init__(self, config: CogVideoXSchedulerConfig) -> None:
        self.config = config
        self.alphas_cumprod = tables.alphas_cumprod(
            tables.betas(
                config.beta_schedule,
                config.beta_start,
                config.beta_end,
                config.num_train_timesteps,
                config.trained_betas,
            ),
            config.snr_shift_scale,
            config.rescale_betas_zero_snr,
        )

    def schedule(self, num_inference_steps: int) -> CogVideoXSchedule:
        """The steps of a rendering.

        Raises:
            RequestError: More steps than were trained, or a step after the last one trained.
        """
        clean = np.float32(1.0) if self.config.set_alpha_to_one else self.alphas_cumprod[0]
        return self.SCHEDULE(
            timesteps=self.spaced_timesteps(num_inference_steps),
            alphas_cumprod=self.alphas_cumprod,
            final_alpha_cumprod=clean,
            stride=self.config.num_train_timesteps // num_inference_steps,
            prediction_type=self.config.prediction_type,
        )

    def spaced_timesteps(self, num_inference_steps: int) -> np.ndarray:
        """The timesteps of `schedule`; raises as it does."""
        trained, offset = self.config.num_train_timesteps, self.config.steps_offset
        if not 1 <= num_inference_steps <= trained:
            allowed = f"a whole number from 1 to the scheduler's num_train_timesteps, {trained}"
            raise RequestError("num_inference_steps", num_inference_steps, allowed)
        timesteps = tables.spaced_timesteps(
            self.config.timestep_spacing, num_inference_steps, trained, offset
        )
        if timesteps[0] >= trained:
            allowed = (
                f"with the scheduler's steps_offset {offset} the first step is {timesteps[0]}, the last one "
                f"trained {trained - 1}"
            )
            raise RequestError("num_inference_steps", num_inference_steps, allowed)
        return timesteps

    def can_start_at(self, timestep: int) -> bool:
        """Whether the model's prediction at a timestep gives a clean sample.

        A predicted noise does not, where the latents are nothing but noise.
        """
        return self.config.prediction_type != "epsilon" or bool(self.alphas_cumprod[timestep] > 0)


def scalars(dtype: np.dtype, *values: np.floating) -> list[Any]:
    """The values in the latents' type: a float64 scalar must not widen them."""
    return [dtype.type(value) for value in values]
