"""Plans for Mochi: published sizes, its convolutions, and the bytes that gangs count."""

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

FAMILY = "mochi"
STEPS = 2


def test_published_sizes(run: Callable[..., PlannedRun]) -> None:
    size = run("mochi").size
    # Numbers of parameters of diffusers' models, built without weights.
    assert size.denoiser.parameters == 10_027_677_744
    assert size.vae.parameters == 459_748_611
    assert size.text_encoder.parameters == 4_762_310_656
    assert len(size.denoiser.blocks) == 48
    assert (size.denoiser.blocks[0], size.denoiser.blocks[-1]) == (207_641_600, 169_886_720)
    stack = size.denoiser.stack
    # Queries, keys, values and the output map, and a gated feed-forward 8/3 as wide.
    assert stack.linear == (4 + 3 * 8 // 3) * 3072**2


def test_a_video_in_tokens(run: Callable[..., PlannedRun]) -> None:
    work = run("mochi").work
    assert (work.frames, work.height, work.width, work.steps, work.guided) == (19, 480, 848, 64, True)
    assert work.tokens == 4 * 30 * 53
    assert work.attending == work.tokens + 256
    assert work.latents == 12 * 4 * 60 * 106
    assert (work.frames_at_once, work.batches, work.repeated_frames) == (12, 2, 5)


def test_the_first_batch_of_frames_has_the_remainder() -> None:
    for frames, at_once, batches in ((1, 6, 1), (7, 12, 1), (13, 18, 1), (19, 12, 2), (25, 18, 2)):
        _, run = reference_run("t2v", FAMILY, sampling__num_frames=frames)
        assert (run.work.frames, run.work.frames_at_once, run.work.batches) == (frames, at_once, batches)


def test_convolutions_are_where_the_image_has_their_size(run: Callable[..., PlannedRun]) -> None:
    vae = run("mochi").size.vae
    sizes = list(dict.fromkeys((conv.inputs, conv.frames, conv.pixels) for conv in vae.decoder))
    assert sizes == [
        (12, 1 / 6, 1 / 8),
        (768, 1 / 6, 1 / 8),
        (512, 1 / 2, 1 / 4),
        (256, 1, 1 / 2),
        (128, 1, 1),
    ]
    # A layer that turns channels into pixels has as many more output channels.
    growing = [
        conv.outputs for conv in vae.decoder if conv.outputs > conv.inputs and conv.kernel == (1, 1, 1)
    ]
    assert growing == [768, 512 * 3 * 4, 256 * 2 * 4, 128 * 4]
    narrowing = [(conv.kernel, conv.frames, conv.pixels) for conv in vae.encoder if conv.kernel[1] == 2]
    assert narrowing == [
        ((1, 2, 2), 1, 1 / 2),
        ((2, 2, 2), 1 / 2, 1 / 4),
        ((3, 2, 2), 1 / 6, 1 / 8),
    ]
    # Two per block: 3, 3, 4, 6 and 3 blocks.
    assert sum(conv.kernel == (3, 3, 3) for conv in vae.decoder) == 2 * 19


@pytest.mark.parametrize("degrees", [Degrees(ulysses=2, cfg=2), Degrees(ring=2)], ids=str)
def test_bytes_of_a_gang_that_renders(ranks: Ranks, degrees: Degrees) -> None:
    # Both prompts have two tokens: a plan assumes the greatest length.
    request = dataclasses.replace(
        references.case("t2v", FAMILY).requests[0], num_inference_steps=STEPS, max_sequence_length=2
    )
    fields = ("height", "width", "num_frames", "max_sequence_length", "num_inference_steps")
    _, run = reference_run("t2v", FAMILY, **{f"sampling__{name}": getattr(request, name) for name in fields})
    told = estimate(run.size, run.work, run.device, degrees, dtype="float32")
    counted = ranks.run(sent_by_rank, "t2v", FAMILY, request, degrees=degrees)
    check_sent(counted, told.sent, STEPS)
