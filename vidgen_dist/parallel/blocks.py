"""A model's list of blocks, run one after the other.

All models run their lists through `run_blocks`: what is to happen between blocks, or in place of some,
happens here for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from vidgen_dist import nn

T = TypeVar("T")
"""What a block works on: a stream of tokens, or a sample with all of its streams."""


def run_blocks(
    blocks: Iterable[nn.Module], tokens: list[T], run: Callable[[nn.Module, list[T]], Iterable[T]]
) -> list[T]:
    """Tokens after all blocks.

    Args:
        blocks: A `ModuleList`, which may be sharded: it is gone through once, from the first to the last.
        tokens: Before the first block. The list's items are replaced as the blocks run, so that nobody holds
            on to tokens of before.
        run: A block and tokens to tokens.

    Returns:
        The list.
    """
    for block in blocks:
        tokens[:] = run(block, tokens)
    return tokens
