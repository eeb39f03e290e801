"""Which rows go out next, which come back, and which are suspects."""

from __future__ import annotations

from tests.runtime.scheduling.simulation import rows
from vidgen_dist.runtime.scheduling.row_queue import QueuedRow, RowQueue, RowsInFlight, plan_give_back


def row_queue(count: int, *, shard_size: int = 4, replicas: int = 2) -> RowQueue:
    return RowQueue(iter(rows(count)), count, shard_size, replicas)


def ids(shard: list[QueuedRow]) -> list[str]:
    return [queued.row.id for queued in shard]


def in_flight(count: int) -> RowsInFlight:
    held = RowsInFlight()
    held.add([QueuedRow(row) for row in rows(count)], 0.0)
    return held


def test_shards_shrink_towards_the_end() -> None:
    source = row_queue(20)
    sizes = []
    while not source.empty:
        sizes.append(len(source.next_shard(RowsInFlight(), 0.0)))
    assert sum(sizes) == 20
    assert sizes == sorted(sizes, reverse=True)
    assert (sizes[0], sizes[-1]) == (4, 1)


def test_a_fast_gang_gets_as_many_rows_as_it_renders_in_a_second() -> None:
    source, held = row_queue(10_000, shard_size=64), RowsInFlight()
    sizes = []
    for now in (0.0, 0.5, 0.6, 600.0):
        shard = source.next_shard(held, now)
        held.add(shard, now)
        held.ahead.clear()
        sizes.append(len(shard))
    assert sizes == [8, 16, 64, 8]


def test_a_gang_has_one_row_ahead_and_none_towards_the_end() -> None:
    held = in_flight(1)
    assert row_queue(20).next_shard(held, 0.0)
    assert row_queue(4).next_shard(held, 0.0) == []
    assert row_queue(20).next_shard(in_flight(2), 0.0) == []
    held.ahead.clear()
    assert row_queue(4).next_shard(held, 0.0)


def test_rows_that_came_back_go_first() -> None:
    source = row_queue(20)
    back = source.next_shard(RowsInFlight(), 0.0)
    for queued in back:
        source.put_back(queued)
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
    alone.add(source.next_shard(alone, 0.0), 0.0)
    assert list(alone.rows) == ["0"]
    alone.ahead.clear()
    # Not while it is being written, either.
    assert source.next_shard(alone, 0.0) == []
    alone.remove("0")
    assert source.next_shard(alone, 0.0)


def test_after_a_loss_rows_without_deaths_come_first_one_at_a_time() -> None:
    source = row_queue(12, shard_size=2, replicas=1)
    first, second = source.next_shard(RowsInFlight(), 0.0)
    first.deaths = 1
    source.put_back(first)
    source.put_back(second)
    held = RowsInFlight()
    held.add(source.next_shard(held, 0.0, losses=1), 0.0)
    # Not the neighbour of the suspect, but a row from the middle of the others.
    assert list(held.rows) == ["6"]
    held.ahead.clear()
    assert source.next_shard(held, 0.0, losses=1) == []
    assert ids(source.next_shard(RowsInFlight(), 0.0, losses=1)) != ["0"]
    while len(shard := source.next_shard(RowsInFlight(), 0.0, losses=1)) == 1 and not shard[0].deaths:
        pass
    assert ids(shard) == ["0"]
    assert source.empty


def test_with_every_loss_the_next_row_comes_from_farther_away() -> None:
    source = row_queue(5_000)
    found = [
        row for losses in range(1, 5) for row in ids(source.next_shard(RowsInFlight(), 0.0, losses=losses))
    ]
    assert found == ["8", "65", "3074", "514"]
    while not source.empty:
        found += ids(source.next_shard(RowsInFlight(), 0.0))
    # Rows that were passed over come in their order.
    assert sorted(found, key=int) == [str(number) for number in range(5_000)]
    assert found[4:] == sorted(found[4:], key=int)


def test_rows_that_had_begun_are_suspects() -> None:
    held = in_flight(3)
    held.started |= {"0", "1"}
    assert held.suspects(writing=True) == {"0", "1"}


def test_the_next_row_is_a_suspect_while_nothing_is_in_the_model() -> None:
    held = in_flight(3)
    assert held.suspects(writing=True) == {"0"}
    held.started.add("0")
    held.ahead.discard("0")
    assert held.suspects(writing=True) == {"0", "1"}
    held.remove("0")
    assert held.suspects(writing=True) == {"1"}


def test_a_row_that_left_the_model_is_no_suspect_if_writing_is_ruled_out() -> None:
    held = in_flight(3)
    held.started |= {"0", "1"}
    held.ahead.discard("0")
    assert held.suspects(writing=False) == {"1"}
    held.ahead.discard("1")
    assert held.suspects(writing=False) == {"2"}


def test_without_rows_in_flight_there_are_no_suspects() -> None:
    assert RowsInFlight().suspects(writing=True) == set()


def test_rows_behind_the_one_in_the_model_can_be_asked_back() -> None:
    held = in_flight(4)
    assert held.spare == 3
    held.asked_back = 2
    assert held.spare == 1
    assert held.take_back("3").row.id == "3"
    assert (held.spare, list(held.rows)) == (1, ["0", "1", "2"])
    # When the row before it leaves the model without its return, the other row must have begun.
    held.mark_rendered("0")
    assert (held.spare, held.asked_back) == (1, 0)
    held.mark_rendered("1")
    assert held.spare == 0


def test_gangs_with_the_most_rows_give_back_the_most() -> None:
    all_in_flight = [in_flight(1), in_flight(6), in_flight(3), RowsInFlight()]
    assert plan_give_back(all_in_flight, 2) == [0, 2, 0, 0]
    assert plan_give_back(all_in_flight, 5) == [0, 4, 1, 0]
    assert plan_give_back(all_in_flight, 100) == [0, 5, 2, 0]
    assert plan_give_back(all_in_flight, 0) == [0, 0, 0, 0]
    all_in_flight[1].asked_back = 5
    assert plan_give_back(all_in_flight, 2) == [0, 0, 2, 0]
