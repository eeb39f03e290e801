"""Which split is chosen, what is refused, and the messages of refusals."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import pytest

from tests import references
from tests.planner.published import spec
from vidgen_dist.errors import Refused
from vidgen_dist.families.common.tasks import Rules
from vidgen_dist.families.rules import load_rules
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.planner import splits
from vidgen_dist.planner.devices import find_device
from vidgen_dist.planner.planned_run import PlannedRun, check_memory, choose_topology, read_planned_run
from vidgen_dist.spec import parse_bytes
from vidgen_dist.weights.checkpoint import Checkpoint, open_checkpoint

MakeRun = Callable[..., PlannedRun]


@pytest.mark.parametrize(
    ("npus", "device", "sizes"),
    [
        (1, "910B", [1]),
        (8, "910B", [1, 2, 4, 8]),
        (6, "910B", [1, 2, 3, 4, 6]),
        (24, "A3", [1, 2, 3, 4, 6, 8, 12, 16]),
        (1000, "910B", [1, 2, 4, 5, 8, 16, 32, 64]),
    ],
)
def test_sizes_of_gangs(npus: int, device: str, sizes: list[int]) -> None:
    assert splits.gang_sizes(npus, find_device(device)) == sizes


def test_ways_to_divide_a_gang(run: MakeRun) -> None:
    it = run("2b")
    ways = {(d.ulysses, d.ring, d.cfg) for d in splits.degrees_of(4, it.size, it.work)}
    assert ways == {(4, 1, 1), (2, 2, 1), (1, 4, 1), (2, 1, 2), (1, 2, 2)}
    # 2b has 30 heads, so two samples have 60.
    assert max(d.ulysses for d in splits.degrees_of(64, it.size, it.work)) == 32
    assert all(d.size == 64 for d in splits.degrees_of(64, it.size, it.work))


def test_without_guidance_it_has_no_halves(run: MakeRun) -> None:
    plain = dataclasses.replace(run("2b").work, guided=False)
    assert all(d.cfg == 1 for d in splits.degrees_of(8, run("2b").size, plain))


@pytest.mark.parametrize("name", ["2b", "5b", "1.5-5b"])
@pytest.mark.parametrize("device", ["910B", "A3", "CPU"])
def test_of_many_videos_a_smaller_gang_makes_more(run: MakeRun, name: str, device: str) -> None:
    """No rule says so: waiting, and remainders of divisions, grow with the gang."""
    it = run(name, device)
    best: dict[int, float] = {}
    for one in splits.estimates(it.size, it.work, it.device, 64, dtype=it.dtype):
        rate = splits.Split(one, 64 // one.degrees.size, None).videos_per_hour
        best[one.degrees.size] = max(rate, best.get(one.degrees.size, 0))
    rates = [best[gang] for gang in (1, 2, 4, 8, 16, 32, 64)]
    assert rates == sorted(rates, reverse=True)
    assert len(set(rates)) == len(rates)


@pytest.mark.parametrize(("memory", "smallest"), [("64GB", 1), ("24GiB", 2), ("12GiB", 4)])
def test_smallest_gang_that_fits_is_taken_for_many(run: MakeRun, memory: str, smallest: int) -> None:
    it = run("5b")
    found = splits.choose(it.size, it.work, it.device, 8, memory=parse_bytes(memory))
    assert found.smallest == found.chosen.degrees.size == smallest
    assert found.chosen.replicas == 8 // smallest
    assert "the smallest that fits" in found.reason
    fits = [split.estimate.fits for split in found.splits]
    assert fits == sorted(fits, reverse=True)
    assert all(split.degrees.size < smallest for split in found.splits if not split.estimate.fits)


@pytest.mark.parametrize(("rows", "gang"), [(1, 8), (2, 4), (8, 1), (9, 8), (1000, 1)])
def test_few_videos_are_done_soonest_by_larger_gangs(run: MakeRun, rows: int, gang: int) -> None:
    found = run("5b").choose(8, rows)
    assert found.chosen.degrees.size == gang
    assert found.chosen.seconds == min(split.seconds for split in found.splits)


def test_idle_npus_count(run: MakeRun) -> None:
    it = run("5b")
    by_size = {split.degrees.size: split for split in it.choose(6).splits}
    assert (by_size[4].replicas, by_size[3].replicas) == (1, 2)
    assert by_size[4].videos_per_hour < by_size[3].videos_per_hour


def test_a_gang_that_fits_is_let_through(run: MakeRun) -> None:
    assert run("5b").check_fits(Degrees(ulysses=2)).fits


def test_too_large_is_refused_with_the_numbers_and_what_works(run: MakeRun) -> None:
    it = run("5b")
    memory = parse_bytes("24GiB")
    with pytest.raises(Refused) as refusal:
        splits.check_fits(it.size, it.work, it.device, Degrees(), npus=8, memory=memory)
    told = str(refusal.value)
    assert "a rank of a gang of 1 (ulysses 1, ring 1, cfg 1) needs 30.4 GiB" in told
    assert "19.6 GiB of weights" in told
    assert "it may use 20.4 GiB" in told
    near = re.search(r"Nearest that fits: a gang of 2 \(ulysses (\d), ring (\d), cfg (\d)\)", told)
    assert near is not None
    splits.check_fits(it.size, it.work, it.device, Degrees(*map(int, near.groups())), memory=memory)
    more = re.search(r"or (\d+GiB) of memory$", told)
    assert more is not None
    splits.check_fits(it.size, it.work, it.device, Degrees(), memory=parse_bytes(more[1]))


def test_nearest_is_among_the_npus_given(run: MakeRun) -> None:
    it = run("5b")
    with pytest.raises(Refused, match=r"No gang of up to 1 ranks fits.*allowed: more NPUs"):
        splits.check_fits(it.size, it.work, it.device, Degrees(), npus=1, memory=parse_bytes("24GiB"))


def test_nothing_fits(run: MakeRun) -> None:
    it = run("5b")
    with pytest.raises(Refused) as refusal:
        splits.choose(it.size, it.work, it.device, 4, memory=parse_bytes("4GB"))
    told = str(refusal.value)
    assert "No gang of up to 4 ranks fits: the least is" in told
    enough = re.search(r"or (\d+)GiB of memory", told)
    assert enough is not None
    memory = int(enough[1]) * 2**30
    assert splits.choose(it.size, it.work, it.device, 4, memory=memory).chosen.estimate.fits
    with pytest.raises(Refused):
        splits.choose(it.size, it.work, it.device, 4, memory=memory - 2**30)


@pytest.fixture(scope="module")
def tiny() -> tuple[Checkpoint, Rules]:
    checkpoint = open_checkpoint(str(references.case("5b").checkpoint))
    return checkpoint, load_rules(checkpoint)


def test_topology_that_is_chosen_for_a_run(tiny: tuple[Checkpoint, Rules]) -> None:
    size = read_planned_run(*tiny, spec(), "ascend").check_fits(Degrees()).memory.peak
    # Less than one rank needs, but a bit more than half of it.
    tight = spec(topology__memory=f"{size / 2**10 * 0.75 / 0.85:.0f}KiB")
    assert choose_topology(*tiny, spec(), 8, "ascend") == (8, Degrees())
    replicas, degrees = choose_topology(*tiny, tight, 8, "ascend")
    assert (replicas, degrees.size) == (4, 2)
    # No more gangs than there are rows.
    assert choose_topology(*tiny, spec(), 8, "ascend", rows=3)[0] == 3


def test_memory_is_checked_where_it_is_given(tiny: tuple[Checkpoint, Rules]) -> None:
    check_memory(*tiny, spec(), 8, "ascend")
    check_memory(*tiny, spec(topology__memory="64GB"), 8, "ascend")
    with pytest.raises(Refused, match=r"does not fit into the memory given.*; allowed: "):
        check_memory(*tiny, spec(topology__memory="100KB"), 8, "ascend")


def test_sampling_that_the_model_cannot_do_is_refused(tiny: tuple[Checkpoint, Rules]) -> None:
    with pytest.raises(Refused, match=r"sampling\.height"):
        read_planned_run(*tiny, spec(sampling__height=33), "ascend")
