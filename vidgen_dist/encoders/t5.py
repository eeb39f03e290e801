"""T5's encoder: the text encoder of CogVideoX, Mochi and LTX-Video.

Sources: Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
Transformer" (arXiv:1910.10683); gated feed-forward, Shazeer 2020 (arXiv:2002.05202). Names and numbers
are those of transformers' `T5EncoderModel`.

Letters: B batch, L tokens, D model width, S width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from vidgen_dist import nn
from vidgen_dist.encoders.config import T5Config
from vidgen_dist.nn.activations import of_transformers
from vidgen_dist.parallel.blocks import run_blocks


class T5Encoder(nn.Module):
    """Token ids to one embedding each.

    Parameters are named as in transformers' `T5EncoderModel`, with the tied token table once
    (`shared.weight`).

    Args:
        config: `text_encoder/config.json`.
    """

    # Sharded over the ranks of a gang: see `parallel.sharding`.
    sharded = ("shared", "encoder.block")

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = T5Stack(config)

    def own_key(self, key: str) -> str | None:
        """The module's name for a checkpoint's key, for `load_weights`.

        The token table is one parameter, `shared.weight`. Checkpoints store it under that name, as
        `encoder.embed_tokens.weight`, or under both, the same tensor twice. Both keys map to the one
        parameter, and `load_weights` then reads the one called `shared.weight`. The decoder of a whole T5 is
        left out.
        """
        if key == "encoder.embed_tokens.weight":
            return "shared.weight"
        return None if key.startswith("decoder.") or key == "lm_head.weight" else key

    def construct(
        self, input_ids: nn.Tensor | np.ndarray, attention_mask: nn.Tensor | np.ndarray | None = None
    ) -> nn.Tensor:
        """
        Args:
            input_ids: (B, L) integers below `vocab_size`.
            attention_mask: (B, L), 1 for tokens that may be attended to; None: all, as CogVideoX has it.

        Returns:
            (B, L, D).
        """
        ids = (
            input_ids if isinstance(input_ids, nn.Tensor) else nn.from_numpy(np.asarray(input_ids, np.int32))
        )
        mask = None
        if attention_mask is not None:
            keep = nn.to_numpy(attention_mask) if isinstance(attention_mask, nn.Tensor) else attention_mask
            mask = nn.from_numpy(np.asarray(keep) != 0).reshape(ids.shape[0], 1, 1, ids.shape[1])
        return self.encoder(self.shared(ids), mask)


class T5Stack(nn.Module):
    """The blocks. All of them use the first block's relative position bias."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.block = nn.ModuleList([Block(config, has_bias=index == 0) for index in range(config.num_layers)])
        self.final_layer_norm = nn.RMSNorm(config.d_model, config.layer_norm_epsilon)

    def construct(self, hidden: nn.Tensor, mask: nn.Tensor | None) -> nn.Tensor:
        """hidden (B, L, D), mask (B, 1, 1, L) to (B, L, D)."""
        length, bias = hidden.shape[1], None

        def run(block: nn.Module, tokens: Sequence[nn.Tensor]) -> list[nn.Tensor]:
            nonlocal bias
            if bias is None:
                # Computed here, because the first block may have its weights only while it runs.
                bias = block.layer[0].SelfAttention.position_bias(length)
            return [block(*tokens, bias, mask)]

        (hidden,) = run_blocks(self.block, [hidden], run)
        return self.final_layer_norm(hidden)


class Block(nn.Module):
    """Self-attention, then a feed-forward, each with a norm in front and a residual."""

    def __init__(self, config: T5Config, has_bias: bool) -> None:
        super().__init__()
        self.layer = nn.ModuleList([SelfAttentionLayer(config, has_bias), FeedForwardLayer(config)])

    def construct(self, hidden: nn.Tensor, bias: nn.Tensor, mask: nn.Tensor | None) -> nn.Tensor:
        hidden = _finite(self.layer[0](hidden, bias, mask))
        return _finite(self.layer[1](hidden))


class SelfAttentionLayer(nn.Module):
    def __init__(self, config: T5Config, has_bias: bool) -> None:
        super().__init__()
        self.SelfAttention = Attention(config, has_bias)
        self.layer_norm = nn.RMSNorm(config.d_model, config.layer_norm_epsilon)

    def construct(self, hidden: nn.Tensor, bias: nn.Tensor, mask: nn.Tensor | None) -> nn.Tensor:
        return nn.add(hidden, self.SelfAttention(self.layer_norm(hidden), bias, mask))


class Attention(nn.Module):
    """Attention without biases, and without scaling by the head's width."""

    def __init__(self, config: T5Config, has_bias: bool) -> None:
        super().__init__()
        self._heads, self._head_dim = config.num_heads, config.d_kv
        inner = config.num_heads * config.d_kv
        self.q = nn.Linear(config.d_model, inner, bias=False)
        self.k = nn.Linear(config.d_model, inner, bias=False)
        self.v = nn.Linear(config.d_model, inner, bias=False)
        self.o = nn.Linear(inner, config.d_model, bias=False)
        self._buckets = config.relative_attention_num_buckets
        self._max_distance = config.relative_attention_max_distance
        if has_bias:
            self.relative_attention_bias = nn.Embedding(self._buckets, self._heads)

    def position_bias(self, length: int) -> nn.Tensor:
        """(1, heads, L, L): what each head adds to the scores of queries and keys."""
        buckets = relative_buckets(length, self._buckets, self._max_distance)
        # A copy, because every layer adds it to its scores.
        return nn.copy(self.relative_attention_bias(nn.from_numpy(buckets)).permute(2, 0, 1)[None])

    def construct(self, hidden: nn.Tensor, bias: nn.Tensor, mask: nn.Tensor | None) -> nn.Tensor:
        """hidden (B, L, D), bias (1, heads, L, L), mask (B, 1, 1, L) to (B, L, D)."""
        batch, length, _ = hidden.shape
        split = (batch, length, self._heads, self._head_dim)
        query, key, value = (
            linear(hidden).reshape(split).permute(0, 2, 1, 3) for linear in (self.q, self.k, self.v)
        )
        mixed = nn.attention(query, key, value, mask=mask, bias=bias, scale=1.0)
        return self.o(nn.reshape(mixed.permute(0, 2, 1, 3), (batch, length, -1)))


class FeedForwardLayer(nn.Module):
    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.DenseReluDense = FeedForward(config)
        self.layer_norm = nn.RMSNorm(config.d_model, config.layer_norm_epsilon)

    def construct(self, hidden: nn.Tensor) -> nn.Tensor:
        return nn.add(hidden, self.DenseReluDense(self.layer_norm(hidden)))


class FeedForward(nn.Module):
    """Two linear maps, or three with a gate (T5 v1.1), without biases."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self._gated, self._activation = config.gated, of_transformers(config.activation)
        if self._gated:
            self.wi_0 = nn.Linear(config.d_model, config.d_ff, bias=False)
            self.wi_1 = nn.Linear(config.d_model, config.d_ff, bias=False)
        else:
            self.wi = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)

    def construct(self, hidden: nn.Tensor) -> nn.Tensor:
        if self._gated:
            return self.wo(nn.multiply(self._activation(self.wi_0(hidden)), self.wi_1(hidden)))
        return self.wo(self._activation(self.wi(hidden)))


def relative_buckets(length: int, buckets: int, max_distance: int) -> np.ndarray:
    """The bucket of each key's distance from each query, (L, L) int32, queries first.

    Half of the buckets are for keys after the query. In each half, the first half of the buckets holds one
    distance each; the others grow by equal factors up to `max_distance`, and the last holds all beyond that.
    """
    positions = np.arange(length)
    # An entry depends on key - query alone: 2L - 1 values, from the farthest before to the farthest after.
    offsets = np.arange(1 - length, length)
    distance, half = np.abs(offsets), buckets // 2
    exact = half // 2
    # float32 as in the reference: where a boundary is a whole distance, rounding must give the same result.
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    far = ratio / np.float32(math.log(max_distance / exact)) * np.float32(half - exact)
    bucket = np.where(distance < exact, distance, np.minimum(exact + far.astype(np.int64), half - 1))
    bucket = bucket + half * (offsets > 0)
    return bucket[positions[None, :] - positions[:, None] + length - 1].astype(np.int32)


def _finite(hidden: nn.Tensor) -> nn.Tensor:
    """Clamp to float16's range less 1000, as transformers does: T5's residuals overflow in half precision."""
    return nn.clip(hidden, -64504.0, 64504.0) if hidden.dtype == nn.float16 else hidden
