"""How gangs are placed, numbered and gathered, without Ray: actors that only remember what they were told."""

from __future__ import annotations

from typing import Any

import pytest

from vidgen_dist.parallel.mesh import Degrees
from vidgen_dist.runtime import gang as gangs
from vidgen_dist.runtime.cluster import Node
from vidgen_dist.runtime.fingerprint import Identity
from vidgen_dist.runtime.gang import Gang, Hiring, Member, Place, pack_strategy
from vidgen_dist.runtime.job import Job
from vidgen_dist.spec import Model, Output


class Actor:
    """Stands for a handle."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []


def remember(member: Member, *call: Any) -> None:
    member.actor.calls.append(call)


def make_gang(replica: int, places: list[Place]) -> tuple[Gang, list[tuple[Member, Place]]]:
    members = [Member(Actor(), remember) for _ in places]
    return Gang(replica, f"g{replica}", list(members), hired=0.0, group="a group"), list(
        zip(members, places, strict=True)
    )


def hiring(monkeypatch: pytest.MonkeyPatch, device: str, size: int, replicas: int) -> Hiring:
    monkeypatch.setattr(gangs, "alive_nodes", lambda: [Node(cpus=8, npus=8)])
    identity = Identity(model="m", task="t", dtype="float32", format="npy", crf=None)
    job = Job("engine", Model(id="m"), device, Output(uri="o"), identity, None, Degrees(ulysses=size))
    return Hiring(job, replicas)


def on_npu(host: str, device: str, node: str = "") -> Place:
    return Place(node or host, host, (device,), tuple(range(8)))


def place_all(boss: Hiring, gang: Gang, placed: list[tuple[Member, Place]], others: list[Gang]) -> None:
    for member, place in placed:
        boss.placed(gang, member, place, others)


def test_ranks_are_numbered_by_host_and_device(monkeypatch: pytest.MonkeyPatch) -> None:
    where = [("10.0.0.10", "0"), ("10.0.0.9", "10"), ("10.0.0.10", "3"), ("10.0.0.9", "2")]
    gang, placed = make_gang(0, [on_npu(host, device) for host, device in where])
    place_all(hiring(monkeypatch, "ascend", 4, 1), gang, placed, [])
    found = [(member.place.host, *member.place.devices) for member in gang.members if member.place]
    assert found == [("10.0.0.9", "2"), ("10.0.0.9", "10"), ("10.0.0.10", "0"), ("10.0.0.10", "3")]
    assert [member.actor.calls for member in gang.members] == [[("start", None, host)] for host, _ in found]


def test_nobody_begins_before_all_have_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    gang, placed = make_gang(0, [on_npu("10.0.0.1", "0"), on_npu("10.0.0.1", "1")])
    boss = hiring(monkeypatch, "ascend", 2, 1)
    assert gang.gathering_since is None
    boss.placed(gang, *placed[0], [])
    assert gang.gathering_since is not None
    assert all(not member.actor.calls for member in gang.members)


def test_cores_are_divided_between_all_ranks_of_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    boss = hiring(monkeypatch, "cpu", 2, 2)
    places = [Place("n", "10.0.0.1", (), tuple(range(8)))] * 2
    one, placed_one = make_gang(0, places)
    two, placed_two = make_gang(1, places)
    place_all(boss, one, placed_one, [two])
    place_all(boss, two, placed_two, [one])
    cores = [member.actor.calls[0][1] for gang in (one, two) for member in gang.members]
    assert cores == [(0, 1), (2, 3), (4, 5), (6, 7)]
    # A gang that takes another's place takes its cores.
    three, placed_three = make_gang(0, places)
    place_all(boss, three, placed_three, [two])
    assert [member.actor.calls[0][1] for member in three.members] == [(0, 1), (2, 3)]


def test_all_learn_of_all_addresses_and_the_leader_of_its_followers(monkeypatch: pytest.MonkeyPatch) -> None:
    boss = hiring(monkeypatch, "ascend", 3, 1)
    gang, placed = make_gang(0, [on_npu("10.0.0.1", device) for device in "201"])
    place_all(boss, gang, placed, [])
    zero, one, two = gang.members
    for member, address in ((two, "c"), (zero, "a")):
        boss.seated(gang, member, address, [])
    assert all(len(member.actor.calls) == 1 for member in gang.members)
    assert gang.gathering_since is not None
    boss.seated(gang, one, "b", [])
    assert zero.actor.calls[1:] == [("lead", ["a", "b", "c"], [one.actor, two.actor])]
    assert one.actor.calls[1:] == [("join", ["a", "b", "c"], 1)]
    assert two.actor.calls[1:] == [("join", ["a", "b", "c"], 2)]
    assert gang.gathering_since is None


def test_an_address_in_use_is_not_handed_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    boss = hiring(monkeypatch, "ascend", 2, 2)
    one, placed_one = make_gang(0, [on_npu("10.0.0.1", device) for device in "01"])
    two, placed_two = make_gang(1, [on_npu("10.0.0.1", device) for device in "23"])
    place_all(boss, one, placed_one, [two])
    place_all(boss, two, placed_two, [one])
    boss.seated(one, one.leader, "10.0.0.1|5000", [two])
    boss.seated(two, two.leader, "10.0.0.1|5000", [one])
    assert two.leader.actor.calls[-1] == ("reseat",)
    assert not two.leader.address
    boss.seated(two, two.leader, "10.0.0.1|5001", [one])
    assert two.leader.address == "10.0.0.1|5001"


@pytest.mark.parametrize(
    ("there", "need", "size", "replicas", "strategy"),
    [
        ([8, 8], 1, 8, 2, "STRICT_PACK"),
        ([8, 8], 1, 4, 4, "STRICT_PACK"),
        ([8, 8], 1, 16, 1, "PACK"),
        # Four gangs of three find room on three nodes of four, but one of them across nodes.
        ([4, 4, 4], 1, 3, 3, "STRICT_PACK"),
        ([4, 4, 4], 1, 3, 4, "PACK"),
        ([], 1, 2, 1, "PACK"),
        ([2.0], 0.5, 2, 2, "STRICT_PACK"),
        ([1.0], 0.3333, 3, 1, "STRICT_PACK"),
    ],
)
def test_a_gang_is_on_one_host_where_all_find_room_so(
    there: list[float], need: float, size: int, replicas: int, strategy: str
) -> None:
    assert pack_strategy(there, need, size, replicas) == strategy
