"""Gangs keep the LoRAs that they have, as long as there are rows with them."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter

import pytest

from tests.runtime.scheduling.simulation import GangBehaviour, Simulation, rows_with
from vidgen_dist.runtime.scheduling.row_queue import LORA_WINDOW, LORA_WINDOW_BYTES, RowQueue, RowsInFlight

NAMES = [f"org/{letter}" for letter in "abcdef"]
EVENLY = NAMES * 10
HALF_OF_ONE = [*NAMES[:1] * 30, *NAMES[1:] * 6]


def changes(loras: list[str], seconds: list[float], seed: int) -> int:
    """How often gangs change their LoRAs, for rows in random order.

    Args:
        loras: The rows' LoRAs.
        seconds: How long each replica takes for a row.
        seed: Decides the order of the rows.
    """
    pending = rows_with(random.Random(seed).sample(loras, len(loras)))
    lora_of = {row.id: row.request.lora for row in pending}
    rendered: dict[int, list[str]] = {}

    def render(row_id: str, replica: int) -> float:
        rendered.setdefault(replica, []).append(row_id)
        return seconds[replica]

    cluster = Simulation(GangBehaviour(render=render, load=1.0), {"n": len(seconds)})
    cluster.supervisor(len(pending), len(seconds), pending=pending).work()
    assert set(cluster.done_at) == set(lora_of)
    found = 0
    for order in rendered.values():
        present = [lora_of[row_id] for row_id in order]
        found += sum(now != before for before, now in zip([None, *present], present, strict=False))
    return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("seconds", [[60.0, 60.0], [60.0, 600.0]], ids=["alike", "one slow"])
@pytest.mark.parametrize("loras", [EVENLY, HALF_OF_ONE], ids=["evenly", "half of one"])
def test_six_loras_on_two_replicas(loras: list[str], seconds: list[float], seed: int) -> None:
    assert changes(loras, seconds, seed) <= len(NAMES) + len(seconds)


def queue_of(loras: list[str | None], **settings: int) -> RowQueue:
    rows = rows_with(loras)
    return RowQueue(iter(rows), len(rows), **{"shard_size": 4, "replicas": 1, **settings})


def taken(queue: RowQueue, own: str | None, *others: str) -> list[str | None]:
    """The LoRAs of the rows that a gang gets which has this LoRA, while others have those."""
    in_flight = RowsInFlight(loras=() if own is None else ((own, 1.0),))
    shard = queue.next_shard(in_flight, 0.0, others=[((name, 1.0),) for name in others])
    return [None if queued.row.request.lora is None else queued.row.request.lora[0] for queued in shard]


def test_a_gang_gets_its_own_first() -> None:
    queue = queue_of(["a", "b", "a", "b", "c", "b", "a", None, *["z"] * 20])
    assert [taken(queue, "b", "a") for _ in range(3)] == [["b"]] * 3
    # Those with `a` are another gang's: `c` is free.
    assert taken(queue, "x", "a", "b") == ["c"]
    assert taken(queue, "a") == ["a", "a", "a"]


def test_rows_without_loras_are_anybodys_and_nothing_is_read_ahead() -> None:
    read = []
    rows = rows_with([None] * 20)
    queue = RowQueue((read.append(row.id) or row for row in rows), 20, 4, 2)
    assert len(queue.next_shard(RowsInFlight(loras=()), 0.0, others=[()])) == 4
    assert len(read) == 4


def test_a_gang_helps_with_what_others_have_if_nothing_else_is_near() -> None:
    queue = queue_of(["a"] * (LORA_WINDOW + 5) + ["b"] * 8)
    assert taken(queue, "x", "a") == ["a"] * 4


def test_every_row_comes_once_whatever_gangs_have() -> None:
    rng = random.Random(0)
    rows = rows_with(rng.choices([None, *"abc"], k=500))
    queue, found = RowQueue(iter(rows), len(rows), 8, 2), Counter()
    while not queue.empty:
        own = rng.choice([(), *(((name, 1.0),) for name in "abcd")])
        losses = rng.choice([0, 0, 0, 1, 2])
        shard = queue.next_shard(RowsInFlight(loras=own), 0.0, losses=losses, others=[(("a", 1.0),)])
        assert len({queued.row.request.lora for queued in shard}) == 1
        back = [queued for queued in shard if rng.random() < 0.1]
        for queued in back:
            queue.put_back(queued)
        found.update(queued.row.id for queued in shard if queued not in back)
    assert found == Counter(row.id for row in rows)


def test_no_row_of_a_lower_priority_goes_before() -> None:
    rows = [
        dataclasses.replace(row, priority=10 - number // 8)
        for number, row in enumerate(rows_with(["a"] * 4 + ["b"] * 4 + ["a"] * 8))
    ]
    queue, found = RowQueue(iter(rows), len(rows), 4, 1), []
    while not queue.empty:
        found += queue.next_shard(RowsInFlight(loras=(("a", 1.0),)), 0.0, others=[(("b", 1.0),)])
    priorities = [queued.row.priority for queued in found]
    assert priorities == sorted(priorities, reverse=True)
    assert [queued.row.id for queued in found] == [str(i) for i in range(16)]


def test_rows_that_carry_images_are_not_read_far_ahead() -> None:
    rows = [
        dataclasses.replace(row, request=dataclasses.replace(row.request, prompt="x" * 2**20))
        for row in rows_with(["a"] * 200 + ["b"])
    ]
    read: list[object] = []
    queue = RowQueue((read.append(row) or row for row in rows), len(rows), 4, 1)
    queue.next_shard(RowsInFlight(loras=(("c", 1.0),)), 0.0, others=[(("a", 1.0),)])
    assert LORA_WINDOW_BYTES <= len(read) * 2**20 <= LORA_WINDOW_BYTES + 2 * 2**20
