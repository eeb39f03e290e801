"""The costs of text encoders."""

from __future__ import annotations

from vidgen_dist.encoders.config import LlamaConfig, T5Config
from vidgen_dist.families.common.costs import BlockStack, Network, ParameterShapes, linear_weights, network

_ALIVE = 8
_OPERATORS = 20


def t5_encoder(config: T5Config, counted: ParameterShapes) -> Network:
    """The costs of a T5 that is a checkpoint's `text_encoder`."""
    stack = BlockStack(
        heads=config.num_heads,
        width=config.num_heads * config.d_kv,
        linear=linear_weights(counted, "encoder.block.0", leave_out=("relative_attention_bias",)),
        alive=_ALIVE,
        operators=_OPERATORS,
    )
    return network("text_encoder", counted, stack)


def llama_encoder(config: LlamaConfig, counted: ParameterShapes) -> Network:
    """The costs of a LLaMA that is a checkpoint's `text_encoder`, without the blocks that are not run."""
    stack = BlockStack(
        heads=config.num_attention_heads,
        width=config.num_attention_heads * config.head_size,
        linear=linear_weights(counted, "layers.0"),
        alive=_ALIVE,
        operators=_OPERATORS,
    )
    return network("text_encoder", counted, stack)
