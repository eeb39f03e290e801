"""Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598), both halves on all ranks or one on each
half.

The halves are a prediction without the condition and a prediction with it, in this order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from vidgen_dist import nn
from vidgen_dist.parallel.degrees import bounds, shares
from vidgen_dist.parallel.mesh import Mesh

T = TypeVar("T")

H = TypeVar("H")
"""What a family's model gets in addition to latents and time: a dataclass of arrays (1, ...) or None."""

Weight = float | np.ndarray
"""How far to go from the half without the condition towards the half with it, and beyond: a number, or an
array that broadcasts over latents, such as one weight per frame."""


@dataclass(frozen=True)
class Halves(Generic[H]):
    """What a video is conditioned on.

    Args:
        conditional: The request's condition.
        unconditional: What guidance leads away from; None if no step is guided.
    """

    conditional: H
    unconditional: H | None = None

    def of_rank(self, guided: bool, mesh: Mesh) -> H:
        """What this rank's samples of a step are conditioned on, arrays (B, ...).

        Args:
            guided: Whether the step predicts both halves; each rank then works on one of them or on both.
                Otherwise every rank predicts the conditional half, because all have to gather weights.
            mesh: The gang.
        """
        if not guided or self.unconditional is None:
            return self.conditional
        return stack_conditions(split_cfg([self.unconditional, self.conditional], mesh))


@dataclass(frozen=True)
class Guidance:
    """How the steps of a video are guided.

    Args:
        weights: One per step; None for a step that is not guided.
        rescale: Share of the guided prediction that is rescaled to the standard deviation of the conditional
            half (Lin et al. 2023, arXiv:2305.08891, section 3.4).
    """

    weights: Sequence[Weight | None]
    rescale: float = 0.0


def constant(weight: Weight | None, steps: int, rescale: float = 0.0) -> Guidance:
    """The same weight for every step; None for no guidance."""
    return Guidance([weight] * steps, rescale)


def split_cfg(both: Sequence[T], mesh: Mesh) -> Sequence[T]:
    """The halves, one or both, that this rank computes."""
    return both[bounds(shares(2, mesh.cfg.size), mesh.cfg.index)]


def gather_cfg(predicted: nn.Tensor, mesh: Mesh) -> nn.Tensor:
    """The predictions of both halves, (2, ...), from every rank's predictions (1 or 2, ...)."""
    return mesh.cfg.all_gather(predicted, shares(2, mesh.cfg.size), what="cfg").wait()


def guide(halves: np.ndarray, weight: Weight, rescale: float = 0.0) -> np.ndarray:
    """The guided prediction (1, ...) from both halves (2, ...), float32; see `Guidance` for the rest."""
    unconditional, conditional = halves[:1], halves[1:]
    guided = unconditional + np.asarray(weight, np.float32) * (conditional - unconditional)
    if not rescale:
        return guided
    spread = np.float32(conditional.std(ddof=1, dtype=np.float64) / guided.std(ddof=1, dtype=np.float64))
    return np.float32(rescale) * (guided * spread) + np.float32(1 - rescale) * guided


def stack_conditions(conditions: Sequence[H]) -> H:
    """One condition for a batch, from conditions for single samples.

    Args:
        conditions: All of one class, with arrays (1, ...).

    Returns:
        Arrays (B, ...), the samples in the order of the conditions.
    """
    first: Any = conditions[0]
    if len(conditions) == 1:
        return first
    arrays: dict[str, np.ndarray] = {}
    for field in dataclasses.fields(first):
        parts = [getattr(condition, field.name) for condition in conditions]
        if parts[0] is not None:
            arrays[field.name] = np.concatenate(parts)
    return dataclasses.replace(first, **arrays)
