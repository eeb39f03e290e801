"""What ranks agree on: a `RowError` that all raise is due to the row; any other error breaks the gang."""

from __future__ import annotations

import queue
from concurrent.futures import Future

import pytest

from vidgen_dist.media import MediaError
from vidgen_dist.parallel.collectives import PeerLost
from vidgen_dist.request import RequestError
from vidgen_dist.runtime.worker.row_consensus import GangBroken, RankResult, RowConsensus

OOPS = RankResult.from_error(MediaError("oops"))
FIRE = RankResult.from_error(RuntimeError("out of memory"))
LOST = RankResult.from_error(PeerLost("rank 2 is gone"))


class RowOnThreeRanks:
    """A row on a leader and two followers."""

    def __init__(self, patience: float = 60.0) -> None:
        self.results: list[Future[RankResult]] = [Future(), Future()]
        self.broken: queue.SimpleQueue[GangBroken] = queue.SimpleQueue()
        self.consensus = RowConsensus(self.results, patience, self.broken.put)

    def end(self, *results: RankResult) -> None:
        for future, result in zip(self.results, results, strict=False):
            future.set_result(result)


@pytest.mark.parametrize("own", [RankResult(), OOPS, RankResult.from_error(MediaError("another wording"))])
def test_results_that_agree_settle_the_row(own: RankResult) -> None:
    row = RowOnThreeRanks()
    row.end(*[RankResult() if own.error is None else OOPS] * 2)
    row.consensus.settle(own)
    assert row.broken.empty()


@pytest.mark.parametrize(
    ("own", "others", "message"),
    [
        (OOPS, (OOPS, RankResult()), "rank 0 raised MediaError: oops; rank 2 rendered it"),
        (RankResult(), (RankResult(), OOPS), "rank 0 rendered it; rank 2 raised MediaError: oops"),
        (
            OOPS,
            (RankResult.from_error(RequestError("fps", 0, "more")), OOPS),
            "rank 0 raised MediaError: oops; rank 1 raised RequestError: fps",
        ),
        (FIRE, (FIRE, FIRE), "rank 0 raised RuntimeError: out of memory"),
        (OOPS, (OOPS, FIRE), "rank 2 raised RuntimeError: out of memory"),
        (LOST, (LOST, LOST), "rank 0 raised PeerLost: rank 2 is gone"),
        (OOPS, (OOPS, LOST), "rank 2 raised PeerLost"),
    ],
)
def test_results_that_differ_break_the_gang(
    own: RankResult, others: tuple[RankResult, RankResult], message: str
) -> None:
    row = RowOnThreeRanks()
    row.end(*others)
    with pytest.raises(GangBroken, match=message):
        row.consensus.settle(own)


@pytest.mark.parametrize("own", [RankResult(), OOPS])
def test_a_follower_that_does_not_end_the_row_breaks_the_gang(own: RankResult) -> None:
    row = RowOnThreeRanks(patience=0.2)
    row.end(own)
    with pytest.raises(GangBroken, match=r"rank 2 is not done with it after 0\.2 s"):
        row.consensus.settle(own)


def test_a_follower_that_gives_up_while_the_leader_waits_for_it_is_reported() -> None:
    row = RowOnThreeRanks(patience=0.2)
    row.end(OOPS)
    assert "rank 1 raised MediaError: oops; rank 0 still renders" in str(row.broken.get(timeout=10))


def test_a_leader_that_raises_in_time_is_not_reported() -> None:
    row = RowOnThreeRanks(patience=1.0)
    row.end(OOPS, OOPS)
    row.consensus.settle(OOPS)
    with pytest.raises(queue.Empty):
        row.broken.get(timeout=1.5)


def test_an_error_that_is_not_due_to_the_row_is_reported_at_once_with_its_class() -> None:
    row = RowOnThreeRanks()
    row.end(FIRE)
    broken = row.broken.get(timeout=10)
    assert (str(broken), broken.error) == ("rank 1 raised RuntimeError: out of memory", "RuntimeError")


@pytest.mark.parametrize("error", [None, "MediaError"])
def test_ranks_that_are_out_of_step_break_the_gang(error: str | None) -> None:
    """All ranks of a group must have begun the same number of exchanges there; groups may differ."""
    at_fault = error is not None
    row = RowOnThreeRanks()
    row.end(*[RankResult(error, row_at_fault=at_fault, issued={(0, 1, 2): 5, (1, 2): 7})] * 2)
    row.consensus.settle(RankResult(error, row_at_fault=at_fault, issued={(0, 1, 2): 5}))
    row = RowOnThreeRanks()
    row.end(*[RankResult(error, row_at_fault=at_fault, issued={(0, 1, 2): n}) for n in (5, 6)])
    with pytest.raises(GangBroken, match=r"out of step: they have begun \[5, 5, 6\] exchanges"):
        row.consensus.settle(RankResult(error, row_at_fault=at_fault, issued={(0, 1, 2): 5}))


def test_a_follower_that_cannot_be_reached_is_reported_at_once() -> None:
    row = RowOnThreeRanks()
    row.results[1].set_exception(ConnectionError("the actor died"))
    assert "rank 2 raised ConnectionError: the actor died" in str(row.broken.get(timeout=10))
    row.end(RankResult())
    with pytest.raises(GangBroken, match="rank 2 raised ConnectionError"):
        row.consensus.settle(RankResult())
