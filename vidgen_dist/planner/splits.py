"""Compares all splits of some NPUs into gangs, and chooses one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from vidgen_dist.errors import Refused
from vidgen_dist.families.common.costs import ModelSize, Workload
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.planner.devices import Device, in_words
from vidgen_dist.planner.estimates import Estimate, estimate

LARGEST_GANG = 64
"""Ranks of the largest gang that is considered: with more, a rank has at most one row of a latent frame."""


@dataclass(frozen=True)
class Split:
    """NPUs divided into gangs of one kind.

    Args:
        estimate: The estimate for one gang and one video.
        replicas: Number of gangs.
        rows: Videos to render; None for many.
    """

    estimate: Estimate
    replicas: int
    rows: int | None

    @property
    def degrees(self) -> Degrees:
        """The degrees of each gang."""
        return self.estimate.degrees

    @property
    def seconds(self) -> float:
        """Seconds until the last video is done; with many videos, seconds per video."""
        video = self.estimate.seconds.video
        return video / self.replicas if self.rows is None else -(-self.rows // self.replicas) * video

    @property
    def videos_per_hour(self) -> float:
        """Videos per hour of all gangs together."""
        return 3600 * (self.rows or 1) / self.seconds


@dataclass(frozen=True)
class Comparison:
    """The splits of some NPUs.

    Args:
        splits: All that were considered; the chosen one first, those that do not fit last.
        smallest: Ranks of the smallest gang that fits.
        reason: Why the first one is chosen.
    """

    splits: tuple[Split, ...]
    smallest: int
    reason: str

    @property
    def chosen(self) -> Split:
        """The split to use."""
        return self.splits[0]


def gang_sizes(npus: int, device: Device) -> list[int]:
    """Sizes of gangs to consider: powers of two, and divisors of the NPUs of a host or of those given.

    None is larger than the NPUs given or `LARGEST_GANG`; sizes other than powers of two fit on one host.
    """
    most = min(npus, LARGEST_GANG)
    powers = {2**power for power in range(most.bit_length())}
    divisors = {
        n for n in range(1, device.npus_per_host + 1) if device.npus_per_host % n == 0 or npus % n == 0
    }
    return sorted(size for size in powers | divisors if size <= most)


def degrees_of(gang: int, size: ModelSize, work: Workload, *, ring: bool = True) -> Iterator[Degrees]:
    """All ways in which a gang can divide a video: cfg if it is guided, ulysses up to the number of heads (or
    frames), ring if the family supports it."""
    for cfg in (1, 2):
        if gang % cfg or (cfg == 2 and not work.guided):
            continue
        sequence = gang // cfg
        for ulysses in range(1, min(sequence, size.denoiser.most_ulysses(work, cfg)) + 1):
            if sequence % ulysses == 0 and (ring or ulysses == sequence):
                yield Degrees(ulysses=ulysses, ring=sequence // ulysses, cfg=cfg)


def estimates(
    size: ModelSize,
    work: Workload,
    device: Device,
    npus: int,
    *,
    dtype: str = "bfloat16",
    memory: int | None = None,
    ring: bool = True,
) -> list[Estimate]:
    """The estimates for all gangs that `npus` NPUs can form, smallest first."""
    return [
        estimate(size, work, device, degrees, dtype=dtype, memory=memory)
        for gang in gang_sizes(npus, device)
        for degrees in degrees_of(gang, size, work, ring=ring)
    ]


def choose(
    size: ModelSize,
    work: Workload,
    device: Device,
    npus: int,
    *,
    rows: int | None = None,
    dtype: str = "bfloat16",
    memory: int | None = None,
    ring: bool = True,
    model: str = "the model",
) -> Comparison:
    """Compare the splits of some NPUs, and choose one.

    The chosen one finishes the last video first; with many videos, it makes most of them per hour.

    Args:
        size: The checkpoint's size.
        work: The video.
        device: The NPUs.
        npus: Number of NPUs.
        rows: Videos to render; None for many.
        dtype: Dtype of weights and activations.
        memory: Bytes of one NPU; by default the device's.
        ring: Whether the family supports a ring.
        model: Name of the checkpoint in messages.

    Raises:
        Refused: None of them fits; the message says what is needed.
    """
    found = estimates(size, work, device, npus, dtype=dtype, memory=memory, ring=ring)
    splits = [Split(one, npus // one.degrees.size, rows) for one in found]
    fitting = sorted((s for s in splits if s.estimate.fits), key=lambda s: (s.seconds, s.degrees.size))
    if not fitting:
        raise Refused(f"{model} does not fit into the memory given. {_nothing_fits(found, device)}")
    rest = sorted((s for s in splits if not s.estimate.fits), key=lambda s: s.estimate.memory.peak)
    return Comparison(
        splits=(*fitting, *rest),
        smallest=min(split.degrees.size for split in fitting),
        reason=_reason(fitting),
    )


def check_fits(
    size: ModelSize,
    work: Workload,
    device: Device,
    degrees: Degrees,
    *,
    npus: int | None = None,
    dtype: str = "bfloat16",
    memory: int | None = None,
    ring: bool = True,
    model: str = "the model",
) -> Estimate:
    """Refuse a gang whose ranks have too little memory.

    Args:
        size: The checkpoint's size.
        work: The video.
        device: The device of each rank.
        degrees: The gang that is asked for.
        npus: Number of NPUs, for the choice that the message names.
        dtype: Dtype of weights and activations.
        memory: Bytes of one NPU; by default the device's.
        ring: Whether the family supports a ring.
        model: Name of the checkpoint in messages.

    Raises:
        Refused: They have; the message has the numbers and the nearest choice that works.
    """
    asked = estimate(size, work, device, degrees, dtype=dtype, memory=memory)
    if asked.fits:
        return asked
    found = estimates(size, work, device, npus or LARGEST_GANG, dtype=dtype, memory=memory, ring=ring)
    fitting = [one for one in found if one.fits]
    if not fitting:
        raise Refused(f"{_too_large(model, asked)}. {_nothing_fits(found, device)}")
    # The nearest size, then the fastest of that size.
    best = min(fitting, key=lambda one: (abs(one.degrees.size - degrees.size), one.seconds.video))
    raise Refused(
        f"{_too_large(model, asked)}. Nearest that fits: {describe(best.degrees)}, with "
        f"{in_words(best.memory.peak)} a rank; or {_memory_for(asked, device)} of memory"
    )


def describe(degrees: Degrees, replicas: int = 1) -> str:
    """Gangs in words."""
    gangs = "a gang" if replicas == 1 else f"{replicas:,} gangs"
    return f"{gangs} of {degrees.size} (ulysses {degrees.ulysses}, ring {degrees.ring}, cfg {degrees.cfg})"


def _too_large(model: str, asked: Estimate) -> str:
    use = asked.memory
    return (
        f"{model} does not fit into the memory given: a rank of {describe(asked.degrees)} needs "
        f"{in_words(use.peak)} ({in_words(sum(use.weights.values()))} of weights and "
        f"{in_words(use.stages[use.fullest])} more to {use.fullest}), and it may use {in_words(asked.usable)}"
    )


def _memory_for(asked: Estimate, device: Device) -> str:
    """The least memory that would be enough, in the form of `--memory`."""
    size = asked.memory.peak / device.usable
    return f"{math.ceil(size / 2**30)}GiB" if size > 2**30 else f"{math.ceil(size / 2**20)}MiB"


def _nothing_fits(found: list[Estimate], device: Device) -> str:
    best = min(found, key=lambda one: one.memory.peak)
    largest = max(one.degrees.size for one in found)
    return (
        f"No gang of up to {largest} ranks fits: the least is {in_words(best.memory.peak)} a rank, with "
        f"{describe(best.degrees)}, and it may use {in_words(best.usable)}; allowed: more NPUs, smaller or "
        f"shorter videos, or {_memory_for(best, device)} of memory"
    )


def _reason(fitting: list[Split]) -> str:
    """Why the first one is chosen, compared with the best of another gang size."""
    first = fitting[0]
    goal = "makes most videos an hour" if first.rows is None else f"has {first.rows:,} rows done soonest"
    if first.degrees.size == min(split.degrees.size for split in fitting):
        goal = f"is the smallest that fits, and {goal}"
    told = (
        f"{describe(first.degrees, first.replicas)}: that {goal}, {first.videos_per_hour:,.1f} an hour, "
        f"each in {first.estimate.seconds.video:,.1f} s"
    )
    other = next((split for split in fitting if split.degrees.size != first.degrees.size), None)
    if other is None:
        return told
    its = other.estimate.seconds
    return (
        f"{told}. The best of another size, {describe(other.degrees, other.replicas)}, takes "
        f"{other.seconds / first.seconds - 1:.1%} longer: a video in {its.video:,.1f} s, with "
        f"{its.waiting:.3f} s of each step of {its.step:.3f} s waiting for other ranks"
    )
