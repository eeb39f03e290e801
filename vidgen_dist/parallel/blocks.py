"""A model's list of blocks, run one after the other.

All models run their lists through `run_blocks`: what is to happen between blocks, or in place of some,
happens here for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from vidgen_dist import nn

T = TypeVar("T")
"""The tokens that a block works on: all streams of all samples."""


def run_blocks(blocks: Iterable[nn.Module], tokens: T, run: Callable[[nn.Module, T], T]) -> T:
    """Tokens after all blocks.

    Args:
        blocks: A `ModuleList`, which may be sharded: it is gone through once, from the first to the last.
        tokens: Before the first.
        run: A block and tokens to tokens.
    """
    for block in blocks:
        tokens = run(block, tokens)
    return tokens
