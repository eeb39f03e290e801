"""The launcher: starts gangs as one, gives their ranks an order, connects them, and ends them as one.

A gang of several ranks has a placement group, so that it gets all of its places or none. Its actors say where
they run, and their ranks follow from that: ranks that exchange most must be neighbours, and the order in
which Ray places them says nothing of it. Then each rank opens a rendezvous, learns the addresses of all, and
joins.
"""

from __future__ import annotations

import ipaddress
import math
import queue
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from vidgen_dist.runtime.connection import RayFault, alive_nodes, asking, cores_of, cpu_share, in_one_line
from vidgen_dist.runtime.messages import Job
from vidgen_dist.runtime.ray_errors import describe_failure
from vidgen_dist.runtime.scheduling.gang import Answer, CallFailure, Gang, Member
from vidgen_dist.runtime.worker.actor import Placement, WorkerActor


class Launcher:
    """Starts gangs, collects what their members answer, and ends them; only `hear` waits.

    Args:
        job: What members are told.
        replicas: How many gangs there are at once.
    """

    def __init__(self, job: Job, replicas: int) -> None:
        self._job = job
        self._size = job.degrees.size
        self._replicas = replicas
        self._actor = ray.remote(WorkerActor)
        self._answers: queue.SimpleQueue[tuple[Member, Future[Any]]] = queue.SimpleQueue()
        self._kind = "CPU" if job.device == "cpu" else "NPU"
        self._share = 1.0
        if job.device == "cpu":
            self._share = cpu_share([node.cpus for node in alive_nodes()], replicas * self._size)

    def clock(self) -> float:
        """The time, in seconds, by which the supervisor waits."""
        return time.monotonic()

    def launch(self, replica: int, name: str) -> Gang:
        """Start a gang; its members will answer where they run.

        Raises:
            RayFault: Ray cannot make its actors.
        """
        with asking("make actors"):
            return self._launch(replica, name)

    def _launch(self, replica: int, name: str) -> Gang:
        kind = self._kind
        needs: dict[str, Any] = (
            {"num_cpus": self._share} if kind == "CPU" else {"num_cpus": 0, "resources": {"NPU": 1}}
        )
        group = None
        if self._size > 1:
            there = [node.cpus if kind == "CPU" else node.npus for node in alive_nodes()]
            strategy = pack_strategy(there, self._share, self._size, self._replicas)
            group = placement_group([{kind: self._share}] * self._size, strategy=strategy)
        members = []
        for index in range(self._size):
            place = {}
            if group is not None:
                place["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                    placement_group=group, placement_group_bundle_index=index
                )
            # Three threads: one waits in `poll`, one in `follow`, the third takes rows and orders. Ray keeps
            # no record of calls: there are many, and they say nothing of the rows.
            actor = self._actor.options(
                max_concurrency=3,
                max_restarts=0,
                max_task_retries=0,
                enable_task_events=False,
                **needs,
                **place,
            ).remote(self._job, name, replica)
            members.append(Member(actor, self._post))
            members[-1].call(WorkerActor.where)
        return Gang(replica, name, members, self.clock(), group)

    def _post(
        self, member: Member, method: Callable[..., object], /, *arguments: Any, **keywords: Any
    ) -> None:
        # Called back, not waited for: the time that it takes does not grow with the number of gangs.
        with asking(f"call `{method.__name__}` of a worker"):
            answer = getattr(member.actor, method.__name__).remote(*arguments, **keywords).future()
        answer.add_done_callback(lambda answer: self._answers.put((member, answer)))

    def hear(self, seconds: float) -> list[tuple[Member, Answer]]:
        """What members have answered since the last call; waits for the first answer, for so long at most."""
        said = []
        try:
            said.append(self._answers.get(timeout=seconds))
            while True:
                said.append(self._answers.get_nowait())
        except queue.Empty:
            return [(member, _answer(call)) for member, call in said]

    def left(self, gang: Gang) -> bool:
        """Whether a node that the gang was on is no longer part of the cluster."""
        there = {node.id for node in alive_nodes()}
        return any(member.place is not None and member.place.node not in there for member in gang.members)

    def needs(self, gangs: int) -> str:
        """What so many gangs need, as text."""
        return f"{_count(gangs * self._size * self._share)} {self._kind}s"

    def there(self) -> str:
        """How much of it the cluster has, as text."""
        with asking("count the cluster's resources"):
            whole, free = ray.cluster_resources(), ray.available_resources()
        return f"{_count(whole.get(self._kind, 0))}, of which {_count(free.get(self._kind, 0))} are free"

    def terminate(self, gang: Gang) -> None:
        """Kill all members and free their places."""
        # If Ray cannot do that any more, they end with the connection to it.
        for member in gang.members:
            with suppress(RayFault), asking("end a worker"):
                ray.kill(member.actor, no_restart=True)
        if gang.group is not None:
            with suppress(RayFault), asking("remove a placement group"):
                remove_placement_group(gang.group)

    def placed(self, gang: Gang, member: Member, place: Placement, others: Iterable[Gang]) -> None:
        """A member has answered where it runs. When all have, they get their ranks and cores, and start."""
        member.place = place
        if gang.gathering_since is None and gang.group is not None:
            gang.gathering_since = self.clock()
        if any(each.place is None for each in gang.members):
            return
        gang.members.sort(key=_neighbourhood)
        taken = {
            (each.place.node, each.slot)
            for other in others
            for each in other.members
            if each.place is not None
        }
        for each in gang.members:
            assert each.place is not None
            each.slot = next(n for n in range(len(taken) + 1) if (each.place.node, n) not in taken)
            taken.add((each.place.node, each.slot))
            cores = None
            if self._job.device == "cpu":
                cores = cores_of(each.slot, self._share, each.place.cores)
            each.call(WorkerActor.start, cores, each.place.host if gang.group is not None else None)

    def rendezvous_opened(self, gang: Gang, member: Member, address: str, others: Iterable[Gang]) -> None:
        """A member has opened a rendezvous. When all have, they join the gang."""
        in_use = {each.address for other in (gang, *others) for each in other.members}
        if address in in_use:
            # A free port is bound by whoever listens on it first, which may not have happened yet.
            member.call(WorkerActor.renew_rendezvous)
            return
        member.address = address
        addresses = [each.address for each in gang.members]
        if not all(addresses):
            return
        gang.gathering_since = None
        gang.leader.call(WorkerActor.lead, addresses, [each.actor for each in gang.members[1:]])
        for rank, each in enumerate(gang.members[1:], 1):
            each.call(WorkerActor.join, addresses, rank)


def pack_strategy(there: Sequence[float], need: float, size: int, replicas: int) -> str:
    """How Ray is to place the gangs: each on one node if all find room so, otherwise as near as possible.

    Args:
        there: What each node has, NPUs or CPUs.
        need: What a rank needs of it.
        size: Ranks of a gang.
        replicas: Gangs.
    """
    # A whisker more: a third, as Ray counts, is 0.3333.
    whole = sum(math.floor(units / (need * size) + 1e-9) for units in there)
    return "STRICT_PACK" if whole >= replicas else "PACK"


def _answer(call: Future[Any]) -> Answer:
    error = call.exception()
    if error is None:
        return call.result()
    return CallFailure(
        describe_failure(error), isinstance(error, ray.exceptions.ActorDiedError), in_one_line(error)
    )


def _count(units: float) -> str:
    return f"{round(units, 2):g}"


def _neighbourhood(member: Member) -> tuple[Any, ...]:
    """What members are sorted by, so that those of a host are together, and those of near devices."""
    place = member.place
    assert place is not None
    address = ipaddress.ip_address(place.host)
    return address.version, int(address), place.node, [(len(device), device) for device in place.devices]
