"""Which rows go out next, which come back, and which are under suspicion."""

from __future__ import annotations

from tests.runtime.scheduling.simulation import rows
from vidgen_dist.runtime.scheduling.row_queue import QueuedRow, RowQueue, RowsInFlight, to_ask_back


def row_queue(count: int, *, shard_size: int = 4, replicas: int = 2) -> RowQueue:
    return RowQueue(iter(rows(count)), count, shard_size, replicas)


def ids(shard: list[QueuedRow]) -> list[str]:
    return [task.row.id for task in shard]


def in_flight(count: int) -> RowsInFlight:
    held = RowsInFlight()
    held.take([QueuedRow(row) for row in rows(count)], 0.0)
    return held


def test_shards_shrink_towards_the_end() -> None:
    source = row_queue(20)
    sizes = []
    while not source.empty:
        sizes.append(len(source.next_shard(RowsInFlight(), 0.0)))
    assert sum(sizes) == 20
    assert sizes == sorted(sizes, reverse=True)
    assert (sizes[0], sizes[-1]) == (4, 1)


def test_a_gang_that_is_soon_back_gets_as_much_as_it_renders_in_a_second() -> None:
    source, held = row_queue(10_000, shard_size=64), RowsInFlight()
    sizes = []
    for now in (0.0, 0.5, 0.6, 600.0):
        shard = source.next_shard(held, now)
        held.take(shard, now)
        held.ahead.clear()
        sizes.append(len(shard))
    assert sizes == [8, 16, 64, 8]


def test_one_row_ahead_and_none_towards_the_end() -> None:
    held = in_flight(1)
    assert row_queue(20).next_shard(held, 0.0)
    assert row_queue(4).next_shard(held, 0.0) == []
    assert row_queue(20).next_shard(in_flight(2), 0.0) == []
    held.ahead.clear()
    assert row_queue(4).next_shard(held, 0.0)


def test_what_comes_back_goes_first() -> None:
    source = row_queue(20)
    back = source.next_shard(RowsInFlight(), 0.0)
    for task in back:
        source.put_back(task)
    assert ids(source.next_shard(RowsInFlight(), 0.0)) == ["0"]
    assert ids(source.next_shard(RowsInFlight(), 0.0)) == ["1"]


def test_a_suspect_is_rendered_alone() -> None:
    source = row_queue(20)
    (first, *_) = source.next_shard(RowsInFlight(), 0.0)
    first.deaths = 1
    source.put_back(first)
    busy = in_flight(1)
    busy.ahead.clear()
    assert source.next_shard(busy, 0.0) == []
    alone = RowsInFlight()
    alone.take(source.next_shard(alone, 0.0), 0.0)
    assert list(alone.tasks) == ["0"]
    alone.ahead.clear()
    # Not while it is being written, either.
    assert source.next_shard(alone, 0.0) == []
    alone.drop("0")
    assert source.next_shard(alone, 0.0)


def test_fresh_rows_may_come_first_one_at_a_time() -> None:
    source = row_queue(12, shard_size=2, replicas=1)
    first, second = source.next_shard(RowsInFlight(), 0.0)
    first.deaths = 1
    source.put_back(first)
    source.put_back(second)
    held = RowsInFlight()
    held.take(source.next_shard(held, 0.0, losses=1), 0.0)
    # Not its neighbour: of the others, in their order, one from the middle.
    assert list(held.tasks) == ["6"]
    held.ahead.clear()
    assert source.next_shard(held, 0.0, losses=1) == []
    assert ids(source.next_shard(RowsInFlight(), 0.0, losses=1)) != ["0"]
    while len(shard := source.next_shard(RowsInFlight(), 0.0, losses=1)) == 1 and not shard[0].deaths:
        pass
    assert ids(shard) == ["0"]
    assert source.empty


def test_the_more_gangs_are_lost_the_farther_are_the_rows_that_come_next() -> None:
    source = row_queue(5_000)
    found = [
        row for losses in range(1, 5) for row in ids(source.next_shard(RowsInFlight(), 0.0, losses=losses))
    ]
    assert found == ["8", "65", "3074", "514"]
    while not source.empty:
        found += ids(source.next_shard(RowsInFlight(), 0.0))
    # What was passed over comes in its order.
    assert sorted(found, key=int) == [str(number) for number in range(5_000)]
    assert found[4:] == sorted(found[4:], key=int)


def test_rows_that_were_begun_are_suspects() -> None:
    held = in_flight(3)
    held.started |= {"0", "1"}
    assert held.suspects(writing=True) == {"0", "1"}


def test_the_next_row_is_a_suspect_while_nothing_is_in_the_model() -> None:
    held = in_flight(3)
    assert held.suspects(writing=True) == {"0"}
    held.started.add("0")
    held.ahead.discard("0")
    assert held.suspects(writing=True) == {"0", "1"}
    held.drop("0")
    assert held.suspects(writing=True) == {"1"}


def test_what_left_the_model_is_no_suspect_of_one_who_does_not_write() -> None:
    held = in_flight(3)
    held.started |= {"0", "1"}
    held.ahead.discard("0")
    assert held.suspects(writing=False) == {"1"}
    held.ahead.discard("1")
    assert held.suspects(writing=False) == {"2"}


def test_empty_hands_have_no_suspects() -> None:
    assert RowsInFlight().suspects(writing=True) == set()


def test_what_waits_behind_the_row_in_the_model_can_be_asked_back() -> None:
    held = in_flight(4)
    assert held.spare == 3
    held.asked_back = 2
    assert held.spare == 1
    assert held.returned("3").row.id == "3"
    assert (held.spare, list(held.tasks)) == (1, ["0", "1", "2"])
    # The other one had been begun, as shows when the one before leaves the model.
    held.rendered("0")
    assert (held.spare, held.asked_back) == (1, 0)
    held.rendered("1")
    assert held.spare == 0


def test_those_who_have_most_give_most() -> None:
    all_in_flight = [in_flight(1), in_flight(6), in_flight(3), RowsInFlight()]
    assert to_ask_back(all_in_flight, 2) == [0, 2, 0, 0]
    assert to_ask_back(all_in_flight, 5) == [0, 4, 1, 0]
    assert to_ask_back(all_in_flight, 100) == [0, 5, 2, 0]
    assert to_ask_back(all_in_flight, 0) == [0, 0, 0, 0]
    all_in_flight[1].asked_back = 5
    assert to_ask_back(all_in_flight, 2) == [0, 0, 2, 0]
