"""Plans for AnimateDiff: published sizes, and a video."""

from __future__ import annotations

from collections.abc import Callable

from tests.planner.reference_runs import reference_run
from vidgen_dist.planner.planned_run import PlannedRun

FAMILY = "animatediff"


def test_published_sizes(run: Callable[..., PlannedRun]) -> None:
    size = run("animatediff").size
    # Numbers of parameters of diffusers' models, built without weights: Stable Diffusion 1.5's UNet, the
    # adapter v1-5-2, and its stored position table.
    assert size.denoiser.parameters == 859_520_964 + 453_209_280 + 604_160
    assert size.vae.parameters == 83_653_863
    assert size.text_encoder is None
    assert [part.name for part in size.others] == ["text_encoder"]


def test_a_video(run: Callable[..., PlannedRun]) -> None:
    work = run("animatediff").work
    # PNDM, the checkpoint's sampler, takes one step more.
    assert (work.frames, work.height, work.width, work.steps, work.guided) == (16, 512, 512, 51, True)
    assert (work.latents, work.text_tokens) == (4 * 16 * 64 * 64, 77)
    assert (work.frames_at_once, work.batches) == (16, 1)
    _, smaller = reference_run("pndm", FAMILY, sampling__decode_chunk_size=3, sampling__num_frames=7)
    assert (smaller.work.frames_at_once, smaller.work.batches) == (3, 3)
