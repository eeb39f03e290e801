"""Flow matching with Euler steps, as LTX-Video, Mochi and HunyuanVideo use it.

A sample is x_σ = σ ε + (1 - σ) x₀, from noise at σ = 1 to the clean sample at σ = 0, and the model predicts
dx/dσ (Lipman et al. 2023, arXiv:2210.02747). Shifts of σ by the number of tokens: Esser et al. 2024,
arXiv:2403.03206, section 5.3.2. Names and numbers are those of diffusers' `FlowMatchEulerDiscreteScheduler`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from vidgen_dist.component_config import STRICT, AboveZero, Config, FromZero, Items, Positive
from vidgen_dist.errors import Refused
from vidgen_dist.request import RequestError
from vidgen_dist.schedulers.fixed import check_timesteps, fixed_timesteps
from vidgen_dist.schedulers.schedule import Memory, Schedule
from vidgen_dist.schedulers.sigmas import SPACINGS, shifted, spaced, spacing_of


@dataclass(frozen=True, config=STRICT)
class FlowMatchConfig(Config):
    """`scheduler_config.json`, with diffusers' keys and defaults."""

    NAME: ClassVar = "FlowMatchEulerDiscreteScheduler"

    num_train_timesteps: Positive = 1000
    shift: AboveZero = 1.0
    use_dynamic_shifting: bool = False
    base_shift: float = 0.5
    max_shift: float = 1.15
    base_image_seq_len: Positive = 256
    max_image_seq_len: Positive = 4096
    invert_sigmas: bool = False
    shift_terminal: Annotated[float, Field(ge=0, lt=1)] | None = None
    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False
    time_shift_type: Literal["exponential", "linear"] = "exponential"
    stochastic_sampling: bool = False
    timesteps: Items[FromZero] | None = None
    """Not shifted: σ is timestep / num_train_timesteps, before `invert_sigmas`."""

    def check(self) -> None:
        spacing_of(self)
        check_timesteps(self, self.num_train_timesteps, *SPACINGS)
        if self.max_image_seq_len == self.base_image_seq_len:
            self.refuse("max_image_seq_len", "another number than base_image_seq_len")


@plain_dataclass(frozen=True, eq=False)
class FlowMatchSchedule(Schedule):
    """Euler's steps over σ.

    Args:
        timesteps: The time that the model gets at each step, float32 (S,).
        sigmas: σ before each step and after the last one, float32 (S + 1,); 1 - σ with `invert_sigmas`.
        stochastic: Whether each step goes to the clean sample and back to the next σ with fresh noise.
    """

    sigmas: np.ndarray
    stochastic: bool = False

    def step(
        self, prediction: np.ndarray, i: int, sample: np.ndarray, memory: Memory, rng: np.random.Generator
    ) -> tuple[np.ndarray, Memory]:
        """As `Schedule.step`, in float32; the prediction is dx/dσ."""
        here, there = self.sigmas[i : i + 2]
        sample = sample.astype(np.float32, copy=False)
        if not self.stochastic:
            return sample + (there - here) * prediction, memory
        original = sample - here * prediction
        noise = rng.standard_normal(sample.shape).astype(np.float32)
        return (np.float32(1) - there) * original + there * noise, memory


class FlowMatchEulerDiscreteScheduler:
    """A schedule of σ, and Euler's steps over it.

    Attributes:
        config: `scheduler_config.json`.
    """

    def __init__(self, config: FlowMatchConfig) -> None:
        self.config = config

    def mu(self, tokens: int) -> float:
        """The dynamic shift for a number of tokens, interpolated between the config's two points."""
        c = self.config
        slope = (c.max_shift - c.base_shift) / (c.max_image_seq_len - c.base_image_seq_len)
        return tokens * slope + (c.base_shift - slope * c.base_image_seq_len)

    def check_count(self, num_inference_steps: int) -> None:
        """Check that the config allows a number of steps, the first of them at σ = 1 unless it says where.

        Raises:
            RequestError: It does not.
        """
        c = self.config
        if c.timesteps is not None:
            fixed_timesteps(c.timesteps, num_inference_steps)
        elif c.shift_terminal and num_inference_steps == 1:
            allowed = f"2 or more with the scheduler's shift_terminal, {c.shift_terminal:g}"
            raise RequestError("num_inference_steps", num_inference_steps, allowed)

    def schedule(self, sigmas: np.ndarray, mu: float | None = None) -> FlowMatchSchedule:
        """The steps of a rendering.

        Args:
            sigmas: σ before each step, not shifted yet: (S,). The config's timesteps take their place.
            mu: The dynamic shift, see `mu`; needed if the config has `use_dynamic_shifting`.

        Raises:
            RequestError: The config has timesteps, but not as many.
            Refused: `shift_terminal` with a single step at σ = 1, which leaves nothing to stretch.
            ValueError: `mu` is needed and missing.
        """
        if self.config.timesteps is None:
            chosen = np.asarray(sigmas, np.float32)
            final = self._respaced(self._stretched(self._shift(chosen, mu))).astype(np.float32)
        else:
            fixed = fixed_timesteps(self.config.timesteps, len(sigmas))
            final = (fixed / self.config.num_train_timesteps).astype(np.float32)
        if self.config.invert_sigmas:
            final = np.float32(1) - final
        return FlowMatchSchedule(
            timesteps=final * np.float32(self.config.num_train_timesteps),
            sigmas=np.append(final, np.float32(1 if self.config.invert_sigmas else 0)),
            stochastic=self.config.stochastic_sampling,
        )

    def _shift(self, sigmas: np.ndarray, mu: float | None) -> np.ndarray:
        if not self.config.use_dynamic_shifting:
            return shifted(sigmas, self.config.shift)
        if mu is None:
            raise ValueError("mu: is missing, and the config has use_dynamic_shifting")
        weight = math.exp(mu) if self.config.time_shift_type == "exponential" else mu
        with np.errstate(divide="ignore"):  # σ = 0 stays 0
            return weight / (weight + (1 / sigmas - 1))

    def _stretched(self, sigmas: np.ndarray) -> np.ndarray:
        """σ stretched, with σ = 1 fixed, so that the last one is `shift_terminal`."""
        terminal = self.config.shift_terminal
        if not terminal:
            return sigmas
        if sigmas[-1] == 1:
            raise Refused(
                f"num_inference_steps: {len(sigmas)} is not allowed; 2 or more: the scheduler reaches its "
                f"shift_terminal {terminal} after the first step"
            )
        below = 1 - sigmas
        return 1 - below / (below[-1] / (1 - terminal))

    def _respaced(self, sigmas: np.ndarray) -> np.ndarray:
        """σ from the first to the last one, spaced as the config says."""
        spacing = spacing_of(self.config)
        if spacing is None:
            return sigmas
        return spaced(spacing, float(sigmas[0]), float(sigmas[-1]), len(sigmas))
