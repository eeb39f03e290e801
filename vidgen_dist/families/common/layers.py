"""Layers that the transformers of several families use: time embedding, feed-forward, rotary positions.

Parameters are named as in diffusers.

Letters: B batch, N tokens, D model width, E width of the time embedding; for patches C channels, T latent
frames, H, W latent height and width, V video tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vidgen_dist import nn
from vidgen_dist.activations import FEED_FORWARDS
from vidgen_dist.nn.activations import of_diffusers
from vidgen_dist.nn.embeddings import timestep_embedding
from vidgen_dist.nn.rotary import Rotary, rotary
from vidgen_dist.parallel.token_split import TokenSplit

SINUSOIDS = 256

MODULATED_EPS = 1e-6
"""Epsilon of layer norms whose scale and shift are computed from the time."""


def to_patches(x: nn.Tensor, patch: tuple[int, int, int]) -> nn.Tensor:
    """(B, C, T, H, W) to (B, V, numbers of a patch); channels come first in a patch."""
    batch, channels, *sizes = x.shape
    (t, p, q), (frames, rows, columns) = patch, (n // m for n, m in zip(sizes, patch, strict=True))
    pieces = nn.reshape(x, (batch, channels, frames, t, rows, p, columns, q))
    return nn.reshape(pieces.permute(0, 2, 4, 6, 1, 3, 5, 7), (batch, frames * rows * columns, -1))


class TimestepEmbedding(nn.Module):
    """Sinusoids (B, in) to an embedding (B, E or `out_dim`): two linear maps, an activation between them."""

    def __init__(
        self, in_channels: int, embed_dim: int, activation: str = "silu", out_dim: int | None = None
    ) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_channels, embed_dim)
        self.linear_2 = nn.Linear(embed_dim, out_dim or embed_dim)
        self._activation = of_diffusers(activation)

    def construct(self, sinusoids: nn.Tensor) -> nn.Tensor:
        return self.linear_2(self._activation(self.linear_1(sinusoids)))


class SinusoidEmbedding(nn.Module):
    """Timesteps (B,) to an embedding (B, E), by 256 sinusoids (Chen et al. 2023, arXiv:2310.00426)."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.timestep_embedder = TimestepEmbedding(SINUSOIDS, embed_dim)

    def construct(self, timesteps: np.ndarray, dtype: Any) -> nn.Tensor:
        waves = timestep_embedding(timesteps, SINUSOIDS, flip_sin_to_cos=True, freq_shift=0)
        return self.timestep_embedder(nn.from_numpy(waves, dtype))


class FinalNorm(nn.Module):
    """Layer norm of tokens (B, N, D), scaled and shifted by the time (B, D), which has gone through SiLU."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, 2 * dim)

    def construct(self, tokens: nn.Tensor, time: nn.Tensor) -> nn.Tensor:
        scale, shift = nn.chunk(self.linear(time)[:, None, :], 2, -1)
        return modulated(tokens, shift, scale)


def modulated(tokens: nn.Tensor, shift: nn.Tensor, scale: nn.Tensor) -> nn.Tensor:
    """Layer norm of tokens (B, N, D), times 1 + scale, plus shift, each (B, 1, D)."""
    return nn.layer_norm(tokens, eps=MODULATED_EPS, scale=scale, shift=shift)


class FeedForward(nn.Module):
    """Two linear maps, (B, N, D) to (B, N, D), with `inner_dim` (by default 4 D) between them."""

    def __init__(self, dim: int, activation: str, inner_dim: int | None = None, bias: bool = True) -> None:
        super().__init__()
        inner_dim = inner_dim or 4 * dim
        # The checkpoint numbers a dropout as 1.
        self.net = nn.ModuleList(
            [ActivatedLinear(dim, inner_dim, activation, bias), nn.Module(), nn.Linear(inner_dim, dim, bias)]
        )

    def construct(self, tokens: nn.Tensor) -> nn.Tensor:
        return self.net[2](self.net[0](tokens))


class ActivatedLinear(nn.Module):
    """A linear map and its activation; gated ones compute gate and value in one map."""

    def __init__(self, dim: int, inner_dim: int, activation: str, bias: bool = True) -> None:
        super().__init__()
        self._gated, self._activation = FEED_FORWARDS[activation]
        self.proj = nn.Linear(dim, 2 * inner_dim if self._gated else inner_dim, bias)

    def construct(self, tokens: nn.Tensor) -> nn.Tensor:
        proj = self.proj
        return nn.activated_linear(tokens, proj.weight, proj.bias, self._activation, self._gated)


def joint_rotary(tables: Sequence[np.ndarray], split: TokenSplit) -> Rotary:
    """Rotary positions of this rank's tokens: first the text's, which are not rotated, then the video's.

    Args:
        tables: (cos, sin) of all video tokens, each (V, head size); neighbouring channels form a pair.
        split: How the streams `text` and `video` are divided.
    """
    cos, sin = (table[split.at("video")] for table in tables)
    text = split.at("text")
    no_turn = np.zeros((text.stop - text.start, cos.shape[1]), np.float32)
    return rotary(
        np.concatenate([no_turn + 1, cos])[None, :, None],
        np.concatenate([no_turn, sin])[None, :, None],
    )
