"""Plans for LTX-Video: published sizes, its convolutions, and the bytes that gangs count."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from tests import references
from tests.parallel.ranks import Ranks
from tests.planner.reference_runs import check_sent, reference_run, sent_by_rank
from vidgen_dist.families.common.costs import Convolution
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.planner.estimates import estimate
from vidgen_dist.planner.planned_run import PlannedRun


# Numbers of parameters of diffusers' models, built without weights.
@pytest.mark.parametrize(
    ("version", "vae"), [("0.9.0", 419_193_905), ("0.9.1", 934_976_690), ("0.9.8", 1_246_913_778)]
)
def test_published_sizes(run: Callable[..., PlannedRun], version: str, vae: int) -> None:
    size = run(f"ltx-{version}").size
    assert size.denoiser.parameters == 1_923_385_472
    assert size.text_encoder.parameters == 4_762_310_656
    assert size.vae.parameters == vae
    assert len(size.denoiser.blocks) == 28
    stack = size.denoiser.stack
    assert stack is not None
    # Queries, keys, values and the output map among the video's tokens, queries and the output map to the
    # text, and a feed-forward four times as wide.
    assert stack.linear == (4 + 2 + 8) * 2048**2


@pytest.mark.parametrize("version", ["0.9.0", "0.9.1", "0.9.8"])
def test_convolutions_lead_from_pixels_to_latents_and_back(
    run: Callable[..., PlannedRun], version: str
) -> None:
    vae = run(f"ltx-{version}").size.vae
    for first, last in ((vae.encoder[0], vae.encoder[-1]), (vae.decoder[-1], vae.decoder[0])):
        assert (first.frames, first.pixels) == (1, 1 / 4)
        assert (last.frames, last.pixels) == (1 / 8, 1 / 32)
    assert {conv.kernel for conv in vae.decoder} <= {(3, 3, 3), (1, 1, 1)}


def test_what_shuffles_pixels_convolves_before(run: Callable[..., PlannedRun]) -> None:
    def doubling(convolutions: tuple[Convolution, ...]) -> list[tuple[float, float]]:
        return [(c.frames, c.pixels) for c in convolutions if c.outputs == 4 * c.inputs]

    # Twice the frames, rows and columns, and half the channels.
    assert doubling(run("ltx-0.9.1").size.vae.decoder) == [(1 / 8, 1 / 32), (1 / 4, 1 / 16), (1 / 2, 1 / 8)]
    encoder = run("ltx-0.9.8").size.vae.encoder
    narrowing = [(c.inputs, c.frames, c.pixels) for c in encoder if c.outputs < c.inputs]
    assert narrowing[:3] == [(128, 1, 1 / 4), (512, 1 / 2, 1 / 8), (1024, 1 / 4, 1 / 16)]


def test_a_video_in_tokens(run: Callable[..., PlannedRun]) -> None:
    work = run("ltx-0.9.0").work
    assert (work.frames, work.height, work.width, work.steps, work.guided) == (161, 512, 704, 50, True)
    assert work.tokens == work.attending == 21 * 16 * 22
    assert work.latents == 128 * work.tokens
    assert (work.frames_at_once, work.batches, work.encoded_frames) == (161, 1, 0)


def test_an_image_is_encoded() -> None:
    _, image = reference_run("0.9.1-i2v", "ltx")
    assert image.work.encoded_frames == 1


STEPS = 2


def test_bytes_of_a_gang_that_renders(ranks: Ranks) -> None:
    degrees = Degrees(ulysses=2, cfg=2)
    request = dataclasses.replace(references.case("0.9.0", "ltx").requests[0], num_inference_steps=STEPS)
    fields = ("height", "width", "num_frames", "max_sequence_length", "num_inference_steps")
    _, run = reference_run("0.9.0", "ltx", **{f"sampling__{name}": getattr(request, name) for name in fields})
    told = estimate(run.size, run.work, run.device, degrees, dtype="float32")
    counted = ranks.run(sent_by_rank, "0.9.0", "ltx", request, degrees=degrees)
    check_sent(counted, told.sent, STEPS)
