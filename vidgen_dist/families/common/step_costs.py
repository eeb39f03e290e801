"""A denoising step in plain numbers: what a rank computes, holds and sends in it, whatever device it is on.

A denoiser (`common.costs.Denoiser`) answers for itself with these values; a plan puts a device's seconds on
them. Operations are counted as two for each product that is added.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

from vidgen_dist.parallel.degrees import Degrees


@dataclass(frozen=True)
class Exchange:
    """What a rank sends to others of a group, all of which do the same.

    Args:
        purpose: What gangs count it by (`parallel.collectives.Traffic`).
        sent: Bytes that a rank sends; of ranks that differ, the mean of all.
        ranks: Of the group.
        stride: How far apart they are in the gang.
        times: In how many parts it is done, one after the other.
        way: `all`: to each of the others as much. `next`: to neighbours, `times` times.
        beside: Operations of products that run meanwhile, as many beside each of the parts and once more.
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
    """A part of a step that is run some times, always alike.

    Args:
        times: How often.
        products: Operations of matrix products, in parts that are added up.
        convolved: Operations of convolutions.
        read: Bytes of weights that come from the device's memory.
        operators: How many are called.
        exchanges: What is waited for, but for what runs beside it.
        gathered: Bytes of weights that a rank sends to the others, each while the weights before them work.
        ahead: Of those, bytes that have nothing before them: the first time, all ranks wait.
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
        segments: One after the other.
        ends: Exchanges behind them.
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
        """Of products and convolutions together."""
        return sum(segment.times * (sum(segment.products) + segment.convolved) for segment in self.segments)


def ulysses_bytes(tokens: int, width: int, degrees: Degrees, item: int) -> int:
    """Sent by a rank for one attention of one sample: 4 N D (P - 1) / P² numbers at ring 1."""
    p = degrees.ulysses
    return 4 * tokens * width * (p - 1) * item // (degrees.ring * p * p)


def ring_bytes(tokens: int, width: int, degrees: Degrees, item: int) -> int:
    """Sent by a rank for one attention of one sample: 2 N D (P - 1) / P numbers at ulysses 1."""
    return 2 * tokens * width * (degrees.ring - 1) * item // (degrees.ring * degrees.ulysses)


def gathered_bytes(weights: int, ranks: int) -> int:
    """Received by a rank that gathers weights of which it has its share, and sent by it to all others."""
    return weights * (ranks - 1) // ranks
