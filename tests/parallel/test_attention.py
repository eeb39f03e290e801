"""Sequence-parallel attention equals attention on one rank; the bytes that it sends are counted."""

from __future__ import annotations

import numpy as np
import pytest

from tests.parallel.ranks import Ranks
from vidgen_dist import nn
from vidgen_dist.parallel.attention import attention
from vidgen_dist.parallel.collectives import Group
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.parallel.mesh import Mesh, alone
from vidgen_dist.parallel.token_split import split_tokens

BATCH, SIZE = 2, 16


def draw(batch: int, tokens: int, heads: int) -> list[np.ndarray]:
    rng = np.random.default_rng(tokens + heads)
    return [rng.standard_normal((batch, tokens, heads, SIZE), dtype=np.float32) * 2 for _ in range(3)]


def attend(mesh: Mesh, batch: int, text: int, video: int, heads: int) -> tuple[np.ndarray, dict[str, int]]:
    """The whole result, text first, and what this rank sent for attention."""
    split = split_tokens(mesh, text=text, video=video)
    streams = {"text": slice(0, text), "video": slice(text, text + video)}
    own = [
        nn.cat([split.take(nn.from_numpy(x[:, at]), name) for name, at in streams.items()], 1)
        for x in draw(batch, text + video, heads)
    ]
    out = attention(*own, split)
    sent = dict(mesh.traffic.sent)
    at = split.sizes["text"][mesh.sequence.index]
    whole = [split.gather(out[:, :at], "text"), split.gather(out[:, at:], "video")]
    return np.concatenate([nn.to_numpy(x) for x in whole], 1), sent


@pytest.mark.parametrize(
    ("ulysses", "ring"), [(2, 1), (1, 2), (2, 2), (3, 1), (1, 3), (4, 1), (1, 4)], ids=lambda n: str(n)
)
@pytest.mark.parametrize(
    ("text", "video", "heads"),
    [(6, 30, 4), (7, 30, 5), (3, 17, 1), (1, 2, 3)],
    ids=["even", "uneven", "one head", "few tokens"],
)
def test_equals_one_rank(ranks: Ranks, ulysses: int, ring: int, text: int, video: int, heads: int) -> None:
    expected, _ = attend(alone(), BATCH, text, video, heads)
    for whole, _ in ranks.run(attend, BATCH, text, video, heads, degrees=Degrees(ulysses, ring)):
        np.testing.assert_allclose(whole, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_ulysses_moves_no_more_than_it_must(ranks: Ranks, size: int) -> None:
    text, video, heads = 2 * size, 10 * size, 2 * size
    n, d = text + video, heads * SIZE
    for _, sent in ranks.run(attend, 1, text, video, heads, degrees=Degrees(ulysses=size)):
        assert sent == {"ulysses": 4 * (4 * n * d * (size - 1) // size**2)}


def test_uneven_heads_and_tokens_add_their_padding_alone(ranks: Ranks) -> None:
    text, video, heads, size = 5, 33, 5, 3
    for _, sent in ranks.run(attend, 1, text, video, heads, degrees=Degrees(ulysses=size)):
        most_tokens, most_heads = -(-(text + video) // size), -(-heads // size)
        # Both ways: this rank's tokens of other ranks' heads, and other ranks' tokens of its heads.
        there = 3 * most_tokens * (heads - heads // size)
        back = most_heads * (text + video - (text + video) // size)
        assert sent["ulysses"] <= 4 * SIZE * (there + back)


def test_ring_moves_keys_and_values_once_around(ranks: Ranks) -> None:
    text, video, heads, size = 6, 30, 3, 3
    for _, sent in ranks.run(attend, BATCH, text, video, heads, degrees=Degrees(ring=size)):
        assert sent == {"ring": 4 * 2 * BATCH * (text + video) // size * heads * SIZE * (size - 1)}


@pytest.mark.parametrize(
    ("text", "video", "size"), [(226, 1350, 4), (7, 11, 4), (5, 6, 3), (0, 7, 2), (1, 1, 4)]
)
def test_every_rank_has_about_as_many_tokens(text: int, video: int, size: int) -> None:
    split = split_tokens(Mesh(sequence=Group(tuple(range(size)))), text=text, video=video)
    assert sum(split.sizes["text"]) == text
    assert sum(split.sizes["video"]) == video
    assert max(split.lengths) - min(split.lengths) <= 1
