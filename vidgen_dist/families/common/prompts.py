"""Videos that a prompt describes; what text encoders made of prompts is kept for the rows that share them."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic

import numpy as np

from vidgen_dist import nn
from vidgen_dist.encoders.clip import CLIPTextEncoder
from vidgen_dist.families.common.guidance import H, Halves
from vidgen_dist.families.common.pipeline import DiffusionPipeline, Parts, S
from vidgen_dist.families.common.rendering import check_finite
from vidgen_dist.families.common.tasks import R
from vidgen_dist.weights.tokenizer import tokenize

PROMPT_CACHE_BYTES = 256 * 2**20
"""Bytes: 70 prompts of CogVideoX, whose encoded text is 226 tokens of 4096 float32."""

Key = tuple[str, Hashable]
"""A prompt as the row has it, and what else decides what the encoders make of it."""


class PromptCache(Generic[H]):
    """Encoded prompts, in this host's memory; the ones used longest ago go first.

    What is kept depends on the prompts that were asked for, on their order and on nothing else: the ranks of
    a gang, which render the same rows, keep the same and so encode, together, the same.

    Args:
        budget: Bytes that all of it may take.
    """

    def __init__(self, budget: int = PROMPT_CACHE_BYTES) -> None:
        self._budget = budget
        self._kept: OrderedDict[Key, H] = OrderedDict()
        self._bytes = 0

    def get(self, key: Key, encode: Callable[[], H]) -> H:
        """What the encoders make of a prompt; not to be written to.

        Args:
            key: The prompt's.
            encode: Called if it is not kept.
        """
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        # Copies: memory of an encoder's output may be the encoder's own.
        made: Any = encode()
        arrays = {name: np.array(value) for name, value in _arrays(made).items()}
        encoded: H = dataclasses.replace(made, **arrays)
        self._kept[key] = encoded
        self._bytes += _size(key, encoded)
        while self._bytes > self._budget:
            self._bytes -= _size(*self._kept.popitem(last=False))
        return encoded


def _arrays(encoded: Any) -> dict[str, np.ndarray]:
    values = {field.name: getattr(encoded, field.name) for field in dataclasses.fields(encoded)}
    return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}


def _size(key: Key, encoded: Any) -> int:
    # Python stores a character in up to 4 bytes; a prompt may be longer than what is made of it.
    return sum(array.nbytes for array in _arrays(encoded).values()) + 4 * len(key[0])


class PromptedPipeline(DiffusionPipeline[R, H, S]):
    """A pipeline whose videos are described by prompts."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._prompt_cache: PromptCache[H] = PromptCache()

    @abstractmethod
    def encode_text(self, r: R, prompt: str) -> H:
        """What the text encoders make of one prompt, arrays (1, ...).

        One at a time: the encoders' activations at twice the batch are their peak of memory.
        """

    def encode_texts(self, r: R, prompt: str, negative_prompt: str | None, *decides: Hashable) -> Halves[H]:
        """What the text encoders make of both prompts.

        Args:
            r: The request.
            prompt: Its prompt.
            negative_prompt: None where there is no guidance.
            decides: What else of the request decides what they make of a prompt.
        """

        def encoded(text: str) -> H:
            return self._prompt_cache.get((text, decides), lambda: self.encode_text(r, text))

        # Every rank encodes both prompts. If each encoded its own half's, a rank that has kept that prompt
        # would not be there when the others gather the encoder's weights.
        negative = None if negative_prompt is None else encoded(negative_prompt)
        return Halves(encoded(prompt), negative)


def clip_hidden(tokenizer: Any, encoder: CLIPTextEncoder, prompt: str, skip: int) -> np.ndarray:
    """What CLIP makes of each token of a prompt, (1, L, D), L as many as it takes.

    Args:
        tokenizer: The encoder's.
        encoder: The text encoder.
        prompt: The prompt.
        skip: Layers at its end that are left out.
    """
    ids = tokenize(tokenizer, prompt, min(tokenizer.model_max_length, encoder.config.max_position_embeddings))
    hidden = nn.to_numpy(encoder(ids, skip=skip).hidden)
    check_finite(hidden, "encode, text")
    return hidden
