"""The crew: workers as Ray actors, kept alive and fed until nothing is left.

Rows go to whoever has room, a shard at a time. A worker that dies is replaced, and its unfinished rows go
back. Which of them killed it is not known at first: each counts one death and from then on is rendered
alone, with nothing beside it in its worker, so that a second death has one suspect. A row with
`MAX_DEATHS` of them is given up; its neighbours, each alone, go through.
"""

from __future__ import annotations

import itertools
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import ray

from vidgen_dist.errors import Refused
from vidgen_dist.ledger import DONE
from vidgen_dist.runtime.cluster import cores_of, cpu_share
from vidgen_dist.runtime.interrupts import Interrupts
from vidgen_dist.runtime.job import Event, Job, Report, Row
from vidgen_dist.runtime.worker import Worker

MAX_DEATHS = 3
"""Workers that one row may kill; and workers in a row that one replica may lose while loading the model."""

POLL_SECONDS = 5.0
"""A worker answers at the latest then, news or not."""

START_SECONDS = 1800.0
"""Until then one worker at least must have a place to run: a cluster that grows takes minutes for a node."""

SILENT_SECONDS = 3600.0
"""A model that gives no sign of life for so long, between two denoising steps, is taken for dead."""

STOP_SECONDS = 20.0
"""What an ordered stop may take; writing the ledger is all that is left to do."""


class Stopped(Exception):
    """The run cannot go on; what is finished is kept."""


class WorkerActor(Worker):
    """A `Worker` as Ray starts it."""

    def where(self) -> tuple[str, tuple[int, ...]]:
        """The node that it runs on, and the cores that it may use there."""
        return ray.get_runtime_context().get_node_id(), tuple(sorted(os.sched_getaffinity(0)))


@dataclass
class Task:
    """A row and how many workers have died with it."""

    row: Row
    deaths: int = 0


@dataclass
class Member:
    """One worker.

    Args:
        replica: Which replica it stands for.
        name: What the ledger calls it.
        actor: Its handle.
        answer: The call that is under way: `where` at first, then `poll` after `poll`.
        node, slot: The node that it runs on and its place there; None until it says.
        ready: Whether its model is loaded.
        told_to_stop: Whether it was.
        tasks: Id -> task, of the rows that it has and that are not done, in the order of rendering.
        ahead: Ids of those that have not left the model.
        started: Ids of those that are known to have been begun.
    """

    replica: int
    name: str
    actor: Any
    answer: Any
    node: str | None = None
    slot: int | None = None
    ready: bool = False
    told_to_stop: bool = False
    tasks: dict[str, Task] = field(default_factory=dict)
    ahead: set[str] = field(default_factory=set)
    started: set[str] = field(default_factory=set)


class Crew:
    """Runs rows on workers until all are done, given up, or the run is to end.

    Args:
        job: What the workers are told.
        replicas: How many workers there are at once.
        run: Name of the run, unique; part of the workers' names.
        rows: The rows that are to be rendered.
        pending: How many there are.
        shard_size: How many a worker gets at once, at most.
        on_result: Called for each row that is done or failed, after its ledger entry is written.
        give_up: Called with a row that killed its workers, an error class and a message; writes its entry.
        outcomes_of: Called with the name of a worker that died; returns id -> status of its ledger entries.
        interrupts: Says when to end.
        tick: Called a few times a second with the number of workers whose model is loaded.
    """

    def __init__(
        self,
        *,
        job: Job,
        replicas: int,
        run: str,
        rows: Iterator[Row],
        pending: int,
        shard_size: int,
        on_result: Callable[[Event], None],
        give_up: Callable[[Row, str, str], None],
        outcomes_of: Callable[[str], dict[str, str]],
        interrupts: Interrupts,
        tick: Callable[[int], None],
    ) -> None:
        self._job = job
        self._run = run
        self._rows = rows
        self._unsent = pending
        self._shard_size = shard_size
        self._on_result = on_result
        self._give_up = give_up
        self._outcomes_of = outcomes_of
        self._interrupts = interrupts
        self._tick = tick
        self._share = _cpu_share(replicas) if job.device == "cpu" else 0.0
        self._actor = ray.remote(WorkerActor)
        self._alone: deque[Task] = deque()
        self._back: deque[Task] = deque()
        self._made = 0
        self._placed = False
        self._losses = [0] * replicas
        self._last_loss = ""
        self._fault: Exception | None = None
        self._begun = time.monotonic()
        self._members: list[Member] = []

    def work(self) -> None:
        """Run until the end.

        Raises:
            Refused: The model cannot be loaded.
            Stopped: The ledger cannot be written, or no worker can be kept alive.
        """
        try:
            for replica in range(len(self._losses)):
                self._hire(replica)
            while self._members and self._interrupts.level < 2:
                self._feed()
                self._listen()
                self._tick(sum(member.ready for member in self._members))
            if self._members:
                self._stop_now()
        finally:
            for member in list(self._members):
                self._dismiss(member)
        if self._fault is not None:
            raise self._fault
        if not self._ending and not self._nothing_left():
            raise Stopped(f"no worker can be kept alive: {self._last_loss}")

    @property
    def _ending(self) -> bool:
        return self._interrupts.level > 0 or self._fault is not None

    # Hiring and dismissing

    def _hire(self, replica: int) -> None:
        self._made += 1
        needs = (
            {"num_cpus": self._share}
            if self._job.device == "cpu"
            else {"num_cpus": 0, "resources": {"NPU": 1}}
        )
        # Three threads: one waits in `poll` while the others take rows and orders.
        name = f"{self._run}-{self._made:04d}"
        actor = self._actor.options(max_concurrency=3, max_restarts=0, max_task_retries=0, **needs).remote(
            self._job, name
        )
        self._members.append(Member(replica, name, actor, actor.where.remote()))

    def _dismiss(self, member: Member) -> None:
        self._members.remove(member)
        ray.kill(member.actor, no_restart=True)

    def _bury(self, member: Member, why: str) -> None:
        """A worker has died: take its rows back and hire another."""
        self._dismiss(member)
        self._last_loss = why
        # Its last words may have been lost on the way.
        try:
            outcomes = self._outcomes_of(member.name) if member.tasks else {}
        except OSError as error:
            outcomes = {}
            self._end(Stopped(f"the ledger cannot be read: {error}"))
        suspects = _suspects(member)
        for row_id, task in member.tasks.items():
            if row_id in outcomes:
                self._on_result(Event("done" if outcomes[row_id] == DONE else "failed", row_id))
            elif row_id not in suspects:
                self._back.append(task)
            else:
                self._suspect(task, why)
        self._losses[member.replica] = 0 if member.ready else self._losses[member.replica] + 1
        if self._losses[member.replica] < MAX_DEATHS and not self._ending:
            self._hire(member.replica)

    def _suspect(self, task: Task, why: str) -> None:
        task.deaths += 1
        if task.deaths < MAX_DEATHS:
            self._alone.append(task)
            return
        message = f"{task.deaths} workers died with this row; the last: {why}"
        try:
            self._give_up(task.row, "WorkerDied", message)
        except OSError as error:
            self._alone.append(task)
            self._end(Stopped(f"the ledger cannot be written: {error}"))
        else:
            self._on_result(Event("failed", task.row.id, "WorkerDied", message))

    def _end(self, fault: Exception) -> None:
        """Let the run end with this error, the first one."""
        self._fault = self._fault or fault

    # Feeding

    def _feed(self) -> None:
        for member in list(self._members):
            if not self._ending and member.ready and not member.told_to_stop:
                self._feed_one(member)
        over = self._ending or (self._nothing_left() and not any(m.tasks for m in self._members))
        if not over:
            return
        for member in list(self._members):
            if not member.ready:
                # It has no rows, and loading cannot be hurried.
                self._dismiss(member)
            elif not member.told_to_stop:
                member.told_to_stop = True
                member.actor.stop.remote(now=False)

    def _feed_one(self, member: Member) -> None:
        # One row ahead keeps the model busy. Towards the end a worker gets no row that it would only hold
        # while others have nothing to do.
        lookahead = 1 if self._unsent > 2 * len(self._losses) else 0
        if len(member.ahead) > lookahead or any(task.deaths for task in member.tasks.values()):
            return
        if self._alone and member.tasks:
            # The first worker that has nothing left takes it.
            return
        if shard := self._next_shard():
            for task in shard:
                member.tasks[task.row.id] = task
                member.ahead.add(task.row.id)
            member.actor.submit.remote([task.row for task in shard])

    def _next_shard(self) -> list[Task]:
        if self._alone:
            return [self._alone.popleft()]
        if self._back:
            return [self._back.popleft()]
        # Shards shrink, so that all workers end at about the same time.
        size = max(1, min(self._shard_size, self._unsent // (2 * len(self._losses))))
        try:
            shard = [Task(row) for row in itertools.islice(self._rows, size)]
        except OSError as error:
            self._end(Stopped(f"the manifest cannot be read any more: {error}"))
            return []
        self._unsent -= len(shard)
        return shard

    def _nothing_left(self) -> bool:
        return not self._unsent and not self._alone and not self._back

    # Listening

    def _listen(self) -> None:
        answers = {member.answer: member for member in self._members}
        if not answers:
            return
        answered, _ = ray.wait(list(answers), num_returns=1, timeout=0.25)
        if answered:
            # Whatever else is there already, without waiting for it.
            answered, _ = ray.wait(list(answers), num_returns=len(answers), timeout=0)
        for answer in answered:
            member = answers[answer]
            try:
                said = ray.get(answer, timeout=60)
            except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError) as error:
                self._bury(member, _cause(error))
                continue
            if isinstance(said, Report):
                self._hear(member, said)
            else:
                self._place(member, *said)
            if member in self._members:
                member.answer = member.actor.poll.remote(POLL_SECONDS)
        if not self._placed and time.monotonic() - self._begun > START_SECONDS:
            self._end(Stopped(f"the cluster had no place for a worker within {START_SECONDS:g} s"))

    def _place(self, member: Member, node: str, cores: tuple[int, ...]) -> None:
        """Give a worker its cores, and let it begin."""
        taken = {other.slot for other in self._members if other.node == node}
        self._placed = True
        member.node = node
        member.slot = next(slot for slot in range(len(taken) + 1) if slot not in taken)
        keep = cores_of(member.slot, self._share, cores) if self._job.device == "cpu" else None
        member.actor.start.remote(keep)

    def _hear(self, member: Member, report: Report) -> None:
        for event in report.events:
            if event.id is not None:
                self._hear_of_row(member, event, event.id)
            elif event.kind == "ready":
                member.ready = True
            elif event.kind == "stuck":
                self._end(Stopped(f"the output cannot be written: {event.message}"))
            elif event.kind == "refused":
                # Another worker may have loaded the model, and rendered: then it is no refusal before start.
                loaded = any(other.ready for other in self._members)
                self._end(Stopped(event.message) if loaded else Refused(event.message))
            elif event.kind == "broken":
                what = "a worker broke down" if member.ready else "loading the model failed"
                self._bury(member, f"{what}: {event.error}: {event.message}")
                return
            elif event.kind == "stopped":
                self._dismiss(member)
                return
        if report.silent > SILENT_SECONDS:
            self._bury(member, f"no sign of life from the model in {SILENT_SECONDS:g} s")

    def _hear_of_row(self, member: Member, event: Event, row_id: str) -> None:
        if event.kind == "started":
            member.started.add(row_id)
        elif event.kind == "rendered":
            member.ahead.discard(row_id)
        else:
            member.started.discard(row_id)
            del member.tasks[row_id]
            self._on_result(event)

    def _stop_now(self) -> None:
        """An ordered stop: what is finished gets its entry, no more."""
        self._tick(sum(member.ready for member in self._members))
        for member in list(self._members):
            if member.ready:
                member.actor.stop.remote(now=True)
            else:
                self._dismiss(member)
        until = time.monotonic() + STOP_SECONDS
        while self._members and time.monotonic() < until:
            self._listen()


def _suspects(member: Member) -> set[str]:
    """The rows that can have killed a worker: begun and not done, or the next if the news of it was lost."""
    begun = {row_id for row_id in member.tasks if row_id in member.started}
    following = next((row_id for row_id in member.tasks if row_id not in begun), None)
    nothing_in_the_model = not (begun & member.ahead)
    return begun | ({following} if following is not None and nothing_in_the_model else set())


def _cpu_share(replicas: int) -> float:
    nodes = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
    return cpu_share(nodes, replicas)


def _cause(error: Exception) -> str:
    """Ray's account in one line, without colours; of a long one, the cause is at the end."""
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())
    return f"{type(error).__name__}: {text if len(text) <= 500 else f'{text[:150]} … {text[-350:]}'}"
