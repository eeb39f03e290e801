"""Rotary positions (Su et al. 2021, arXiv:2104.09864): what turns queries and keys."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vidgen_dist import nn


class Rotary(NamedTuple):
    """What turns queries and keys: x -> x * cos + (x @ swap) * sin, over x (B, N, heads, head size).

    cos and sin are (1, N, heads or 1, head size) float32. swap (head size, head size) takes the two channels
    of a pair, (a, b), to (-b, a): as a product it runs at the speed of the matrix unit, where strided slices
    and a stack do not, and it is exact.
    """

    cos: nn.Tensor
    sin: nn.Tensor
    swap: nn.Tensor


def pair_swap(size: int) -> np.ndarray:
    """`Rotary.swap` where neighbouring channels are a pair."""
    return np.kron(np.eye(size // 2, dtype=np.float32), np.array([[0, 1], [-1, 0]], np.float32))


def apply_rotary(x: nn.Tensor, rotary: Rotary) -> nn.Tensor:
    """Queries or keys (B, N, heads, head size), turned."""
    crossed = nn.multiply(nn.matmul(x, rotary.swap), rotary.sin)
    return nn.multiply_add(x, rotary.cos, crossed).astype(x.dtype)
