"""Plans for Stable Video Diffusion: published sizes and a video."""

from __future__ import annotations

from collections.abc import Callable

from tests.planner.reference_runs import reference_run
from vidgen_dist.planner.planned_run import PlannedRun

FAMILY = "stable_video_diffusion"


def test_published_sizes(run: Callable[..., PlannedRun]) -> None:
    size = run("stable-video-diffusion").size
    # Numbers of parameters of diffusers' models, built without weights.
    assert size.denoiser.parameters == 1_524_623_082
    assert sum(size.denoiser.blocks) == 1_467_376_358
    assert size.vae.parameters == 97_742_847
    (image_encoder,) = size.others
    assert (image_encoder.name, image_encoder.parameters) == ("image_encoder", 632_076_800)


def test_a_video(run: Callable[..., PlannedRun]) -> None:
    work = run("stable-video-diffusion").work
    assert (work.frames, work.height, work.width, work.steps, work.guided) == (25, 576, 1024, 25, True)
    assert (work.latents, work.text_tokens, work.encoded_frames) == (4 * 25 * 72 * 128, 1, 1)
    # All frames at once, unless a row says otherwise.
    assert (work.frames_at_once, work.batches) == (25, 1)
    _, smaller = reference_run("img2vid", FAMILY, sampling__decode_chunk_size=3, sampling__num_frames=7)
    assert (smaller.work.frames_at_once, smaller.work.batches) == (3, 3)
