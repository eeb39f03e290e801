"""Frames of all families and checkpoints against diffusers' own; and what all pipelines do alike."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests import references
from tests.families import tiny
from vidgen_dist.families.common.rendering import Rendering, ResumeState
from vidgen_dist.families.loader import AnyPipeline

TOLERANCE = 1e-3


@dataclasses.dataclass
class Watched:
    """The rendering of a case's first request, and its progress and states."""

    rendering: Rendering
    progress: list[tuple[str, int, int]]
    states: list[ResumeState]


@pytest.fixture(scope="module", params=references.all_cases(), ids="-".join)
def case(request: pytest.FixtureRequest) -> references.Case:
    family, name = request.param
    return references.case(name, family)


@pytest.fixture(scope="module")
def pipeline(case: references.Case) -> AnyPipeline:
    return tiny.pipeline(case)


@pytest.fixture(scope="module")
def first(case: references.Case, pipeline: AnyPipeline) -> Watched:
    progress: list[tuple[str, int, int]] = []
    states: list[ResumeState] = []
    rendering = pipeline.render(case.requests[0], lambda *told: progress.append(told), on_state=states.append)
    return Watched(rendering, progress, states)


def test_frames_equal_diffusers(case: references.Case, pipeline: AnyPipeline, first: Watched) -> None:
    videos = [first.rendering.frames, *(pipeline(request) for request in case.requests[1:])]
    for k, (frames, expected) in enumerate(zip(videos, case.frames, strict=True)):
        assert frames.dtype == np.float32
        references.check_close(f"{case.family} {case.name}, request {k}", frames, expected, TOLERANCE)


def test_stages_are_timed_and_steps_told(case: references.Case, first: Watched) -> None:
    request = case.requests[0]
    assert request.num_inference_steps is not None
    steps = int(request.num_inference_steps * (request.strength or 1)) + case.further_predictions
    denoising = [("denoise", i, steps) for i in range(steps + 1)]
    assert first.progress == [("encode", 0, 1), *denoising, ("decode", 0, 1)]
    assert [state.step for state in first.states] == list(range(1, steps + 1))
    assert set(first.rendering.seconds) == {"encode", "denoise", "decode"}
    assert not first.rendering.sent


def test_a_state_is_enough_to_go_on(case: references.Case, pipeline: AnyPipeline, first: Watched) -> None:
    for state in first.states[-2:]:
        rest = pipeline.render(case.requests[0], resume=state)
        np.testing.assert_array_equal(rest.frames, first.rendering.frames)


def test_seed_decides_frames(case: references.Case, pipeline: AnyPipeline) -> None:
    request = dataclasses.replace(case.requests[0], num_frames=1, num_inference_steps=2)
    one, same, other = (pipeline(dataclasses.replace(request, seed=seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
