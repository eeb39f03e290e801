"""Stable Video Diffusion in a plan: published sizes, a video, and bytes that its gangs count."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from tests import references
from tests.families import tiny
from tests.parallel.ranks import Ranks
from tests.planner.test_counting import reference_job
from vidgen_dist import RenderRequest
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.parallel.mesh import Mesh
from vidgen_dist.planner.checkpoints import Job
from vidgen_dist.planner.costs import estimate

FAMILY = "stable_video_diffusion"
STEPS = 2


def test_published_sizes(job: Callable[..., Job]) -> None:
    size = job("stable-video-diffusion").size
    # Numbers of diffusers' models without weights.
    assert size.denoiser.parameters == 1_524_623_082
    assert sum(size.denoiser.blocks) == 1_467_376_358
    assert size.vae.parameters == 97_742_847
    (image_encoder,) = size.others
    assert (image_encoder.name, image_encoder.parameters) == ("image_encoder", 632_076_800)


def test_a_video(job: Callable[..., Job]) -> None:
    work = job("stable-video-diffusion").work
    assert (work.frames, work.height, work.width, work.steps, work.guided) == (25, 576, 1024, 25, True)
    assert (work.latents, work.text_tokens, work.encoded_frames) == (4 * 25 * 72 * 128, 1, 1)
    # All at once, as long as a row does not say.
    assert (work.frames_at_once, work.batches) == (25, 1)
    _, smaller = reference_job("img2vid", FAMILY, sampling__decode_chunk_size=3, sampling__num_frames=7)
    assert (smaller.work.frames_at_once, smaller.work.batches) == (3, 3)


def sent_by_rank(mesh: Mesh, request: RenderRequest) -> dict[str, int]:
    return dict(tiny.pipeline(references.case("small", FAMILY), mesh).render(request).sent)


@pytest.mark.parametrize("degrees", [Degrees(ulysses=2, cfg=2), Degrees(ulysses=3)], ids=str)
def test_bytes_of_a_gang_that_renders(ranks: Ranks, degrees: Degrees) -> None:
    request = dataclasses.replace(
        references.case("small", FAMILY).requests[0], num_frames=5, num_inference_steps=STEPS
    )
    fields = ("height", "width", "num_frames", "num_inference_steps")
    _, job = reference_job(
        "small", FAMILY, **{f"sampling__{name}": getattr(request, name) for name in fields}
    )
    told = estimate(job.size, job.work, job.device, degrees, dtype="float32")
    counted = ranks.run(sent_by_rank, request, degrees=degrees)
    for purpose in ("frames", "cfg"):
        mean = sum(of_rank.get(purpose, 0) for of_rank in counted) / degrees.size
        assert mean == pytest.approx(STEPS * told.sent.get(purpose, 0), rel=1e-3), purpose
