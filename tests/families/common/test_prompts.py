"""Prompts are encoded once, alone and in a gang, and the cache is bounded."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests import references
from tests.parallel.ranks import Ranks
from vidgen_dist import RenderRequest, load_pipeline
from vidgen_dist.families.common.prompts import PromptCache
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.parallel.mesh import Mesh

KEPT = 4 * 10 + 4
"""Bytes of ten float32 values and a prompt of one character."""


@dataclasses.dataclass(frozen=True)
class Encoded:
    """An encoded prompt."""

    numbers: np.ndarray
    more: np.ndarray | None = None


class Encoder:
    """Turns a prompt into ten numbers, and counts its calls."""

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def ask(self, texts: PromptCache[Encoded], prompt: str, length: int = 8) -> np.ndarray:
        def encode() -> Encoded:
            self.prompts.append(prompt)
            return Encoded(np.full((1, 10), ord(prompt[0]) + length, np.float32))

        return texts.get((prompt, length), encode).numbers


def test_a_prompt_is_encoded_once() -> None:
    texts, encoder = PromptCache(), Encoder()
    first = encoder.ask(texts, "a")
    encoder.ask(texts, "b")
    np.testing.assert_array_equal(encoder.ask(texts, "a"), first)
    assert encoder.prompts == ["a", "b"]


def test_another_length_is_another_text() -> None:
    texts, encoder = PromptCache(), Encoder()
    assert encoder.ask(texts, "a", 8)[0, 0] != encoder.ask(texts, "a", 9)[0, 0]


def test_what_was_used_longest_ago_goes_first() -> None:
    texts, encoder = PromptCache(2 * KEPT), Encoder()
    for prompt in "abacab":
        encoder.ask(texts, prompt)
    # c evicts b, because a was used since then; then b evicts c.
    assert encoder.prompts == ["a", "b", "c", "b"]


def test_what_is_larger_than_the_budget_is_given_and_not_kept() -> None:
    texts, encoder = PromptCache(KEPT), Encoder()
    encoder.ask(texts, "a" * 1000)
    assert encoder.ask(texts, "a" * 1000)[0, 0] == ord("a") + 8
    assert len(encoder.prompts) == 2


def test_what_fails_is_not_kept() -> None:
    texts, encoder = PromptCache(), Encoder()
    calls: list[str] = []

    def fail() -> Encoded:
        calls.append("a")
        raise RuntimeError("out of memory")

    for _ in range(2):
        try:
            texts.get(("a", 8), fail)
        except RuntimeError:
            calls.append("failed")
    assert calls == ["a", "failed"] * 2
    assert encoder.ask(texts, "a")[0, 0] == ord("a") + 8


def test_memory_of_the_encoder_may_change_after() -> None:
    texts, memory = PromptCache(), np.ones((1, 10), np.float32)
    texts.get(("a", 8), lambda: Encoded(memory, memory))
    memory[:] = 2
    kept = texts.get(("a", 8), lambda: Encoded(memory, memory))
    assert kept.more is not None
    assert kept.numbers[0, 0] == kept.more[0, 0] == 1


@given(st.lists(st.text("abcdef", min_size=1, max_size=30), max_size=60), st.integers(0, 5 * KEPT))
def test_memory_is_bounded_and_the_newest_are_kept(prompts: list[str], budget: int) -> None:
    texts, encoder = PromptCache(budget), Encoder()
    for i, prompt in enumerate(prompts):
        encoder.ask(texts, prompt)
        newest = list(dict.fromkeys(reversed(prompts[: i + 1])))
        sizes = np.cumsum([40 + 4 * len(p) for p in newest])
        fit = newest[: int((sizes <= budget).sum())]
        before = len(encoder.prompts)
        for kept in reversed(fit):
            encoder.ask(texts, kept)
        assert len(encoder.prompts) == before


# --- in a pipeline -----------------------------------------------------------------------------------


def _rows() -> list[RenderRequest]:
    """Two seeds with one prompt, another prompt, and the first one with a negative prompt."""
    row = dataclasses.replace(
        references.case("5b").requests[0], num_frames=1, num_inference_steps=1, negative_prompt="dull"
    )
    assert row.guidance_scale is None or row.guidance_scale > 1
    return [
        dataclasses.replace(row, prompt="a cat", seed=1),
        dataclasses.replace(row, prompt="a cat", seed=2),
        dataclasses.replace(row, prompt="a dog", seed=3),
        dataclasses.replace(row, prompt="a cat", seed=1, negative_prompt="grey"),
        dataclasses.replace(row, prompt="a cat", seed=1),
    ]


ENCODED = [2, 0, 1, 1, 0]
"""How often the encoder runs for each of them."""


def render(mesh: Mesh | None, requests: list[RenderRequest]) -> list[tuple[int, np.ndarray]]:
    """How often the text encoder runs, and the frames, for each request."""
    pipeline: Any = load_pipeline(str(references.case("5b").checkpoint), mesh=mesh)
    encoder, runs = pipeline.text_encoder, [0]

    def counted(*args: Any) -> Any:
        runs[0] += 1
        return encoder(*args)

    pipeline.text_encoder = counted
    told = []
    for request in requests:
        before = runs[0]
        frames = pipeline(request)
        told.append((runs[0] - before, frames))
    return told


def test_rows_share_what_is_encoded_and_frames_stay_the_same() -> None:
    told = render(None, _rows())
    assert [runs for runs, _ in told] == ENCODED
    for (_, frames), request in zip(told, _rows(), strict=True):
        np.testing.assert_array_equal(frames, render(None, [request])[0][1])


def test_ranks_of_a_gang_encode_in_step(ranks: Ranks) -> None:
    alone = render(None, _rows())
    for degrees in (Degrees(ulysses=2), Degrees(cfg=2)):
        told = ranks.run(render, _rows(), degrees=degrees)
        for of_rank in told:
            assert [runs for runs, _ in of_rank] == ENCODED
        for (_, frames), (_, expected) in zip(told[0], alone, strict=True):
            np.testing.assert_allclose(frames, expected, atol=1e-4)
