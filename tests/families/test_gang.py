"""Gangs render the same frames as one rank: every task, every way to divide the work."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest

from tests import references
from tests.families import tiny
from tests.parallel.ranks import Ranks
from vidgen_dist import RenderRequest
from vidgen_dist.families import FAMILIES
from vidgen_dist.families.common.rendering import Rendering
from vidgen_dist.families.loader import AnyPipeline
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.parallel.mesh import Mesh

TOLERANCE = 1e-4

# For every family each degree, alone and with others; the numbers are those of the checkpoint's requests.
CASES = [
    ("cogvideox", "5b", Degrees(ring=2), (0, 1)),
    # There are three heads: the last rank has none.
    ("cogvideox", "5b", Degrees(ulysses=4), (0,)),
    ("cogvideox", "i2v", Degrees(ulysses=2, cfg=2), (0,)),
    ("cogvideox", "i2v", Degrees(ulysses=3), (1,)),
    ("cogvideox", "v2v", Degrees(ulysses=2, ring=2), (0,)),
    ("cogvideox", "2b", Degrees(ulysses=3), (0,)),
    ("cogvideox", "1.5", Degrees(ulysses=3), (0, 1)),
    ("cogvideox", "1.5-i2v", Degrees(ulysses=3), (0,)),
    ("cogvideox", "v2v-2b", Degrees(ulysses=3), (0,)),
    ("hunyuan_video", "t2v", Degrees(ulysses=2, ring=2), (0, 1)),
    ("hunyuan_video", "t2v", Degrees(ulysses=2, cfg=2), (2,)),
    ("hunyuan_video", "odd", Degrees(ulysses=3), (0, 1)),
    ("hunyuan_video", "dummy", Degrees(ring=2, cfg=2), (0,)),
    # The last request has one frame: two ranks have none.
    ("i2vgen_xl", "i2v", Degrees(ulysses=3), (1, 2)),
    ("i2vgen_xl", "odd", Degrees(ulysses=2, cfg=2), (1,)),
    ("ltx", "0.9.0", Degrees(ulysses=2, ring=2), (0, 2)),
    ("ltx", "0.9.0", Degrees(ulysses=2, cfg=2), (1,)),
    ("ltx", "0.9.0-i2v", Degrees(ulysses=4), (0,)),
    ("ltx", "0.9.1", Degrees(ulysses=3), (1,)),
    ("ltx", "0.9.1-i2v", Degrees(ring=2), (0,)),
    ("ltx", "0.9.5-i2v", Degrees(ulysses=3), (0, 1)),
    ("mochi", "t2v", Degrees(cfg=2), (0,)),
    ("mochi", "t2v", Degrees(ulysses=2, ring=2), (0,)),
    ("mochi", "t2v", Degrees(ulysses=2, cfg=2), (2,)),
    # With three heads, two rows of latents and one token of text, some ranks have none.
    ("mochi", "t2v", Degrees(ulysses=4), (0, 2)),
    # The last request's prompt has no token.
    ("mochi", "odd", Degrees(ulysses=3), (0, 1)),
    # 5 frames, 3 and 1: with one frame the other ranks have none.
    ("animatediff", "v1-5-2", Degrees(ulysses=2), (0, 2)),
    ("animatediff", "v1-5-2", Degrees(ulysses=3), (1,)),
    ("animatediff", "pndm", Degrees(cfg=2), (0,)),
    ("animatediff", "lcm", Degrees(ulysses=2, cfg=2), (0,)),
    ("animatediff", "v1-4", Degrees(ulysses=3), (0, 1)),
    ("animatediff", "whole", Degrees(ulysses=2), (0,)),
    # The last chunk has one frame: some ranks have none.
    ("stable_video_diffusion", "img2vid", Degrees(ulysses=2), (0, 1)),
    ("stable_video_diffusion", "img2vid", Degrees(ulysses=3), (2,)),
    ("stable_video_diffusion", "img2vid", Degrees(ulysses=2, cfg=2), (0,)),
    # More ranks than frames.
    ("stable_video_diffusion", "small", Degrees(ulysses=3), (0,)),
]


def render(
    mesh: Mesh, name: str, requests: list[RenderRequest], family: str = "cogvideox"
) -> list[Rendering]:
    pipeline = _load(name, family, mesh)
    return [pipeline.render(request) for request in requests]


def _few_steps(name: str, family: str = "cogvideox") -> list[RenderRequest]:
    requests = references.case(name, family).requests
    return [dataclasses.replace(request, num_inference_steps=2) for request in requests]


def _load(name: str, family: str, mesh: Mesh | None = None) -> AnyPipeline:
    return tiny.pipeline(references.case(name, family), mesh)


_alone = functools.cache(_load)


@functools.cache
def _of_one_rank(name: str, number: int, family: str = "cogvideox") -> np.ndarray:
    return _alone(name, family)(_few_steps(name, family)[number])


def test_every_checkpoint_has_a_gang_and_every_family_each_degree() -> None:
    assert {(family, name) for family, name, *_ in CASES} == set(references.all_cases())
    for family, _ in references.all_cases():
        gangs = [dataclasses.asdict(degrees) for of, _, degrees, _ in CASES if of == family]
        kinds = ("ulysses", "ring", "cfg") if _has_ring(family) else ("ulysses", "cfg")
        assert all(any(degrees[kind] > 1 for degrees in gangs) for kind in kinds)


def _has_ring(key: str) -> bool:
    return next(family for family in FAMILIES if family.key == key).ring


def check(
    ranks: Ranks, family: str, name: str, degrees: Degrees, numbers: tuple[int, ...]
) -> list[list[Rendering]]:
    """A gang's renderings by rank; the frames must be those of one rank."""
    requests = [_few_steps(name, family)[number] for number in numbers]
    renderings = ranks.run(render, name, requests, family, degrees=degrees)
    for number, of_gang, *others in zip(numbers, *renderings, strict=True):
        alone = _of_one_rank(name, number, family)
        references.check_close(f"{family} {name}, {degrees}", of_gang.frames, alone, TOLERANCE)
        frames, _, width, channels = alone.shape
        assert {other.frames.shape for other in others} == {(frames, 0, width, channels)}
    return renderings


@pytest.mark.parametrize(("family", "name", "degrees", "numbers"), CASES, ids=str)
def test_frames_equal_those_of_one_rank(
    ranks: Ranks, family: str, name: str, degrees: Degrees, numbers: tuple[int, ...]
) -> None:
    sent = check(ranks, family, name, degrees, numbers)[0][0].sent
    # Tokens and rows of images are divided over the ranks, or frames.
    ends, shared = ("rows", "ulysses") if _has_ring(family) else ("gather", "frames")
    assert {"weights", ends} <= sent.keys()
    assert (shared in sent) == (degrees.ulysses > 1)
    assert ("ring" in sent) == (degrees.ring > 1)


def test_what_is_sent_is_told_by_purpose(ranks: Ranks) -> None:
    for of_rank in check(ranks, "cogvideox", "5b", Degrees(ulysses=2, cfg=2), (0, 1)):
        sent = of_rank[0].sent
        assert {"ulysses", "cfg", "tokens", "weights", "rows"} <= sent.keys()
        assert all(count > 0 for count in sent.values())


def test_a_bad_request_is_refused_alike_and_the_gang_goes_on(ranks: Ranks) -> None:
    told = ranks.run(refuse_then_render, "v2v", _few_steps("v2v")[0], degrees=Degrees(ulysses=2))
    assert len({error for error, _ in told}) == 1
    assert "num_frames: 1000" in told[0][0]
    np.testing.assert_allclose(told[0][1], _of_one_rank("v2v", 0), atol=TOLERANCE)


def refuse_then_render(mesh: Mesh, name: str, request: RenderRequest) -> tuple[str, np.ndarray]:
    pipeline = _load(name, "cogvideox", mesh)
    error = ""
    try:
        pipeline(dataclasses.replace(request, num_frames=1000))
    except ValueError as refusal:
        error = str(refusal)
    return error, pipeline(request)
