"""Frames against diffusers' own, checkpoint by checkpoint."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests import references
from vidgen_dist import Refused, RenderRequest, RequestError, load_pipeline
from vidgen_dist.pipelines.rendering import Pipeline

TOLERANCE = 1e-3


@pytest.fixture(scope="module", params=references.cases())
def case(request: pytest.FixtureRequest) -> references.Case:
    return references.case(request.param)


@pytest.fixture(scope="module")
def pipeline(case: references.Case) -> Pipeline:
    return load_pipeline(str(case.checkpoint), task=case.task, variant=case.variant)


def test_frames_equal_diffusers(case: references.Case, pipeline: Pipeline) -> None:
    for request, expected in zip(case.requests, case.frames, strict=True):
        frames = pipeline(request)
        assert frames.dtype == np.float32
        worst = references.largest_difference(frames, expected)
        print(f"{case.name}: largest difference {worst:.2e} over {len(frames)} frames")
        assert worst <= TOLERANCE


def _small(case: references.Case, **fields: object) -> RenderRequest:
    return dataclasses.replace(case.requests[0], num_inference_steps=2, **fields)


def test_same_request_gives_same_frames(case: references.Case, pipeline: Pipeline) -> None:
    request = _small(case)
    np.testing.assert_array_equal(pipeline(request), pipeline(request))


def test_seed_decides_frames(case: references.Case, pipeline: Pipeline) -> None:
    assert not np.array_equal(pipeline(_small(case, seed=1)), pipeline(_small(case, seed=2)))


def test_stages_are_timed_and_steps_told(case: references.Case, pipeline: Pipeline) -> None:
    told: list[tuple[str, int, int]] = []
    rendering = pipeline.render(_small(case), on_progress=lambda *progress: told.append(progress))
    assert set(rendering.seconds) == {"encode", "denoise", "decode"}
    steps = len(told) - 3
    assert steps >= 1
    denoising = [("denoise", i, steps) for i in range(steps + 1)]
    assert told == [("encode", 0, 1), *denoising, ("decode", 0, 1)]
    assert not rendering.sent


def test_clip_shorter_than_num_frames_is_refused() -> None:
    case = references.case("v2v")
    pipeline = load_pipeline(str(case.checkpoint), task=case.task, variant=case.variant)
    with pytest.raises(RequestError, match=r"num_frames: 1000 .* at most the clip's"):
        pipeline(_small(case, num_frames=1000))


def test_num_frames_cuts_a_clip() -> None:
    case = references.case("v2v")
    pipeline = load_pipeline(str(case.checkpoint), task=case.task, variant=case.variant)
    cut = pipeline(_small(case, num_frames=5))
    same = pipeline(_small(case, video=case.requests[0].video[:5]))
    np.testing.assert_array_equal(cut, same)


def test_adapter_is_refused() -> None:
    with pytest.raises(Refused, match="adapter 'motion'"):
        load_pipeline(str(references.case("2b").checkpoint), adapter="motion")
