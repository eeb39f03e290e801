"""HunyuanVideo's diffusion transformer.

Text is refined first, together with the time. Then text and video tokens go through blocks with separate
weights for each and joint attention, and through blocks in which they are one stream. Source: Kong et al.
2024, "HunyuanVideo: A Systematic Framework For Large Video Generative Models" (arXiv:2412.03603), section
4.2; names and numbers are those of diffusers' `HunyuanVideoTransformer3DModel`.

Tokens that pad a prompt are left out once the text is refined: the reference never attends to them, and does
not use their results. Therefore samples of a batch may differ in their number of tokens, and a block runs
them one after another.

Letters: B batch, C channels, T latent frames, H, W latent height and width, L text tokens, V video tokens,
N = L + V, D model width, P width of the pooled text.
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
    joint_rotary,
    modulated,
    to_patches,
)
from vidgen_dist.families.hunyuan_video.config import TransformerConfig
from vidgen_dist.nn.embeddings import rotary_axes, timestep_embedding
from vidgen_dist.nn.rotary import Rotary, apply_rotary
from vidgen_dist.parallel.attention import attention
from vidgen_dist.parallel.blocks import run_blocks
from vidgen_dist.parallel.mesh import Mesh, alone
from vidgen_dist.parallel.token_split import TokenSplit, split_tokens

EPS = 1e-6
"""Epsilon of every norm."""

TIME_CHANNELS = 256
"""Number of sinusoids of a timestep, and of the guidance."""


@dataclass(frozen=True)
class Sample:
    """One sample in the blocks: this rank's tokens, and what belongs to them.

    Args:
        text, video: (1, l, D) and (1, v, D).
        time: Scales, shifts and gates are computed from it, (1, D), after its SiLU.
        rotary: Rotary tables of the tokens, text first.
        split: How the sample's tokens are divided over the ranks.
    """

    text: nn.Tensor
    video: nn.Tensor
    time: nn.Tensor
    rotary: Rotary
    split: TokenSplit


class HunyuanVideoTransformer3DModel(nn.Module):
    """Predicts a video's velocity from noisy latents, text, time and guidance.

    Parameters are named as in diffusers' `state_dict`.

    Args:
        config: `transformer/config.json`.
        mesh: The gang; its ranks share the tokens. By default this process alone.
    """

    # Sharded over the ranks of a gang: see `parallel.sharding`.
    sharded = (
        "context_embedder.token_refiner.refiner_blocks",
        "transformer_blocks",
        "single_transformer_blocks",
    )

    def __init__(self, config: TransformerConfig, mesh: Mesh | None = None) -> None:
        super().__init__()
        self.config = config
        self.mesh = mesh or alone()
        c = self.config
        self.x_embedder = PatchEmbed(c)
        self.context_embedder = TokenRefiner(c)
        self.time_text_embed = ConditionEmbedding(c.inner_dim, c.pooled_projection_dim, c.guidance_embeds)
        self.transformer_blocks = nn.ModuleList([Block(c) for _ in range(c.num_layers)])
        self.single_transformer_blocks = nn.ModuleList([SingleBlock(c) for _ in range(c.num_single_layers)])
        self.norm_out = FinalNorm(c.inner_dim)
        self.proj_out = nn.Linear(c.inner_dim, math.prod(c.patch) * c.output_channels)
        # The last size's table: all steps of a video share it.
        self._tables: tuple[tuple[int, ...], tuple[np.ndarray, np.ndarray]] | None = None

    def construct(
        self,
        hidden_states: nn.Tensor,
        timestep: np.ndarray,
        encoder_hidden_states: nn.Tensor,
        encoder_attention_mask: np.ndarray,
        pooled_projections: nn.Tensor,
        guidance: np.ndarray | None = None,
    ) -> nn.Tensor:
        """
        Args:
            hidden_states: (B, C, T, H, W) noisy latents; the patches must divide these sizes.
            timestep: (B,).
            encoder_hidden_states: (B, L, text_embed_dim), from LLaMA.
            encoder_attention_mask: (B, L), 1 for a prompt's own tokens. So many of the first tokens are kept.
            pooled_projections: (B, pooled_projection_dim), from CLIP.
            guidance: (B,), a thousand times the weight of guidance, for models with `guidance_embeds`.

        Returns:
            (B, out_channels, T, H, W).

        Raises:
            ValueError: Sizes that the patches do not divide, a prompt without tokens, or a missing `guidance`
                that the model needs.
        """
        grid = self._grid(hidden_states.shape)
        mask = np.asarray(encoder_attention_mask) != 0
        if not mask.any(1).all():
            raise ValueError("encoder_attention_mask: a prompt has no token")
        time = nn.silu(self.time_text_embed(timestep, pooled_projections, guidance))
        text = self.context_embedder(encoder_hidden_states, timestep, mask)
        patches = to_patches(hidden_states, self.config.patch)
        samples = run_blocks(
            self.transformer_blocks,
            [
                self._begin(text[i : i + 1, : int(mask[i].sum())], patches[i : i + 1], time[i : i + 1], grid)
                for i in range(len(mask))
            ],
            lambda block, samples: [block(sample) for sample in samples],
        )
        streams = run_blocks(
            self.single_transformer_blocks,
            [nn.cat([sample.text, sample.video], 1) for sample in samples],
            lambda block, streams: [
                block(tokens, sample) for tokens, sample in zip(streams, samples, strict=True)
            ],
        )
        velocities = [self._end(tokens, sample) for tokens, sample in zip(streams, samples, strict=True)]
        whole = velocities[0] if len(velocities) == 1 else nn.cat(velocities, 0)
        return from_patches(whole, grid, self.config.patch)

    def _grid(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Number of tokens along time, height and width."""
        sizes = shape[2:]
        if any(size % patch for size, patch in zip(sizes, self.config.patch, strict=True)):
            raise ValueError(f"latents of {sizes}: patches of {self.config.patch} do not fit")
        frames, rows, columns = (size // patch for size, patch in zip(sizes, self.config.patch, strict=True))
        return frames, rows, columns

    def _begin(
        self, text: nn.Tensor, patches: nn.Tensor, time: nn.Tensor, grid: tuple[int, int, int]
    ) -> Sample:
        """One sample's text (1, L, D), patches and time (1, D), divided over the ranks."""
        split = split_tokens(self.mesh, text=text.shape[1], video=patches.shape[1])
        return Sample(
            text=split.take(text, "text"),
            video=self.x_embedder(split.take(patches, "video")),
            time=time,
            rotary=joint_rotary(self._positions(grid), split),
            split=split,
        )

    def _positions(self, grid: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Rotary table of the video's tokens, counted from the corner."""
        if self._tables is None or self._tables[0] != grid:
            positions = [np.arange(size, dtype=np.float32) for size in grid]
            self._tables = grid, rotary_axes(self.config.rope_axes_dim, positions, self.config.rope_theta)
        return self._tables[1]

    def _end(self, tokens: nn.Tensor, sample: Sample) -> nn.Tensor:
        """The prediction for one sample, (1, V, numbers of a patch), on every rank."""
        video = tokens[:, sample.text.shape[1] :]
        return sample.split.gather(self.proj_out(self.norm_out(video, sample.time)), "video")


def from_patches(x: nn.Tensor, grid: tuple[int, int, int], patch: tuple[int, int, int]) -> nn.Tensor:
    """(B, V, numbers of a patch) to (B, C, T, H, W)."""
    batch, (t, p, q), (frames, rows, columns) = x.shape[0], patch, grid
    pieces = nn.reshape(x, (batch, frames, rows, columns, -1, t, p, q))
    return nn.reshape(pieces.permute(0, 4, 1, 5, 2, 6, 3, 7), (batch, -1, frames * t, rows * p, columns * q))


class PatchEmbed(nn.Module):
    """Patches (B, V, numbers of a patch) to tokens (B, V, D)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.proj = nn.Conv3d(config.in_channels, config.inner_dim, config.patch, stride=config.patch)

    def construct(self, patches: nn.Tensor) -> nn.Tensor:
        # Patches do not overlap, so the convolution is one product per patch.
        weight = nn.reshape(self.proj.weight, (self.proj.weight.shape[0], -1))
        return nn.linear(patches, weight, self.proj.bias)


class ConditionEmbedding(nn.Module):
    """Embeds time, pooled text and, if the model has it, guidance; their sum."""

    def __init__(self, dim: int, pooled_dim: int, guidance: bool) -> None:
        super().__init__()
        self.timestep_embedder = TimestepEmbedding(TIME_CHANNELS, dim)
        self.text_embedder = TextProjection(pooled_dim, dim)
        self.guidance_embedder = TimestepEmbedding(TIME_CHANNELS, dim) if guidance else None

    def construct(
        self, timestep: np.ndarray, pooled: nn.Tensor, guidance: np.ndarray | None = None
    ) -> nn.Tensor:
        """timestep (B,), pooled (B, P), guidance (B,) to (B, D)."""
        added = nn.add(self.timestep_embedder(_sinusoids(timestep, pooled.dtype)), self.text_embedder(pooled))
        if self.guidance_embedder is None:
            return added
        if guidance is None:
            raise ValueError("guidance is missing, and this model's config has guidance_embeds")
        return nn.add(added, self.guidance_embedder(_sinusoids(guidance, pooled.dtype)))


def _sinusoids(values: np.ndarray, dtype: Any) -> nn.Tensor:
    return nn.from_numpy(
        timestep_embedding(values, TIME_CHANNELS, flip_sin_to_cos=True, freq_shift=0.0), dtype
    )


class TextProjection(nn.Module):
    """Two linear maps with SiLU between them, (B, P) to (B, D)."""

    def __init__(self, pooled_dim: int, dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(pooled_dim, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def construct(self, pooled: nn.Tensor) -> nn.Tensor:
        return self.linear_2(nn.silu(self.linear_1(pooled)))


class TokenRefiner(nn.Module):
    """Bidirectional self-attention over the text, before it meets the video."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.time_text_embed = ConditionEmbedding(config.inner_dim, config.text_embed_dim, guidance=False)
        self.proj_in = nn.Linear(config.text_embed_dim, config.inner_dim)
        self.token_refiner = RefinerStack(config)

    def construct(self, text: nn.Tensor, timestep: np.ndarray, mask: np.ndarray) -> nn.Tensor:
        """text (B, L, text_embed_dim), timestep (B,), mask (B, L) to (B, L, D)."""
        # The mean of a prompt's own tokens, as a product with their weights.
        shares = mask[:, None, :] / mask.sum(1)[:, None, None]
        pooled = nn.matmul(nn.from_numpy(shares.astype(np.float32)), text.astype(nn.float32))
        time = nn.silu(self.time_text_embed(timestep, pooled[:, 0].astype(text.dtype)))
        return self.token_refiner(self.proj_in(text), time, nn.from_numpy(refiner_mask(mask)))


def refiner_mask(mask: np.ndarray) -> np.ndarray:
    """The refiner's attention mask, (B, 1, L, L): own tokens see each other, all see the first."""
    allowed = mask[:, None, :, None] & mask[:, None, None, :]
    allowed[..., 0] = True
    return allowed


class RefinerStack(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.refiner_blocks = nn.ModuleList([RefinerBlock(config) for _ in range(config.num_refiner_layers)])

    def construct(self, text: nn.Tensor, time: nn.Tensor, mask: nn.Tensor) -> nn.Tensor:
        (text,) = run_blocks(
            self.refiner_blocks, [text], lambda block, streams: [block(*streams, time, mask)]
        )
        return text


class RefinerBlock(nn.Module):
    """Self-attention, then a feed-forward, each gated by the time."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.inner_dim, EPS)
        self.attn = RefinerAttention(config)
        self.norm2 = nn.LayerNorm(config.inner_dim, EPS)
        # Four times as wide, whatever mlp_ratio is for the other blocks.
        self.ff = FeedForward(config.inner_dim, "linear-silu")
        self.norm_out = Modulation(config.inner_dim)

    def construct(self, text: nn.Tensor, time: nn.Tensor, mask: nn.Tensor) -> nn.Tensor:
        """text (B, L, D), time (B, D) after its SiLU, mask (B, 1, L, L) to (B, L, D)."""
        gate, ff_gate = self.norm_out(time)
        text = nn.multiply_add(self.attn(self.norm1(text), mask), gate, text)
        return nn.multiply_add(self.ff(self.norm2(text)), ff_gate, text)


class RefinerAttention(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim = config.inner_dim
        self._heads = config.num_attention_heads
        self.to_q = nn.Linear(dim, dim)
        self.to_k = nn.Linear(dim, dim)
        self.to_v = nn.Linear(dim, dim)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])

    def construct(self, text: nn.Tensor, mask: nn.Tensor) -> nn.Tensor:
        """text (B, L, D), mask (B, 1, L, L) to (B, L, D)."""
        batch, length, dim = text.shape
        heads = (batch, length, self._heads, dim // self._heads)
        query, key, value = (
            nn.reshape(linear(text), heads).permute(0, 2, 1, 3)
            for linear in (self.to_q, self.to_k, self.to_v)
        )
        mixed = nn.attention(query, key, value, mask=mask)
        return self.to_out[0](nn.reshape(mixed.permute(0, 2, 1, 3), (batch, length, dim)))


class Modulation(nn.Module):
    """A linear map of the time (B, D) to two gates (B, 1, D)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, 2 * dim)

    def construct(self, time: nn.Tensor) -> tuple[nn.Tensor, ...]:
        return nn.chunk(self.linear(time)[:, None, :], 2, -1)


class AdaptiveNorm(nn.Module):
    """Layer norm of tokens (B, N, D), shifted and scaled by the time (B, D).

    The other parts of the time's map are returned with them, (B, 1, D) each.
    """

    def __init__(self, dim: int, parts: int) -> None:
        super().__init__()
        self._parts = parts
        self.linear = nn.Linear(dim, parts * dim)

    def construct(self, tokens: nn.Tensor, time: nn.Tensor) -> tuple[nn.Tensor, ...]:
        shift, scale, *others = nn.chunk(self.linear(time)[:, None, :], self._parts, -1)
        return modulated(tokens, shift, scale), *others


class Block(nn.Module):
    """Attention over text and video together, then feed-forwards; each kind of token has its own weights."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim = config.inner_dim
        self.norm1 = AdaptiveNorm(dim, 6)
        self.norm1_context = AdaptiveNorm(dim, 6)
        self.attn = JointAttention(config)
        self.ff = FeedForward(dim, "gelu-approximate", config.mlp_dim)
        self.ff_context = FeedForward(dim, "gelu-approximate", config.mlp_dim)

    def construct(self, sample: Sample) -> Sample:
        text, text_gate, *text_parts = self.norm1_context(sample.text, sample.time)
        video, video_gate, *video_parts = self.norm1(sample.video, sample.time)
        text, video = self.attn(text, video, sample)
        text = nn.multiply_add(text, text_gate, sample.text)
        video = nn.multiply_add(video, video_gate, sample.video)
        return replace(
            sample,
            text=_fed_forward(text, self.ff_context, *text_parts),
            video=_fed_forward(video, self.ff, *video_parts),
        )


def _fed_forward(
    tokens: nn.Tensor, feed_forward: FeedForward, shift: nn.Tensor, scale: nn.Tensor, gate: nn.Tensor
) -> nn.Tensor:
    return nn.multiply_add(feed_forward(modulated(tokens, shift, scale)), gate, tokens)


class JointAttention(nn.Module):
    """Attention of text and video, with weights for each, to both."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim, size = config.inner_dim, config.attention_head_dim
        self._heads = config.num_attention_heads
        self.to_q = nn.Linear(dim, dim)
        self.to_k = nn.Linear(dim, dim)
        self.to_v = nn.Linear(dim, dim)
        self.norm_q = nn.RMSNorm(size, EPS)
        self.norm_k = nn.RMSNorm(size, EPS)
        self.add_q_proj = nn.Linear(dim, dim)
        self.add_k_proj = nn.Linear(dim, dim)
        self.add_v_proj = nn.Linear(dim, dim)
        self.norm_added_q = nn.RMSNorm(size, EPS)
        self.norm_added_k = nn.RMSNorm(size, EPS)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])
        self.to_add_out = nn.Linear(dim, dim)

    def construct(self, text: nn.Tensor, video: nn.Tensor, sample: Sample) -> tuple[nn.Tensor, nn.Tensor]:
        """text (1, l, D) and video (1, v, D) to the same."""

        def heads(of_text: nn.Linear, of_video: nn.Linear) -> tuple[nn.Tensor, nn.Tensor]:
            return _in_heads(of_text(text), self._heads), _in_heads(of_video(video), self._heads)

        queries = heads(self.add_q_proj, self.to_q)
        keys = heads(self.add_k_proj, self.to_k)
        query = nn.cat([self.norm_added_q(queries[0]), self.norm_q(queries[1])], 1)
        key = nn.cat([self.norm_added_k(keys[0]), self.norm_k(keys[1])], 1)
        mixed = _attend(query, key, nn.cat(heads(self.add_v_proj, self.to_v), 1), sample)
        length = text.shape[1]
        return self.to_add_out(mixed[:, :length]), self.to_out[0](mixed[:, length:])


class SingleBlock(nn.Module):
    """Attention and a feed-forward in parallel, over text and video as one stream."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim = config.inner_dim
        self.norm = AdaptiveNorm(dim, 3)
        self.attn = Attention(config)
        self.proj_mlp = nn.Linear(dim, config.mlp_dim)
        self.proj_out = nn.Linear(dim + config.mlp_dim, dim)

    def construct(self, tokens: nn.Tensor, sample: Sample) -> nn.Tensor:
        """(1, N, D) to (1, N, D), text first, of this rank's tokens."""
        normed, gate = self.norm(tokens, sample.time)
        mixed = self.attn(normed, sample)
        hidden = nn.activated_linear(normed, self.proj_mlp.weight, self.proj_mlp.bias, "gelu_tanh")
        return nn.multiply_add(self.proj_out(nn.cat([mixed, hidden], 2)), gate, tokens)


class Attention(nn.Module):
    """Attention over one stream; the block has its output map."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim = config.inner_dim
        self._heads = config.num_attention_heads
        self.to_q = nn.Linear(dim, dim)
        self.to_k = nn.Linear(dim, dim)
        self.to_v = nn.Linear(dim, dim)
        self.norm_q = nn.RMSNorm(config.attention_head_dim, EPS)
        self.norm_k = nn.RMSNorm(config.attention_head_dim, EPS)

    def construct(self, tokens: nn.Tensor, sample: Sample) -> nn.Tensor:
        """(1, N, D) to (1, N, D), text first."""
        query = self.norm_q(_in_heads(self.to_q(tokens), self._heads))
        key = self.norm_k(_in_heads(self.to_k(tokens), self._heads))
        return _attend(query, key, _in_heads(self.to_v(tokens), self._heads), sample)


def _in_heads(x: nn.Tensor, heads: int) -> nn.Tensor:
    """(1, N, D) to (1, N, heads, head size)."""
    batch, length, dim = x.shape
    return nn.reshape(x, (batch, length, heads, dim // heads))


def _attend(query: nn.Tensor, key: nn.Tensor, value: nn.Tensor, sample: Sample) -> nn.Tensor:
    """Queries, keys and values (1, N, heads, head size), text first, to (1, N, D)."""
    query, key = apply_rotary(query, sample.rotary), apply_rotary(key, sample.rotary)
    mixed = attention(query, key, value, sample.split)
    batch, length, heads, size = mixed.shape
    return nn.reshape(mixed, (batch, length, heads * size))
