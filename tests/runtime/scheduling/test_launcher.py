"""How gangs are placed, numbered and connected, without Ray: actors that only record their calls."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
import ray

from vidgen_dist.output.fingerprint import Identity
from vidgen_dist.parallel.degrees import Degrees
from vidgen_dist.runtime.connection import Node, in_one_line
from vidgen_dist.runtime.messages import Job
from vidgen_dist.runtime.scheduling import launcher as launchers
from vidgen_dist.runtime.scheduling.gang import CallFailure, Gang, Member
from vidgen_dist.runtime.scheduling.launcher import Launcher, pack_strategy
from vidgen_dist.runtime.scheduling.supervisor import GangLoss
from vidgen_dist.runtime.worker.actor import Placement
from vidgen_dist.spec import ModelOptions, OutputOptions
from vidgen_dist.storage.folder import Storage


class Actor:
    """Takes the place of an actor's handle."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []


def record(member: Member, method: Callable[..., object], /, *arguments: Any) -> None:
    member.actor.calls.append((method.__name__, *arguments))


def make_gang(replica: int, places: list[Placement]) -> tuple[Gang, list[tuple[Member, Placement]]]:
    members = [Member(Actor(), record) for _ in places]
    return Gang(replica, f"g{replica}", list(members), launched=0.0, group="a group"), list(
        zip(members, places, strict=True)
    )


def make_launcher(monkeypatch: pytest.MonkeyPatch, device: str, size: int, replicas: int) -> Launcher:
    monkeypatch.setattr(launchers, "alive_nodes", lambda: [Node(cpus=8, npus=8)])
    identity = Identity(model="m", task="t", dtype="float32", format="npy", crf=None)
    job = Job(
        "engine",
        ModelOptions(id="m"),
        device,
        Storage("o"),
        OutputOptions(uri="o"),
        identity,
        None,
        Degrees(ulysses=size),
    )
    return Launcher(job, replicas)


def on_npu(host: str, device: str, node: str = "") -> Placement:
    return Placement(node or host, host, (device,), tuple(range(8)))


def place_all(
    launcher: Launcher, gang: Gang, placed: list[tuple[Member, Placement]], others: list[Gang]
) -> None:
    for member, placement in placed:
        launcher.register_placement(gang, member, placement, others)


def test_ranks_are_numbered_by_host_and_device(monkeypatch: pytest.MonkeyPatch) -> None:
    where = [("10.0.0.10", "0"), ("10.0.0.9", "10"), ("10.0.0.10", "3"), ("10.0.0.9", "2")]
    gang, placed = make_gang(0, [on_npu(host, device) for host, device in where])
    place_all(make_launcher(monkeypatch, "ascend", 4, 1), gang, placed, [])
    found = [
        (member.placement.host, *member.placement.devices) for member in gang.members if member.placement
    ]
    assert found == [("10.0.0.9", "2"), ("10.0.0.9", "10"), ("10.0.0.10", "0"), ("10.0.0.10", "3")]
    assert [member.actor.calls for member in gang.members] == [[("start", None, host)] for host, _ in found]


def test_no_member_starts_before_all_have_a_placement(monkeypatch: pytest.MonkeyPatch) -> None:
    gang, placed = make_gang(0, [on_npu("10.0.0.1", "0"), on_npu("10.0.0.1", "1")])
    launcher = make_launcher(monkeypatch, "ascend", 2, 1)
    assert gang.gathering_since is None
    launcher.register_placement(gang, *placed[0], [])
    assert gang.gathering_since is not None
    assert all(not member.actor.calls for member in gang.members)


def test_cores_are_divided_between_all_ranks_of_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = make_launcher(monkeypatch, "cpu", 2, 2)
    places = [Placement("n", "10.0.0.1", (), tuple(range(8)))] * 2
    one, placed_one = make_gang(0, places)
    two, placed_two = make_gang(1, places)
    place_all(launcher, one, placed_one, [two])
    place_all(launcher, two, placed_two, [one])
    cores = [member.actor.calls[0][1] for gang in (one, two) for member in gang.members]
    assert cores == [(0, 1), (2, 3), (4, 5), (6, 7)]
    # A gang that replaces another gets its cores.
    three, placed_three = make_gang(0, places)
    place_all(launcher, three, placed_three, [two])
    assert [member.actor.calls[0][1] for member in three.members] == [(0, 1), (2, 3)]


def test_all_get_all_addresses_and_the_leader_its_followers(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = make_launcher(monkeypatch, "ascend", 3, 1)
    gang, placed = make_gang(0, [on_npu("10.0.0.1", device) for device in "201"])
    place_all(launcher, gang, placed, [])
    zero, one, two = gang.members
    for member, address in ((two, "c"), (zero, "a")):
        launcher.register_rendezvous(gang, member, address, [])
    assert all(len(member.actor.calls) == 1 for member in gang.members)
    assert gang.gathering_since is not None
    launcher.register_rendezvous(gang, one, "b", [])
    assert zero.actor.calls[1:] == [("lead", ["a", "b", "c"], [one.actor, two.actor])]
    assert one.actor.calls[1:] == [("join", ["a", "b", "c"], 1)]
    assert two.actor.calls[1:] == [("join", ["a", "b", "c"], 2)]
    assert gang.gathering_since is None


def test_an_address_in_use_is_not_handed_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = make_launcher(monkeypatch, "ascend", 2, 2)
    one, placed_one = make_gang(0, [on_npu("10.0.0.1", device) for device in "01"])
    two, placed_two = make_gang(1, [on_npu("10.0.0.1", device) for device in "23"])
    place_all(launcher, one, placed_one, [two])
    place_all(launcher, two, placed_two, [one])
    launcher.register_rendezvous(one, one.leader, "10.0.0.1|5000", [two])
    launcher.register_rendezvous(two, two.leader, "10.0.0.1|5000", [one])
    assert two.leader.actor.calls[-1] == ("renew_rendezvous",)
    assert not two.leader.address
    launcher.register_rendezvous(two, two.leader, "10.0.0.1|5001", [one])
    assert two.leader.address == "10.0.0.1|5001"


@pytest.mark.parametrize(
    ("node_units", "need", "size", "replicas", "strategy"),
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
def test_each_gang_is_on_one_host_where_all_fit_that_way(
    node_units: list[float], need: float, size: int, replicas: int, strategy: str
) -> None:
    assert pack_strategy(node_units, need, size, replicas) == strategy


def test_what_is_stored_of_a_gang_numbers_its_nodes() -> None:
    gang, placed = make_gang(0, [on_npu(host, "3") for host in ("10.0.0.1", "10.0.0.11", "10.0.0.1")])
    for member, placement in placed:
        member.placement = placement
    assert [gang.rank_of(member) for member in gang.members] == [
        "rank 0 on node 1, NPU 3",
        "rank 1 on node 2, NPU 3",
        "rank 2 on node 1, NPU 3",
    ]
    text = "no answer of 10.0.0.11:4001, tcp://10.0.0.1:7, 110.0.0.1 or 10.0.0.1."
    assert gang.without_hosts(text) == "no answer of node 2:4001, tcp://node 1:7, 110.0.0.1 or node 1."
    reason = f"{gang.rank_of(gang.members[1])} died"
    loss = GangLoss(reason, gang.members[1], actor_died=True, ray_message="Ray: ip: 10.0.0.11")
    assert str(loss) == "rank 1 on node 2, NPU 3 died (10.0.0.11; Ray: ip: 10.0.0.11)"


def died(account: str, *, at_once: bool = False) -> ray.exceptions.ActorDiedError:
    error = ray.exceptions.ActorDiedError()
    error.error_msg, error._actor_init_failed = f"The actor died.\n\tip: 10.0.0.7\n{account}", at_once
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (died("The actor died because its node has died. Node Id: 8c."), "died with its node"),
        (
            died("its worker process has died. Worker exit type: SYSTEM_ERROR: SIGKILL by OOM killer, …"),
            "died: its process crashed, or was killed (for lack of memory, for example)",
        ),
        (
            died("its worker process has died. Worker exit type: NODE_OUT_OF_MEMORY"),
            "was killed: its node ran out of memory",
        ),
        (
            ray.exceptions.OutOfMemoryError("low on memory (IP: 10.0.0.7)"),
            "was killed: its node ran out of memory",
        ),
        (died("The actor is dead because it was killed by `ray.kill`."), "was ended by the driver"),
        (
            died("ray::WorkerActor() (ip=10.0.0.7)\nKeyError: 'y'", at_once=True),
            "could not be started: KeyError: 'y'",
        ),
        (died("Nobody knows why."), "died"),
        (ray.exceptions.ActorUnavailableError("rpc to 10.0.0.7:99", None), "is out of reach"),
        (ray.exceptions.RpcError("rpc to 10.0.0.7:99"), "is lost: RpcError"),
        (
            ray.exceptions.RayTaskError("poll", "…", OSError("no file")),
            "raised OSError: no file",
        ),
    ],
)
def test_what_is_stored_of_a_death_names_no_host(error: Exception, reason: str) -> None:
    call: Future[None] = Future()
    call.set_exception(error)
    failure = launchers._answer_of(call)
    assert isinstance(failure, CallFailure)
    assert failure.reason == reason
    # The console shows all of it.
    assert failure.ray_message == in_one_line(error)
