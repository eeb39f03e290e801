"""Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598), its halves together or on ranks apart.

The halves are a prediction without the prompt and one with it, in this order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from vidgen_dist import nn
from vidgen_dist.parallel.mesh import Mesh, bounds, shares
from vidgen_dist.request import RenderRequest

T = TypeVar("T")


def is_guided(request: RenderRequest) -> bool:
    """Whether a request whose defaults are filled in is guided."""
    assert request.guidance_scale is not None
    return request.guidance_scale > 1.0


def guiding_prompt(request: RenderRequest) -> str | None:
    """The prompt that a request, its defaults filled in, is led away from; None without guidance."""
    return (request.negative_prompt or "") if is_guided(request) else None


def own_halves(both: Sequence[T], mesh: Mesh) -> Sequence[T]:
    """Those of the two halves that this rank works on."""
    return both[bounds(shares(2, mesh.cfg.size), mesh.cfg.index)]


def both_halves(predicted: nn.Tensor, mesh: Mesh) -> nn.Tensor:
    """Predictions (1 or 2, ...) of this rank's halves as those of both, (2, ...)."""
    return mesh.cfg.all_gather(predicted, shares(2, mesh.cfg.size), what="cfg").wait()


def guide(halves: np.ndarray, scale: float, rescale: float = 0.0) -> np.ndarray:
    """The guided prediction (1, ...) of both halves (2, ...).

    Args:
        halves: float32.
        scale: How far to go from the half without the prompt towards, and beyond, the one with it.
        rescale: Share of it that is scaled back to the spread of the half with the prompt (Lin et al. 2023,
            arXiv:2305.08891, section 3.4).
    """
    unconditional, conditional = halves[:1], halves[1:]
    guided = unconditional + np.float32(scale) * (conditional - unconditional)
    if not rescale:
        return guided
    spread = np.float32(conditional.std(ddof=1, dtype=np.float64) / guided.std(ddof=1, dtype=np.float64))
    return np.float32(rescale) * (guided * spread) + np.float32(1 - rescale) * guided
