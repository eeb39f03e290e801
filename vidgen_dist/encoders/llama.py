"""LLaMA as a text encoder: the hidden states after one of its later blocks.

Source: Grattafiori et al. 2024, "The Llama 3 Herd of Models" (arXiv:2407.21783), section 3.2: grouped-query
attention (arXiv:2305.13245), rotary positions (arXiv:2104.09864), SwiGLU (arXiv:2002.05202). Names and
numbers are those of transformers' `LlamaModel`.

Letters: B batch, L tokens, D model width, H heads, G key and value heads, S width of a head.
"""

from __future__ import annotations

import numpy as np

from vidgen_dist import nn
from vidgen_dist.encoders.config import LlamaConfig
from vidgen_dist.nn.activations import of_transformers
from vidgen_dist.nn.embeddings import rotary_1d
from vidgen_dist.nn.rotary import Rotary, apply_rotary, rotary
from vidgen_dist.parallel.blocks import run_blocks


class LlamaEncoder(nn.Module):
    """Token ids to the hidden states after the last block that is run.

    Parameters are named as in transformers' `LlamaModel`.

    Args:
        config: `text_encoder/config.json`.
    """

    # Sharded over the ranks of a gang: see `parallel.sharding`.
    sharded = ("embed_tokens", "layers")

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = c = config
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList([Layer(c) for _ in range(c.layers)])

    def own_key(self, key: str) -> str | None:
        """The module's name for a checkpoint's key, for `load_weights`; None for what is not run."""
        key = key.removeprefix("model.")
        if key.endswith("rotary_emb.inv_freq"):  # a table that older releases stored
            return None
        if key.startswith("layers."):
            return key if int(key.split(".")[1]) < self.config.layers else None
        return None if key in ("norm.weight", "lm_head.weight") else key

    def construct(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> nn.Tensor:
        """
        Args:
            input_ids: (B, L) integers below `vocab_size`.
            attention_mask: (B, L), 1 for tokens that may be attended to, by themselves and by later tokens.

        Returns:
            (B, L, D).
        """
        length = input_ids.shape[1]
        hidden = self.embed_tokens(nn.from_numpy(np.asarray(input_ids, np.int32)))
        causal = np.tril(np.ones((length, length), np.bool_))
        mask = nn.from_numpy(causal & (np.asarray(attention_mask) != 0)[:, None, None, :])
        turns = rotary_positions(self.config, length)
        (hidden,) = run_blocks(self.layers, [hidden], lambda layer, tokens: [layer(*tokens, turns, mask)])
        return hidden


def rotary_positions(config: LlamaConfig, length: int) -> Rotary:
    """What rotates queries and keys: channels i and i + S / 2 of a head form a pair."""
    size = config.head_size
    angles = np.tile(rotary_1d(size, np.arange(length), config.rope_theta), 2)[None, :, None]
    return rotary(np.cos(angles), np.sin(angles), pairs="halves")


class Layer(nn.Module):
    """Self-attention, then a feed-forward, each with a norm in front and a residual."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = FeedForward(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)

    def construct(self, hidden: nn.Tensor, rotary: Rotary, mask: nn.Tensor) -> nn.Tensor:
        """hidden (B, L, D), mask (B, 1, L, L) to (B, L, D)."""
        hidden = nn.add(hidden, self.self_attn(self.input_layernorm(hidden), rotary, mask))
        return nn.add(hidden, self.mlp(self.post_attention_layernorm(hidden)))


class Attention(nn.Module):
    """Attention with fewer heads for keys and values than for queries."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self._heads, self._key_heads = config.num_attention_heads, config.key_heads
        self._size = config.head_size
        width, bias = config.hidden_size, config.attention_bias
        self.q_proj = nn.Linear(width, self._heads * self._size, bias=bias)
        self.k_proj = nn.Linear(width, self._key_heads * self._size, bias=bias)
        self.v_proj = nn.Linear(width, self._key_heads * self._size, bias=bias)
        self.o_proj = nn.Linear(self._heads * self._size, width, bias=bias)

    def construct(self, hidden: nn.Tensor, rotary: Rotary, mask: nn.Tensor) -> nn.Tensor:
        """hidden (B, L, D), mask (B, 1, L, L) to (B, L, D)."""
        batch, length, _ = hidden.shape
        query = apply_rotary(
            nn.reshape(self.q_proj(hidden), (batch, length, self._heads, self._size)), rotary
        )
        of_keys = (batch, length, self._key_heads, self._size)
        key = self._for_each_query(apply_rotary(nn.reshape(self.k_proj(hidden), of_keys), rotary))
        value = self._for_each_query(nn.reshape(self.v_proj(hidden), of_keys))
        heads_first = (x.permute(0, 2, 1, 3) for x in (query, key, value))
        mixed = nn.attention(*heads_first, mask=mask)
        return self.o_proj(nn.reshape(mixed.permute(0, 2, 1, 3), (batch, length, -1)))

    def _for_each_query(self, x: nn.Tensor) -> nn.Tensor:
        """(B, L, G, S) to (B, L, H, S): each head repeated for the query heads that share it."""
        batch, length, _, size = x.shape
        times = self._heads // self._key_heads
        return x if times == 1 else nn.reshape(nn.stack([x] * times, 3), (batch, length, self._heads, size))


class FeedForward(nn.Module):
    """Three linear maps: one gates another, the third maps back."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        width, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = nn.Linear(width, inner, bias=bias)
        self.up_proj = nn.Linear(width, inner, bias=bias)
        self.down_proj = nn.Linear(inner, width, bias=bias)
        self._activation = of_transformers(config.hidden_act)

    def construct(self, hidden: nn.Tensor) -> nn.Tensor:
        return self.down_proj(nn.multiply(self._activation(self.gate_proj(hidden)), self.up_proj(hidden)))
