"""What the CogVideoX samplers share: their config, their tables, and the noising of clean latents."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Self

import numpy as np

from vidgen_dist.errors import Refused
from vidgen_dist.request import RequestError
from vidgen_dist.schedulers import tables
from vidgen_dist.schedulers.config import is_number, is_whole, known_values, require

_DEFAULTS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "trained_betas": None,
    # The three of clipping are in every published config; no CogVideoX sampler clips.
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "sample_max_value": 1.0,
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "rescale_betas_zero_snr": False,
    "snr_shift_scale": 3.0,
}
_CHOICES = {
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "prediction_type": ("epsilon", "sample", "v_prediction"),
    "timestep_spacing": ("leading", "linspace", "trailing"),
}


class CogVideoXScheduler:
    """A discrete noise schedule: x_t = √ᾱ_t x₀ + √(1 - ᾱ_t) ε.

    Args:
        config: `scheduler_config.json`, with diffusers' keys and defaults; keys that begin with "_" are
            not looked at, unknown ones named in a warning.

    Attributes:
        alphas_cumprod: ᾱ, shape (num_train_timesteps,).
        timesteps: Steps of the current render, descending, int64; of all training before `set_timesteps`.
        init_noise_sigma: Standard deviation of the latents that a render starts from.

    Raises:
        Refused: A value that a key cannot have.
    """

    init_noise_sigma = 1.0

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = _checked(type(self).__name__, config)
        self.alphas_cumprod = tables.alphas_cumprod(
            tables.betas(
                self.config["beta_schedule"],
                self.config["beta_start"],
                self.config["beta_end"],
                self.config["num_train_timesteps"],
                self.config["trained_betas"],
            ),
            self.config["snr_shift_scale"],
            self.config["rescale_betas_zero_snr"],
        )
        self._final_alpha_cumprod = (
            np.float32(1.0) if self.config["set_alpha_to_one"] else self.alphas_cumprod[0]
        )
        self.timesteps = np.arange(self.config["num_train_timesteps"], dtype=np.int64)[::-1]
        self._stride = 1

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The scheduler that `scheduler_config.json` describes; raises as the class does."""
        return cls(config)

    def set_timesteps(self, num_inference_steps: int) -> None:
        """Chooses the steps of a render and puts them into `timesteps`.

        Raises:
            RequestError: More steps than were trained, or a step after the last one trained.
        """
        self.timesteps = self.spaced_timesteps(num_inference_steps)
        self._stride = self.config["num_train_timesteps"] // num_inference_steps

    def spaced_timesteps(self, num_inference_steps: int) -> np.ndarray:
        """The steps that `set_timesteps` chooses; raises as it does."""
        trained, offset = self.config["num_train_timesteps"], self.config["steps_offset"]
        if not 1 <= num_inference_steps <= trained:
            allowed = f"a whole number from 1 to the scheduler's num_train_timesteps, {trained}"
            raise RequestError("num_inference_steps", num_inference_steps, allowed)
        timesteps = tables.spaced_timesteps(
            self.config["timestep_spacing"], num_inference_steps, trained, offset
        )
        if timesteps[0] >= trained:
            allowed = (
                f"with the scheduler's steps_offset {offset} the first step is {timesteps[0]}, the last one "
                f"trained {trained - 1}"
            )
            raise RequestError("num_inference_steps", num_inference_steps, allowed)
        return timesteps

    def can_start_at(self, timestep: int) -> bool:
        """Whether a clean sample can be told there: not by its noise, where nothing else is left."""
        return self.config["prediction_type"] != "epsilon" or bool(self.alphas_cumprod[timestep] > 0)

    def scale_model_input(self, sample: np.ndarray, timestep: int) -> np.ndarray:  # noqa: ARG002
        """The model's input for latents at a step: the latents themselves."""
        return sample

    def add_noise(self, original_samples: np.ndarray, noise: np.ndarray, timestep: int) -> np.ndarray:
        """Clean latents as they are after `timestep`; any shape, in the latents' type."""
        alpha = self.alphas_cumprod[timestep].astype(original_samples.dtype)
        return np.sqrt(alpha) * original_samples + np.sqrt(1 - alpha) * noise

    def _alphas(self, timestep: int) -> tuple[np.floating, np.floating, int]:
        """ᾱ at `timestep` and at the step after it, and that step; below 0 it is the clean sample."""
        following = timestep - self._stride
        alpha_next = self.alphas_cumprod[following] if following >= 0 else self._final_alpha_cumprod
        return self.alphas_cumprod[timestep], alpha_next, following

    def _pred_original_sample(
        self, model_output: np.ndarray, sample: np.ndarray, alpha: np.floating
    ) -> np.ndarray:
        """x₀ as the model sees it from x_t, in the sample's type."""
        signal, noise = scalars(sample.dtype, alpha**0.5, (1 - alpha) ** 0.5)
        prediction = self.config["prediction_type"]
        if prediction == "epsilon":
            if signal == 0:
                raise Refused(
                    "scheduler's prediction_type: 'epsilon' is not allowed where a render starts without "
                    "signal (rescale_betas_zero_snr and the last training step); 'sample' or 'v_prediction'"
                )
            return (sample - noise * model_output) / signal
        if prediction == "v_prediction":
            return signal * sample - noise * model_output
        return model_output


def scalars(dtype: np.dtype, *values: np.floating) -> list[Any]:
    """The values in the latents' type: a float64 scalar must not widen them."""
    return [dtype.type(value) for value in values]


def _checked(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    known = known_values(name, config, _DEFAULTS)
    check = partial(require, name, known)
    for key, choices in _CHOICES.items():
        check(key, known[key] in choices, f"one of {', '.join(choices)}")
    for key in ("clip_sample", "set_alpha_to_one", "rescale_betas_zero_snr"):
        check(key, isinstance(known[key], bool), "true or false")
    check("num_train_timesteps", is_whole(known["num_train_timesteps"], 1), "a whole number from 1")
    check("steps_offset", is_whole(known["steps_offset"], 0), "a whole number from 0")
    for key in ("beta_start", "beta_end"):
        check(key, is_number(known[key]) and 0 < known[key] < 1, "a number between 0 and 1")
    shift = known["snr_shift_scale"]
    check("snr_shift_scale", is_number(shift) and shift > 0, "a number above 0")
    trained, length = known["trained_betas"], known["num_train_timesteps"]
    if trained is not None:
        fits = isinstance(trained, list | tuple) and len(trained) == length
        right = fits and all(is_number(beta) and 0 < beta < 1 for beta in trained)
        check("trained_betas", right, f"null or {length} numbers between 0 and 1, one a training step")
    return known
