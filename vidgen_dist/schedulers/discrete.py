"""What samplers over a noise schedule of training steps share: config, ᾱ, and the steps of a rendering.

x_t = √ᾱ_t x₀ + √(1 - ᾱ_t) ε (Ho et al. 2020). Names, defaults and numbers are diffusers'.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from vidgen_dist.component_config import STRICT, Config, Items, OneOf, Positive
from vidgen_dist.errors import Refused
from vidgen_dist.request import RequestError
from vidgen_dist.schedulers import tables
from vidgen_dist.schedulers.schedule import Schedule

Fraction = Annotated[float, Field(gt=0, lt=1)]

THRESHOLDING = dict.fromkeys(
    ("dynamic_thresholding_ratio", "sample_max_value"), "for thresholding, which is never used with latents"
)
"""Keys that have no effect."""


@dataclass(frozen=True, config=STRICT)
class DiscreteConfig(Config):
    """`scheduler_config.json` of any of these samplers, with diffusers' keys and defaults."""

    num_train_timesteps: Positive = 1000
    beta_start: Fraction = 0.0001
    beta_end: Fraction = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    trained_betas: Items[Fraction] | None = None
    prediction_type: Annotated[str, OneOf(("epsilon", "sample", "v_prediction"))] = "epsilon"
    timestep_spacing: Literal["leading", "linspace", "trailing"] = "leading"
    steps_offset: Annotated[int, Field(ge=0)] = 0

    def check(self) -> None:
        length = self.num_train_timesteps
        if self.trained_betas is not None and len(self.trained_betas) != length:
            self.refuse("trained_betas", f"null or {length} numbers between 0 and 1, one per training step")


D = TypeVar("D", bound=DiscreteConfig)


class DiscreteScheduler(ABC, Generic[D]):
    """A noise schedule, and a sampler's steps over it.

    Attributes:
        config: `scheduler_config.json`.
        alphas_cumprod: ᾱ, shape (num_train_timesteps,).
    """

    LAST_SIGNAL: ClassVar[float] = 0.0
    """ᾱ of the last training step if `rescale_betas_zero_snr` leaves no signal."""

    def __init__(self, config: D) -> None:
        self.config: D = config
        self.alphas_cumprod = self._noise_schedule()

    @abstractmethod
    def schedule(self, num_inference_steps: int, *, eta: float = 0.0) -> Schedule:
        """The steps of a rendering.

        Args:
            num_inference_steps: How many steps are wanted; they take `len(schedule)` predictions.
            eta: Share of the noise that DDIM adds again; other samplers ignore it, as in diffusers.

        Raises:
            RequestError: The noise schedule does not have so many steps.
        """

    def predictions(self, num_inference_steps: int) -> int:
        """`len(schedule(num_inference_steps))` without making tables, for rules and costs.

        Raises:
            RequestError: As `schedule`.
        """
        return len(self.startable_timesteps(num_inference_steps))

    def startable_timesteps(self, num_inference_steps: int) -> np.ndarray:
        """`spaced_timesteps`, for a rendering that begins with the first of them.

        Raises:
            RequestError: As `spaced_timesteps`, or the first gives no clean sample.
        """
        timesteps = self.spaced_timesteps(num_inference_steps)
        self.check_start(num_inference_steps, timesteps[0])
        return timesteps

    def spaced_timesteps(self, num_inference_steps: int) -> np.ndarray:
        """The training steps that a rendering uses, descending, int64 (num_inference_steps,).

        Raises:
            RequestError: More steps than were trained, or a step beyond the last trained one.
        """
        self.check_count(num_inference_steps)
        c = self.config
        timesteps = tables.spaced_timesteps(
            c.timestep_spacing, num_inference_steps, c.num_train_timesteps, c.steps_offset
        )
        return self.checked(num_inference_steps, timesteps)

    def check_count(self, num_inference_steps: int, spare: int = 0) -> None:
        """Check that the model was trained with so many steps.

        Args:
            num_inference_steps: The number of steps.
            spare: Training steps that the sampler needs in addition.

        Raises:
            RequestError: It was not.
        """
        trained = self.config.num_train_timesteps
        if not 1 <= num_inference_steps <= trained - spare:
            less = f", less {spare}" if spare else ""
            allowed = f"a whole number from 1 to the scheduler's num_train_timesteps, {trained}{less}"
            raise RequestError("num_inference_steps", num_inference_steps, allowed)

    def checked(self, num_inference_steps: int, timesteps: np.ndarray) -> np.ndarray:
        """The timesteps, checked.

        Raises:
            RequestError: The first is beyond the last trained step.
        """
        trained, offset = self.config.num_train_timesteps, self.config.steps_offset
        if timesteps[0] >= trained:
            allowed = (
                f"with the scheduler's steps_offset {offset} the first step is {timesteps[0]}, and the last "
                f"trained step is {trained - 1}"
            )
            raise RequestError("num_inference_steps", num_inference_steps, allowed)
        return timesteps

    def check_start(self, num_inference_steps: int, timestep: int) -> None:
        """Check that a rendering of so many steps can begin at a timestep.

        Raises:
            RequestError: It cannot; see `can_start_at`.
        """
        if not self.can_start_at(timestep):
            allowed = (
                f"such that no step is at {timestep}, where the scheduler's rescale_betas_zero_snr leaves no "
                "signal for its prediction_type, 'epsilon'"
            )
            raise RequestError("num_inference_steps", num_inference_steps, allowed)

    def can_start_at(self, timestep: int) -> bool:
        """Whether the model's prediction at a timestep gives a clean sample.

        Predicted noise does not, if the latents are pure noise.
        """
        return self.config.prediction_type != "epsilon" or bool(self.alphas_cumprod[timestep] > 0)

    def final_alpha_cumprod(self, set_alpha_to_one: bool) -> np.floating:
        """ᾱ of the clean sample."""
        return np.float32(1) if set_alpha_to_one else self.alphas_cumprod[0]

    def _betas(self, double: bool = False) -> np.ndarray:
        c = self.config
        return tables.betas(
            c.beta_schedule,
            c.beta_start,
            c.beta_end,
            c.num_train_timesteps,
            c.trained_betas,
            double=double,
        )

    def _noise_schedule(self) -> np.ndarray:
        """ᾱ of every training step, float32."""
        betas = self._betas()
        # Not all samplers have the key.
        if not getattr(self.config, "rescale_betas_zero_snr", False):
            return tables.alphas_cumprod(betas)
        alphas = tables.alphas_cumprod(tables.without_last_signal(betas))
        alphas[-1] = self.LAST_SIGNAL
        return alphas


def pred_original_sample(
    prediction_type: str, prediction: np.ndarray, sample: np.ndarray, alpha: np.floating
) -> np.ndarray:
    """The x₀ that a prediction means for x_t, in the sample's dtype.

    Args:
        prediction_type: What the model predicts.
        prediction: The prediction, of the sample's shape.
        sample: x_t.
        alpha: ᾱ_t.

    Raises:
        Refused: The model predicts noise, and x_t has no signal.
    """
    signal, noise = scalars(sample.dtype, alpha**0.5, (1 - alpha) ** 0.5)
    if prediction_type == "epsilon":
        if signal == 0:
            raise Refused(
                "scheduler's prediction_type: 'epsilon' is not allowed where a rendering starts without "
                "signal (rescale_betas_zero_snr and the last training step); 'sample' or 'v_prediction'"
            )
        return (sample - noise * prediction) / signal
    if prediction_type == "v_prediction":
        return signal * sample - noise * prediction
    return prediction


def scalars(dtype: np.dtype, *values: Any) -> list[Any]:
    """The values in the latents' dtype: a float64 scalar must not widen the latents."""
    return [dtype.type(value) for value in values]


def draw(rng: np.random.Generator, sample: np.ndarray) -> np.ndarray:
    """Noise of the sample's shape and dtype."""
    return rng.standard_normal(sample.shape).astype(sample.dtype)
