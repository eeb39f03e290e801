"""What the ranks of a gang say to each other: two collectives over whichever body carries them.

A neighbour exchange or a ring's shift is an `all_to_all` whose other pieces are empty, so two are enough.
All ranks of a group issue the same calls in the same order; shapes are known beforehand on both sides.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from vidgen_dist.nn import Tensor

Shape = tuple[int, ...]

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class PeerLost(Exception):
    """A rank of the gang is gone, does not answer, or is at another place of the program."""


class PendingResult(Protocol[T_co]):
    """What is under way."""

    def wait(self) -> T_co:
        """The result, once it is there.

        Raises:
            PeerLost: It will not come.
        """


@dataclass(frozen=True)
class ReadyResult(Generic[T]):
    """A `PendingResult` that has nothing to wait for."""

    value: T

    def wait(self) -> T:
        return self.value


@dataclass(frozen=True)
class MappedResult(Generic[T]):
    """A `PendingResult` of something else made of another's result."""

    before: PendingResult
    make: Callable[..., T]

    def wait(self) -> T:
        return self.make(self.before.wait())


@dataclass
class Traffic:
    """What one rank sent and waited for, by purpose.

    Args:
        sent: Purpose -> bytes that went to other ranks.
        waited: Purpose -> seconds in which the rank had nothing to do but wait.
        issued: Ranks of a group -> collectives that were begun there, ever. All of them must have begun as
            many, or they are at different places of the program.
    """

    sent: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    waited: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    issued: dict[Shape, int] = field(default_factory=lambda: defaultdict(int))

    def clear(self) -> None:
        """Count bytes and seconds from nought again."""
        self.sent.clear()
        self.waited.clear()


class Transport(Protocol):
    """A body of the collectives. Ranks are numbers in the gang; a piece without elements is not sent."""

    def all_to_all(
        self, ranks: Sequence[int], pieces: Sequence[Tensor], shapes: Sequence[Shape]
    ) -> PendingResult[list[Tensor]]:
        """As `Group.all_to_all`, among `ranks`; only they call it."""

    def all_gather(
        self, ranks: Sequence[int], piece: Tensor, lengths: Sequence[int], out: Tensor | None = None
    ) -> PendingResult[Tensor]:
        """As `Group.all_gather`, among `ranks`; only they call it.

        A body that is given `out` (the result's shape and dtype, contiguous, all lengths equal) puts the
        result there and returns it; sharded weights have views of that memory.
        """

    def close(self) -> None:
        """End it; pending collectives of other ranks fail."""


@dataclass(frozen=True)
class Group:
    """Ranks that exchange with each other, in order.

    Args:
        ranks: Their numbers in the gang.
        index: Place of this process among them.
        transport: What carries the pieces; None where there is one rank.
        traffic: Where what is sent is counted.
    """

    ranks: Shape = (0,)
    index: int = 0
    transport: Transport | None = None
    traffic: Traffic = field(default_factory=Traffic)

    @property
    def size(self) -> int:
        return len(self.ranks)

    def first(self, n: int) -> Group | None:
        """The group of the first n ranks; None for a rank that is not of them."""
        if self.index >= n:
            return None
        return Group(self.ranks[:n], self.index, self.transport, self.traffic)

    def all_to_all(
        self, pieces: Sequence[Tensor], shapes: Sequence[Shape], *, what: str
    ) -> PendingResult[list[Tensor]]:
        """Give every rank a piece and take one of each.

        Args:
            pieces: The i-th goes to the i-th rank, one's own stays. All of one dtype.
            shapes: Shape of what the i-th rank gives; nothing is sent of a shape without elements.
            what: Purpose, by which the bytes are counted.

        Returns:
            What the ranks gave, in their order.
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
        """All ranks' pieces (n_i, ...), one after another along axis 0: (sum of n_i, ...).

        Args:
            piece: This rank's, (lengths[index], ...).
            lengths: n_i of every rank.
            what: Purpose, by which the bytes are counted: a rank counts its piece once for every other rank.
            out: Where the result is put, if the lengths are all equal; by default new memory. Nobody touches
                it before `wait` returns. A group of one gives `piece` itself.
        """
        if self.transport is None:
            return ReadyResult(piece)
        self.traffic.sent[what] += piece.nbytes * (self.size - 1)
        self.traffic.issued[self.ranks] += 1
        return _TimedResult(self.transport.all_gather(self.ranks, piece, lengths, out), self.traffic, what)


@dataclass(frozen=True)
class _TimedResult(Generic[T]):
    """A `PendingResult` that counts how long it was waited for."""

    pending: PendingResult[T]
    traffic: Traffic
    what: str

    def wait(self) -> T:
        begun = time.perf_counter()
        try:
            return self.pending.wait()
        finally:
            self.traffic.waited[self.what] += time.perf_counter() - begun
