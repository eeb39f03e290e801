"""Euler's steps in σ, also with noise added again (Karras et al. 2022, arXiv:2206.00364, algorithm 1).

Stable Diffusion checkpoints use them with the noise schedule's σ. Stable Video Diffusion has σ of its own,
predicts v, and gives the model log σ as time.
"""

from __future__ import annotations

from dataclasses import dataclass as plain_dataclass
from typing import Annotated, ClassVar, Literal, TypeVar

import numpy as np
from pydantic.dataclasses import dataclass

from vidgen_dist.component_config import STRICT, AboveZero, Items, OneOf
from vidgen_dist.schedulers import tables
from vidgen_dist.schedulers.discrete import draw, scalars
from vidgen_dist.schedulers.fixed import TrainedStep, check_timesteps, fixed_timesteps
from vidgen_dist.schedulers.schedule import Memory, Schedule
from vidgen_dist.schedulers.sigmas import (
    SPACINGS,
    SigmaConfig,
    SigmaScheduler,
    SpacedSigmaConfig,
    spaced,
    spacing_of,
)


@dataclass(frozen=True, config=STRICT)
class EulerConfig(SpacedSigmaConfig):
    """`scheduler_config.json` of an `EulerDiscreteScheduler`."""

    NAME: ClassVar = "EulerDiscreteScheduler"
    HARMLESS: ClassVar = {"skip_prk_steps": "PNDM's key, left in Stable Video Diffusion's files"}

    interpolation_type: Literal["linear", "log_linear"] = "linear"
    sigma_min: AboveZero | None = None
    sigma_max: AboveZero | None = None
    timestep_type: Literal["discrete", "continuous"] = "discrete"
    timesteps: Items[TrainedStep] | None = None

    def check(self) -> None:
        super().check()
        check_timesteps(self, self.num_train_timesteps - 1, *SPACINGS)
        if self.timesteps is not None and self.interpolation_type == "log_linear":
            self.refuse("interpolation_type", "linear where the config has timesteps")
        if self.timesteps is not None and self.passes_log_sigma:
            self.refuse("timestep_type", "discrete where the config has timesteps and the model predicts v")
        if self.passes_log_sigma and self.interpolation_type == "log_linear" and spacing_of(self) is None:
            self.refuse(
                "interpolation_type",
                "linear where a model that predicts v is given continuous time, unless sigmas are spaced",
            )

    @property
    def passes_log_sigma(self) -> bool:
        """Whether the model is given log σ / 4 as time."""
        return self.timestep_type == "continuous" and self.prediction_type == "v_prediction"


@dataclass(frozen=True, config=STRICT)
class EulerAncestralConfig(SigmaConfig):
    """`scheduler_config.json` of an `EulerAncestralDiscreteScheduler`."""

    NAME: ClassVar = "EulerAncestralDiscreteScheduler"

    prediction_type: Annotated[str, OneOf(("epsilon", "v_prediction"))] = "epsilon"


@plain_dataclass(frozen=True, eq=False)
class EulerSchedule(Schedule):
    """Euler's steps: x = x₀ + σ ε; the model gets x / √(σ² + 1).

    Args:
        timesteps: The time that the model gets at each step, float32 (S,).
        sigmas: σ before each step and after the last one, float32 (S + 1,).
        prediction_type: What the model predicts.
        leading: Whether the first latents have a signal's variance in addition to the noise's.
    """

    sigmas: np.ndarray
    prediction_type: str
    leading: bool

    @property
    def init_noise_sigma(self) -> float:
        largest = float(self.sigmas.max())
        return (largest**2 + 1) ** 0.5 if self.leading else largest

    def scale_model_input(self, sample: np.ndarray, i: int) -> np.ndarray:
        (scale,) = scalars(sample.dtype, (float(self.sigmas[i]) ** 2 + 1) ** 0.5)
        return sample / scale

    def step(
        self, prediction: np.ndarray, i: int, sample: np.ndarray, memory: Memory, rng: np.random.Generator
    ) -> tuple[np.ndarray, Memory]:
        return self._moved(prediction, i, sample, float(self.sigmas[i + 1])), memory

    def _moved(self, prediction: np.ndarray, i: int, sample: np.ndarray, there: float) -> np.ndarray:
        """The sample at another σ, on the line through x₀."""
        here = float(self.sigmas[i])
        sigma, distance = scalars(sample.dtype, here, there - here)
        direction = (sample - self._pred_original_sample(prediction, sample, here)) / sigma
        return sample + direction * distance

    def _pred_original_sample(self, prediction: np.ndarray, sample: np.ndarray, sigma: float) -> np.ndarray:
        total = sigma**2 + 1
        noise, out, below = scalars(sample.dtype, sigma, -sigma / total**0.5, total)
        if self.prediction_type == "epsilon":
            return sample - noise * prediction
        if self.prediction_type == "v_prediction":
            return prediction * out + sample / below
        return prediction


class EulerAncestralSchedule(EulerSchedule):
    """Euler's steps to less noise than the next step has, then fresh noise, at the last step too."""

    def step(
        self, prediction: np.ndarray, i: int, sample: np.ndarray, memory: Memory, rng: np.random.Generator
    ) -> tuple[np.ndarray, Memory]:
        here, there = (float(sigma) for sigma in self.sigmas[i : i + 2])
        up = there * (1 - (there / here) ** 2) ** 0.5
        moved = self._moved(prediction, i, sample, there**2 / here)
        (spread,) = scalars(sample.dtype, up)
        return moved + draw(rng, sample) * spread, memory


E = TypeVar("E", bound=SigmaConfig)


class _Scheduler(SigmaScheduler[E]):
    SCHEDULE: ClassVar[type[EulerSchedule]]

    def spaced_timesteps(self, num_inference_steps: int) -> np.ndarray:
        """The training steps that a rendering uses, descending, float32; `linspace` gives fractions.

        Raises:
            RequestError: As `DiscreteScheduler.spaced_timesteps`.
        """
        if self.config.timestep_spacing != "linspace":
            return super().spaced_timesteps(num_inference_steps).astype(np.float32)
        self.check_count(num_inference_steps)
        last = self.config.num_train_timesteps - 1
        return np.linspace(0, last, num_inference_steps, dtype=np.float32)[::-1]

    def can_start_at(self, timestep: int) -> bool:
        """Always: every noise schedule leaves some signal."""
        return True

    def _schedule(self, timesteps: np.ndarray, sigmas: np.ndarray) -> EulerSchedule:
        return self.SCHEDULE(
            timesteps=timesteps.astype(np.float32),
            sigmas=sigmas.astype(np.float32),
            prediction_type=self.config.prediction_type,
            leading=self.config.timestep_spacing == "leading",
        )


class EulerDiscreteScheduler(_Scheduler[EulerConfig]):
    """See `EulerSchedule`."""

    SCHEDULE = EulerSchedule

    def spaced_timesteps(self, num_inference_steps: int) -> np.ndarray:
        if self.config.timesteps is not None:
            return fixed_timesteps(self.config.timesteps, num_inference_steps).astype(np.float32)
        return super().spaced_timesteps(num_inference_steps)

    def schedule(self, num_inference_steps: int, *, eta: float = 0.0) -> EulerSchedule:
        timesteps = self.spaced_timesteps(num_inference_steps)
        sigmas = self._interpolated(timesteps)
        c, spacing = self.config, spacing_of(self.config)
        if spacing is not None:
            first = sigmas[0] if c.sigma_max is None else c.sigma_max
            last = sigmas[-1] if c.sigma_min is None else c.sigma_min
            sigmas = spaced(spacing, float(first), float(last), num_inference_steps)
            timesteps = self.timesteps_of(sigmas)
        final = self.sigmas[0] if c.final_sigmas_type == "sigma_min" else np.float32(0)
        sigmas = np.append(sigmas, final).astype(np.float32)
        if c.passes_log_sigma:
            timesteps = 0.25 * np.log(sigmas[:num_inference_steps])
        return self._schedule(timesteps, sigmas)

    def _interpolated(self, timesteps: np.ndarray) -> np.ndarray:
        if self.config.interpolation_type == "linear":
            return self.sigmas_at(timesteps)
        # One more than there are steps, as in diffusers: the last step ends at the last of these.
        ends = np.log(self.sigmas[-1]), np.log(self.sigmas[0])
        return np.exp(tables.line(*ends, len(timesteps) + 1))


class EulerAncestralDiscreteScheduler(_Scheduler[EulerAncestralConfig]):
    """See `EulerAncestralSchedule`."""

    SCHEDULE = EulerAncestralSchedule

    def schedule(self, num_inference_steps: int, *, eta: float = 0.0) -> EulerSchedule:
        timesteps = self.spaced_timesteps(num_inference_steps)
        return self._schedule(timesteps, np.append(self.sigmas_at(timesteps), 0))
