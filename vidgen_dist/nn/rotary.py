"""Rotary position embeddings (Su et al. 2021, arXiv:2104.09864), which rotate queries and keys."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vidgen_dist import nn


class Rotary(NamedTuple):
    """The tables that rotate queries and keys: x -> x * cos + (x @ swap) * sin, x (B, N, heads, head size).

    cos and sin are (1, N, heads or 1, head size) float32. swap (head size, head size) takes the two channels
    of a pair, (a, b), to (-b, a). As a matrix product this is exact and runs at the speed of the matrix unit,
    which strided slices and a stack do not.
    """

    cos: nn.Tensor
    sin: nn.Tensor
    swap: nn.Tensor


def pair_swap(size: int) -> np.ndarray:
    """`Rotary.swap` where neighbouring channels form a pair."""
    return np.kron(np.eye(size // 2, dtype=np.float32), np.array([[0, 1], [-1, 0]], np.float32))


def apply_rotary(x: nn.Tensor, rotary: Rotary) -> nn.Tensor:
    """Rotate queries or keys (B, N, heads, head size)."""
    crossed = nn.multiply(nn.matmul(x, rotary.swap), rotary.sin)
    return nn.multiply_add(x, rotary.cos, crossed).astype(x.dtype)
