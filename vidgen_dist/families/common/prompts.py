"""Pipelines with prompts, and the cache of encoded prompts for rows that share them."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable
from typing import Any, Generic

import numpy as np

from vidgen_dist import nn
from vidgen_dist.encoders.clip import CLIPTextEncoder
from vidgen_dist.families.common.guidance import H, Halves
from vidgen_dist.families.common.pipeline import DiffusionPipeline, Parts, S
from vidgen_dist.families.common.prompt_store import condition_class
from vidgen_dist.families.common.rendering import check_finite
from vidgen_dist.families.common.tasks import R
from vidgen_dist.parallel.collectives import holds_on_all
from vidgen_dist.weights.tokenizer import tokenize

PROMPT_CACHE_BYTES = 256 * 2**20
"""Bytes: room for 70 prompts of CogVideoX, whose encoded text is 226 tokens of 4096 float32."""

Key = tuple[str, Hashable]
"""The row's prompt, and whatever else the encoders' result depends on."""


class PromptCache(Generic[H]):
    """Encoded prompts, in this host's memory; the least recently used ones are dropped first.

    The content depends only on the prompts that were asked for, and on their order. The ranks of a gang
    render the same rows, so their caches are equal, and they encode the same prompts together.

    Args:
        budget: Bytes that the cache may take.
    """

    def __init__(self, budget: int = PROMPT_CACHE_BYTES) -> None:
        self._budget = budget
        self._kept: OrderedDict[Key, H] = OrderedDict()
        self._bytes = 0

    def get(self, key: Key, encode: Callable[[], H]) -> H:
        """The encoded prompt; it must not be written to.

        Args:
            key: The prompt's key.
            encode: Called if the prompt is not in the cache.
        """
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        # Copies: the memory of an encoder's output may belong to the encoder.
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
    # Python stores a character in up to 4 bytes; a prompt may be longer than its encoding.
    return sum(array.nbytes for array in _arrays(encoded).values()) + 4 * len(key[0])


class PromptedPipeline(DiffusionPipeline[R, H, S]):
    """A pipeline for videos that prompts describe.

    Args:
        parts: The parts of the pipeline.
    """

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._prompt_cache: PromptCache[H] = PromptCache()
        self._prompt_store = parts.prompt_store

    def weights_changed(self, components: Collection[str]) -> None:
        """Forget encoded prompts, if an encoder has changed."""
        if any(name.startswith("text_encoder") for name in components):
            self._prompt_cache = PromptCache()

    @abstractmethod
    def encode_text(self, r: R, prompt: str) -> H:
        """Encode one prompt, to arrays (1, ...).

        One prompt at a time: with both in a batch, the encoders' activations would be their peak of memory.
        """

    def encode_texts(self, r: R, prompt: str, negative_prompt: str | None, *decides: Hashable) -> Halves[H]:
        """Encode both prompts.

        Args:
            r: The request.
            prompt: Its prompt.
            negative_prompt: None without guidance.
            decides: Other values of the request that the encoding depends on.
        """

        def encoded(text: str) -> H:
            return self._prompt_cache.get((text, decides), lambda: self._stored(r, text, decides))

        # Every rank encodes both prompts. If each encoded only its half's prompt, a rank that has it in its
        # cache would not take part when the others gather the encoder's weights.
        negative = None if negative_prompt is None else encoded(negative_prompt)
        return Halves(encoded(prompt), negative)

    def _stored(self, r: R, text: str, decides: Hashable) -> H:
        """The encoded prompt as the store has it; otherwise it is encoded, and kept there."""
        store = self._prompt_store
        if store is None:
            return self.encode_text(r, text)
        key = store.key(text, decides, self.loras.changing("text_encoder"))
        arrays = store.get(key)
        # A rank that does not find it needs the others to encode it.
        if holds_on_all(arrays is not None, self.mesh.gang, "prompts") and arrays is not None:
            kept: H = condition_class(type(self))(**arrays)
            return kept
        made = self.encode_text(r, text)
        if self.mesh.rank == 0:
            store.put(key, _arrays(made))
        return made


def clip_hidden(tokenizer: Any, encoder: CLIPTextEncoder, prompt: str, skip: int) -> np.ndarray:
    """CLIP's hidden state for each token of a prompt, (1, L, D); L is the model's maximum.

    Args:
        tokenizer: The encoder's tokenizer.
        encoder: The text encoder.
        prompt: The prompt.
        skip: How many of its last layers to skip.
    """
    ids = tokenize(tokenizer, prompt, min(tokenizer.model_max_length, encoder.config.max_position_embeddings))
    hidden = nn.to_numpy(encoder(ids, skip=skip).hidden)
    check_finite(hidden, "encode, text")
    return hidden
