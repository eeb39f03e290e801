"""One row on all ranks of a gang: announced before it is rendered, agreed upon after.

A `RowError` that all ranks raise alike is the row's: a prompt that is too long, a clip that does not decode.
Any other error may have struck in the middle of an exchange, or at different places: then the gang is broken,
also if all ranks raise it. Ranks wait for rows outside of any collective, which would take a pause for a
fault.
"""

from __future__ import annotations

import concurrent.futures
import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from vidgen_dist.errors import RowError
from vidgen_dist.output.pending_row import PendingRow
from vidgen_dist.parallel.collectives import PeerLost, Shape


@dataclass(frozen=True)
class RankResult:
    """How a row ended on one rank.

    Args:
        error: Class of the error; None where the row was rendered.
        message: Its message.
        lost: Whether a rank is gone, or cannot be reached.
        rows: Whether the error is known to be the row's.
        issued: Ranks of a group -> collectives that this rank has begun there, as `Traffic` counts them.
    """

    error: str | None = None
    message: str = ""
    lost: bool = False
    rows: bool = False
    issued: Mapping[Shape, int] = field(default_factory=dict)

    @classmethod
    def of(cls, error: BaseException, issued: Mapping[Shape, int] | None = None) -> RankResult:
        lost, rows = isinstance(error, PeerLost), isinstance(error, RowError)
        return cls(type(error).__name__, str(error), lost, rows, issued or {})

    @property
    def breaks(self) -> bool:
        """Whether the gang cannot go on, however it ended elsewhere."""
        return self.error is not None and not self.rows

    def __str__(self) -> str:
        return "rendered it" if self.error is None else f"raised {self.error}: {self.message}"


class GangBroken(Exception):
    """The ranks of a gang do not agree on a row, one of them is gone, or an error has put them out of step.

    Args:
        message: What is wrong.
        error: Class of the error that did it, if it may have been the row's.
    """

    def __init__(self, message: str, error: str | None = None) -> None:
        super().__init__(message)
        self.error = error


class Followers(Protocol):
    """The ranks 1, 2, … of a gang, as its leader reaches them."""

    def announce(self, row: PendingRow) -> Sequence[Future[RankResult]]:
        """Let all of them render a row, and return at once.

        Args:
            row: With its media's bytes in the request.

        Returns:
            Of each how the row ends there; an exception if it cannot be reached.
        """


class RowConsensus:
    """A row that the leader and its followers have begun.

    Args:
        endings: How it ends on rank 1, 2, …
        patience: Seconds within which all ranks raise what is the row's. Some are slower: the leader shares
            its cores with the encoding of the last video.
        on_broken: Called from any thread, with what is wrong, if a follower gave up while the leader goes on:
            it is waiting for that follower, and nobody can call it back from there.
    """

    def __init__(
        self,
        endings: Sequence[Future[RankResult]],
        patience: float,
        on_broken: Callable[[GangBroken], None],
    ) -> None:
        self._endings = endings
        self._patience = patience
        self._on_broken = on_broken
        self._settling = threading.Event()
        for rank, ending in enumerate(endings, 1):
            ending.add_done_callback(functools.partial(self._heard, rank))

    def settle(self, own: RankResult) -> None:
        """Compare how the row ended here with how it ended on the followers.

        Raises:
            GangBroken: Not alike, or with an error that is not known to be the row's.
        """
        self._settling.set()
        if own.breaks:
            raise _broken_by(0, own)
        concurrent.futures.wait(self._endings, self._patience)
        all_of_them = [own]
        for rank, future in enumerate(self._endings, 1):
            if not future.done():
                raise GangBroken(f"rank 0 {own}; rank {rank} is not done with it after {self._patience:g} s")
            ending = _result(future)
            if ending.breaks:
                raise _broken_by(rank, ending)
            if ending.error != own.error:
                raise GangBroken(f"rank 0 {own}; rank {rank} {ending}")
            all_of_them.append(ending)
        _check_step(all_of_them)

    def _heard(self, rank: int, future: Future[RankResult]) -> None:
        ending = _result(future)
        if ending.breaks:
            self._on_broken(_broken_by(rank, ending))
        elif ending.error is not None:
            # Ray's thread, which brings the endings, must not wait.
            threading.Thread(target=self._wait_for_leader, args=(rank, ending), daemon=True).start()

    def _wait_for_leader(self, rank: int, ending: RankResult) -> None:
        if not self._settling.wait(self._patience):
            self._on_broken(
                GangBroken(f"rank {rank} {ending}; rank 0 still renders after {self._patience:g} s")
            )


def _broken_by(rank: int, ending: RankResult) -> GangBroken:
    return GangBroken(f"rank {rank} {ending}", None if ending.lost else ending.error)


def _check_step(endings: Sequence[RankResult]) -> None:
    """See that the ranks of every group have begun as many collectives there.

    Raises:
        GangBroken: They have not: what one sends next, another would take for something else.
    """
    for ranks in {ranks for ending in endings for ranks in ending.issued}:
        counts = [endings[rank].issued.get(ranks, 0) for rank in ranks]
        if len(set(counts)) > 1:
            raise GangBroken(f"ranks {ranks} are out of step: they have begun {counts} exchanges")


def _result(future: Future[RankResult]) -> RankResult:
    error = future.exception()
    return future.result() if error is None else RankResult(type(error).__name__, str(error), lost=True)
