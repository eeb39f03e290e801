"""A model's list of blocks, run one after the other.

All transformers and text encoders run their lists through `run_blocks`: what is to happen between blocks, or
in place of some, happens here for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from vidgen_dist import nn

T = TypeVar("T")
"""What a block works on: a stream of tokens, or a sample with all of its streams."""


def run_blocks(
    blocks: Iterable[nn.Module], tokens: Sequence[T], run: Callable[[nn.Module, Sequence[T]], Sequence[T]]
) -> Sequence[T]:
    """Return the tokens after all blocks. The sequence that is handed in stays as it is.

    What a block was given is freed when the block is done, unless the caller still has a name for it: so a
    caller with many tokens makes the sequence within the call.

    Args:
        blocks: A `ModuleList`, which may be sharded: it is gone through once, from the first to the last.
        tokens: Before the first block.
        run: A block and tokens to tokens.
    """
    for block in blocks:
        tokens = run(block, tokens)
    return tokens
