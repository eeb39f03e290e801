"""What ranks agree on: an error of all is the row's, an error of one breaks the gang."""

from __future__ import annotations

import queue
from concurrent.futures import Future

import pytest

from vidgen_dist.parallel.collectives import PeerLost
from vidgen_dist.runtime import unison
from vidgen_dist.runtime.unison import Ending, GangBroken, Unison

OOPS = Ending.of(RuntimeError("oops"))
LOST = Ending.of(PeerLost("rank 2 is gone"))


class Row:
    """A row on a leader and two followers."""

    def __init__(self) -> None:
        self.endings: list[Future[Ending]] = [Future(), Future()]
        self.said: queue.SimpleQueue[GangBroken] = queue.SimpleQueue()
        self.unison = Unison(self.endings, self.said.put)

    def end(self, *endings: Ending) -> None:
        for future, ending in zip(self.endings, endings, strict=False):
            future.set_result(ending)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unison, "SETTLE_SECONDS", 0.2)


@pytest.mark.parametrize("own", [Ending(), OOPS, Ending.of(RuntimeError("said in other words"))])
def test_alike(own: Ending) -> None:
    row = Row()
    row.end(*[Ending() if own.error is None else OOPS] * 2)
    row.unison.settle(own)
    assert row.said.empty()


@pytest.mark.parametrize(
    ("own", "others", "told"),
    [
        (OOPS, (OOPS, Ending()), "rank 0 raised RuntimeError: oops; rank 2 rendered it"),
        (Ending(), (Ending(), OOPS), "rank 0 rendered it; rank 2 raised RuntimeError: oops"),
        (
            OOPS,
            (Ending.of(ValueError("x")), OOPS),
            "rank 0 raised RuntimeError: oops; rank 1 raised ValueError: x",
        ),
        (LOST, (LOST, LOST), "rank 0 raised PeerLost: rank 2 is gone"),
        (OOPS, (OOPS, LOST), "rank 2 raised PeerLost"),
    ],
)
def test_not_alike(own: Ending, others: tuple[Ending, Ending], told: str) -> None:
    row = Row()
    row.end(*others)
    with pytest.raises(GangBroken, match=told):
        row.unison.settle(own)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("own", [Ending(), OOPS])
def test_a_follower_that_does_not_end_the_row(own: Ending) -> None:
    row = Row()
    row.end(own)
    with pytest.raises(GangBroken, match=r"rank 2 is not done with it after 0\.2 s"):
        row.unison.settle(own)


@pytest.mark.usefixtures("hurried")
def test_a_follower_that_gives_up_while_the_leader_waits_for_it() -> None:
    row = Row()
    row.end(OOPS)
    assert "rank 1 raised RuntimeError: oops; rank 0 still renders" in str(row.said.get(timeout=10))


@pytest.mark.usefixtures("hurried")
def test_a_leader_that_raises_in_time_is_not_complained_of() -> None:
    row = Row()
    row.end(OOPS, OOPS)
    row.unison.settle(OOPS)
    with pytest.raises(queue.Empty):
        row.said.get(timeout=1)


def test_a_follower_that_cannot_be_reached_is_said_at_once() -> None:
    row = Row()
    row.endings[1].set_exception(ConnectionError("the actor died"))
    assert "rank 2 raised ConnectionError: the actor died" in str(row.said.get(timeout=10))
    row.end(Ending())
    with pytest.raises(GangBroken, match="rank 2 raised ConnectionError"):
        row.unison.settle(Ending())
