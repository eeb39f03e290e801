"""Resuming a rendering from a saved state gives the same frames as rendering without interruption."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import references
from tests.parallel.ranks import Ranks
from vidgen_dist import RenderRequest, load_pipeline
from vidgen_dist.families.common.rendering import Rendering, ResumeState
from vidgen_dist.output.resume_states import pack, unpack
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.parallel.mesh import Mesh

STEPS = 3
EARLIER = Path(__file__).parent / "resume_states"
"""Files that release 0.1.0 wrote, before they had a format."""
FINGERPRINT = "f" * 64


def load(name: str, mesh: Mesh | None = None) -> Any:
    case = references.case(name)
    return load_pipeline(str(case.checkpoint), task=case.task, variant=case.variant, mesh=mesh)


def request_of(name: str) -> RenderRequest:
    """A request of three steps."""
    case = references.case(name)
    share = {"num_inference_steps": STEPS}
    if case.task == "video-to-video":
        share = {"num_inference_steps": 2 * STEPS, "strength": 0.5}
    return dataclasses.replace(case.requests[0], num_frames=5, eta=0.5, **share)


# Every task and every sampler.
@pytest.mark.parametrize("name", ["2b", "5b", "i2v", "v2v"])
def test_frames_are_those_of_an_unbroken_rendering(name: str) -> None:
    states, files = [], []

    def save(state: ResumeState) -> None:
        states.append(state)
        files.append(pack(state, FINGERPRINT))

    request = request_of(name)
    whole = load(name).render(request, on_state=save)
    assert [state.step for state in states] == list(range(1, STEPS + 1))
    # States may be saved while the rendering continues.
    assert [pack(state, FINGERPRINT) for state in states] == files
    pipeline = load(name)
    for done in (2, STEPS):
        told: list[tuple[str, int, int]] = []
        resumed = pipeline.render(
            request,
            lambda *progress, told=told: told.append(progress),
            resume=unpack(files[done - 1], FINGERPRINT),
        )
        np.testing.assert_array_equal(resumed.frames, whole.frames)
        steps = [progress[1] for progress in told if progress[0] == "denoise"]
        assert steps == [0, *range(done + 1, STEPS + 1)]
    # If this fails, resume states have another meaning now: raise `output.resume_states.FORMAT`, and save
    # these files again, each the state after the second step.
    earlier = pipeline.render(request, resume=unpack((EARLIER / f"{name}.state").read_bytes(), FINGERPRINT))
    assert references.largest_difference(earlier.frames, whole.frames) <= 1e-4


def test_a_gang_and_one_rank_go_on_from_each_other(ranks: Ranks) -> None:
    request = request_of("5b")
    whole, states = render(None, request, None)
    of_gang = ranks.run(render, request, states[0], degrees=Degrees(ulysses=2))
    assert references.largest_difference(of_gang[0][0].frames, whole.frames) <= 1e-4
    # The leader saves a state that is equal on every rank.
    first, second = ([pack(state, FINGERPRINT) for state in saved] for _, saved in of_gang)
    assert first == second
    alone, left = render(None, request, of_gang[0][1][0])
    assert [state.step for state in left] == [3]
    assert references.largest_difference(alone.frames, whole.frames) <= 1e-4


def render(
    mesh: Mesh | None, request: RenderRequest, resume: ResumeState | None
) -> tuple[Rendering, list[ResumeState]]:
    states: list[ResumeState] = []
    return load("5b", mesh).render(request, resume=resume, on_state=states.append), states
