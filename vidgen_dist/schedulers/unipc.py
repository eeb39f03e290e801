"""UniPC (Zhao et al. 2023, arXiv:2302.04867): a predictor, and a corrector without further predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from vidgen_dist.component_config import STRICT
from vidgen_dist.schedulers.discrete import scalars
from vidgen_dist.schedulers.multistep import MultistepConfig, MultistepSchedule, MultistepScheduler
from vidgen_dist.schedulers.schedule import Memory
from vidgen_dist.schedulers.sigmas import KARRAS, spacing_of


@dataclass(frozen=True, config=STRICT)
class UniPCConfig(MultistepConfig):
    """`scheduler_config.json` of a `UniPCMultistepScheduler`.

    Other samplers' names for `solver_type` mean the default, as in diffusers.
    """

    NAME: ClassVar = "UniPCMultistepScheduler"

    predict_x0: bool = True
    solver_type: Literal["bh1", "bh2", "midpoint", "heun", "logrho"] = "bh2"
    disable_corrector: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False)] = ()

    def check(self) -> None:
        super().check()
        if self.final_sigmas_type == "zero" and not self.predict_x0:
            self.refuse("final_sigmas_type", "sigma_min where predict_x0 is false")
        if self.final_sigmas_type == "zero" and not self.lower_order_final and self.solver_order > 1:
            self.refuse("final_sigmas_type", "sigma_min where lower_order_final is false")
        if self.final_sigmas_type == "zero" and self.solver_type == "bh1":
            # B(h) of the last step, which leads to a clean sample, is infinite.
            self.refuse("solver_type", "bh2 where final_sigmas_type is zero")
        if self.prediction_type == "flow_prediction" and not self.predict_x0:
            self.refuse("predict_x0", "true where prediction_type is flow_prediction")


@plain_dataclass(frozen=True, eq=False)
class UniPCSchedule(MultistepSchedule):
    """Each step corrects the one before with the new prediction, then predicts the next latents.

    The sampler remembers `outputs`, the x₀ (or ε) of up to `remembered` predictions, newest first, and
    `sample`, the latents that the step before started from.

    Args:
        corrects: Whether each step corrects the one before, (S,).
        predicts_x0: Whether it steps in x₀; otherwise in ε.
        bh1: Whether B(h) is h; otherwise it is e^h - 1.
        remembered: How many outputs are remembered.
    """

    corrects: tuple[bool, ...]
    predicts_x0: bool
    bh1: bool
    remembered: int

    def step(
        self, prediction: np.ndarray, i: int, sample: np.ndarray, memory: Memory, rng: np.random.Generator
    ) -> tuple[np.ndarray, Memory]:
        output = self._output(prediction, i, sample)
        if self.corrects[i]:
            sample = self._update(i - 1, memory["sample"], memory["outputs"], output)
        outputs = np.stack([output, *memory.get("outputs", ())])[: self.remembered]
        return self._update(i, sample, outputs), {"outputs": outputs, "sample": sample}

    def _output(self, prediction: np.ndarray, i: int, sample: np.ndarray) -> np.ndarray:
        """The x₀ or ε that a prediction means."""
        if self.predicts_x0:
            return self.pred_original_sample(prediction, i, sample)
        alpha, sigma = scalars(sample.dtype, *self.level(i))
        if self.prediction_type == "sample":
            return (sample - alpha * prediction) / sigma
        if self.prediction_type == "v_prediction":
            return alpha * prediction + sigma * sample
        return prediction

    def _update(
        self, i: int, sample: np.ndarray, outputs: np.ndarray, following: np.ndarray | None = None
    ) -> np.ndarray:
        """The latents after the i-th step.

        Args:
            i: The step's number.
            sample: The latents before it.
            outputs: The outputs at this step and before, newest first.
            following: The output at the next step, for the corrector; None for the predictor.
        """
        here, there = self.level(i), self.level(i + 1)
        h = there.log_snr - here.log_snr
        # In x₀ the factor is the ratio of noise, in ε the ratio of signal.
        target, other = ("alpha", "sigma") if self.predicts_x0 else ("sigma", "alpha")
        pace = -h if self.predicts_x0 else h
        amount = getattr(there, target)
        keep, take = scalars(
            sample.dtype, getattr(there, other) / getattr(here, other), amount * np.expm1(pace)
        )
        moved = keep * sample - take * outputs[0]
        ratios = [(self.level(i - k).log_snr - here.log_snr) / h for k in range(1, self.orders[i])]
        differences = [
            (output - outputs[0]) / sample.dtype.type(ratio)
            for output, ratio in zip(outputs[1:], ratios, strict=False)
        ]
        if following is not None:
            ratios, differences = [*ratios, np.float64(1)], [*differences, following - outputs[0]]
        scale = amount * (pace if self.bh1 else np.expm1(pace))
        for weight, difference in zip(self._weights(ratios, pace), differences, strict=True):
            (weight,) = scalars(sample.dtype, scale * weight)
            moved = moved - weight * difference
        return moved

    def _weights(self, ratios: Sequence[np.float64], pace: np.float64) -> np.ndarray:
        """Weights of differences at these distances, in units of the step (theorem 3.1 of the paper)."""
        if len(ratios) < 2:
            # The reference takes 1/2 for the solution, which is close to it.
            return np.full(len(ratios), 0.5)
        orders = range(len(ratios))
        phi, right = np.expm1(pace) / pace - 1, []
        for k in orders:
            right.append(phi * math.factorial(k + 1) / (pace if self.bh1 else np.expm1(pace)))
            phi = phi / pace - 1 / math.factorial(k + 2)
        return np.linalg.solve(np.array([np.power(ratios, k) for k in orders]), right)


class UniPCMultistepScheduler(MultistepScheduler[UniPCConfig]):
    """See `UniPCSchedule`."""

    def schedule(self, num_inference_steps: int, *, eta: float = 0.0) -> UniPCSchedule:
        timesteps, sigmas = self.timesteps_and_sigmas(num_inference_steps)
        sigmas = np.append(sigmas, self._final_sigma(sigmas)).astype(np.float32)
        c = self.config
        steps = range(num_inference_steps)
        return UniPCSchedule(
            timesteps=timesteps,
            sigmas=sigmas,
            prediction_type=c.prediction_type,
            flow=bool(c.use_flow_sigmas),
            orders=tuple(self._order(i, sigmas) for i in steps),
            corrects=tuple(i > 0 and i - 1 not in c.disable_corrector for i in steps),
            predicts_x0=c.predict_x0,
            bh1=c.solver_type == "bh1",
            remembered=c.solver_order,
        )

    def _order(self, i: int, sigmas: np.ndarray) -> int:
        c, left = self.config, len(sigmas) - 1 - i
        if sigmas[i] == sigmas[i + 1]:
            # The step changes nothing, and a higher order would divide by zero.
            return 1
        return min(c.solver_order, i + 1, left if c.lower_order_final else c.solver_order)

    def _final_sigma(self, sigmas: np.ndarray) -> float:
        if self.config.final_sigmas_type == "zero":
            return 0.0
        evenly = spacing_of(self.config, self.config.SPACINGS) is None
        return float(self.sigmas[0] if evenly else sigmas[-1])

    def _rounds(self, spacing: str) -> bool:
        return spacing == KARRAS
