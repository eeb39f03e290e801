"""Runs a model's list of blocks, one after the other.

All transformers and text encoders use `run_blocks`, so a feature that works between blocks, or skips some, is
added here once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from vidgen_dist import nn

T = TypeVar("T")
"""What a block takes: a stream of tokens, or a sample with all of its streams."""


def run_blocks(
    blocks: Iterable[nn.Module], tokens: Sequence[T], run: Callable[[nn.Module, Sequence[T]], Sequence[T]]
) -> Sequence[T]:
    """Return the tokens after all blocks. The sequence passed in is not changed.

    A block's input is freed when the block is done, unless the caller still holds a reference: a caller with
    many tokens therefore creates the sequence within the call.

    Args:
        blocks: A `ModuleList`, possibly sharded: it is iterated once, from the first to the last.
        tokens: The first block's input.
        run: Takes a block and its input, returns its output.
    """
    for block in blocks:
        tokens = run(block, tokens)
    return tokens
