"""Frames per second of the file, where `fps` is what the model is told: Stable Video Diffusion's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests import references
from vidgen_dist.engine import ENGINE
from vidgen_dist.errors import Refused
from vidgen_dist.preflight.plan import Plan, make_plan, open_run
from vidgen_dist.spec import RunSpec

CASE = references.case("small", "stable_video_diffusion")
IMAGE = str(CASE.folder / "square.png")
SpecOf = Callable[..., RunSpec]


@pytest.fixture
def spec_of(make_spec: Callable[..., RunSpec], make_manifest: Callable[..., str]) -> SpecOf:
    """A run of rows, all of which have the image."""

    def make(*rows: dict[str, Any], **flags: Any) -> RunSpec:
        named = [{"id": str(i), "image": IMAGE, **row} for i, row in enumerate(rows)]
        return make_spec(make_manifest(*named), model__id=str(CASE.checkpoint), **flags)

    return make


def plan_of(spec: RunSpec) -> Plan:
    return make_plan(*open_run(spec), device="cpu", engine=ENGINE)


def told_and_written(spec: RunSpec) -> list[tuple[float, float]]:
    return [(row.request.fps, row.request.written_fps) for row in plan_of(spec).rows()]


def fingerprints(spec: RunSpec) -> list[str]:
    plan = plan_of(spec)
    return [plan.identity.fingerprint(row.request, {"image": "0"}) for row in plan.rows()]


def test_the_runs_number_is_the_files_alone(spec_of: SpecOf) -> None:
    rows = [{"fps": None, "file_fps": None}, {"fps": 10.0, "file_fps": None}, {"fps": 10.0, "file_fps": 5.0}]
    assert told_and_written(spec_of(*rows)) == [(7, 7), (10, 10), (10, 5)]
    assert told_and_written(spec_of(*rows, output__fps=24.0)) == [(7, 24), (10, 24), (10, 5)]


def test_it_counts(spec_of: SpecOf) -> None:
    plain, faster = fingerprints(spec_of({})), fingerprints(spec_of({}, output__fps=24.0))
    assert plain != faster
    assert fingerprints(spec_of({"file_fps": 24.0})) == faster


def test_so_do_the_frames_that_are_decoded_together(spec_of: SpecOf) -> None:
    """Elsewhere they decide memory alone."""
    assert fingerprints(spec_of({"decode_chunk_size": 1})) != fingerprints(spec_of({}))


def test_a_prompt_does_not(spec_of: SpecOf, caplog: pytest.LogCaptureFixture) -> None:
    assert fingerprints(spec_of({"prompt": "a fox"})) == fingerprints(spec_of({}))
    assert caplog.text.count("column 'prompt' is ignored: Stable Video Diffusion image-to-video") == 1


def test_what_the_model_is_told_may_be_under_sampling(spec_of: SpecOf) -> None:
    assert told_and_written(spec_of({"fps": None}, {"fps": 5.0}, sampling__fps=10.0)) == [(10, 10), (5, 5)]
    assert told_and_written(spec_of({}, sampling__fps=10.0, output__fps=24.0)) == [(10, 24)]
    with pytest.raises(Refused, match=r"sampling\.file_fps: it is output\.fps"):
        plan_of(spec_of({}, sampling__file_fps=8.0))
