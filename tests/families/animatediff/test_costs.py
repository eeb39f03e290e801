"""AnimateDiff in a plan: published sizes, a video, and bytes that its gangs count."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from tests import references
from tests.families import tiny
from tests.parallel.ranks import Ranks
from tests.planner.test_counting import reference_job
from vidgen_dist import RenderRequest
from vidgen_dist.parallel.mesh import Degrees, Mesh
from vidgen_dist.planner.checkpoints import Job
from vidgen_dist.planner.costs import estimate

FAMILY = "animatediff"
STEPS = 2


def test_published_sizes(job: Callable[..., Job]) -> None:
    size = job("animatediff").size
    # Numbers of diffusers' models without weights: Stable Diffusion 1.5's UNet, the adapter v1-5-2, and its
    # table of positions, which is stored.
    assert size.denoiser.parameters == 859_520_964 + 453_209_280 + 604_160
    assert size.vae.parameters == 83_653_863
    assert size.text_encoder is None
    assert [part.name for part in size.others] == ["text_encoder"]


def test_a_video(job: Callable[..., Job]) -> None:
    work = job("animatediff").work
    # Of PNDM, which the checkpoint ships, one more.
    assert (work.frames, work.height, work.width, work.steps, work.guided) == (16, 512, 512, 51, True)
    assert (work.latents, work.text_tokens) == (4 * 16 * 64 * 64, 77)
    assert (work.frames_at_once, work.batches) == (16, 1)
    _, smaller = reference_job("pndm", FAMILY, sampling__decode_chunk_size=3, sampling__num_frames=7)
    assert (smaller.work.frames_at_once, smaller.work.batches) == (3, 3)


def sent_by_rank(mesh: Mesh, request: RenderRequest) -> dict[str, int]:
    return dict(tiny.pipeline(references.case("pndm", FAMILY), mesh).render(request).sent)


@pytest.mark.parametrize("degrees", [Degrees(ulysses=2, cfg=2), Degrees(ulysses=3)], ids=str)
def test_bytes_of_a_gang_that_renders(ranks: Ranks, degrees: Degrees) -> None:
    case = references.case("pndm", FAMILY)
    request = dataclasses.replace(case.requests[0], num_inference_steps=STEPS)
    fields = ("height", "width", "num_frames", "num_inference_steps")
    _, job = reference_job("pndm", FAMILY, **{f"sampling__{name}": getattr(request, name) for name in fields})
    told = estimate(job.size, job.work, job.device, degrees, dtype="float32")
    counted = ranks.run(sent_by_rank, request, degrees=degrees)
    for purpose in ("frames", "norm", "cfg"):
        mean = sum(of_rank.get(purpose, 0) for of_rank in counted) / degrees.size
        assert mean == pytest.approx(job.work.steps * told.sent.get(purpose, 0), rel=1e-3), purpose
