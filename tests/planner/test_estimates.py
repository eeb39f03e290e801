"""Bytes and seconds of one gang, against numbers worked out by hand and measurements of others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from vidgen_dist.families.common.costs import VaeTiles
from vidgen_dist.families.common.step_costs import gathered_bytes, ring_bytes, ulysses_bytes
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.planner.devices import Device, find_device
from vidgen_dist.planner.estimates import Estimate, estimate
from vidgen_dist.planner.planned_run import PlannedRun

MakeRun = Callable[..., PlannedRun]


def of(
    run: PlannedRun, ulysses: int = 1, ring: int = 1, cfg: int = 1, device: Device | None = None
) -> Estimate:
    return estimate(run.size, run.work, device or run.device, Degrees(ulysses, ring, cfg), dtype=run.dtype)


def test_bytes_of_an_attention() -> None:
    # 1,000 tokens of width 64 in two bytes. Each rank has 250; it sends three quarters of queries, keys,
    # values and result: 4 x 250 x 64 x 3/4 x 2.
    assert ulysses_bytes(1000, 64, Degrees(ulysses=4), 2) == 96_000
    # Three hops with the keys and values of 250 tokens: 3 x 2 x 250 x 64 x 2.
    assert ring_bytes(1000, 64, Degrees(ring=4), 2) == 192_000
    # Two by two: half of the 250 tokens is sent, then one hop with half of the width for 500 tokens.
    assert ulysses_bytes(1000, 64, Degrees(ulysses=2, ring=2), 2) == 4 * 250 * 64 // 2 * 2
    assert ring_bytes(1000, 64, Degrees(ulysses=2, ring=2), 2) == 2 * 500 * 32 * 2
    assert ulysses_bytes(1000, 64, Degrees(ring=4), 2) == ring_bytes(1000, 64, Degrees(ulysses=4), 2) == 0
    assert gathered_bytes(800, 4) == 600


def test_bytes_of_a_step(run: MakeRun) -> None:
    tokens, width, blocks, samples = 17_776, 3_072, 42, 2
    sent = of(run("5b"), ulysses=8).sent
    assert sent["ulysses"] == samples * blocks * (4 * tokens * width * 7 * 2 // 64)
    assert sent["weights"] == sum(run("5b").size.denoiser.blocks) * 2 * 7 // 8
    assert sent["ring"] == sent["cfg"] == 0
    # Each half of guidance has one sample, and gathers the other half's prediction.
    halves = of(run("5b"), ulysses=4, cfg=2).sent
    assert halves["ulysses"] == blocks * (4 * tokens * width * 3 * 2 // 16)
    assert halves["cfg"] == run("5b").work.latents * 2


def test_one_rank_sends_and_waits_for_nothing(run: MakeRun) -> None:
    alone = of(run("5b"))
    assert set(alone.sent.values()) == {0}
    assert alone.seconds.waiting == 0


def test_weights_of_a_rank(run: MakeRun) -> None:
    size = run("5b").size
    whole, quarter = of(run("5b")).memory, of(run("5b"), ulysses=4).memory
    assert sum(whole.weights.values()) == 2 * sum(part.parameters for part in size.components)
    part = size.denoiser
    assert quarter.weights["transformer"] == 2 * (sum(part.blocks) // 4 + part.rest)
    assert quarter.weights["vae"] == whole.weights["vae"]
    tokens = size.text_encoder
    assert tokens.tables == 32128 * 4096
    assert quarter.weights["text_encoder"] < 2 * tokens.parameters / 3.99
    # The block that runs and the next one are whole.
    assert quarter.stages["denoise"] > 2 * 2 * part.blocks[0]


@pytest.mark.parametrize("name", ["2b", "5b", "1.5-5b"])
@pytest.mark.parametrize("way", ["ulysses", "ring"])
def test_memory_of_a_rank_falls_with_the_gang(run: MakeRun, name: str, way: str) -> None:
    peaks = [of(run(name), **{way: ranks}).memory.peak for ranks in (1, 2, 4, 8)]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[-1] < peaks[0] / 4


def test_more_memory_is_needed_for_more_frames(run: MakeRun) -> None:
    longer = dataclasses.replace(run("5b").work, tokens=2 * run("5b").work.tokens)
    more = estimate(run("5b").size, longer, run("5b").device, Degrees())
    assert more.memory.stages["denoise"] > 1.9 * of(run("5b")).memory.stages["denoise"]


@pytest.mark.parametrize(
    ("name", "times"), [("5b", 2), ("mochi", 25.5 / 23.4), ("hunyuan-video", 20.2 / 16.1)]
)
def test_guidance_takes_the_memory_of_a_second_sample_where_both_are_in_a_block(
    run: MakeRun, name: str, times: float
) -> None:
    """As measured on CPU; Mochi and HunyuanVideo run one sample after the other."""
    plain, guided = (
        estimate(it.size, dataclasses.replace(it.work, guided=guided), it.device, Degrees()).memory
        for it in [run(name)]
        for guided in (False, True)
    )
    assert guided.stages["denoise"] == pytest.approx(times * plain.stages["denoise"], rel=0.05)


def test_tiles_bound_the_decoder(run: MakeRun) -> None:
    """Each tile is decoded separately, on one rank of any number; overlaps are decoded twice."""
    whole = run("5b")
    tiles = VaeTiles(240, 360, 200, 288)
    tiled = dataclasses.replace(whole, work=dataclasses.replace(whole.work, vae_tiles=tiles))
    assert tiles.sizes(480, 720) == ([240, 240, 80], [360, 360, 144])
    alone, cut = of(whole), of(tiled)
    activations = 4 * 3 * 480 * 720 * whole.work.frames
    assert cut.memory.stages["decode"] - activations == pytest.approx(
        (alone.memory.stages["decode"] - activations) / 4, rel=1e-6
    )
    overlap = (240 + 240 + 80) * (360 + 360 + 144) / (480 * 720)
    assert cut.seconds.decode == pytest.approx(alone.seconds.decode * overlap, rel=0.02)
    together = of(tiled, ulysses=8)
    assert together.memory.stages["decode"] == cut.memory.stages["decode"]
    assert together.seconds.decode == cut.seconds.decode
    assert of(whole, ulysses=8).seconds.decode < alone.seconds.decode / 4


def test_fits_leaves_room_for_what_is_not_the_models(run: MakeRun) -> None:
    it = run("5b")
    peak = of(it).memory.peak
    assert not estimate(it.size, it.work, it.device, Degrees(), memory=peak).fits
    assert estimate(it.size, it.work, it.device, Degrees(), memory=int(peak / it.device.usable) + 2).fits


def test_heads_that_do_not_divide_cost_what_the_fullest_rank_does(run: MakeRun) -> None:
    # There are 96 heads of two samples; the busiest of five ranks has 20, as if there were 100: attention
    # takes 100 / 96 times as long.
    fair, uneven = of(run("5b"), ring=5).seconds.compute, of(run("5b"), ulysses=5).seconds.compute
    assert uneven > 1.015 * fair


def test_exchange_between_hosts_is_waited_for(run: MakeRun) -> None:
    device = find_device("910B")
    wide = dataclasses.replace(device, npus_per_host=16)
    across, within = (of(run("5b"), ulysses=16, device=each).seconds for each in (device, wide))
    assert across.waiting > 3 * within.waiting
    assert across.compute == within.compute
    # The ring's ranks are two apart: with eight on a host, the ring spans four hosts.
    around, at_home = (of(run("5b"), ulysses=2, ring=8, device=each).seconds for each in (device, wide))
    assert around.waiting > at_home.waiting


def test_two_of_a_full_mesh_have_one_link_between_them(run: MakeRun) -> None:
    device = find_device("910B")
    switched = dataclasses.replace(
        device, inside=dataclasses.replace(device.inside, to_one=device.inside.bandwidth)
    )
    meshed, free = (of(run("5b"), ulysses=2, device=each).seconds.waiting for each in (device, switched))
    assert meshed == pytest.approx(7 * free, rel=0.1)
    # Eight ranks use all seven links at once.
    meshed, free = (of(run("5b"), ulysses=8, device=each).seconds.waiting for each in (device, switched))
    assert meshed == pytest.approx(free)


def test_what_arithmetic_hides_is_not_waited_for(run: MakeRun) -> None:
    it = run("5b")
    slow = dataclasses.replace(it.device, tflops={"bfloat16": it.device.tflops["bfloat16"] / 10})
    waits = of(it, ring=8).seconds.waiting
    assert of(it, ring=8, device=slow).seconds.waiting < waits / 10
    # Nothing of Ulysses is hidden.
    assert of(it, ulysses=8, device=slow).seconds.waiting == pytest.approx(of(it, ulysses=8).seconds.waiting)


def test_seconds_add_up(run: MakeRun) -> None:
    seconds = of(run("5b"), ulysses=4).seconds
    assert seconds.step == seconds.compute + seconds.waiting
    assert seconds.video == seconds.encode + 50 * seconds.step + seconds.decode


@pytest.mark.parametrize(("name", "published"), [("5b", 240), ("2b", 100)])
def test_cogvideox_on_a_910b_takes_about_what_was_published(
    run: MakeRun, name: str, published: float
) -> None:
    """MindIE's figures for an Atlas 800I A2; `devices.yaml` has their sources."""
    assert of(run(name)).seconds.video == pytest.approx(published, rel=0.2)


def test_hunyuanvideo_on_a3_takes_about_what_was_published(run: MakeRun) -> None:
    """CANN's figures: 3,568 s on one die, 465 s (7.7 times faster) on eight with Ulysses."""
    steps = [50 * of(run("hunyuan-video", "A3"), ulysses=ranks).seconds.step for ranks in (1, 8)]
    assert steps[0] == pytest.approx(3568, rel=0.15)
    assert steps[0] / steps[1] == pytest.approx(3568 / 465, rel=0.05)
