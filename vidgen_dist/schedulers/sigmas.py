"""How samplers space σ, the standard deviation of the noise relative to a signal of 1.

Spacings: equation 5 of Karras et al. 2022 (arXiv:2206.00364); evenly in log σ; quantiles of a beta
    distribution
(Lee et al. 2024, arXiv:2407.12173). Names and numbers are diffusers'.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeVar

import numpy as np
from pydantic.dataclasses import dataclass

from vidgen_dist.component_config import STRICT, Config
from vidgen_dist.schedulers.discrete import DiscreteConfig, DiscreteScheduler

_RHO = 7.0
"""ρ in equation 5 of Karras et al."""
_BETA = 0.6
"""Both parameters of the beta distribution in Lee et al."""

KARRAS, EXPONENTIAL, BETA = SPACINGS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
"""Config keys that each choose a spacing of σ; at most one of them is true."""


def spacing_of(config: Config, keys: Sequence[str] = SPACINGS) -> str | None:
    """The key that is true.

    Raises:
        ConfigError: More than one is.
    """
    true = [key for key in keys if getattr(config, key)]
    if len(true) > 1:
        config.refuse(true[0], f"false where {true[1]} is true")
    return true[0] if true else None


def spaced(spacing: str, first: float, last: float, count: int) -> np.ndarray:
    """σ from the first to the last one, with one of the `SPACINGS`: float64 (count,)."""
    if spacing == KARRAS:
        ends = first ** (1 / _RHO), last ** (1 / _RHO)
        return (ends[0] + np.linspace(0, 1, count) * (ends[1] - ends[0])) ** _RHO
    if spacing == EXPONENTIAL:
        return np.exp(np.linspace(math.log(first), math.log(last), count))
    if spacing == BETA:
        # Slow to import, and rarely needed.
        from scipy.special import betaincinv

        return last + betaincinv(_BETA, _BETA, 1 - np.linspace(0, 1, count)) * (first - last)
    raise ValueError(f"unknown spacing of sigmas: {spacing!r}")


def shifted(sigmas: np.ndarray, shift: float) -> np.ndarray:
    """Flow matching's σ, moved towards noise (Esser et al. 2024, arXiv:2403.03206, section 5.3.2)."""
    return shift * sigmas / (1 + (shift - 1) * sigmas)


@dataclass(frozen=True, config=STRICT)
class SigmaConfig(DiscreteConfig):
    """`scheduler_config.json` of any sampler that steps in σ."""

    timestep_spacing: Literal["leading", "linspace", "trailing"] = "linspace"
    rescale_betas_zero_snr: bool = False


@dataclass(frozen=True, config=STRICT)
class SpacedSigmaConfig(SigmaConfig):
    """`scheduler_config.json` of samplers that can also space σ."""

    use_karras_sigmas: bool | None = False
    use_exponential_sigmas: bool | None = False
    use_beta_sigmas: bool | None = False
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"

    def check(self) -> None:
        super().check()
        spacing_of(self)


S = TypeVar("S", bound=SigmaConfig)


class SigmaScheduler(DiscreteScheduler[S]):
    """A noise schedule in σ.

    Attributes:
        sigmas: σ of every training step, float32 (num_train_timesteps,).
    """

    # Keeps σ finite: the smallest number above 0 in half precision.
    LAST_SIGNAL = 2**-24

    def __init__(self, config: S) -> None:
        super().__init__(config)
        alphas = self.alphas_cumprod
        self.sigmas: np.ndarray = np.sqrt((1 - alphas) / alphas)

    def sigmas_at(self, timesteps: np.ndarray) -> np.ndarray:
        """σ at timesteps, interpolated linearly: float64."""
        return np.interp(timesteps, np.arange(len(self.sigmas)), self.sigmas)

    def timesteps_of(self, sigmas: np.ndarray) -> np.ndarray:
        """The timesteps at which the noise schedule has σ, interpolated in log σ: float64."""
        known = np.log(self.sigmas)
        logs = np.log(np.maximum(sigmas, 1e-10)).astype(known.dtype)
        low = np.clip(np.searchsorted(known, logs, side="right") - 1, 0, len(known) - 2)
        weights = np.clip((known[low] - logs) / (known[low] - known[low + 1]), 0, 1)
        return (1 - weights) * low + weights * (low + 1)
