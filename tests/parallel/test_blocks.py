"""Blocks run one after another, and what is in memory at that time."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from vidgen_dist.parallel.blocks import run_blocks


class Tokens:
    """Stands for a tensor: the numbers of the blocks that it has gone through."""

    def __init__(self, *seen: int) -> None:
        self.seen = seen


def test_blocks_run_in_their_order_and_the_first_tokens_stay_as_they_are() -> None:
    first = [Tokens(), Tokens()]
    given = list(first)
    blocks: list[Any] = [1, 2, 3]
    text, video = run_blocks(blocks, given, lambda block, streams: [Tokens(*x.seen, block) for x in streams])
    assert text.seen == video.seen == (1, 2, 3)
    assert given == first


def test_nobody_holds_what_an_earlier_block_was_given() -> None:
    made: list[weakref.ref[Tokens]] = []
    alive: list[int] = []

    def new(*seen: int) -> Tokens:
        tokens = Tokens(*seen)
        made.append(weakref.ref(tokens))
        return tokens

    def run(block: Any, streams: Sequence[Tokens]) -> list[Tokens]:
        alive.append(sum(ref() is not None for ref in made))
        return [new(*tokens.seen, block) for tokens in streams]

    blocks: list[Any] = [1, 2, 3]
    run_blocks(blocks, [new(), new()], run)
    assert alive == [2, 2, 2]
