"""Every split of some NPUs into gangs, compared, and the one to take."""

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
"""Ranks of the largest gang that is looked at: with more, a latent frame has a row or less for each."""


@dataclass(frozen=True)
class Split:
    """Some NPUs divided into gangs of one kind.

    Args:
        estimate: One gang, one video.
        replicas: Gangs that the NPUs make.
        rows: Videos to render; None for many.
    """

    estimate: Estimate
    replicas: int
    rows: int | None

    @property
    def degrees(self) -> Degrees:
        """Of each gang."""
        return self.estimate.degrees

    @property
    def seconds(self) -> float:
        """Until the last of the videos is done; with many, the seconds for each."""
        video = self.estimate.seconds.video
        return video / self.replicas if self.rows is None else -(-self.rows // self.replicas) * video

    @property
    def videos_per_hour(self) -> float:
        """Of all gangs together."""
        return 3600 * (self.rows or 1) / self.seconds


@dataclass(frozen=True)
class Comparison:
    """The splits of some NPUs.

    Args:
        splits: All that were looked at, the one to take first, those that do not fit last.
        smallest: Ranks of the smallest gang that fits.
        reason: Why the first one is to be taken.
    """

    splits: tuple[Split, ...]
    smallest: int
    reason: str

    @property
    def chosen(self) -> Split:
        """The one to take."""
        return self.splits[0]


def gang_sizes(npus: int, device: Device) -> list[int]:
    """Sizes of gangs that are looked at: powers of two, and what divides the NPUs of a host or those given.

    None is larger than the NPUs given or `LARGEST_GANG`; those that are not a power of two stay on one host.
    """
    most = min(npus, LARGEST_GANG)
    powers = {2**power for power in range(most.bit_length())}
    divisors = {
        n for n in range(1, device.npus_per_host + 1) if device.npus_per_host % n == 0 or npus % n == 0
    }
    return sorted(size for size in powers | divisors if size <= most)


def degrees_of(gang: int, size: ModelSize, work: Workload, *, ring: bool = True) -> Iterator[Degrees]:
    """Every way in which a gang may divide a video: cfg where it is guided, ulysses up to the heads (frames),
    ring where the family has one."""
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
    """Every gang that `npus` NPUs may form, the smallest first."""
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
    """Compare the splits of some NPUs.

    The one to take has the last video done first; with many videos, makes most of them in an hour.

    Args:
        size: The checkpoint.
        work: The video.
        device: What the NPUs are.
        npus: How many there are.
        rows: Videos to render; None for many.
        dtype: Of weights and activations.
        memory: Bytes of one NPU; by default the device's.
        ring: Whether gangs may have a ring.
        model: What messages call the checkpoint.

    Raises:
        Refused: None of them fits; says what each would need.
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
        size: The checkpoint.
        work: The video.
        device: What the ranks are.
        degrees: The gang that is asked for.
        npus: How many there are, for the choice that the message names.
        dtype: Of weights and activations.
        memory: Bytes of one NPU; by default the device's.
        ring: Whether gangs may have a ring.
        model: What messages call the checkpoint.

    Raises:
        Refused: With the numbers and the nearest choice that works.
    """
    asked = estimate(size, work, device, degrees, dtype=dtype, memory=memory)
    if asked.fits:
        return asked
    found = estimates(size, work, device, npus or LARGEST_GANG, dtype=dtype, memory=memory, ring=ring)
    fitting = [one for one in found if one.fits]
    if not fitting:
        raise Refused(f"{_too_large(model, asked)}. {_nothing_fits(found, device)}")
    # The size that is nearest, then what is fastest at it.
    best = min(fitting, key=lambda one: (abs(one.degrees.size - degrees.size), one.seconds.video))
    raise Refused(
        f"{_too_large(model, asked)}. Nearest that fits: {describe(best.degrees)}, with "
        f"{in_words(best.memory.peak)} a rank; or {_memory_for(asked, device)} of memory"
    )


def describe(degrees: Degrees, replicas: int = 1) -> str:
    """Some gangs in words."""
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
    """The least memory that would do, as `--memory` takes it."""
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
    """Why the first one is first: against the best of another gang size."""
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
