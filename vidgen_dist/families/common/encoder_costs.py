"""Text encoders as a plan sees them."""

from __future__ import annotations

from vidgen_dist.families.common.costs import Component, Stack
from vidgen_dist.families.common.counting import component, count, linear_weights
from vidgen_dist.weights.checkpoint import Checkpoint

_ALIVE = 8
_OPERATORS = 20


def t5_encoder(checkpoint: Checkpoint) -> Component:
    """The T5 that is a checkpoint's `text_encoder`.

    Raises:
        Refused: A config that cannot be.
    """
    counted, config = count(checkpoint, "text_encoder"), checkpoint.config("text_encoder")
    heads = config.get("num_heads", 8)
    stack = Stack(
        heads=heads,
        width=heads * config.get("d_kv", 64),
        linear=linear_weights(counted, "encoder.block.0", leave_out=("relative_attention_bias",)),
        alive=_ALIVE,
        operators=_OPERATORS,
    )
    return component("text_encoder", counted, stack)


def llama_encoder(checkpoint: Checkpoint) -> Component:
    """The LLaMA that is a checkpoint's `text_encoder`, without the blocks that are not run.

    Raises:
        Refused: A config that cannot be.
    """
    # Loads MindSpore.
    from vidgen_dist.encoders.llama import parse_config

    counted, config = count(checkpoint, "text_encoder"), parse_config(checkpoint.config("text_encoder"))
    stack = Stack(
        heads=config.num_attention_heads,
        width=config.num_attention_heads * config.head_size,
        linear=linear_weights(counted, "layers.0"),
        alive=_ALIVE,
        operators=_OPERATORS,
    )
    return component("text_encoder", counted, stack)
