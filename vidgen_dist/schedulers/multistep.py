"""What DPM-Solver++ and UniPC share: multistep samplers in λ = log(α / σ)."""

from __future__ import annotations

from dataclasses import dataclass as plain_dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple, TypeVar

import numpy as np
from pydantic.dataclasses import dataclass

from vidgen_dist.component_config import STRICT, AboveZero, OneOf
from vidgen_dist.schedulers import tables
from vidgen_dist.schedulers.discrete import THRESHOLDING, scalars
from vidgen_dist.schedulers.schedule import Schedule
from vidgen_dist.schedulers.sigmas import (
    SPACINGS,
    SigmaScheduler,
    SpacedSigmaConfig,
    shifted,
    spaced,
    spacing_of,
)

FLOW = "use_flow_sigmas"


@dataclass(frozen=True, config=STRICT)
class MultistepConfig(SpacedSigmaConfig):
    """`scheduler_config.json` of these samplers."""

    HARMLESS: ClassVar = {
        **THRESHOLDING,
        "time_shift_type": "belongs to dynamic shifting, which is refused",
    }
    SPACINGS: ClassVar[tuple[str, ...]] = (*SPACINGS, FLOW)

    prediction_type: Annotated[str, OneOf(("epsilon", "sample", "v_prediction", "flow_prediction"))] = (
        "epsilon"
    )
    solver_order: Literal[1, 2, 3] = 2
    lower_order_final: bool = True
    use_flow_sigmas: bool | None = False
    flow_shift: AboveZero | None = 1.0

    def check(self) -> None:
        super().check()
        spacing_of(self, self.SPACINGS)
        if self.use_flow_sigmas and self.flow_shift is None:
            self.refuse("flow_shift", f"a number above 0 where {FLOW} is true")


class NoiseLevel(NamedTuple):
    """The shares of signal and noise in latents."""

    alpha: np.float64
    sigma: np.float64

    @property
    def log_snr(self) -> np.float64:
        """λ; infinite for clean latents."""
        with np.errstate(divide="ignore"):
            return np.log(self.alpha) - np.log(self.sigma)


@plain_dataclass(frozen=True, eq=False)
class MultistepSchedule(Schedule):
    """Steps that remember the predictions of earlier ones.

    Args:
        timesteps: int64 (S,).
        sigmas: σ / α before each step and after the last one, or flow matching's σ: float32 (S + 1,).
        prediction_type: What the model predicts.
        flow: Whether α = 1 - σ; otherwise α = √(1 - σ²).
        orders: How many predictions each step uses, (S,).
    """

    sigmas: np.ndarray
    prediction_type: str
    flow: bool
    orders: tuple[int, ...]

    def level(self, i: int) -> NoiseLevel:
        """The noise level of the latents before the i-th step."""
        sigma = np.float64(self.sigmas[i])
        if self.flow:
            return NoiseLevel(1 - sigma, sigma)
        alpha = 1 / np.sqrt(sigma**2 + 1)
        return NoiseLevel(alpha, sigma * alpha)

    def pred_original_sample(self, prediction: np.ndarray, i: int, sample: np.ndarray) -> np.ndarray:
        """The x₀ that a prediction before the i-th step means."""
        alpha, sigma, own = scalars(sample.dtype, *self.level(i), self.sigmas[i])
        if self.prediction_type == "epsilon":
            return (sample - sigma * prediction) / alpha
        if self.prediction_type == "v_prediction":
            return alpha * sample - sigma * prediction
        if self.prediction_type == "flow_prediction":
            return sample - own * prediction
        return prediction


M = TypeVar("M", bound=MultistepConfig)


class MultistepScheduler(SigmaScheduler[M]):
    """The timesteps and σ of these samplers."""

    def can_start_at(self, timestep: int) -> bool:
        """Always: every noise schedule leaves some signal."""
        return True

    def spaced_timesteps(self, num_inference_steps: int) -> np.ndarray:
        """The training steps that a rendering uses, descending, int64; without the last, unless `trailing`.

        Raises:
            RequestError: As `DiscreteScheduler.spaced_timesteps`.
        """
        c = self.config
        left_out = 0 if c.timestep_spacing == "trailing" else 1
        self.check_count(num_inference_steps, spare=left_out)
        timesteps = tables.spaced_timesteps(
            c.timestep_spacing, num_inference_steps + left_out, c.num_train_timesteps, c.steps_offset
        )
        return self.checked(num_inference_steps, timesteps[:num_inference_steps])

    def timesteps_and_sigmas(self, num_inference_steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Timesteps, int64 (S,), and σ before each, float64 (S,)."""
        timesteps = self.spaced_timesteps(num_inference_steps)
        spacing = spacing_of(self.config, self.config.SPACINGS)
        if spacing is None:
            return timesteps, self.sigmas_at(timesteps)
        if spacing == FLOW:
            trained = self.config.num_train_timesteps
            evenly = 1 - np.linspace(1, 1 / trained, num_inference_steps + 1)
            sigmas = shifted(evenly, self.config.flow_shift or 1.0)[:0:-1]
            return (sigmas * trained).astype(np.int64), sigmas
        sigmas = self._spaced_sigmas(spacing, num_inference_steps)
        told = self.timesteps_of(sigmas)
        return (told.round() if self._rounds(spacing) else told).astype(np.int64), sigmas

    def _spaced_sigmas(self, spacing: str, num_inference_steps: int) -> np.ndarray:
        return spaced(spacing, float(self.sigmas[-1]), float(self.sigmas[0]), num_inference_steps)

    def _rounds(self, spacing: str) -> bool:
        """Whether timesteps between two training steps are rounded; otherwise cut, as in diffusers."""
        raise NotImplementedError
