"""CogVideoX's diffusion transformer: 2b, 5b, 1.5, and their image-to-video forms.

Each block has one attention and one feed-forward for text and video tokens together, and an adaptive layer
norm for each of the two. Source: Yang et al. 2024, "CogVideoX: Text-to-Video Diffusion Models with An Expert
Transformer" (arXiv:2408.06072); names and numbers are those of diffusers' `CogVideoXTransformer3DModel`.

Letters: B batch, T latent frames, C channels, H, W latent height and width, L text tokens, V video
tokens, N = L + V, D model width, E width of the time embedding.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vidgen_dist import nn
from vidgen_dist.families.cogvideox.config import TransformerConfig
from vidgen_dist.families.common.layers import FeedForward, TimestepEmbedding, joint_rotary
from vidgen_dist.nn.embeddings import rotary_3d, sincos_3d, timestep_embedding
from vidgen_dist.nn.rotary import Rotary, apply_rotary
from vidgen_dist.parallel.attention import attention
from vidgen_dist.parallel.blocks import run_blocks
from vidgen_dist.parallel.mesh import Mesh, alone
from vidgen_dist.parallel.token_split import TokenSplit, split_tokens
from vidgen_dist.request import RequestError


def rotary_positions(
    config: TransformerConfig, height: int, width: int, latent_frames: int, vae_scale_factor_spatial: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rotary table of a video's tokens.

    CogVideoX 1.0 stretches the video's grid over that of the training size, keeping its aspect ratio; 1.5
    counts tokens from the corner, up to the training size.

    Args:
        config: The transformer's config.
        height, width: Size of the video in pixels.
        latent_frames: Latent frames, including those that 1.5 adds for a multiple of `patch_size_t`.
        vae_scale_factor_spatial: Pixels per latent pixel.

    Returns:
        (cos, sin), each (V, attention_head_dim) float32.

    Raises:
        RequestError: A height or width above the training size of a 1.5 model.
    """
    patch = vae_scale_factor_spatial * config.patch_size
    rows, columns = height // patch, width // patch
    base_rows = config.sample_height // config.patch_size
    base_columns = config.sample_width // config.patch_size
    t = np.arange(-(-latent_frames // config.frames_per_patch), dtype=np.float32)
    if config.patch_size_t is None:
        (top, bottom), (left, right) = _fit(rows, columns, base_rows, base_columns)
        y = _spread(top, bottom, rows)
        x = _spread(left, right, columns)
    else:
        for field, value, count, most in (
            ("height", height, rows, base_rows),
            ("width", width, columns, base_columns),
        ):
            if count > most:
                raise RequestError(field, value, f"this model has positions up to {most * patch}")
        y, x = np.arange(rows, dtype=np.float32), np.arange(columns, dtype=np.float32)
    return rotary_3d(config.attention_head_dim, t, y, x)


def _fit(
    rows: int, columns: int, base_rows: int, base_columns: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The centred region, in base tokens, that the scaled grid covers: (top, bottom), (left, right)."""
    if rows / columns > base_rows / base_columns:
        fitted_rows, fitted_columns = base_rows, round(base_rows / rows * columns)
    else:
        fitted_rows, fitted_columns = round(base_columns / columns * rows), base_columns
    top = round((base_rows - fitted_rows) / 2)
    left = round((base_columns - fitted_columns) / 2)
    return (top, top + fitted_rows), (left, left + fitted_columns)


def _spread(start: int, stop: int, count: int) -> np.ndarray:
    """`count` evenly spaced positions from `start`, the last one at stop * (count - 1) / count."""
    return np.linspace(start, stop * (count - 1) / count, count, dtype=np.float32)


class CogVideoXTransformer3DModel(nn.Module):
    """Predicts a video's noise (or velocity, depending on the scheduler) from noisy latents, text and time.

    Parameters are named as in diffusers' `state_dict`. `patch_embed.pos_embedding` is a parameter if the
    config has `use_learned_positional_embeddings`; the sincos table of 2b is computed, for any size.

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
        self.time_embedding = TimestepEmbedding(c.inner_dim, c.time_embed_dim, c.timestep_activation_fn)
        if c.ofs_embed_dim is not None:
            self.ofs_embedding = TimestepEmbedding(c.ofs_embed_dim, c.ofs_embed_dim, c.timestep_activation_fn)
        self.transformer_blocks = nn.ModuleList([Block(c) for _ in range(c.num_layers)])
        self.norm_final = nn.LayerNorm(c.inner_dim, c.norm_eps, c.norm_elementwise_affine)
        self.norm_out = FinalNorm(c)
        self.proj_out = nn.Linear(c.inner_dim, c.frames_per_patch * c.patch_size**2 * c.out_channels)

    def construct(
        self,
        hidden_states: nn.Tensor,
        encoder_hidden_states: nn.Tensor,
        timestep: nn.Tensor | np.ndarray,
        image_rotary_emb: tuple[nn.Tensor | np.ndarray, nn.Tensor | np.ndarray] | None = None,
        ofs: nn.Tensor | np.ndarray | None = None,
    ) -> nn.Tensor:
        """
        Args:
            hidden_states: (B, T, C, H, W) noisy latents; for image-to-video C includes the image's latents. T
                is a multiple of `patch_size_t`, H and W of `patch_size`.
            encoder_hidden_states: (B, L, text_embed_dim), from T5.
            timestep: (B,).
            image_rotary_emb: (cos, sin) of `rotary_positions`, each (V, attention_head_dim).
            ofs: (1,) or (B,), for models with `ofs_embed_dim`.

        Returns:
            (B, T, out_channels, H, W).

        Raises:
            ValueError: Sizes that the patches do not divide, a size other than that of learned positions, or
                a missing `ofs`.
        """
        batch, frames, _, height, width = hidden_states.shape
        dtype = hidden_states.dtype
        time = nn.silu(self._time(timestep, ofs, dtype))
        p, pt = self.config.patch_size, self.config.frames_per_patch
        tokens = frames // pt * (height // p) * (width // p)
        split = split_tokens(self.mesh, text=encoder_hidden_states.shape[1], video=tokens)
        rotary = None
        if image_rotary_emb is not None:
            rotary = joint_rotary([_array(table) for table in image_rotary_emb], split)
        _, video = run_blocks(
            self.transformer_blocks,
            self.patch_embed(encoder_hidden_states, hidden_states, split),
            lambda block, streams: block(*streams, time, rotary, split),
        )
        video = self.proj_out(self.norm_out(self.norm_final(video), time))
        return self._unpatchify(split.gather(video, "video"), batch, frames, height, width)

    def _time(self, timestep: Any, ofs: Any, dtype: Any) -> nn.Tensor:
        """(B, E)."""
        time = self.time_embedding(self._sinusoids(timestep, self.config.inner_dim, dtype))
        if self.config.ofs_embed_dim is None:
            return time
        if ofs is None:
            raise ValueError("ofs is missing, and this model's config has ofs_embed_dim")
        return nn.add(time, self.ofs_embedding(self._sinusoids(ofs, self.config.ofs_embed_dim, dtype)))

    def _sinusoids(self, steps: Any, dim: int, dtype: Any) -> nn.Tensor:
        c = self.config
        waves = timestep_embedding(
            _array(steps), dim, flip_sin_to_cos=c.flip_sin_to_cos, freq_shift=c.freq_shift
        )
        return nn.from_numpy(waves, dtype)

    def _unpatchify(self, tokens: nn.Tensor, batch: int, frames: int, height: int, width: int) -> nn.Tensor:
        """(B, V, channels of a patch) to (B, T, C, H, W)."""
        p, pt, channels = self.config.patch_size, self.config.frames_per_patch, self.config.out_channels
        patches = nn.reshape(tokens, (batch, frames // pt, height // p, width // p, channels, pt, p, p))
        return nn.reshape(patches.permute(0, 1, 5, 4, 2, 6, 3, 7), (batch, frames, channels, height, width))


class PatchEmbed(nn.Module):
    """Turns latents and text into tokens, with the position table if the model has one."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        c, p = config, config.patch_size
        if c.patch_size_t is None:
            self.proj = nn.Conv2d(c.in_channels, c.inner_dim, p, stride=p, bias=c.patch_bias)
        else:
            # `patch_bias` is about 1.0's convolution: 1.5's checkpoints say false, but have this bias.
            self.proj = nn.Linear(c.in_channels * c.patch_size_t * p * p, c.inner_dim)
        self.text_proj = nn.Linear(c.text_embed_dim, c.inner_dim)
        if c.use_learned_positional_embeddings:
            tokens = int(np.prod(self._grid(c.sample_frames, c.sample_height, c.sample_width)))
            shape = (1, c.max_text_seq_length + tokens, c.inner_dim)
            self.pos_embedding = nn.empty_parameter(shape, "pos_embedding")
        # The table for the last size: all steps of a video share it.
        self._table: tuple[Any, nn.Tensor] | None = None

    def construct(self, text: nn.Tensor, video: nn.Tensor, split: TokenSplit) -> tuple[nn.Tensor, nn.Tensor]:
        """(B, L, text_embed_dim) and (B, T, C, H, W) to this rank's part of (B, L, D) and (B, V, D)."""
        _, frames, _, height, width = video.shape
        patches = self._patchify(video)
        positions = self._positions(text.shape[1], frames, height, width, patches.dtype)
        text = self.text_proj(split.take(text, "text"))
        # Patches do not overlap, so the convolution is one product per patch.
        weight = nn.reshape(self.proj.weight, (self.proj.weight.shape[0], -1))
        tokens = nn.linear(split.take(patches, "video"), weight, self.proj.bias)
        if "text" in positions:
            text = nn.add(text, split.take(positions["text"], "text"))
        if "video" in positions:
            tokens = nn.add(tokens, split.take(positions["video"], "video"))
        return text, tokens

    def _patchify(self, video: nn.Tensor) -> nn.Tensor:
        """(B, T, C, H, W) to (B, V, C * patch_size_t * patch_size * patch_size)."""
        batch, frames, channels, height, width = video.shape
        p, pt = self.config.patch_size, self.config.frames_per_patch
        if frames % pt or height % p or width % p:
            raise ValueError(
                f"latents of {frames} frames, {height}x{width}: patches of {pt} frames, {p}x{p} do not fit"
            )
        patches = nn.reshape(video, (batch, frames // pt, pt, channels, height // p, p, width // p, p))
        return nn.reshape(patches.permute(0, 1, 4, 6, 3, 2, 5, 7), (batch, -1, channels * pt * p * p))

    def _positions(
        self, text_length: int, frames: int, height: int, width: int, dtype: Any
    ) -> dict[str, nn.Tensor]:
        """What is added to the tokens of streams with positions: (1, L, D) and (1, V, D)."""
        c = self.config
        if not c.has_position_table:
            return {}
        video_frames = (frames - 1) * c.temporal_compression_ratio + 1
        if c.use_learned_positional_embeddings:
            if (height, width) != (c.sample_height, c.sample_width):
                raise ValueError(
                    f"latents of {height}x{width}: the learned positions are for "
                    f"{c.sample_height}x{c.sample_width} only"
                )
            if video_frames == c.sample_frames:
                if text_length != c.max_text_seq_length:
                    raise ValueError(
                        f"{text_length} text tokens: the learned positions are for {c.max_text_seq_length}"
                    )
                table = self.pos_embedding.astype(dtype)
                return {"text": table[:, :text_length], "video": table[:, text_length:]}
        # Text tokens have no positions: their part of diffusers' table is zero.
        return {"video": self._sincos(video_frames, height, width, dtype)}

    def _sincos(self, video_frames: int, height: int, width: int, dtype: Any) -> nn.Tensor:
        """(1, V, D)."""
        c = self.config
        key = (video_frames, height, width, dtype)
        if self._table is None or self._table[0] != key:
            table = sincos_3d(
                c.inner_dim,
                self._grid(video_frames, height, width),
                spatial_interpolation_scale=c.spatial_interpolation_scale,
                temporal_interpolation_scale=c.temporal_interpolation_scale,
            )
            self._table = (key, nn.from_numpy(table[None], dtype))
        return self._table[1]

    def _grid(self, video_frames: int, height: int, width: int) -> tuple[int, int, int]:
        c = self.config
        latent_frames = (video_frames - 1) // c.temporal_compression_ratio + 1
        return latent_frames, height // c.patch_size, width // c.patch_size


class Block(nn.Module):
    """Attention over text and video together, then a feed-forward; the time scales, shifts and gates the two
    kinds of token separately."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm1 = ExpertNorm(config)
        self.attn1 = Attention(config)
        self.norm2 = ExpertNorm(config)
        self.ff = FeedForward(config.inner_dim, config.activation_fn)

    def construct(
        self, text: nn.Tensor, video: nn.Tensor, time: nn.Tensor, rotary: Rotary | None, split: TokenSplit
    ) -> tuple[nn.Tensor, nn.Tensor]:
        """text (B, L, D), video (B, V, D), both this rank's part, time (B, E) after its SiLU: the new text
        and video."""
        tokens, text_gate, video_gate = self.norm1(text, video, time)
        text, video = _add_gated(text, video, self.attn1(tokens, rotary, split), text_gate, video_gate)
        tokens, text_gate, video_gate = self.norm2(text, video, time)
        return _add_gated(text, video, self.ff(tokens), text_gate, video_gate)


def _add_gated(
    text: nn.Tensor, video: nn.Tensor, update: nn.Tensor, text_gate: nn.Tensor, video_gate: nn.Tensor
) -> tuple[nn.Tensor, nn.Tensor]:
    """Add update (B, N, D), text first, to the two streams; gates are (B, 1, D)."""
    length = text.shape[1]
    return (
        nn.multiply_add(update[:, :length], text_gate, text),
        nn.multiply_add(update[:, length:], video_gate, video),
    )


class ExpertNorm(nn.Module):
    """Adaptive layer norm with separate scale, shift and gate for text and for video."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(config.time_embed_dim, 6 * config.inner_dim)
        self.norm = nn.LayerNorm(config.inner_dim, config.norm_eps, config.norm_elementwise_affine)

    def construct(
        self, text: nn.Tensor, video: nn.Tensor, time: nn.Tensor
    ) -> tuple[nn.Tensor, nn.Tensor, nn.Tensor]:
        """The joint tokens (B, N, D), text first, and the gates of text and video, (B, 1, D) each."""
        modulation = self.linear(time)[:, None, :]
        shift, scale, gate, text_shift, text_scale, text_gate = nn.chunk(modulation, 6, -1)
        tokens = nn.cat([self.norm(text, text_scale, text_shift), self.norm(video, scale, shift)], 1)
        return tokens, text_gate, gate


class FinalNorm(nn.Module):
    """Adaptive layer norm of the video tokens before the output projection."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(config.time_embed_dim, 2 * config.inner_dim)
        self.norm = nn.LayerNorm(config.inner_dim, config.norm_eps, config.norm_elementwise_affine)

    def construct(self, video: nn.Tensor, time: nn.Tensor) -> nn.Tensor:
        shift, scale = nn.chunk(self.linear(time)[:, None, :], 2, -1)
        return self.norm(video, scale, shift)


class Attention(nn.Module):
    """Self-attention with a layer norm on each head's queries and keys."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim, head_dim = config.inner_dim, config.attention_head_dim
        self._heads = config.num_attention_heads
        self.to_q = nn.Linear(dim, dim, bias=config.attention_bias)
        self.to_k = nn.Linear(dim, dim, bias=config.attention_bias)
        self.to_v = nn.Linear(dim, dim, bias=config.attention_bias)
        self.norm_q = nn.LayerNorm(head_dim, 1e-6)
        self.norm_k = nn.LayerNorm(head_dim, 1e-6)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])

    def construct(self, tokens: nn.Tensor, rotary: Rotary | None, split: TokenSplit) -> nn.Tensor:
        """(B, N, D) to (B, N, D), of this rank's tokens."""
        batch, length, dim = tokens.shape
        heads = (batch, length, self._heads, dim // self._heads)
        query = self.norm_q(self.to_q(tokens).reshape(heads))
        key = self.norm_k(self.to_k(tokens).reshape(heads))
        value = self.to_v(tokens).reshape(heads)
        if rotary is not None:
            query, key = apply_rotary(query, rotary), apply_rotary(key, rotary)
        mixed = attention(query, key, value, split)
        return self.to_out[0](nn.reshape(mixed, (batch, length, dim)))


def _array(x: Any) -> np.ndarray:
    return nn.to_numpy(x) if isinstance(x, nn.Tensor) else np.asarray(x)
