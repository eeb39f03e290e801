"""CLIP's text encoder: one vector per prompt for HunyuanVideo, one vector per token for the UNet families.

CLIP's image encoder (`encoders.clip_vision`) uses the same layers.

Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision"
(arXiv:2103.00020). Names and numbers are those of transformers' `CLIPTextModel`.

Letters: B batch, L tokens, D model width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vidgen_dist import nn
from vidgen_dist.encoders.config import ClipConfig, ClipTextConfig
from vidgen_dist.nn.activations import of_transformers
from vidgen_dist.parallel.blocks import run_blocks

LEGACY_END = 2
"""The end token's id in configs with a known mistake; with these the highest id is the end token."""


class TextOutput(NamedTuple):
    """The text encoder's output for prompts.

    Args:
        hidden: The states after the last layer that is run, and the last norm, (B, L, D).
        pooled: The state of the end token, (B, D).
    """

    hidden: nn.Tensor
    pooled: nn.Tensor


class CLIPTextEncoder(nn.Module):
    """Token ids to one vector per token, and one for the whole prompt.

    Args:
        config: `text_encoder/config.json`.
    """

    # Sharded over the ranks of a gang: see `parallel.sharding`.
    sharded = ("text_model.embeddings.token_embedding", "text_model.encoder.layers")

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.config = config
        self.text_model = TextTransformer(config)

    def own_key(self, key: str) -> str | None:
        """The module's name for a checkpoint's key, for `load_weights`."""
        # transformers 5 omits the prefix.
        key = f"text_model.{key.removeprefix('text_model.')}"
        # A table of integers that older releases stored.
        return None if key == "text_model.embeddings.position_ids" else key

    def construct(self, input_ids: np.ndarray, skip: int = 0) -> TextOutput:
        """
        Args:
            input_ids: (B, L) integers below `vocab_size`; L is at most `max_position_embeddings`.
            skip: How many of the last layers to skip; at most all of them.
        """
        hidden = self.text_model(input_ids, skip)
        ends = end_positions(input_ids, self.config.eos_token_id)
        pooled = nn.cat([hidden[i : i + 1, end] for i, end in enumerate(ends)], 0)
        return TextOutput(hidden, pooled)


def end_positions(input_ids: np.ndarray, end: int) -> list[int]:
    """Where each prompt of (B, L) has its first end token."""
    found = input_ids if end == LEGACY_END else input_ids == end
    return [int(position) for position in np.argmax(found, axis=1)]


class TextTransformer(nn.Module):
    """Transformer in which tokens see only earlier ones."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.embeddings = TextEmbeddings(config)
        self.encoder = CLIPLayers(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def construct(self, input_ids: np.ndarray, skip: int) -> nn.Tensor:
        """(B, L) to (B, L, D)."""
        length = input_ids.shape[1]
        causal = nn.from_numpy(np.tril(np.ones((1, 1, length, length), np.bool_)))
        return self.final_layer_norm(self.encoder(self.embeddings(input_ids), causal, skip))


class TextEmbeddings(nn.Module):
    """Embeddings of tokens and their positions."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def construct(self, input_ids: np.ndarray) -> nn.Tensor:
        tokens = self.token_embedding(nn.from_numpy(np.asarray(input_ids, np.int32)))
        return nn.add(tokens, self.position_embedding.weight[: input_ids.shape[1]])


class CLIPLayers(nn.Module):
    """The layers."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(config) for _ in range(config.num_hidden_layers)])

    def construct(self, hidden: nn.Tensor, mask: nn.Tensor | None, skip: int = 0) -> nn.Tensor:
        """hidden (B, L, D), mask that broadcasts to (B, 1, L, L), or None: (B, L, D); the last `skip` layers
        have no effect."""
        states = [hidden]

        def run(layer: nn.Module, tokens: Sequence[nn.Tensor]) -> Sequence[nn.Tensor]:
            states.append(layer(*tokens, mask))
            return states[-1:]

        # All layers are run: a gang has to iterate over sharded layers to the end.
        run_blocks(self.layers, [hidden], run)
        return states[-1 - skip]


class Layer(nn.Module):
    """Self-attention, then a feed-forward, each with a layer norm in front and a residual."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.mlp = FeedForward(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def construct(self, hidden: nn.Tensor, mask: nn.Tensor | None) -> nn.Tensor:
        hidden = nn.add(hidden, self.self_attn(self.layer_norm1(hidden), mask))
        return nn.add(hidden, self.mlp(self.layer_norm2(hidden)))


class Attention(nn.Module):
    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self._heads = config.num_attention_heads
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def construct(self, hidden: nn.Tensor, mask: nn.Tensor | None) -> nn.Tensor:
        """hidden (B, L, D) to (B, L, D)."""
        batch, length, width = hidden.shape
        heads = (batch, length, self._heads, width // self._heads)
        query, key, value = (
            nn.reshape(linear(hidden), heads).permute(0, 2, 1, 3)
            for linear in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = nn.attention(query, key, value, mask=mask)
        return self.out_proj(nn.reshape(mixed.permute(0, 2, 1, 3), (batch, length, width)))


class FeedForward(nn.Module):
    """Two linear maps with an activation between them."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self._activation = of_transformers(config.hidden_act)

    def construct(self, hidden: nn.Tensor) -> nn.Tensor:
        return self.fc2(self._activation(self.fc1(hidden)))
