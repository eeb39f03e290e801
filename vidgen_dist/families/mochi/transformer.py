"""Mochi's diffusion transformer: video and text attend together; the text's tokens are much narrower.

Every block scales and gates both kinds of token by the time and the prompt as a whole, with root-mean-square
norms before and after what it adds. The video's queries and keys are rotated by learned frequencies, per
head, over time, height and width together. The last block uses only the text's keys and values. Source: Genmo
2024, "Mochi 1" (github.com/genmoai/mochi); names and numbers are those of diffusers'
`MochiTransformer3DModel`.

Tokens that pad a prompt are left out: the reference never attends to them, and does not use their results.
Therefore samples of a batch may differ in their number of tokens, and a block runs them one after another.

Letters: B batch, C channels, T latent frames, H, W latent height and width, L text tokens, V video tokens,
N = V + L, D width of the video's tokens, E width of the text's, S head size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vidgen_dist import nn
from vidgen_dist.families.common.layers import (
    FeedForward,
    FinalNorm,
    TimestepEmbedding,
    to_patches,
)
from vidgen_dist.families.mochi.config import POOL_HEADS, TransformerConfig
from vidgen_dist.nn.embeddings import timestep_embedding
from vidgen_dist.nn.rotary import Rotary, apply_rotary, rotary
from vidgen_dist.parallel.attention import attention
from vidgen_dist.parallel.blocks import run_blocks
from vidgen_dist.parallel.mesh import Mesh, alone
from vidgen_dist.parallel.token_split import TokenSplit, split_tokens

EPS = 1e-6
"""Epsilon of the norms of tokens."""

HEAD_EPS = 1e-5
"""Epsilon of the norms of queries and keys."""

BASE_SIDE = 192
"""Positions are spread over the square of this number, whatever the video's size is."""


@dataclass(frozen=True)
class Sample:
    """One sample in the blocks: this rank's tokens, and what belongs to them.

    Args:
        video, text: (1, v, D) and (1, l, E).
        time: Scales and gates are computed from it, (1, D), after its SiLU.
        rotary: Rotary tables of the video's tokens.
        split: How the sample's tokens are divided over the ranks.
    """

    video: nn.Tensor
    text: nn.Tensor
    time: nn.Tensor
    rotary: Rotary
    split: TokenSplit


class MochiTransformer3DModel(nn.Module):
    """Predicts a video's velocity from noisy latents, text and time.

    Parameters are named as in diffusers' `state_dict`.

    Args:
        config: `transformer/config.json`.
        mesh: The gang; its ranks share the tokens. By default this process alone.
    """

    # Sharded over the ranks of a gang: see `parallel.sharding`.
    sharded = ("transformer_blocks",)

    def __init__(self, config: TransformerConfig, mesh: Mesh | None = None) -> None:
        super().__init__()
        self.config = config
        self.mesh = mesh or alone()
        c = self.config
        self.patch_embed = PatchEmbed(c)
        self.time_embed = TimeAndTextEmbedding(c)
        frequencies = (3, c.num_attention_heads, c.attention_head_dim // 2)
        self.pos_frequencies = nn.empty_parameter(frequencies, "pos_frequencies")
        last = c.num_layers - 1
        self.transformer_blocks = nn.ModuleList([Block(c, i == last) for i in range(c.num_layers)])
        self.norm_out = FinalNorm(c.inner_dim)
        self.proj_out = nn.Linear(c.inner_dim, math.prod(c.patch) * c.output_channels)
        # The last size's table: all steps of a video share it.
        self._rotary: tuple[tuple[Any, ...], Rotary] | None = None

    def construct(
        self,
        hidden_states: nn.Tensor,
        encoder_hidden_states: nn.Tensor,
        timestep: np.ndarray,
        encoder_attention_mask: np.ndarray,
    ) -> nn.Tensor:
        """
        Args:
            hidden_states: (B, C, T, H, W) noisy latents; the patches must divide these sizes.
            encoder_hidden_states: (B, L, text_embed_dim), from T5.
            timestep: (B,), from 0 for noise to 1000.
            encoder_attention_mask: (B, L), 1 for a prompt's own tokens, which come first. There may be none.

        Returns:
            (B, out_channels, T, H, W).

        Raises:
            ValueError: Sizes that the patches do not divide.
        """
        grid = self._grid(hidden_states.shape)
        mask = np.asarray(encoder_attention_mask) != 0
        time, text = self.time_embed(timestep, encoder_hidden_states, mask)
        patches = to_patches(hidden_states, self.config.patch)
        samples = run_blocks(
            self.transformer_blocks,
            [
                self._begin(patches[i : i + 1], text[i : i + 1, : int(mask[i].sum())], time[i : i + 1], grid)
                for i in range(len(mask))
            ],
            lambda block, samples: [block(sample) for sample in samples],
        )
        velocities = [self._end(sample) for sample in samples]
        whole = velocities[0] if len(velocities) == 1 else nn.cat(velocities, 0)
        return _from_patches(whole, grid, self.config.patch_size)

    def _grid(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Number of tokens along time, height and width."""
        frames, height, width = shape[2:]
        p = self.config.patch_size
        if height % p or width % p:
            raise ValueError(f"latents of {height} x {width}: patches of {p} x {p} do not fit")
        return frames, height // p, width // p

    def _begin(
        self, patches: nn.Tensor, text: nn.Tensor, time: nn.Tensor, grid: tuple[int, int, int]
    ) -> Sample:
        """One sample's patches, text (1, L, E) and time (1, D), divided over the ranks."""
        split = split_tokens(self.mesh, video=patches.shape[1], text=text.shape[1])
        return Sample(
            video=self.patch_embed(split.take(patches, "video")),
            text=split.take(text, "text"),
            time=time,
            rotary=self._positions(grid, split.at("video")),
            split=split,
        )

    def _positions(self, grid: tuple[int, int, int], own: slice) -> Rotary:
        """Rotary tables of the video's tokens in that slice."""
        key = grid, own.start, own.stop
        if self._rotary is None or self._rotary[0] != key:
            angles = rotary_angles(nn.to_numpy(self.pos_frequencies), positions(*grid)[own])
            cos, sin = (np.repeat(wave(angles), 2, -1)[None] for wave in (np.cos, np.sin))
            self._rotary = key, rotary(cos, sin)
        return self._rotary[1]

    def _end(self, sample: Sample) -> nn.Tensor:
        """The prediction for one sample, (1, V, numbers of a patch), on every rank."""
        return sample.split.gather(self.proj_out(self.norm_out(sample.video, sample.time)), "video")


def positions(frames: int, rows: int, columns: int) -> np.ndarray:
    """Positions of the video's tokens: (V, 3) float32 along time, height and width.

    Frames are numbered. Rows and columns have the spacing with which they fill the base area, around its
    middle.
    """
    apart = math.sqrt(BASE_SIDE**2 / (rows * columns))
    along = [np.arange(frames), *(apart * (np.arange(n) + 0.5 - n / 2) for n in (rows, columns))]
    grid = np.meshgrid(*along, indexing="ij")
    return np.stack(grid, -1).reshape(-1, 3).astype(np.float32)


def rotary_angles(frequencies: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Angles (V, heads, S / 2) from learned frequencies (3, heads, S / 2) at positions (V, 3)."""
    angles = at @ frequencies.reshape(3, -1)
    return angles.reshape(len(at), *frequencies.shape[1:])


def _from_patches(x: nn.Tensor, grid: tuple[int, int, int], p: int) -> nn.Tensor:
    """(B, V, numbers of a patch), channels last in a patch, to (B, C, T, H, W)."""
    batch, (frames, rows, columns) = x.shape[0], grid
    pieces = nn.reshape(x, (batch, frames, rows, columns, p, p, -1))
    return nn.reshape(pieces.permute(0, 6, 1, 2, 4, 3, 5), (batch, -1, frames, rows * p, columns * p))


class PatchEmbed(nn.Module):
    """Patches (B, V, numbers of a patch) to tokens (B, V, D)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        p = config.patch_size
        self.proj = nn.Conv2d(config.in_channels, config.inner_dim, p, stride=p)

    def construct(self, patches: nn.Tensor) -> nn.Tensor:
        # Patches do not overlap, so the convolution is one product per patch.
        weight = nn.reshape(self.proj.weight, (self.proj.weight.shape[0], -1))
        return nn.linear(patches, weight, self.proj.bias)


class TimeAndTextEmbedding(nn.Module):
    """Embeds the time and the prompt as a whole, added; and the prompt's tokens, in the text's width."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self._sinusoids = config.time_embed_dim
        self.timestep_embedder = TimestepEmbedding(config.time_embed_dim, config.inner_dim)
        self.pooler = AttentionPool(config.text_embed_dim, config.inner_dim)
        self.caption_proj = nn.Linear(config.text_embed_dim, config.pooled_projection_dim)

    def construct(
        self, timestep: np.ndarray, text: nn.Tensor, mask: np.ndarray
    ) -> tuple[nn.Tensor, nn.Tensor]:
        """timestep (B,), text (B, L, text_embed_dim), mask (B, L) to (B, D), after a SiLU, and (B, L, E)."""
        waves = timestep_embedding(timestep, self._sinusoids, flip_sin_to_cos=True, freq_shift=0.0)
        time = self.timestep_embedder(nn.from_numpy(waves, text.dtype))
        return nn.silu(nn.add(time, self.pooler(text, mask))), self.caption_proj(text)


class AttentionPool(nn.Module):
    """A prompt as one vector: attention from the mean of its tokens to the tokens and to itself."""

    def __init__(self, dim: int, output_dim: int) -> None:
        super().__init__()
        self.to_kv = nn.Linear(dim, 2 * dim)
        self.to_q = nn.Linear(dim, dim)
        self.to_out = nn.Linear(dim, output_dim)

    def construct(self, text: nn.Tensor, mask: np.ndarray) -> nn.Tensor:
        """text (B, L, dim), mask (B, L) to (B, output_dim). The mean of a prompt without tokens is 0."""
        batch, _, dim = text.shape
        # The mean as a product with the tokens' weights.
        shares = mask[:, None, :] / np.maximum(mask.sum(1), 1)[:, None, None]
        mean = nn.matmul(nn.from_numpy(shares.astype(np.float32)), text.astype(nn.float32)).astype(text.dtype)
        keys_values = self.to_kv(nn.cat([mean, text], 1))
        query, key, value = (
            nn.reshape(x, (batch, -1, POOL_HEADS, dim // POOL_HEADS)).permute(0, 2, 1, 3)
            for x in (self.to_q(mean), *nn.chunk(keys_values, 2, -1))
        )
        allowed = np.pad(mask, [(0, 0), (1, 0)], constant_values=True)[:, None, None, :]
        mixed = nn.attention(query, key, value, mask=nn.from_numpy(allowed))
        return self.to_out(nn.reshape(mixed.permute(0, 2, 1, 3), (batch, dim)))


class Gates(nn.Module):
    """The time (1, D) to scales and gates of attention and of feed-forward, each (1, 1, width)."""

    def __init__(self, time_dim: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(time_dim, 4 * width)

    def construct(self, time: nn.Tensor) -> tuple[nn.Tensor, ...]:
        """The first scale plus 1, the first gate after its tanh, and the second ones."""
        scale, gate, ff_scale, ff_gate = nn.chunk(self.linear(time)[:, None, :], 4, -1)
        return nn.add(scale, 1.0), nn.tanh(gate), nn.add(ff_scale, 1.0), nn.tanh(ff_gate)


class Scale(nn.Module):
    """The time (1, D) to a scale before attention, (1, 1, width); for the text in the last block."""

    def __init__(self, time_dim: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(time_dim, width)

    def construct(self, time: nn.Tensor) -> tuple[nn.Tensor, ...]:
        return (nn.add(self.linear_1(time)[:, None, :], 1.0),)


class Block(nn.Module):
    """Attention over video and text together, then feed-forwards; each kind of token has its own weights.

    Args:
        config: The model's config.
        last: Whether this is the last block, after which the text is not needed.
    """

    def __init__(self, config: TransformerConfig, last: bool) -> None:
        super().__init__()
        dim, text_dim = config.inner_dim, config.pooled_projection_dim
        self.norm1 = Gates(dim, dim)
        self.norm1_context = Scale(dim, text_dim) if last else Gates(dim, text_dim)
        self.attn1 = JointAttention(config, last)
        self.ff = _feed_forward(dim, config)
        self.ff_context = None if last else _feed_forward(text_dim, config)

    def construct(self, sample: Sample) -> Sample:
        """The sample with its tokens after this block."""
        video_scale, *video_parts = self.norm1(sample.time)
        text_scale, *text_parts = self.norm1_context(sample.time)
        video, text = self.attn1(_scaled(sample.video, video_scale), _scaled(sample.text, text_scale), sample)
        sample = replace(sample, video=_added(sample.video, video, self.ff, *video_parts))
        if text is None or self.ff_context is None:
            return sample
        return replace(sample, text=_added(sample.text, text, self.ff_context, *text_parts))


def _feed_forward(dim: int, config: TransformerConfig) -> FeedForward:
    return FeedForward(dim, config.activation_fn, 4 * dim * 2 // 3, bias=False)


def _scaled(tokens: nn.Tensor, scale: nn.Tensor) -> nn.Tensor:
    return nn.multiply(nn.rms_norm(tokens, eps=EPS), scale)


def _added(
    tokens: nn.Tensor,
    mixed: nn.Tensor,
    feed_forward: FeedForward,
    gate: nn.Tensor,
    ff_scale: nn.Tensor,
    ff_gate: nn.Tensor,
) -> nn.Tensor:
    """Add the result of attention, then that of the feed-forward, to tokens, each normed and gated."""
    tokens = nn.multiply_add(nn.rms_norm(mixed, eps=EPS), gate, tokens)
    fed = feed_forward(_scaled(tokens, ff_scale))
    return nn.multiply_add(nn.rms_norm(fed, eps=EPS), ff_gate, tokens)


class JointAttention(nn.Module):
    """Attention of video and text, with weights for each, to both."""

    def __init__(self, config: TransformerConfig, last: bool) -> None:
        super().__init__()
        dim, text_dim, size = config.inner_dim, config.pooled_projection_dim, config.attention_head_dim
        self._heads = config.num_attention_heads
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(dim, dim, bias=False)
        self.to_v = nn.Linear(dim, dim, bias=False)
        self.norm_q = nn.RMSNorm(size, HEAD_EPS)
        self.norm_k = nn.RMSNorm(size, HEAD_EPS)
        # In the checkpoint the last block has queries for the text, too, whose results are not used.
        self.add_q_proj = nn.Linear(text_dim, dim, bias=False)
        self.add_k_proj = nn.Linear(text_dim, dim, bias=False)
        self.add_v_proj = nn.Linear(text_dim, dim, bias=False)
        self.norm_added_q = nn.RMSNorm(size, HEAD_EPS)
        self.norm_added_k = nn.RMSNorm(size, HEAD_EPS)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])
        self.to_add_out = None if last else nn.Linear(dim, text_dim)

    def construct(
        self, video: nn.Tensor, text: nn.Tensor, sample: Sample
    ) -> tuple[nn.Tensor, nn.Tensor | None]:
        """video (1, v, D) and text (1, l, E) to the same, without text in the last block."""
        query = apply_rotary(self.norm_q(self._in_heads(self.to_q(video))), sample.rotary)
        key = apply_rotary(self.norm_k(self._in_heads(self.to_k(video))), sample.rotary)
        text_query = self.norm_added_q(self._in_heads(self.add_q_proj(text)))
        text_key = self.norm_added_k(self._in_heads(self.add_k_proj(text)))
        value = self._in_heads(nn.cat([self.to_v(video), self.add_v_proj(text)], 1))
        mixed = attention(nn.cat([query, text_query], 1), nn.cat([key, text_key], 1), value, sample.split)
        batch, length, heads, size = mixed.shape
        mixed = nn.reshape(mixed, (batch, length, heads * size))
        frames = video.shape[1]
        of_text = None if self.to_add_out is None else self.to_add_out(mixed[:, frames:])
        return self.to_out[0](mixed[:, :frames]), of_text

    def _in_heads(self, x: nn.Tensor) -> nn.Tensor:
        """(1, N, D) to (1, N, heads, S)."""
        batch, length, dim = x.shape
        return nn.reshape(x, (batch, length, self._heads, dim // self._heads))
