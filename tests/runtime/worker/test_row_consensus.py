"""What ranks agree on: a row's own error, raised by all, is the row's; any other breaks the gang."""

from __future__ import annotations

import queue
from concurrent.futures import Future

import pytest

from vidgen_dist.media import MediaError
from vidgen_dist.parallel.collectives import PeerLost
from vidgen_dist.request import RequestError
from vidgen_dist.runtime.worker.row_consensus import GangBroken, RankResult, RowConsensus

OOPS = RankResult.of(MediaError("oops"))
FIRE = RankResult.of(RuntimeError("out of memory"))
LOST = RankResult.of(PeerLost("rank 2 is gone"))


class PendingRow:
    """A row on a leader and two followers."""

    def __init__(self, patience: float = 60.0) -> None:
        self.endings: list[Future[RankResult]] = [Future(), Future()]
        self.said: queue.SimpleQueue[GangBroken] = queue.SimpleQueue()
        self.consensus = RowConsensus(self.endings, patience, self.said.put)

    def end(self, *endings: RankResult) -> None:
        for future, ending in zip(self.endings, endings, strict=False):
            future.set_result(ending)


@pytest.mark.parametrize("own", [RankResult(), OOPS, RankResult.of(MediaError("said in other words"))])
def test_alike(own: RankResult) -> None:
    row = PendingRow()
    row.end(*[RankResult() if own.error is None else OOPS] * 2)
    row.consensus.settle(own)
    assert row.said.empty()


@pytest.mark.parametrize(
    ("own", "others", "told"),
    [
        (OOPS, (OOPS, RankResult()), "rank 0 raised MediaError: oops; rank 2 rendered it"),
        (RankResult(), (RankResult(), OOPS), "rank 0 rendered it; rank 2 raised MediaError: oops"),
        (
            OOPS,
            (RankResult.of(RequestError("fps", 0, "more")), OOPS),
            "rank 0 raised MediaError: oops; rank 1 raised RequestError: fps",
        ),
        (FIRE, (FIRE, FIRE), "rank 0 raised RuntimeError: out of memory"),
        (OOPS, (OOPS, FIRE), "rank 2 raised RuntimeError: out of memory"),
        (LOST, (LOST, LOST), "rank 0 raised PeerLost: rank 2 is gone"),
        (OOPS, (OOPS, LOST), "rank 2 raised PeerLost"),
    ],
)
def test_not_alike(own: RankResult, others: tuple[RankResult, RankResult], told: str) -> None:
    row = PendingRow()
    row.end(*others)
    with pytest.raises(GangBroken, match=told):
        row.consensus.settle(own)


@pytest.mark.parametrize("own", [RankResult(), OOPS])
def test_a_follower_that_does_not_end_the_row(own: RankResult) -> None:
    row = PendingRow(patience=0.2)
    row.end(own)
    with pytest.raises(GangBroken, match=r"rank 2 is not done with it after 0\.2 s"):
        row.consensus.settle(own)


def test_a_follower_that_gives_up_while_the_leader_waits_for_it() -> None:
    row = PendingRow(patience=0.2)
    row.end(OOPS)
    assert "rank 1 raised MediaError: oops; rank 0 still renders" in str(row.said.get(timeout=10))


def test_a_leader_that_raises_in_time_is_not_complained_of() -> None:
    row = PendingRow(patience=1.0)
    row.end(OOPS, OOPS)
    row.consensus.settle(OOPS)
    with pytest.raises(queue.Empty):
        row.said.get(timeout=1.5)


def test_what_is_not_the_rows_is_said_at_once_and_what_it_was() -> None:
    row = PendingRow()
    row.end(FIRE)
    said = row.said.get(timeout=10)
    assert (str(said), said.error) == ("rank 1 raised RuntimeError: out of memory", "RuntimeError")


@pytest.mark.parametrize("error", [None, "MediaError"])
def test_ranks_that_are_out_of_step(error: str | None) -> None:
    """The ranks of a group must have begun as many exchanges there; groups may differ."""
    rows = error is not None
    row = PendingRow()
    row.end(*[RankResult(error, rows=rows, issued={(0, 1, 2): 5, (1, 2): 7})] * 2)
    row.consensus.settle(RankResult(error, rows=rows, issued={(0, 1, 2): 5}))
    row = PendingRow()
    row.end(*[RankResult(error, rows=rows, issued={(0, 1, 2): n}) for n in (5, 6)])
    with pytest.raises(GangBroken, match=r"out of step: they have begun \[5, 5, 6\] exchanges"):
        row.consensus.settle(RankResult(error, rows=rows, issued={(0, 1, 2): 5}))


def test_a_follower_that_cannot_be_reached_is_said_at_once() -> None:
    row = PendingRow()
    row.endings[1].set_exception(ConnectionError("the actor died"))
    assert "rank 2 raised ConnectionError: the actor died" in str(row.said.get(timeout=10))
    row.end(RankResult())
    with pytest.raises(GangBroken, match="rank 2 raised ConnectionError"):
        row.consensus.settle(RankResult())
