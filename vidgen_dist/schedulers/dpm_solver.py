"""DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095), multistep, deterministic or with noise added again."""

from __future__ import annotations

from dataclasses import dataclass as plain_dataclass
from typing import ClassVar, Literal

import numpy as np
from pydantic.dataclasses import dataclass

from vidgen_dist.component_config import STRICT, Items
from vidgen_dist.schedulers.discrete import draw, scalars
from vidgen_dist.schedulers.fixed import TrainedStep, check_timesteps, fixed_timesteps
from vidgen_dist.schedulers.multistep import (
    FLOW,
    MultistepConfig,
    MultistepSchedule,
    MultistepScheduler,
)
from vidgen_dist.schedulers.schedule import Memory
from vidgen_dist.schedulers.sigmas import EXPONENTIAL, KARRAS, SPACINGS

_LU = "use_lu_lambdas"
_FEW = 15
"""With fewer steps than this the reference lowers the order of the last ones."""


@dataclass(frozen=True, config=STRICT)
class DPMSolverConfig(MultistepConfig):
    """`scheduler_config.json` of a `DPMSolverMultistepScheduler`.

    Other samplers' names for `algorithm_type` and `solver_type` mean the defaults, as in diffusers.
    """

    NAME: ClassVar = "DPMSolverMultistepScheduler"
    SPACINGS: ClassVar = (*SPACINGS, _LU, FLOW)

    algorithm_type: Literal["dpmsolver++", "sde-dpmsolver++", "deis"] = "dpmsolver++"
    solver_type: Literal["midpoint", "heun", "logrho", "bh1", "bh2"] = "midpoint"
    euler_at_final: bool = False
    use_lu_lambdas: bool | None = False
    timesteps: Items[TrainedStep] | None = None

    def check(self) -> None:
        super().check()
        check_timesteps(self, self.num_train_timesteps - 1, *self.SPACINGS)


@plain_dataclass(frozen=True, eq=False)
class DPMSolverSchedule(MultistepSchedule):
    """Steps in x₀.

    The sampler remembers `previous`: the x₀ of up to two steps before, newest first.

    Args:
        stochastic: Whether each step draws noise of the sample's shape.
        heun: Whether the second order is Heun's method; otherwise it is the midpoint method.
        remembered: How many x₀ are remembered.
    """

    stochastic: bool
    heun: bool
    remembered: int

    def step(
        self, prediction: np.ndarray, i: int, sample: np.ndarray, memory: Memory, rng: np.random.Generator
    ) -> tuple[np.ndarray, Memory]:
        known = np.stack([self.pred_original_sample(prediction, i, sample), *memory.get("previous", ())])
        here, there = self.level(i), self.level(i + 1)
        h = there.log_snr - here.log_snr
        # With noise added again, twice as much of the old noise is removed.
        pace, gone = (2 * h, np.exp(-h)) if self.stochastic else (h, 1.0)
        (keep,) = scalars(sample.dtype, there.sigma / here.sigma * gone)
        weights = scalars(sample.dtype, *(there.alpha * weight for weight in self._weights(i, h, pace)))
        stepped = keep * sample
        for weight, derivative in zip(weights, self._derivatives(i, h, known), strict=True):
            stepped = stepped + weight * derivative
        if self.stochastic:
            (spread,) = scalars(sample.dtype, there.sigma * np.sqrt(-np.expm1(-pace)))
            stepped = stepped + spread * draw(rng, sample)
        return stepped, {"previous": known[: self.remembered]} if self.remembered else {}

    def _derivatives(self, i: int, h: np.float64, known: np.ndarray) -> list[np.ndarray]:
        """x₀ and its first derivatives in λ, in units of the step; one for each order of the step."""
        order = self.orders[i]
        levels = [self.level(i - k).log_snr for k in range(order)]
        first = known[0]
        if order == 1:
            return [first]
        r0 = (levels[0] - levels[1]) / h
        (by0,) = scalars(first.dtype, 1 / r0)
        d0 = by0 * (first - known[1])
        if order == 2:
            return [first, d0]
        r1 = (levels[1] - levels[2]) / h
        by1, more, second = scalars(first.dtype, 1 / r1, r0 / (r0 + r1), 1 / (r0 + r1))
        bend = d0 - by1 * (known[1] - known[2])
        return [first, d0 + more * bend, second * bend]

    def _weights(self, i: int, h: np.float64, pace: np.float64) -> list[np.float64]:
        """The factors of `_derivatives`, without α."""
        order, gone = self.orders[i], np.expm1(-pace)
        if order == 1:
            return [-gone]
        if order == 2 and not self.heun:
            return [-gone, -gone / 2]
        weights = [-gone, gone / pace + 1]
        # The reference has this sign for 1/2.
        half = 0.5 if self.stochastic else -0.5
        return weights if order == 2 else [*weights, -((gone + pace) / pace**2 + half)]


class DPMSolverMultistepScheduler(MultistepScheduler[DPMSolverConfig]):
    """See `DPMSolverSchedule`."""

    def schedule(self, num_inference_steps: int, *, eta: float = 0.0) -> DPMSolverSchedule:
        timesteps, sigmas = self.timesteps_and_sigmas(num_inference_steps)
        c = self.config
        final = self.sigmas[0] if c.final_sigmas_type == "sigma_min" else np.float32(0)
        sigmas = np.append(sigmas, final).astype(np.float32)
        return DPMSolverSchedule(
            timesteps=timesteps,
            sigmas=sigmas,
            prediction_type=c.prediction_type,
            flow=bool(c.use_flow_sigmas),
            orders=tuple(self._order(i, sigmas) for i in range(num_inference_steps)),
            stochastic=c.algorithm_type == "sde-dpmsolver++",
            heun=c.solver_type == "heun",
            remembered=c.solver_order - 1,
        )

    def spaced_timesteps(self, num_inference_steps: int) -> np.ndarray:
        if self.config.timesteps is not None:
            return fixed_timesteps(self.config.timesteps, num_inference_steps).astype(np.int64)
        return super().spaced_timesteps(num_inference_steps)

    def _order(self, i: int, sigmas: np.ndarray) -> int:
        c, left = self.config, len(sigmas) - 1 - i
        lowered = c.lower_order_final and len(sigmas) - 1 < _FEW
        if left == 1 and (c.euler_at_final or lowered or c.final_sigmas_type == "zero"):
            return 1
        if sigmas[i] == sigmas[i + 1]:
            # The step changes nothing, and a higher order would divide by zero.
            return 1
        return min(c.solver_order, i + 1, 2 if left == 2 and lowered else 3)

    def _spaced_sigmas(self, spacing: str, num_inference_steps: int) -> np.ndarray:
        return super()._spaced_sigmas(EXPONENTIAL if spacing == _LU else spacing, num_inference_steps)

    def _rounds(self, spacing: str) -> bool:
        return spacing in (KARRAS, _LU) and self.config.beta_schedule != "squaredcos_cap_v2"
