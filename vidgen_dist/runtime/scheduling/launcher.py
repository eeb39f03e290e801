"""The launcher: starts all ranks of a gang together, orders them, connects them, and ends them together.

A gang of several ranks has a placement group, so that it gets all of its places or none. Its actors report
where they run, and their ranks follow from that: ranks that exchange the most data must be neighbours, and
the order in which Ray places actors does not ensure it. Then each rank opens a rendezvous, gets the addresses
of all ranks, and joins.
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

from vidgen_dist.runtime.connection import (
    RayFault,
    alive_nodes,
    cores_of,
    cpu_share,
    in_one_line,
    ray_request,
)
from vidgen_dist.runtime.messages import Job
from vidgen_dist.runtime.ray_errors import describe_failure
from vidgen_dist.runtime.scheduling.gang import Answer, CallFailure, Gang, Member
from vidgen_dist.runtime.worker.actor import Placement, WorkerActor


class Launcher:
    """Starts gangs, collects their members' answers, and ends them; only `receive` waits.

    Args:
        job: What all members get.
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
        """The time, in seconds, on the clock that the supervisor uses."""
        return time.monotonic()

    def launch(self, replica: int, name: str) -> Gang:
        """Start a gang; each member will answer where it runs.

        Raises:
            RayFault: Ray cannot create its actors.
        """
        with ray_request("create actors"):
            return self._create_gang(replica, name)

    def _create_gang(self, replica: int, name: str) -> Gang:
        kind = self._kind
        needs: dict[str, Any] = (
            {"num_cpus": self._share} if kind == "CPU" else {"num_cpus": 0, "resources": {"NPU": 1}}
        )
        group = None
        if self._size > 1:
            units = [node.cpus if kind == "CPU" else node.npus for node in alive_nodes()]
            strategy = pack_strategy(units, self._share, self._size, self._replicas)
            group = placement_group([{kind: self._share}] * self._size, strategy=strategy)
        members = []
        for index in range(self._size):
            scheduling = {}
            if group is not None:
                scheduling["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                    placement_group=group, placement_group_bundle_index=index
                )
            # Three threads: one waits in `poll`, one in `follow`, the third takes rows and commands.
            # Without task events, `ray list tasks`, `ray timeline` and the dashboard's task view do not show
            # calls of workers. They would show many polls and no row: what a worker does with its rows is in
            # its log, in status.json and in the metrics. Actors, their logs and stack traces stay visible.
            # With task events, the cluster's head node would do 10 us of work for each call, which is
            # little; but it keeps the latest 100,000 for all jobs together, and the polls of a thousand
            # gangs would displace those of every other job within minutes.
            actor = self._actor.options(
                max_concurrency=3,
                max_restarts=0,
                max_task_retries=0,
                enable_task_events=False,
                **needs,
                **scheduling,
            ).remote(self._job, name, replica)
            members.append(Member(actor, self._call))
            members[-1].call(WorkerActor.get_placement)
        return Gang(replica, name, members, self.clock(), group)

    def _call(
        self, member: Member, method: Callable[..., object], /, *arguments: Any, **keywords: Any
    ) -> None:
        # A callback instead of a wait: the time that it takes does not grow with the number of gangs.
        with ray_request(f"call `{method.__name__}` of a worker"):
            answer = getattr(member.actor, method.__name__).remote(*arguments, **keywords).future()
        answer.add_done_callback(lambda answer: self._answers.put((member, answer)))

    def receive(self, seconds: float) -> list[tuple[Member, Answer]]:
        """The answers since the last call; waits up to `seconds` for the first one."""
        calls = []
        try:
            calls.append(self._answers.get(timeout=seconds))
            while True:
                calls.append(self._answers.get_nowait())
        except queue.Empty:
            return [(member, _answer_of(call)) for member, call in calls]

    def has_lost_node(self, gang: Gang) -> bool:
        """Whether a node that the gang was on is no longer part of the cluster."""
        alive = {node.id for node in alive_nodes()}
        return any(
            member.placement is not None and member.placement.node not in alive for member in gang.members
        )

    def describe_need(self, gangs: int) -> str:
        """What a number of gangs needs: `16 NPUs`."""
        return f"{_count(gangs * self._size * self._share)} {self._kind}s"

    def describe_capacity(self) -> str:
        """How much of it the cluster has: `8, of which 0 are free`."""
        with ray_request("count the cluster's resources"):
            whole, free = ray.cluster_resources(), ray.available_resources()
        return f"{_count(whole.get(self._kind, 0))}, of which {_count(free.get(self._kind, 0))} are free"

    def terminate(self, gang: Gang) -> None:
        """Kill all members and free their places."""
        # If Ray can no longer do that, they end with the connection to it.
        for member in gang.members:
            with suppress(RayFault), ray_request("end a worker"):
                ray.kill(member.actor, no_restart=True)
        if gang.group is not None:
            with suppress(RayFault), ray_request("remove a placement group"):
                remove_placement_group(gang.group)

    def register_placement(
        self, gang: Gang, member: Member, placement: Placement, others: Iterable[Gang]
    ) -> None:
        """Note where a member runs. When that is known of all, they get their ranks and cores, and start."""
        member.placement = placement
        if gang.gathering_since is None and gang.group is not None:
            gang.gathering_since = self.clock()
        if any(each.placement is None for each in gang.members):
            return
        gang.members.sort(key=_neighbourhood)
        taken = {
            (each.placement.node, each.slot)
            for other in others
            for each in other.members
            if each.placement is not None
        }
        for each in gang.members:
            assert each.placement is not None
            each.slot = next(n for n in range(len(taken) + 1) if (each.placement.node, n) not in taken)
            taken.add((each.placement.node, each.slot))
            cores = None
            if self._job.device == "cpu":
                cores = cores_of(each.slot, self._share, each.placement.cores)
            each.call(WorkerActor.start, cores, each.placement.host if gang.group is not None else None)

    def register_rendezvous(self, gang: Gang, member: Member, address: str, others: Iterable[Gang]) -> None:
        """Note a member's rendezvous. When all members have one, they join the gang."""
        in_use = {each.address for other in (gang, *others) for each in other.members}
        if address in in_use:
            # A port stays free until its owner listens on it, so two owners can have found the same one.
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


def pack_strategy(node_units: Sequence[float], need: float, size: int, replicas: int) -> str:
    """Ray's placement strategy: each gang on one node if all fit that way, otherwise on as few as possible.

    Args:
        node_units: NPUs, or CPUs, of each node.
        need: How many of them a rank needs.
        size: Ranks of a gang.
        replicas: Gangs.
    """
    # Slightly more: a third, as Ray counts, is 0.3333.
    whole = sum(math.floor(units / (need * size) + 1e-9) for units in node_units)
    return "STRICT_PACK" if whole >= replicas else "PACK"


def _answer_of(call: Future[Any]) -> Answer:
    error = call.exception()
    if error is None:
        return call.result()
    return CallFailure(
        describe_failure(error), isinstance(error, ray.exceptions.ActorDiedError), in_one_line(error)
    )


def _count(units: float) -> str:
    return f"{round(units, 2):g}"


def _neighbourhood(member: Member) -> tuple[Any, ...]:
    """The sort key of members: those of a host are together, in the order of their devices."""
    placement = member.placement
    assert placement is not None
    address = ipaddress.ip_address(placement.host)
    devices = [(len(device), device) for device in placement.devices]
    return address.version, int(address), placement.node, devices
