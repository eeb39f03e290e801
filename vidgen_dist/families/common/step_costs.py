"""A denoising step in plain numbers: what a rank computes, holds and sends, independent of the device.

Each denoiser (`common.costs.Denoiser`) describes its step with these values, and the planner computes seconds
from them for a device. A multiplication and an addition count as two operations.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

from vidgen_dist.parallel.degrees import Degrees


@dataclass(frozen=True)
class Exchange:
    """What a rank sends to the others of a group; all of them do the same.

    Args:
        purpose: Under which gangs count it (`parallel.collectives.Traffic`).
        sent: Bytes that a rank sends; the mean, if ranks differ.
        ranks: Size of the group.
        stride: Distance between its ranks in the gang.
        times: In how many parts it is done, one after another.
        way: `all`: the same amount to each of the others. `next`: to neighbours, `times` times.
        beside: Operations of matrix products that run at the same time, in `times` + 1 equal parts.
    """

    purpose: str
    sent: int
    ranks: int
    stride: int = 1
    times: int = 1
    way: Literal["all", "next"] = "all"
    beside: float = 0.0


@dataclass(frozen=True)
class Segment:
    """A part of a step that runs several times, always with the same costs.

    Args:
        times: How often it runs.
        products: Operations of matrix products, in parts that are added up.
        convolved: Operations of convolutions.
        read: Bytes of weights that are read from the device's memory.
        operators: How many operators are called.
        exchanges: What is waited for, except for what runs at the same time.
        gathered: Bytes of weights that a rank sends to the others while the previous weights are in use.
        ahead: How many of these bytes have no previous weights: the first time, all ranks wait for them.
    """

    times: int = 1
    products: tuple[float, ...] = ()
    convolved: float = 0.0
    read: int = 0
    operators: int = 0
    exchanges: tuple[Exchange, ...] = ()
    gathered: float = 0.0
    ahead: float = 0.0


@dataclass(frozen=True)
class Step:
    """One denoising step of a rank.

    Args:
        segments: The parts of the step, one after another.
        ends: Exchanges after them.
        weights: Bytes of weights that it sends.
    """

    segments: tuple[Segment, ...]
    ends: tuple[Exchange, ...]
    weights: int

    @property
    def sent(self) -> dict[str, int]:
        """Bytes that a rank sends, by purpose."""
        sent: dict[str, int] = defaultdict(int)
        for segment in self.segments:
            for exchange in segment.exchanges:
                sent[exchange.purpose] += segment.times * exchange.sent
        for exchange in self.ends:
            sent[exchange.purpose] += exchange.sent
        sent["weights"] = self.weights
        return dict(sent)

    @property
    def operations(self) -> float:
        """Of matrix products and convolutions together."""
        return sum(segment.times * (sum(segment.products) + segment.convolved) for segment in self.segments)


def ulysses_bytes(tokens: int, width: int, degrees: Degrees, item: int) -> int:
    """Bytes that a rank sends for one attention of one sample: 4 N D (P - 1) / P² numbers at ring 1."""
    p = degrees.ulysses
    return 4 * tokens * width * (p - 1) * item // (degrees.ring * p * p)


def ring_bytes(tokens: int, width: int, degrees: Degrees, item: int) -> int:
    """Bytes that a rank sends for one attention of one sample: 2 N D (P - 1) / P numbers at ulysses 1."""
    return 2 * tokens * width * (degrees.ring - 1) * item // (degrees.ring * degrees.ulysses)


def gathered_bytes(weights: int, ranks: int) -> int:
    """Bytes that a rank receives when it gathers sharded weights; it sends as many to all others together."""
    return weights * (ranks - 1) // ranks
