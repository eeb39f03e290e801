"""Rotary position embeddings (Su et al. 2021, arXiv:2104.09864), which rotate queries and keys."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from mindspore import Tensor

from vidgen_dist.nn import backend
from vidgen_dist.nn.functional import from_numpy

Pairs = Literal["neighbours", "halves"]
"""Which two channels of a head form a pair: 2 i and 2 i + 1, or i and i + D / 2."""


class Rotary(NamedTuple):
    """What rotates queries and keys: x -> x * cos + (x @ swap) * sin, x (B, N, heads, D).

    cos and sin are (1, N, heads or 1, D) float32. swap (D, D) takes the two channels of a pair, (a, b), to
    (-b, a). As a matrix product this is exact and runs at the speed of the matrix unit, which strided slices
    and a stack do not.
    """

    cos: Tensor
    sin: Tensor
    swap: Tensor


def rotary(cos: np.ndarray, sin: np.ndarray, pairs: Pairs = "neighbours") -> Rotary:
    """The rotation by angles whose cosine and sine are given.

    Args:
        cos, sin: (1, N, heads or 1, D) float32; the two channels of a pair have the same angle.
        pairs: Which channels form a pair.
    """
    turn, each = np.array([[0, 1], [-1, 0]], np.float32), np.eye(cos.shape[-1] // 2, dtype=np.float32)
    swap = np.kron(each, turn) if pairs == "neighbours" else np.kron(turn, each)
    return Rotary(*map(from_numpy, (cos, sin, swap)))


def apply_rotary(x: Tensor, rotary: Rotary) -> Tensor:
    """Rotate queries or keys (B, N, heads, D)."""
    return backend.current().body.rotate(x, *rotary)
