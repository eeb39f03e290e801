"""Plans for HunyuanVideo: published sizes, its convolutions, and the bytes that gangs count."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from tests import references
from tests.parallel.ranks import Ranks
from tests.planner.reference_runs import check_sent, reference_run, sent_by_rank
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.planner.estimates import estimate
from vidgen_dist.planner.planned_run import PlannedRun

FAMILY = "hunyuan_video"
STEPS = 2


def test_published_sizes(run: Callable[..., PlannedRun]) -> None:
    size = run("hunyuan-video").size
    # Numbers of parameters of diffusers' and transformers' models, built without weights.
    assert size.denoiser.parameters == 12_821_012_544
    assert size.vae.parameters == 246_478_803
    (clip,) = size.others
    assert clip.parameters == 123_060_480
    # Of 32 blocks two are not run, nor is the norm after them.
    assert size.text_encoder is not None
    assert size.text_encoder.parameters == 30 * 218_112_000 + 128320 * 4096
    assert (len(size.denoiser.blocks), len(size.text_encoder.blocks)) == (2 + 20 + 40, 30)
    stack = size.denoiser.stack
    assert stack.blocks == 60
    assert stack.linear == 12 * 3072**2
    assert size.denoiser.rest < 0.01 * size.denoiser.parameters


def test_a_video_in_tokens_and_tiles(run: Callable[..., PlannedRun]) -> None:
    work = run("hunyuan-video").work
    assert (work.frames, work.height, work.width, work.steps, work.guided) == (129, 720, 1280, 50, False)
    assert work.tokens == 33 * 45 * 80
    assert work.attending == work.tokens + 256
    assert work.latents == 16 * 33 * 90 * 160
    # Tiles of 17 frames, one every 12, the last of 9.
    assert (work.frames_at_once, work.batches, work.repeated_frames) == (17, 11, 10 * 17 + 9 - 129)


def test_short_videos_are_one_tile() -> None:
    for frames, tiles, repeated in ((1, 1, 0), (13, 1, 0), (17, 2, 5), (21, 2, 5), (25, 2, 5), (29, 3, 10)):
        _, run = reference_run("t2v", FAMILY, sampling__num_frames=frames)
        assert (run.work.frames, run.work.batches, run.work.repeated_frames) == (frames, tiles, repeated)


def test_convolutions_are_where_the_image_has_their_size(run: Callable[..., PlannedRun]) -> None:
    vae = run("hunyuan-video").size.vae
    for first, last in ((vae.encoder[0], vae.encoder[-1]), (vae.decoder[-1], vae.decoder[0])):
        assert (first.frames, first.pixels) == (1, 1)
        assert (last.frames, last.pixels) == (1 / 4, 1 / 8)
    # Inputs of the decoder's blocks: 512 channels before it doubles rows, then frames too.
    sizes = list(dict.fromkeys((conv.outputs, conv.frames, conv.pixels) for conv in vae.decoder))
    assert sizes == [
        (512, 1 / 4, 1 / 8),
        (512, 1 / 4, 1 / 4),
        (512, 1 / 2, 1 / 2),
        (256, 1 / 2, 1 / 2),
        (256, 1, 1),
        (128, 1, 1),
        (3, 1, 1),
    ]


@pytest.mark.parametrize("degrees", [Degrees(ulysses=2, cfg=2), Degrees(ring=2)], ids=str)
def test_bytes_of_a_gang_that_renders(ranks: Ranks, degrees: Degrees) -> None:
    # Every prompt has two tokens: a plan assumes the greatest length.
    request = dataclasses.replace(
        references.case("t2v", FAMILY).requests[1], num_inference_steps=STEPS, max_sequence_length=2
    )
    fields = ("height", "width", "num_frames", "max_sequence_length", "num_inference_steps")
    given = request.values()
    asked = {f"sampling__{name}": given[name] for name in (*fields, "true_cfg_scale")}
    _, run = reference_run("t2v", FAMILY, **asked, sampling__negative_prompt="blurry")
    assert run.work.guided
    told = estimate(run.size, run.work, run.device, degrees, dtype="float32")
    counted = ranks.run(sent_by_rank, "t2v", FAMILY, request, degrees=degrees)
    check_sent(counted, told.sent, STEPS)
