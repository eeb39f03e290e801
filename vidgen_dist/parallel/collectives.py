"""The two collectives with which the ranks of a gang exchange data, over any transport.

An exchange between neighbours, or a shift along a ring, is an `all_to_all` whose other pieces are empty, so
two are enough. All ranks of a group make the same calls in the same order, and both sides know all shapes
beforehand.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np

if TYPE_CHECKING:
    from vidgen_dist.nn import Tensor

Shape = tuple[int, ...]

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class PeerLost(Exception):
    """A rank of the gang has ended, does not answer, or is at another point of the program."""


class PendingResult(Protocol[T_co]):
    """The result of something under way."""

    def wait(self) -> T_co:
        """Wait for the result, and return it.

        Raises:
            PeerLost: There will be no result.
        """


@dataclass(frozen=True)
class ReadyResult(Generic[T]):
    """A `PendingResult` that is there already."""

    value: T

    def wait(self) -> T:
        return self.value


@dataclass(frozen=True)
class MappedResult(Generic[T]):
    """A `PendingResult` that is computed from another one's result."""

    before: PendingResult
    make: Callable[..., T]

    def wait(self) -> T:
        return self.make(self.before.wait())


@dataclass
class Traffic:
    """What one rank sent, and how long it waited, by purpose.

    Args:
        sent: Purpose -> bytes sent to other ranks.
        waited: Purpose -> seconds spent waiting.
        issued: Ranks of a group -> collectives begun there so far. If the numbers of the ranks differ, they
            are at different points of the program.
    """

    sent: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    waited: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    issued: dict[Shape, int] = field(default_factory=lambda: defaultdict(int))

    def clear(self) -> None:
        """Reset bytes and seconds to 0."""
        self.sent.clear()
        self.waited.clear()


class Transport(Protocol):
    """Carries the collectives. Ranks are numbers in the gang; a piece without elements is not sent."""

    def all_to_all(
        self, ranks: Sequence[int], pieces: Sequence[Tensor], shapes: Sequence[Shape]
    ) -> PendingResult[list[Tensor]]:
        """As `Group.all_to_all`, among `ranks`; only these call it."""

    def all_gather(
        self, ranks: Sequence[int], piece: Tensor, lengths: Sequence[int], out: Tensor | None = None
    ) -> PendingResult[Tensor]:
        """As `Group.all_gather`, among `ranks`; only these call it.

        If `out` is given (with the result's shape and dtype, contiguous, all lengths equal), the result is
        written to it and it is returned; sharded weights hold views of that memory.
        """

    def close(self) -> None:
        """Close the connections; pending collectives of other ranks fail."""


@dataclass(frozen=True)
class Group:
    """Ranks that exchange data with each other, in order.

    Args:
        ranks: Their numbers in the gang.
        index: This process's position among them.
        transport: Carries the data; None if there is one rank.
        traffic: Counts what is sent.
    """

    ranks: Shape = (0,)
    index: int = 0
    transport: Transport | None = None
    traffic: Traffic = field(default_factory=Traffic)

    @property
    def size(self) -> int:
        return len(self.ranks)

    def first(self, n: int) -> Group | None:
        """The group of the first n ranks; None if this rank is not one of them."""
        if self.index >= n:
            return None
        return Group(self.ranks[:n], self.index, self.transport, self.traffic)

    def all_to_all(
        self, pieces: Sequence[Tensor], shapes: Sequence[Shape], *, what: str
    ) -> PendingResult[list[Tensor]]:
        """Send a piece to every rank, and receive one from each.

        Args:
            pieces: The i-th goes to the i-th rank; this rank's own stays. All have one dtype.
            shapes: The shape of what the i-th rank sends; a shape without elements is not sent.
            what: Purpose under which the bytes are counted.

        Returns:
            The pieces of all ranks, in the order of ranks.
        """
        if self.transport is None:
            return ReadyResult(list(pieces))
        sent = sum(piece.nbytes for i, piece in enumerate(pieces) if i != self.index)
        self.traffic.sent[what] += sent
        self.traffic.issued[self.ranks] += 1
        return _TimedResult(self.transport.all_to_all(self.ranks, pieces, shapes), self.traffic, what)

    def all_gather(
        self, piece: Tensor, lengths: Sequence[int], *, what: str, out: Tensor | None = None
    ) -> PendingResult[Tensor]:
        """The pieces of all ranks (n_i, ...), concatenated along axis 0: (sum of n_i, ...).

        Args:
            piece: This rank's piece, (lengths[index], ...).
            lengths: Every rank's n_i.
            what: Purpose under which the bytes are counted: a piece counts once for each other rank.
            out: Where the result is written, if all lengths are equal; by default new memory. It must not be
                touched before `wait` returns. A group of one returns `piece` itself.
        """
        if self.transport is None:
            return ReadyResult(piece)
        self.traffic.sent[what] += piece.nbytes * (self.size - 1)
        self.traffic.issued[self.ranks] += 1
        return _TimedResult(self.transport.all_gather(self.ranks, piece, lengths, out), self.traffic, what)


@dataclass(frozen=True)
class _TimedResult(Generic[T]):
    """A `PendingResult` that measures how long it is waited for."""

    pending: PendingResult[T]
    traffic: Traffic
    what: str

    def wait(self) -> T:
        begun = time.perf_counter()
        try:
            return self.pending.wait()
        finally:
            self.traffic.waited[self.what] += time.perf_counter() - begun


def holds_on_all(fine: bool, group: Group, what: str) -> bool:
    """Whether something holds on all ranks of a group, so that either all raise or all continue.

    Args:
        fine: Whether it holds on this rank.
        group: The ranks.
        what: Purpose under which the bytes are counted.
    """
    if group.size == 1:
        return fine
    # Workers that must not load MindSpore yet import this module.
    from vidgen_dist import nn

    told = group.all_gather(nn.from_numpy(np.array([fine], np.float32)), [1] * group.size, what=what)
    return bool(nn.to_numpy(told.wait()).all())
