"""LTX-Video's diffusion transformer.

Video tokens attend to each other, then to the text, then go through a feed-forward; each token's time scales,
shifts and gates it. Source: HaCohen et al. 2024, "LTX-Video: Realtime Video Latent Diffusion"
(arXiv:2501.00103); names and numbers are those of diffusers' `LTXVideoTransformer3DModel`.

Letters: B batch, L text tokens, N video tokens, n this rank's, H heads, D model width, U different times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from vidgen_dist import nn
from vidgen_dist.families.common.layers import FeedForward, SinusoidEmbedding
from vidgen_dist.families.ltx.config import TransformerConfig
from vidgen_dist.nn.activations import gelu_tanh
from vidgen_dist.nn.rotary import Rotary, apply_rotary, rotary
from vidgen_dist.parallel.attention import attention
from vidgen_dist.parallel.blocks import run_blocks
from vidgen_dist.parallel.mesh import Mesh, alone
from vidgen_dist.parallel.token_split import TokenSplit, split_tokens

QK_NORM_EPS = 1e-5
FINAL_NORM_EPS = 1e-6

# Positions are fractions of these: seconds, pixels, pixels.
BASE_SECONDS, BASE_HEIGHT, BASE_WIDTH = 20, 2048, 2048
THETA = 10000.0


def rotary_positions(
    dim: int, num_frames: int, height: int, width: int, interpolation_scale: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Rotary table of a video's tokens; a position is a fraction of the longest video and the largest frame.

    Args:
        dim: Model width D: the heads have different frequencies.
        num_frames, height, width: Size of the latents.
        interpolation_scale: Seconds per latent frame, pixels per latent row and per latent column.

    Returns:
        (cos, sin), each (N, D) float32; width varies fastest, and neighbouring channels form a pair.
    """
    # All in float32 and in diffusers' order: the largest angles are above 10,000, and a unit in their last
    # place changes the picture visibly.
    axes = []
    for count, scale, base in zip(
        (num_frames, height, width), interpolation_scale, (BASE_SECONDS, BASE_HEIGHT, BASE_WIDTH), strict=True
    ):
        fractions = np.arange(count, dtype=np.float32) * np.float32(scale) / np.float32(base)
        axes.append(fractions * np.float32(2) - np.float32(1))
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    exponents = _linspace(dim // 6)
    frequencies = (THETA ** exponents.astype(np.float64)).astype(np.float32)
    frequencies = frequencies * np.float32(math.pi) / np.float32(2)
    # The angles of the three axes for each frequency; channels left over come first and are not rotated.
    angles = (frequencies[:, None] * grid).reshape(len(grid), -1)
    angles = np.concatenate([np.zeros((len(grid), dim % 6 // 2), np.float32), angles], axis=1)
    waves = (np.cos(angles, dtype=np.float64), np.sin(angles, dtype=np.float64))
    cos, sin = (np.repeat(wave.astype(np.float32), 2, axis=1) for wave in waves)
    return cos, sin


def _linspace(count: int) -> np.ndarray:
    """What torch's float32 `linspace` from 0 to 1 gives: from both ends, each rounded once."""
    if count < 2:
        return np.zeros(count, np.float32)
    step = np.float64(np.float32(1) / np.float32(count - 1))
    rising = step * np.arange(count)
    return np.where(np.arange(count) < count // 2, rising, 1 - rising[::-1]).astype(np.float32)


@dataclass(frozen=True)
class Times:
    """The times of this rank's tokens, of which few are different.

    Args:
        modulation: For each time, (U, 6, D): shift, scale and gate of attention and of feed-forward.
        embedding: For each time, (U, D).
        places: For each token the index of its time: (B, n), or (B, 1) if a sample has one time; None if
            there is only one.
    """

    modulation: nn.Tensor
    embedding: nn.Tensor
    places: nn.Tensor | None

    def of_tokens(self, x: nn.Tensor) -> nn.Tensor:
        """Values x (U, D) of times, taken for the tokens: (B, n, D), or axes of length 1 that broadcast."""
        return x[None] if self.places is None else nn.embedding(self.places, nn.copy(x))


class LTXVideoTransformer3DModel(nn.Module):
    """Predicts a video's velocity from noisy latents, text and time.

    Parameters are named as in diffusers' `state_dict`.

    Args:
        config: `transformer/config.json`.
        mesh: The gang; its ranks share the video's tokens, and each has all text tokens. By default this
            process alone.
    """

    # Sharded over the ranks of a gang: see `parallel.sharding`.
    sharded = ("transformer_blocks",)

    def __init__(self, config: TransformerConfig, mesh: Mesh | None = None) -> None:
        super().__init__()
        self.config = c = config
        self.mesh = mesh or alone()
        self.proj_in = nn.Linear(c.in_channels, c.inner_dim)
        self.scale_shift_table = nn.empty_parameter((2, c.inner_dim), "scale_shift_table")
        self.time_embed = TimeEmbedding(c.inner_dim)
        self.caption_projection = TextProjection(c.caption_channels, c.inner_dim)
        self.transformer_blocks = nn.ModuleList([Block(c) for _ in range(c.num_layers)])
        self.norm_out = nn.LayerNorm(c.inner_dim, FINAL_NORM_EPS, elementwise_affine=False)
        self.proj_out = nn.Linear(c.inner_dim, c.output_channels)
        # The last video's positions: all of its steps share them.
        self._positions: tuple[Any, Rotary] | None = None

    def construct(
        self,
        hidden_states: nn.Tensor,
        encoder_hidden_states: nn.Tensor,
        timestep: np.ndarray,
        encoder_attention_mask: np.ndarray,
        num_frames: int,
        height: int,
        width: int,
        rope_interpolation_scale: tuple[float, float, float],
    ) -> nn.Tensor:
        """
        Args:
            hidden_states: (B, N, in_channels) noisy latents, N = num_frames * height * width, width fastest.
            encoder_hidden_states: (B, L, caption_channels), from T5.
            timestep: (B,), or (B, N) if tokens have different times.
            encoder_attention_mask: (B, L) bool, true where text may be attended to.
            num_frames, height, width: Size of the latents.
            rope_interpolation_scale: As in `rotary_positions`.

        Returns:
            (B, N, out_channels).
        """
        dtype = hidden_states.dtype
        split = split_tokens(self.mesh, video=hidden_states.shape[1])
        rotary = self._rotary((num_frames, height, width, rope_interpolation_scale), split)
        times = self._times(np.asarray(timestep, np.float32), split, dtype)
        text = self.caption_projection(encoder_hidden_states)
        mask = nn.from_numpy(np.asarray(encoder_attention_mask, np.bool_)[:, None, None, :])
        (video,) = run_blocks(
            self.transformer_blocks,
            [self.proj_in(split.take(hidden_states, "video"))],
            lambda block, streams: [block(*streams, text, mask, times, rotary, split)],
        )
        shift, scale = _rows(nn.add(times.embedding[:, None], self.scale_shift_table), times)
        video = self.norm_out(video, scale, shift)
        return split.gather(self.proj_out(video), "video")

    def _rotary(self, place: tuple[int, int, int, tuple[float, float, float]], split: TokenSplit) -> Rotary:
        if self._positions is None or self._positions[0] != place:
            c = self.config
            tables = rotary_positions(c.inner_dim, *place)
            by_head = (1, -1, c.num_attention_heads, c.attention_head_dim)
            cos, sin = (table[split.at("video")].reshape(by_head) for table in tables)
            self._positions = place, rotary(cos, sin)
        return self._positions[1]

    def _times(self, timestep: np.ndarray, split: TokenSplit, dtype: Any) -> Times:
        different, places = np.unique(timestep, return_inverse=True)
        modulation, embedding = self.time_embed(different, dtype)
        modulation = nn.reshape(modulation, (len(different), 6, -1))
        if len(different) == 1:
            return Times(modulation, embedding, None)
        places = places.reshape(len(timestep), -1).astype(np.int32)
        if timestep.ndim == 2:
            places = places[:, split.at("video")]
        return Times(modulation, embedding, nn.from_numpy(places))


def _rows(table: nn.Tensor, times: Times) -> list[nn.Tensor]:
    """The K vectors of a table (U, K, D) of times, each taken for the tokens."""
    return [times.of_tokens(table[:, k]) for k in range(table.shape[1])]


class TimeEmbedding(nn.Module):
    """The time in two forms: its embedding (U, D), and the modulation of tokens (U, 6 D)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.emb = SinusoidEmbedding(dim)
        self.linear = nn.Linear(dim, 6 * dim)

    def construct(self, timestep: np.ndarray, dtype: Any) -> tuple[nn.Tensor, nn.Tensor]:
        embedding = self.emb(timestep, dtype)
        return self.linear(nn.silu(embedding)), embedding


class TextProjection(nn.Module):
    """Text (B, L, caption_channels) to the model's width."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(channels, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def construct(self, text: nn.Tensor) -> nn.Tensor:
        return self.linear_2(gelu_tanh(self.linear_1(text)))


class Block(nn.Module):
    """Attention among the video's tokens, attention to the text, and a feed-forward."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim, affine = config.inner_dim, config.norm_elementwise_affine
        self.norm1 = nn.RMSNorm(dim, config.norm_eps, elementwise_affine=affine)
        self.attn1 = Attention(config)
        self.norm2 = nn.RMSNorm(dim, config.norm_eps, elementwise_affine=affine)
        self.attn2 = Attention(config)
        self.ff = FeedForward(dim, config.activation_fn)
        self.scale_shift_table = nn.empty_parameter((6, dim), "scale_shift_table")

    def construct(
        self,
        video: nn.Tensor,
        text: nn.Tensor,
        mask: nn.Tensor,
        times: Times,
        rotary: Rotary,
        split: TokenSplit,
    ) -> nn.Tensor:
        """video (B, n, D), text (B, L, D), mask (B, 1, 1, L): the new video."""
        table = nn.add(times.modulation, self.scale_shift_table)
        shift, scale, gate = _rows(table[:, :3], times)
        normed = self.norm1(video, scale, shift)
        video = nn.multiply_add(self.attn1.among(normed, rotary, split), gate, video)
        video = nn.add(video, self.attn2.to_text(video, text, mask))
        shift, scale, gate = _rows(table[:, 3:], times)
        return nn.multiply_add(self.ff(self.norm2(video, scale, shift)), gate, video)


class Attention(nn.Module):
    """Attention with an RMS norm over the queries of all heads together, and another over their keys."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim = config.inner_dim
        self._heads = config.num_attention_heads
        self.to_q = nn.Linear(dim, dim, bias=config.attention_bias)
        self.to_k = nn.Linear(dim, dim, bias=config.attention_bias)
        self.to_v = nn.Linear(dim, dim, bias=config.attention_bias)
        self.norm_q = nn.RMSNorm(dim, QK_NORM_EPS)
        self.norm_k = nn.RMSNorm(dim, QK_NORM_EPS)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim, bias=config.attention_out_bias)])

    def among(self, video: nn.Tensor, rotary: Rotary, split: TokenSplit) -> nn.Tensor:
        """Attention of this rank's tokens (B, n, D) to the tokens of all ranks."""
        query, key, value = self._projected(video, video)
        mixed = attention(apply_rotary(query, rotary), apply_rotary(key, rotary), value, split)
        return self.to_out[0](nn.reshape(mixed, video.shape))

    def to_text(self, video: nn.Tensor, text: nn.Tensor, mask: nn.Tensor) -> nn.Tensor:
        """Attention of tokens (B, n, D) to the text (B, L, D), which every rank has whole."""
        query, key, value = (x.permute(0, 2, 1, 3) for x in self._projected(video, text))
        mixed = nn.attention(query, key, value, mask=mask)
        return self.to_out[0](nn.reshape(mixed.permute(0, 2, 1, 3), video.shape))

    def _projected(self, asking: nn.Tensor, asked: nn.Tensor) -> tuple[nn.Tensor, nn.Tensor, nn.Tensor]:
        """Queries (B, n, H, D / H), and keys and values."""
        query, key, value = (
            self.norm_q(self.to_q(asking)),
            self.norm_k(self.to_k(asked)),
            self.to_v(asked),
        )
        return self._by_head(query), self._by_head(key), self._by_head(value)

    def _by_head(self, x: nn.Tensor) -> nn.Tensor:
        batch, tokens, dim = x.shape
        return x.reshape(batch, tokens, self._heads, dim // self._heads)
