"""What text encoders made of prompts, kept for the rows that share them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import numpy as np

BUDGET = 256 * 2**20
"""Bytes: 70 prompts of CogVideoX, whose encoded text is 226 tokens of 4096 float32."""

Encoded = tuple[np.ndarray, ...]
"""All that a family's encoders make of a prompt."""


class EncodedTexts:
    """Encoded prompts, in this host's memory; the ones used longest ago go first.

    What is kept depends on the prompts that were asked for, on their order and on nothing else: the ranks of
    a gang, which render the same rows, keep the same and so encode, together, the same.

    Args:
        budget: Bytes that all of it may take.
    """

    def __init__(self, budget: int = BUDGET) -> None:
        self._budget = budget
        self._kept: OrderedDict[tuple[str, int], Encoded] = OrderedDict()
        self._bytes = 0

    def get(self, prompt: str, max_sequence_length: int, encode: Callable[[], Encoded]) -> Encoded:
        """What the encoders make of a prompt; not to be written to.

        Args:
            prompt: As the row has it.
            max_sequence_length: Tokens that are made of it.
            encode: Called if it is not kept.
        """
        key = prompt, max_sequence_length
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        # Copies: memory of an encoder's output may be the encoder's own.
        encoded = tuple(np.array(made) for made in encode())
        self._kept[key] = encoded
        self._bytes += _size(key, encoded)
        while self._bytes > self._budget:
            self._bytes -= _size(*self._kept.popitem(last=False))
        return encoded


def _size(key: tuple[str, int], encoded: Encoded) -> int:
    # Python stores a character in up to 4 bytes; a prompt may be longer than what is made of it.
    return sum(made.nbytes for made in encoded) + 4 * len(key[0])
