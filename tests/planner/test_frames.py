"""Plans for UNets: gangs divide frames, in the UNet and in the autoencoder."""

from __future__ import annotations

import dataclasses
import math

import pytest

from tests.planner import unets
from vidgen_dist.families.common.costs import Autoencoder, ModelSize, autoencoder
from vidgen_dist.families.common.unet_costs import image_convolutions
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.planner import splits
from vidgen_dist.planner.devices import find_device
from vidgen_dist.planner.estimates import Estimate, estimate

DEVICE = find_device("910B")
VAES = {"animatediff": ("image_vae", "frames"), "stable_video_diffusion": ("temporal_vae", "batch")}


def vae(name: str) -> Autoencoder:
    kind, divides = VAES[name]
    return autoencoder(unets.counted(kind), image_convolutions, divides=divides)


def size(name: str) -> ModelSize:
    return ModelSize(denoisers=(unets.network(name),), vae=vae(name))


def of(name: str, degrees: Degrees, **changes: object) -> Estimate:
    return estimate(size(name), unets.workload(name, **changes), DEVICE, degrees)


@pytest.mark.parametrize("name", VAES)
def test_splits_have_no_ring_and_no_rank_without_frames(name: str) -> None:
    work = unets.workload(name)
    found = splits.estimates(size(name), work, DEVICE, 64, ring=False)
    assert {one.degrees.ring for one in found} == {1}
    assert max(one.degrees.ulysses for one in found) == {"animatediff": 16, "stable_video_diffusion": 8}[name]
    assert all(one.degrees.ulysses <= work.frames for one in found)
    assert len({one.degrees for one in found}) == len(found)


@pytest.mark.parametrize("name", VAES)
def test_of_many_videos_a_gang_of_one_makes_most(name: str) -> None:
    found = splits.choose(size(name), unets.workload(name), DEVICE, 8, ring=False)
    assert found.chosen.degrees == Degrees()
    one = splits.choose(size(name), unets.workload(name), DEVICE, 8, rows=1, ring=False)
    assert one.chosen.degrees.size == 8
    assert one.chosen.seconds < found.chosen.estimate.seconds.video / 3


def test_one_rank_sends_and_waits_for_nothing() -> None:
    alone = of("stable_video_diffusion", Degrees())
    assert set(alone.sent.values()) == {0}
    assert alone.seconds.waiting == 0


def test_purposes_are_those_of_every_split() -> None:
    """The columns of the table: if some splits have one, all have it."""
    purposes = ["norm", "halo", "frames", "gather", "cfg", "weights"]
    for degrees in (Degrees(), Degrees(ulysses=4), Degrees(ulysses=2, cfg=2)):
        assert sorted(of("stable_video_diffusion", degrees).sent) == sorted(purposes)
        assert sorted(of("animatediff", degrees).sent) == sorted(set(purposes) - {"halo"})


def test_frames_that_do_not_divide_cost_what_the_fullest_rank_does() -> None:
    # Of 14 frames the busiest of four ranks has four, as if there were 16.
    seconds = of("stable_video_diffusion", Degrees(ulysses=4)).seconds
    fair = of("stable_video_diffusion", Degrees(ulysses=4), frames=16).seconds
    assert 0.97 * fair.compute < seconds.compute < fair.compute


def test_what_is_sent_is_waited_for() -> None:
    """Nothing hides an exchange of frames: with half the links' bandwidth, waiting nearly doubles."""
    slow = dataclasses.replace(
        DEVICE,
        inside=dataclasses.replace(
            DEVICE.inside, bandwidth=DEVICE.inside.bandwidth / 2, to_one=DEVICE.inside.to_one / 2
        ),
    )
    name, degrees = "animatediff", Degrees(ulysses=8)
    fast = of(name, degrees).seconds
    slowed = estimate(size(name), unets.workload(name), slow, degrees).seconds
    assert slowed.compute == fast.compute
    assert 1.5 * fast.waiting < slowed.waiting < 2.5 * fast.waiting


def test_weights_are_divided_over_the_gang() -> None:
    network = unets.network("animatediff")
    quarter = of("animatediff", Degrees(ulysses=2, cfg=2)).memory
    assert quarter.weights["unet"] == 2 * (math.ceil(sum(network.blocks) / 4) + network.rest)
    assert quarter.weights["vae"] == 2 * vae("animatediff").parameters
    assert quarter.stages["denoise"] > 2 * network.gathered


def test_a_rank_decodes_batches_of_its_own_frames() -> None:
    """For images: 16 frames in batches of 8 are two batches on one rank, and one on each of two ranks."""
    alone, two, eight = (of("animatediff", Degrees(ulysses=ranks)) for ranks in (1, 2, 8))
    frames = 4 * 3 * 512 * 512 * 16
    assert two.memory.stages["decode"] == alone.memory.stages["decode"]
    assert eight.memory.stages["decode"] - frames == pytest.approx(
        (alone.memory.stages["decode"] - frames) / 4, rel=1e-6
    )
    assert two.seconds.decode == pytest.approx(alone.seconds.decode / 2, rel=1e-6)
    # Two frames, in a batch of their own: an eighth of the arithmetic, half the operator calls.
    assert alone.seconds.decode / 8 < eight.seconds.decode < alone.seconds.decode / 7
    smaller = of("animatediff", Degrees(), frames_at_once=4, batches=4)
    assert smaller.memory.stages["decode"] - frames < (alone.memory.stages["decode"] - frames) * 0.51


def test_frames_of_a_batch_are_divided_where_they_see_each_other() -> None:
    """SVD's decoder: 14 frames are a batch of 8 and one of 6, each divided over all ranks."""
    name = "stable_video_diffusion"
    alone, two, halves = (of(name, degrees) for degrees in (Degrees(), Degrees(ulysses=2), Degrees(cfg=2)))
    frames = 4 * 3 * 576 * 1024 * 14
    assert two.memory.stages["decode"] - frames < 0.6 * (alone.memory.stages["decode"] - frames)
    # Half of the arithmetic, and in addition what neighbours send each other.
    quick = dataclasses.replace(DEVICE, inside=dataclasses.replace(DEVICE.inside, to_one=1e15, latency=0))
    video = size(name), unets.workload(name), quick
    assert estimate(*video, Degrees(ulysses=2)).seconds.decode == pytest.approx(
        alone.seconds.decode / 2, rel=0.01
    )
    assert 0.55 * alone.seconds.decode < two.seconds.decode < 0.65 * alone.seconds.decode
    # The busiest of three ranks has three frames of the first batch and two of the second.
    third = estimate(*video, Degrees(ulysses=3)).seconds.decode
    assert third == pytest.approx(alone.seconds.decode * 5 / 14, rel=0.02)
    # All ranks of the gang decode, whatever they did before.
    assert halves.seconds.decode == two.seconds.decode
    # Its convolutions over frames wait for neighbours.
    slow = dataclasses.replace(DEVICE, inside=dataclasses.replace(DEVICE.inside, latency=0.01))
    slowed = estimate(size(name), unets.workload(name), slow, Degrees(ulysses=2)).seconds.decode
    temporal = sum(conv.kernel[0] > 1 for conv in vae(name).decoder)
    assert slowed - two.seconds.decode == pytest.approx(2 * temporal * 2 * (0.01 - DEVICE.inside.latency))


def test_every_rank_encodes_an_image_by_itself() -> None:
    encode = [
        of("stable_video_diffusion", Degrees(ulysses=ranks), encoded_frames=1).seconds.encode
        for ranks in (1, 4)
    ]
    assert encode[0] == encode[1] > 0
