"""Gangs as Ray knows them: hired as one, put in order, gathered, dismissed as one.

A gang of several has a placement group, so that it gets all of its places or none. Its actors say where they
are; by that they get their ranks, for ranks that exchange most must be neighbours, and Ray's order says
nothing of it. Then each takes a seat, learns the addresses of all, and joins.
"""

from __future__ import annotations

import errno
import ipaddress
import math
import os
import queue
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from vidgen_dist import printing
from vidgen_dist.media import ignore_warnings
from vidgen_dist.observability.worker_log import log_file, open_log
from vidgen_dist.output.pending_row import Row
from vidgen_dist.parallel.collectives import PeerLost
from vidgen_dist.runtime.connection import RayFault, alive_nodes, asking, cores_of, cpu_share, in_one_line
from vidgen_dist.runtime.messages import Job, Report
from vidgen_dist.runtime.metrics import WorkerMetrics
from vidgen_dist.runtime.scheduling.row_queue import Hand
from vidgen_dist.runtime.worker.row_consensus import Ending, GangBroken
from vidgen_dist.runtime.worker.worker import Worker
from vidgen_dist.storage.uris import redact_message
from vidgen_dist.worker_events import together


@dataclass(frozen=True)
class Place:
    """Where an actor runs.

    Args:
        node: Ray's id of the node.
        host: Its IP address.
        devices: Numbers of the NPUs that the actor has there.
        cores: Cores that it may use there.
    """

    node: str
    host: str
    devices: tuple[str, ...]
    cores: tuple[int, ...]


class RayFollowers:
    """The followers of a gang as actors."""

    def __init__(self, actors: Sequence[Any]) -> None:
        self._actors = actors

    def announce(self, row: Row) -> list[Future[Ending]]:
        try:
            # Once for all of them: there may be a clip in it.
            shared = ray.put(row)
            return [_in_our_words(actor.follow.remote(shared).future()) for actor in self._actors]
        except ray.exceptions.OutOfDiskError as error:
            raise OSError(errno.ENOSPC, f"Ray's object store: {in_one_line(error)}") from error
        except Exception as error:
            raise GangBroken(f"the row cannot be announced: {_cause(error)}") from error


class WorkerActor(Worker):
    """A `Worker` as Ray starts it, with a log and metrics.

    Args:
        job, name: See `Worker`.
        replica: Which replica it is of.
    """

    def __init__(self, job: Job, name: str, replica: int) -> None:
        ignore_warnings()
        # To files of Ray's, on a disk that may be full.
        printing.guard(in_any_case=True)
        context = ray.get_runtime_context()
        actor = context.get_actor_id()
        # Members of a gang have one name, and no rank yet.
        log_name = name if job.degrees.size == 1 else f"{name}-{actor[:8]}"
        ray_logs = os.path.join(context.get_temp_dir(), context.get_session_name(), "logs")
        log = open_log(
            log_file(job.output, log_name, ray_logs),
            name,
            replica=replica,
            model=job.model.id,
            revision=job.model.revision,
            host=ray.util.get_node_ip_address(),
            pid=os.getpid(),
            npus=context.get_accelerator_ids().get("NPU", []),
            actor=actor,
        )
        super().__init__(job, name, together(WorkerMetrics(job.model.id, replica), log))

    def where(self) -> Place:
        """Where it runs."""
        context = ray.get_runtime_context()
        return Place(
            node=context.get_node_id(),
            host=ray.util.get_node_ip_address(),
            devices=tuple(context.get_accelerator_ids().get("NPU", ())),
            cores=tuple(sorted(os.sched_getaffinity(0))),
        )

    def lead(self, addresses: Sequence[str], actors: Sequence[Any]) -> None:
        """Join the gang as rank 0; the other ranks' actors follow."""
        self.join(addresses, 0, RayFollowers(actors))


@dataclass(frozen=True)
class Lost:
    """Why a call has no answer.

    Args:
        why: In our words, which name no host: they may be stored beside the videos.
        dead: Whether Ray says that the actor is dead; else it may be out of reach for the moment.
        said: Ray's own account, in one line, with addresses and all.
    """

    why: str
    dead: bool
    said: str = ""


Answer = Place | Report | Lost | None
"""What comes of a call: of `where`, of `poll`, of one that failed, of an order that was heard."""


@dataclass(eq=False)
class Member:
    """One rank of a gang, or what will be one.

    Args:
        actor: Its handle.
        post: Calls a method of a member's actor, with arguments; the answer is heard later.
        asked: When it was last asked for news.
        place: Where it runs; None until it says.
        slot: Its place among our actors on its node.
        address: Its seat's; empty until it has one.
        ready: Whether its model is loaded.
        silent: What its latest report said of its signs of life.
    """

    actor: Any
    post: Callable[..., None]
    asked: float = 0.0
    place: Place | None = None
    slot: int = -1
    address: str = ""
    ready: bool = False
    silent: Mapping[str, float] = field(default_factory=dict)

    def order(self, method: str, *arguments: Any) -> None:
        """Call a method that returns at once."""
        self.post(self, method, *arguments)

    def poll(self, seconds: float, now: float) -> None:
        """Ask for news, for so long."""
        self.asked = now
        self.post(self, "poll", seconds)


@dataclass(eq=False)
class Gang:
    """One replica: its members render a video together.

    Args:
        replica: Which replica it stands for.
        name: What the ledger calls it.
        members: In the order of ranks, once all have a place.
        hired: When it was.
        group: Its placement group; None for a gang of one.
        hand: The rows that it has.
        gathering_since: When the first of several had a place; None before, and once all have joined.
        told_to_stop: Whether it was.
        stopped: Whether its leader said that it has written all that it will.
        broken: What a member said is wrong with it, the error's class, and when.
    """

    replica: int
    name: str
    members: list[Member]
    hired: float
    group: Any = None
    hand: Hand = field(default_factory=Hand)
    gathering_since: float | None = None
    told_to_stop: bool = False
    stopped: bool = False
    broken: tuple[str, str, float] | None = None

    @property
    def leader(self) -> Member:
        return self.members[0]

    @property
    def placed(self) -> bool:
        """Whether a member has a place, and so the others have theirs."""
        return any(member.place is not None for member in self.members)

    @property
    def ready(self) -> bool:
        """Whether all models are loaded."""
        return all(member.ready for member in self.members)

    def rank_of(self, member: Member) -> str:
        """What to call a member: its rank, and where in the gang it is."""
        if len(self.members) == 1:
            return "the worker"
        where = (
            "" if member.place is None else f" on {', NPU '.join((member.place.host, *member.place.devices))}"
        )
        return self.without_hosts(f"rank {self.members.index(member)}{where}")

    def without_hosts(self, text: str) -> str:
        """A text with the numbers of the gang's nodes, from 1 in the order of ranks, for their addresses."""
        hosts = dict.fromkeys(member.place.host for member in self.members if member.place is not None)
        for number, host in enumerate(hosts, 1):
            text = re.sub(rf"(?<![\w.:]){re.escape(host)}(?!\.?\w)", f"node {number}", text)
        return text


class Hiring:
    """Makes gangs, hears what they answer and ends them; nothing but `hear` waits.

    Args:
        job: What their members are told.
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
        """The time that gangs live in, in seconds."""
        return time.monotonic()

    def hire(self, replica: int, name: str) -> Gang:
        """A new gang, whose members will say where they are.

        Raises:
            RayFault: Ray makes none.
        """
        with asking("make actors"):
            return self._hire(replica, name)

    def _hire(self, replica: int, name: str) -> Gang:
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
            # Three threads: one waits in `poll`, one in `follow`, the other takes rows and orders. Of calls,
            # which are many, Ray is to keep no accounts: they say nothing of the rows.
            actor = self._actor.options(
                max_concurrency=3,
                max_restarts=0,
                max_task_retries=0,
                enable_task_events=False,
                **needs,
                **place,
            ).remote(self._job, name, replica)
            members.append(Member(actor, self._post))
            members[-1].order("where")
        return Gang(replica, name, members, self.clock(), group)

    def _post(self, member: Member, method: str, *arguments: Any) -> None:
        # Called back, not waited for: the time that it takes does not grow with the number of gangs.
        with asking(f"call `{method}` of a worker"):
            answer = getattr(member.actor, method).remote(*arguments).future()
        answer.add_done_callback(lambda answer: self._answers.put((member, answer)))

    def hear(self, seconds: float) -> list[tuple[Member, Answer]]:
        """What members have answered since; where nobody has, the first is waited for, for so long."""
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
        """What so many gangs need, for a person."""
        return f"{_count(gangs * self._size * self._share)} {self._kind}s"

    def there(self) -> str:
        """What there is of it, for a person."""
        with asking("count the cluster's resources"):
            whole, free = ray.cluster_resources(), ray.available_resources()
        return f"{_count(whole.get(self._kind, 0))}, of which {_count(free.get(self._kind, 0))} are free"

    def dismiss(self, gang: Gang) -> None:
        """End all members and give their places back."""
        # Where Ray cannot do that any more, they end with the connection to it.
        for member in gang.members:
            with suppress(RayFault), asking("end a worker"):
                ray.kill(member.actor, no_restart=True)
        if gang.group is not None:
            with suppress(RayFault), asking("remove a placement group"):
                remove_placement_group(gang.group)

    def placed(self, gang: Gang, member: Member, place: Place, others: Iterable[Gang]) -> None:
        """A member says where it is. Once all have, they get their ranks and cores, and begin."""
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
            each.order("start", cores, each.place.host if gang.group is not None else None)

    def seated(self, gang: Gang, member: Member, address: str, others: Iterable[Gang]) -> None:
        """A member has a seat. Once all have, they join."""
        in_use = {each.address for other in (gang, *others) for each in other.members}
        if address in in_use:
            # A free port is bound by whoever listens on it first, which may not have happened yet.
            member.order("reseat")
            return
        member.address = address
        addresses = [each.address for each in gang.members]
        if not all(addresses):
            return
        gang.gathering_since = None
        gang.leader.order("lead", addresses, [each.actor for each in gang.members[1:]])
        for rank, each in enumerate(gang.members[1:], 1):
            each.order("join", addresses, rank)


def pack_strategy(there: Sequence[float], need: float, size: int, replicas: int) -> str:
    """How Ray is to place the gangs: each on one node where all find room so, else as near as can be.

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
    return Lost(_cause(error), isinstance(error, ray.exceptions.ActorDiedError), in_one_line(error))


def _in_our_words(ending: Future[Ending]) -> Future[Ending]:
    """A follower's ending, as it is; what Ray says where there is none, as `_cause` tells it."""
    ours: Future[Ending] = Future()

    def hear(ending: Future[Ending]) -> None:
        error = ending.exception()
        if error is None:
            ours.set_result(ending.result())
        else:
            ours.set_exception(PeerLost(_cause(error)))

    ending.add_done_callback(hear)
    return ours


_OUT_OF_MEMORY = re.compile("low on memory|memory pressure|OUT_OF_MEMORY|CRASH_OOM")


def _cause(error: BaseException) -> str:
    """Why a call has no answer, in a few words that name no host."""
    account = str(error)
    if isinstance(error, ray.exceptions.RayTaskError):
        return f"raised {type(error.cause).__name__}: {redact_message(str(error.cause))}"
    if isinstance(error, ray.exceptions.OutOfMemoryError) or _OUT_OF_MEMORY.search(account):
        return "was killed: its node ran out of memory"
    if isinstance(error, ray.exceptions.ActorUnavailableError):
        return "is out of reach"
    if isinstance(error, ray.exceptions.ActorDiedError):
        if error.actor_init_failed:
            # The last line is the error that its process raised; the others say where.
            return f"could not be started: {account.strip().splitlines()[-1]}"
        return next((cause for part, cause in _DEATHS.items() if part in account), "died")
    return f"is lost: {type(error).__name__}"


_DEATHS = {
    "node has died": "died with its node",
    "ray.kill": "was ended by the driver",
    "worker process has died": "died: its process crashed, or was killed (for want of memory, say)",
}
"""Part of Ray's account of a death -> in our words."""


def _count(units: float) -> str:
    return f"{round(units, 2):g}"


def _neighbourhood(member: Member) -> tuple[Any, ...]:
    """What members are sorted by, so that those of a host are together, and those of near devices."""
    place = member.place
    assert place is not None
    address = ipaddress.ip_address(place.host)
    return address.version, int(address), place.node, [(len(device), device) for device in place.devices]
