"""One row on all ranks of a gang: announced before it is rendered, agreed upon after.

An error that all ranks raise alike is the row's: a prompt that is too long, a clip that does not decode. An
error of one rank alone leaves the others in an exchange that never ends: then the gang is broken. Ranks
wait for rows outside of any collective, which would take a pause for a fault.
"""

from __future__ import annotations

import concurrent.futures
import functools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from vidgen_dist.parallel.collectives import PeerLost
from vidgen_dist.runtime.job import Row

SETTLE_SECONDS = 10.0
"""Ranks that raise alike do so within this time."""


class GangBroken(Exception):
    """The ranks of a gang do not agree on a row, or one of them is gone."""


@dataclass(frozen=True)
class Ending:
    """How a row ended on one rank.

    Args:
        error: Class of the error; None where the row was rendered.
        message: Its message.
        lost: Whether a rank is gone, or cannot be reached.
    """

    error: str | None = None
    message: str = ""
    lost: bool = False

    @classmethod
    def of(cls, error: BaseException) -> Ending:
        return cls(type(error).__name__, str(error), isinstance(error, PeerLost))

    def __str__(self) -> str:
        return "rendered it" if self.error is None else f"raised {self.error}: {self.message}"


class Followers(Protocol):
    """The ranks 1, 2, … of a gang, as its leader reaches them."""

    def announce(self, row: Row) -> Sequence[Future[Ending]]:
        """Let all of them render a row, and return at once.

        Args:
            row: With its media's bytes in the request.

        Returns:
            Of each how the row ends there; an exception if it cannot be reached.
        """


class Unison:
    """A row that the leader and its followers have begun.

    Args:
        endings: How it ends on rank 1, 2, …
        on_broken: Called from any thread, with what is wrong, if a follower gave up while the leader goes on:
            it is waiting for that follower, and nobody can call it back from there.
    """

    def __init__(self, endings: Sequence[Future[Ending]], on_broken: Callable[[GangBroken], None]) -> None:
        self._endings = endings
        self._on_broken = on_broken
        self._settling = threading.Event()
        for rank, ending in enumerate(endings, 1):
            ending.add_done_callback(functools.partial(self._heard, rank))

    def settle(self, own: Ending) -> None:
        """Compare how the row ended here with how it ended on the followers.

        Raises:
            GangBroken: Not alike.
        """
        self._settling.set()
        if own.lost:
            raise GangBroken(f"rank 0 {own}")
        concurrent.futures.wait(self._endings, SETTLE_SECONDS)
        for rank, future in enumerate(self._endings, 1):
            if not future.done():
                raise GangBroken(f"rank 0 {own}; rank {rank} is not done with it after {SETTLE_SECONDS:g} s")
            ending = _result(future)
            if ending.lost or ending.error != own.error:
                raise GangBroken(f"rank 0 {own}; rank {rank} {ending}")

    def _heard(self, rank: int, future: Future[Ending]) -> None:
        ending = _result(future)
        if ending.error is None:
            return
        if ending.lost:
            self._on_broken(GangBroken(f"rank {rank} {ending}"))
            return
        # Ray's thread, which brings the endings, must not wait.
        threading.Thread(target=self._wait_for_leader, args=(rank, ending), daemon=True).start()

    def _wait_for_leader(self, rank: int, ending: Ending) -> None:
        if not self._settling.wait(SETTLE_SECONDS):
            self._on_broken(
                GangBroken(f"rank {rank} {ending}; rank 0 still renders after {SETTLE_SECONDS:g} s")
            )


def _result(future: Future[Ending]) -> Ending:
    error = future.exception()
    return future.result() if error is None else Ending(type(error).__name__, str(error), lost=True)
