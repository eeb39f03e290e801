"""PNDM's linear multistep method (Liu et al. 2022, arXiv:2202.09778), as Stable Diffusion ships it.

The first step is taken twice, so there is one prediction more than there are steps.
"""

from __future__ import annotations

from dataclasses import dataclass as plain_dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic.dataclasses import dataclass

from vidgen_dist.component_config import STRICT, OneOf
from vidgen_dist.schedulers.discrete import DiscreteConfig, DiscreteScheduler, scalars
from vidgen_dist.schedulers.schedule import Memory, Schedule

_MULTISTEP = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
"""Adams-Bashforth weights of the predictions so far, newest first."""


@dataclass(frozen=True, config=STRICT)
class PNDMConfig(DiscreteConfig):
    """`scheduler_config.json` of a `PNDMScheduler`."""

    NAME: ClassVar = "PNDMScheduler"

    prediction_type: Annotated[str, OneOf(("epsilon", "v_prediction"))] = "epsilon"
    skip_prk_steps: bool = False
    set_alpha_to_one: bool = False

    def check(self) -> None:
        super().check()
        if not self.skip_prk_steps:
            self.refuse("skip_prk_steps", "true: only PNDM's linear multistep method is implemented")


@plain_dataclass(frozen=True, eq=False)
class PNDMSchedule(Schedule):
    """Steps in ε, averaged over up to four predictions.

    The sampler remembers `previous`, up to three predictions, newest first. The first step is taken twice; in
    between it also remembers `first`, the latents that both begin with.

    Args:
        timesteps: Descending, the second one twice, int64 (S,).
        alphas: ᾱ that each step starts from, (S,).
        alphas_next: ᾱ that each step leads to, (S,).
        velocity: Whether the model predicts v; otherwise it predicts ε.
    """

    alphas: np.ndarray
    alphas_next: np.ndarray
    velocity: bool

    def step(
        self, prediction: np.ndarray, i: int, sample: np.ndarray, memory: Memory, rng: np.random.Generator
    ) -> tuple[np.ndarray, Memory]:
        if i == 1:
            mean = (prediction + memory["previous"][0]) / sample.dtype.type(2)
            return self._moved(memory["first"], mean, i), {"previous": memory["previous"]}
        known = np.stack([prediction, *memory.get("previous", ())])
        mean = np.tensordot(np.array(_MULTISTEP[len(known) - 1], sample.dtype), known, axes=1)
        kept = {"previous": known[:3]} | ({"first": sample} if i == 0 else {})
        return self._moved(sample, mean, i), kept

    def _moved(self, sample: np.ndarray, prediction: np.ndarray, i: int) -> np.ndarray:
        """Formula (9) of the paper."""
        alpha, alpha_next = (np.float64(alphas[i]) for alphas in (self.alphas, self.alphas_next))
        if self.velocity:
            signal, noise = scalars(sample.dtype, alpha**0.5, (1 - alpha) ** 0.5)
            prediction = signal * prediction + noise * sample
        below = alpha * (1 - alpha_next) ** 0.5 + (alpha * (1 - alpha) * alpha_next) ** 0.5
        keep, take = scalars(sample.dtype, (alpha_next / alpha) ** 0.5, (alpha_next - alpha) / below)
        return keep * sample - take * prediction


class PNDMScheduler(DiscreteScheduler[PNDMConfig]):
    """See `PNDMSchedule`."""

    def schedule(self, num_inference_steps: int, *, eta: float = 0.0) -> PNDMSchedule:
        timesteps = self.startable_timesteps(num_inference_steps)
        stride = self.config.num_train_timesteps // num_inference_steps
        here, following = timesteps.copy(), timesteps - stride
        if len(timesteps) > 1:
            here[1], following[1] = timesteps[1] + stride, timesteps[1]
        clean = self.final_alpha_cumprod(self.config.set_alpha_to_one)
        return PNDMSchedule(
            timesteps=timesteps,
            alphas=self.alphas_cumprod[here],
            alphas_next=np.where(following >= 0, self.alphas_cumprod[following], clean),
            velocity=self.config.prediction_type == "v_prediction",
        )

    def spaced_timesteps(self, num_inference_steps: int) -> np.ndarray:
        """The training steps that a rendering uses, descending, the second one twice, int64.

        Raises:
            RequestError: As `DiscreteScheduler.spaced_timesteps`.
        """
        timesteps = super().spaced_timesteps(num_inference_steps)
        return np.concatenate([timesteps[:1], timesteps[1:2], timesteps[1:]])
