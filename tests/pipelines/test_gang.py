"""Gangs render what one rank renders: every task, every way to divide the work."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest

from tests import references
from tests.parallel.ranks import Ranks
from vidgen_dist import RenderRequest, load_pipeline
from vidgen_dist.parallel.mesh import Degrees, Mesh
from vidgen_dist.pipelines.rendering import Rendering

TOLERANCE = 1e-4

DEGREES = [
    Degrees(ulysses=2),
    Degrees(ring=2),
    Degrees(ulysses=2, ring=2),
    Degrees(ulysses=2, cfg=2),
    Degrees(ulysses=3),
    Degrees(ulysses=4),
]
# Every task goes through all of them, on one checkpoint; the other checkpoints through the uneven one.
CASES = [("cogvideox", name, degrees) for name in ("5b", "i2v", "v2v") for degrees in DEGREES]
CASES += [
    ("cogvideox", name, Degrees(ulysses=3)) for name in references.cases() if name not in ("5b", "i2v", "v2v")
]
CASES += [
    ("hunyuan_video", "t2v", Degrees(ulysses=2, ring=2)),
    ("hunyuan_video", "t2v", Degrees(ulysses=2, cfg=2)),
    ("hunyuan_video", "odd", Degrees(ulysses=3)),
    ("hunyuan_video", "dummy", Degrees(ring=2, cfg=2)),
    ("ltx", "0.9.0", Degrees(ulysses=2, ring=2)),
    ("ltx", "0.9.0", Degrees(ulysses=2, cfg=2)),
    ("ltx", "0.9.0-i2v", Degrees(ulysses=4)),
    ("ltx", "0.9.1", Degrees(ulysses=2)),
    ("ltx", "0.9.1-i2v", Degrees(ring=2)),
    ("ltx", "0.9.1-i2v", Degrees(ulysses=3)),
    ("ltx", "0.9.5-i2v", Degrees(ulysses=3)),
    ("mochi", "t2v", Degrees(ulysses=2)),
    ("mochi", "t2v", Degrees(cfg=2)),
    ("mochi", "t2v", Degrees(ulysses=2, ring=2)),
    ("mochi", "t2v", Degrees(ulysses=2, cfg=2)),
    # Of three heads, two rows of latents and one token of text some ranks have none.
    ("mochi", "t2v", Degrees(ulysses=4)),
    # Of the last request's prompt there is no token.
    ("mochi", "odd", Degrees(ulysses=3)),
]


def render(
    mesh: Mesh | None, name: str, requests: list[RenderRequest], family: str = "cogvideox"
) -> list[Rendering]:
    case = references.case(name, family)
    pipeline = load_pipeline(str(case.checkpoint), task=case.task, variant=case.variant, mesh=mesh)
    return [pipeline.render(request) for request in requests]


def _few_steps(name: str, family: str = "cogvideox") -> list[RenderRequest]:
    requests = references.case(name, family).requests
    if (family, name) == ("mochi", "t2v"):
        # The one between takes as long as both, and shows nothing that they do not.
        requests = [requests[0], requests[2]]
    return [dataclasses.replace(request, num_inference_steps=2) for request in requests]


@functools.cache
def _of_one_rank(name: str, family: str = "cogvideox") -> list[Rendering]:
    return render(None, name, _few_steps(name, family), family)


@pytest.mark.parametrize(("family", "name", "degrees"), CASES, ids=str)
def test_frames_equal_those_of_one_rank(ranks: Ranks, family: str, name: str, degrees: Degrees) -> None:
    expected = _of_one_rank(name, family)
    renderings = ranks.run(render, name, _few_steps(name, family), family, degrees=degrees)
    for of_gang, alone in zip(renderings[0], expected, strict=True):
        references.check_close(f"{family} {name}, {degrees}", of_gang.frames, alone.frames, TOLERANCE)
    for others in renderings[1:]:
        for of_gang, alone in zip(others, expected, strict=True):
            frames, _, width, channels = alone.frames.shape
            assert of_gang.frames.shape == (frames, 0, width, channels)
    sent = renderings[0][0].sent
    assert {"weights", "rows"} <= sent.keys()
    assert ("ulysses" in sent) == (degrees.ulysses > 1)
    assert ("ring" in sent) == (degrees.ring > 1)


def test_what_is_sent_is_told_by_purpose(ranks: Ranks) -> None:
    renderings = ranks.run(render, "5b", _few_steps("5b"), degrees=Degrees(ulysses=2, cfg=2))
    for of_rank in renderings:
        sent = of_rank[0].sent
        assert {"ulysses", "cfg", "tokens", "weights"} <= sent.keys()
        assert all(count > 0 for count in sent.values())


def test_a_bad_request_is_refused_alike_and_the_gang_goes_on(ranks: Ranks) -> None:
    told = ranks.run(refuse_then_render, "v2v", _few_steps("v2v")[0], degrees=Degrees(ulysses=2))
    assert len({error for error, _ in told}) == 1
    assert "num_frames: 1000" in told[0][0]
    np.testing.assert_allclose(told[0][1], _of_one_rank("v2v")[0].frames, atol=TOLERANCE)


def refuse_then_render(mesh: Mesh, name: str, request: RenderRequest) -> tuple[str, np.ndarray]:
    case = references.case(name)
    pipeline = load_pipeline(str(case.checkpoint), task=case.task, variant=case.variant, mesh=mesh)
    error = ""
    try:
        pipeline(dataclasses.replace(request, num_frames=1000))
    except ValueError as refusal:
        error = str(refusal)
    return error, pipeline(request)
