"""One row on all ranks of a gang: the leader announces it, and afterwards the ranks compare how it ended.

A `RowError` that all ranks raise alike is due to the row: a prompt that is too long, a clip that does not
decode. Any other error may have happened in the middle of an exchange, or at different places: then the gang
is broken, even if all ranks raise it. Ranks wait for rows outside of any collective, because a collective
would treat a pause as a fault.
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
        rank_lost: Whether a rank is gone, or cannot be reached.
        row_at_fault: Whether the error is known to be due to the row.
        issued: Ranks of a group -> collectives that this rank has begun there, as `Traffic` counts them.
    """

    error: str | None = None
    message: str = ""
    rank_lost: bool = False
    row_at_fault: bool = False
    issued: Mapping[Shape, int] = field(default_factory=dict)

    @classmethod
    def from_error(cls, error: BaseException, issued: Mapping[Shape, int] | None = None) -> RankResult:
        return cls(
            type(error).__name__,
            str(error),
            rank_lost=isinstance(error, PeerLost),
            row_at_fault=isinstance(error, RowError),
            issued=issued or {},
        )

    @property
    def breaks_gang(self) -> bool:
        """Whether the gang cannot go on, however the row ended on the other ranks."""
        return self.error is not None and not self.row_at_fault

    def __str__(self) -> str:
        return "rendered it" if self.error is None else f"raised {self.error}: {self.message}"


class GangBroken(Exception):
    """The ranks of a gang do not agree on a row, one of them is gone, or an error has put them out of step.

    Args:
        message: What is wrong.
        error: Class of the error that caused it, if that may have been due to the row.
    """

    def __init__(self, message: str, error: str | None = None) -> None:
        super().__init__(message)
        self.error = error


class Followers(Protocol):
    """The ranks 1, 2, … of a gang, as its leader calls them."""

    def announce(self, row: PendingRow) -> Sequence[Future[RankResult]]:
        """Let all of them render a row, and return at once.

        Args:
            row: The row, with its media's bytes in the request.

        Returns:
            Each rank's result; an exception if the rank cannot be reached.
        """


class RowConsensus:
    """A row that the leader and its followers have begun.

    Args:
        results: The row's results on ranks 1, 2, …
        patience: Seconds within which all ranks raise an error that is due to the row. Some ranks are slower:
            the leader shares its cores with the encoding of the last video.
        on_broken: Called from any thread, with what is wrong, if a follower gave up while the leader still
            renders: it waits for that follower in a collective, and cannot be interrupted there.
    """

    def __init__(
        self,
        results: Sequence[Future[RankResult]],
        patience: float,
        on_broken: Callable[[GangBroken], None],
    ) -> None:
        self._results = results
        self._patience = patience
        self._on_broken = on_broken
        self._settling = threading.Event()
        for rank, future in enumerate(results, 1):
            future.add_done_callback(functools.partial(self._check_early, rank))

    def settle(self, own: RankResult) -> None:
        """Compare how the row ended here with how it ended on the followers.

        Raises:
            GangBroken: The results differ, or an error is not known to be due to the row.
        """
        self._settling.set()
        if own.breaks_gang:
            raise _broken_by(0, own)
        concurrent.futures.wait(self._results, self._patience)
        results = [own]
        for rank, future in enumerate(self._results, 1):
            if not future.done():
                raise GangBroken(f"rank 0 {own}; rank {rank} is not done with it after {self._patience:g} s")
            result = _result_of(future)
            if result.breaks_gang:
                raise _broken_by(rank, result)
            if result.error != own.error:
                raise GangBroken(f"rank 0 {own}; rank {rank} {result}")
            results.append(result)
        _check_in_step(results)

    def _check_early(self, rank: int, future: Future[RankResult]) -> None:
        """Check a follower's result as soon as it is there: the leader may wait for that follower in vain."""
        result = _result_of(future)
        if result.breaks_gang:
            self._on_broken(_broken_by(rank, result))
        elif result.error is not None:
            # Ray's thread, which delivers the results, must not wait.
            threading.Thread(target=self._wait_for_leader, args=(rank, result), daemon=True).start()

    def _wait_for_leader(self, rank: int, result: RankResult) -> None:
        if not self._settling.wait(self._patience):
            self._on_broken(
                GangBroken(f"rank {rank} {result}; rank 0 still renders after {self._patience:g} s")
            )


def _broken_by(rank: int, result: RankResult) -> GangBroken:
    return GangBroken(f"rank {rank} {result}", None if result.rank_lost else result.error)


def _check_in_step(results: Sequence[RankResult]) -> None:
    """Check that all ranks of a group have begun the same number of collectives there, for every group.

    Raises:
        GangBroken: They have not: one rank would take what another sends next for something else.
    """
    for ranks in {ranks for result in results for ranks in result.issued}:
        counts = [results[rank].issued.get(ranks, 0) for rank in ranks]
        if len(set(counts)) > 1:
            raise GangBroken(f"ranks {ranks} are out of step: they have begun {counts} exchanges")


def _result_of(future: Future[RankResult]) -> RankResult:
    error = future.exception()
    if error is None:
        return future.result()
    return RankResult(type(error).__name__, str(error), rank_lost=True)
