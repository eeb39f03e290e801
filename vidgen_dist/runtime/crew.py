"""The crew: gangs kept alive and fed until nothing is left.

Rows go to whoever has room. A gang one of whose members dies, hangs or disagrees with the others is replaced
as a whole, and its unfinished rows go back; the other gangs do not hear of it. Which of its rows killed it
is not known at first, see `feeding`. A row that killed as many as it has attempts is given up; its neighbours
go through.

What a lost gang has said that it has finished counts, so its leader, if it still answers, is told to finish
its writing. Its other rows go back when it can write no more: two gangs would store the same video.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ray

from vidgen_dist.errors import Refused
from vidgen_dist.runtime.feeding import Feed, Task
from vidgen_dist.runtime.gang import Gang, Hiring, Member, Place
from vidgen_dist.runtime.interrupts import Interrupts
from vidgen_dist.runtime.job import Event, Job, Report, Row
from vidgen_dist.runtime.unison import GangBroken
from vidgen_dist.runtime.watchdog import overdue, patience

MAX_DEATHS = 3
"""Gangs that one replica may lose with no row done in between. If its rows were at fault, they were different
ones: none of them is given up for what ails the replica."""

POLL_SECONDS = 5.0
"""A worker answers at the latest then, news or not."""

START_SECONDS = 1800.0
"""How long there may be no gang that has a place to run: a cluster that grows takes minutes for a node."""

PLACE_SECONDS = 10.0
"""A gang that has waited so long for a place is spoken of."""

GATHER_SECONDS = 600.0
"""What a gang may take from the first member that has a place to the last that has a seat."""

BLAME_SECONDS = 2.0
"""How long a gang that says it is broken is kept: if a member died, Ray says so, and why, a moment later."""

STOP_SECONDS = 20.0
"""What an ordered stop may take; storing a video is all that is left to do."""

LAST_WORDS_SECONDS = 10.0
"""What the leader of a lost gang may take to finish its writing."""

ANSWER_SECONDS = 5.0
"""A leader whose answer is late by so much is not told to finish anything."""

DEATH_SECONDS = 10.0
"""Until then Ray must say that a leader is dead that was killed."""

LINGER_SECONDS = 6.0
"""How long a process may write after Ray says it is dead: Ray says so when it has asked it to end, which was
seen to take 190 ms, and kills one that does not heed it after 5 s."""


class Stopped(Exception):
    """The run cannot go on; what is finished is kept."""


@dataclass(frozen=True)
class Loss:
    """Why a gang is lost.

    Args:
        why: For a person.
        member: Who died or is silent; None where the members themselves say that they cannot go on.
        dead: Whether Ray says that it is dead.
        error: Class of the error, for the dead letter of a row that is given up for it.
    """

    why: str
    member: Member | None = None
    dead: bool = False
    error: str = "WorkerDied"


@dataclass(eq=False)
class Dying:
    """A gang that is lost and may still write.

    Args:
        gang: Which one.
        loss: Why.
        until: When its leader must have stopped, or be dead.
        killed: Whether its members were.
        silent: Whether its leader can write no more.
    """

    gang: Gang
    loss: Loss
    until: float
    killed: bool = False
    silent: bool = False


class Crew:
    """Runs rows on gangs until all are done, given up, or the run is to end.

    Args:
        job: What the workers are told.
        replicas: How many gangs there are at once.
        run: Name of the run, unique; part of the gangs' names.
        rows: The rows that are to be rendered.
        pending: How many there are.
        shard_size: How many a gang gets at once, at most.
        limits: Stage -> seconds without a sign of life, after which a gang is taken for dead.
        on_news: Called with what a gang says of a row that it has, before that is heeded.
        on_loss: Called with a gang that is lost, and why.
        on_result: Called for each row that is done or failed, with what its gang says; enters it.
        give_up: Called with a row that killed its gangs, an error class and a message; enters it.
        stuck: Says why the ledger cannot be written; empty while it can.
        interrupts: Says when to end.
        tick: Called a few times a second with the number of gangs whose model is loaded, and what others wait
            for, if it takes long.
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
        limits: Mapping[str, float],
        on_news: Callable[[Gang, Event], None],
        on_loss: Callable[[Gang, str], None],
        on_result: Callable[[Event], None],
        give_up: Callable[[Row, str, str], None],
        stuck: Callable[[], str],
        interrupts: Interrupts,
        tick: Callable[[int, str], None],
    ) -> None:
        self._run = run
        self._limits = limits
        self._on_news = on_news
        self._on_loss = on_loss
        self._on_result = on_result
        self._give_up = give_up
        self._stuck = stuck
        self._interrupts = interrupts
        self._tick = tick
        self._hiring = Hiring(job, replicas)
        self._max_attempts = job.max_attempts
        self._feed = Feed(rows, pending, shard_size, replicas)
        self._gangs: list[Gang] = []
        self._dying: list[Dying] = []
        self._made = 0
        self._losses = [0] * replicas
        self._last_loss = ""
        self._fault: Exception | None = None
        self._placed = self._looked = time.monotonic()
        self._told_to_save = False

    def work(self) -> None:
        """Run until the end.

        Raises:
            Refused: The model cannot be loaded.
            Stopped: The ledger cannot be written, or no gang can be kept alive.
        """
        try:
            for replica in range(len(self._losses)):
                self._hire(replica)
            while (self._gangs or self._dying) and self._interrupts.level < 2:
                if why := self._stuck():
                    self.end(Stopped(f"the output cannot be written: {why}"))
                self._feed_all()
                self._save_in_time()
                # What is told of an interrupt is told when the gangs know of it.
                self._tick(self._ready(), self._waiting())
                self._listen()
                self._watch()
                self._bury_the_dead()
            if self._gangs or self._dying:
                self._stop_now()
        finally:
            for gang in list(self._gangs):
                self._dismiss(gang)
            for dying in self._dying:
                self._kill(dying)
        if self._fault is not None:
            raise self._fault
        if not self._ending and not self._feed.empty:
            raise Stopped(f"no worker can be kept alive: {self._last_loss}")

    @property
    def gangs(self) -> tuple[Gang, ...]:
        """The gangs that there are, but for those that are lost."""
        return tuple(self._gangs)

    @property
    def _ending(self) -> bool:
        return self._interrupts.level > 0 or self._fault is not None

    def end(self, fault: Exception) -> None:
        """Let the run end with this error, the first one: what is being rendered is finished."""
        self._fault = self._fault or fault

    def _ready(self) -> int:
        return sum(gang.ready for gang in self._gangs)

    def _waiting(self) -> str:
        """What gangs wait for, for long."""
        now = time.monotonic()
        late = [gang for gang in self._gangs if not gang.placed and now - gang.hired > PLACE_SECONDS]
        return self._hiring.needs(len(late)) if late else ""

    # Hiring and dismissing

    def _hire(self, replica: int) -> None:
        self._made += 1
        self._gangs.append(self._hiring.hire(replica, f"{self._run}-{self._made:04d}"))

    def _dismiss(self, gang: Gang) -> None:
        self._gangs.remove(gang)
        self._hiring.dismiss(gang)

    # Losing a gang

    def _lose(self, gang: Gang, loss: Loss) -> None:
        """A gang is lost: let its leader finish its writing if it can, then kill all of it."""
        self._gangs.remove(gang)
        self._last_loss = loss.why
        self._on_loss(gang, loss.why)
        now = time.monotonic()
        dying = Dying(gang, loss, now + LAST_WORDS_SECONDS)
        self._dying.append(dying)
        leader = gang.leader
        if gang.stopped or not gang.hand.tasks or (loss.member is leader and loss.dead):
            dying.silent = True
        elif now - leader.asked < POLL_SECONDS + ANSWER_SECONDS:
            leader.order("stop", True)
            return
        self._kill(dying)

    def _kill(self, dying: Dying) -> None:
        if not dying.killed:
            dying.killed = True
            dying.until = time.monotonic() + DEATH_SECONDS
            self._hiring.dismiss(dying.gang)

    def _hear_of_dying(self, dying: Dying, call: Any, what: Any) -> None:
        """What the leader of a lost gang, or Ray, still has to say."""
        gang, leader = dying.gang, dying.gang.leader
        if call in leader.orders:
            leader.orders.remove(call)
        elif isinstance(what, Exception):
            leader.answer = None
            if dying.killed:
                dying.until = time.monotonic() + LINGER_SECONDS
            else:
                dying.silent = True
        else:
            for event in what.events:
                if event.id is not None:
                    self._hear_of_row(gang, event, event.id)
                dying.silent |= event.kind == "stopped"
            leader.poll(POLL_SECONDS)

    def _bury_the_dead(self) -> None:
        for dying in list(self._dying):
            late = time.monotonic() > dying.until
            if dying.silent or (dying.killed and late):
                self._kill(dying)
                self._bury(dying)
            elif late:
                self._kill(dying)

    def _bury(self, dying: Dying) -> None:
        """A lost gang writes no more: take its rows back and hire another."""
        self._dying.remove(dying)
        gang, loss = dying.gang, dying.loss
        # Followers do not write, and who renders does not either: that is the leader's, or a gang's of one.
        suspects = gang.hand.suspects(writing=loss.member is gang.leader or len(gang.members) == 1)
        for row_id, task in gang.hand.tasks.items():
            if row_id in suspects:
                self._suspect(task, loss, alone=len(suspects) == 1)
            else:
                self._feed.put_back(task)
        # A row that kills every gang must not end a replica: its second death says no more of that.
        if not suspects or any(gang.hand.tasks[row_id].deaths == 1 for row_id in suspects):
            self._losses[gang.replica] += 1
        if self._losses[gang.replica] < MAX_DEATHS and not self._ending:
            self._hire(gang.replica)

    def _suspect(self, task: Task, loss: Loss, *, alone: bool) -> None:
        task.deaths += 1
        # Where another row can have done it, this one may be a neighbour; from now on each is rendered alone.
        if task.deaths < self._max_attempts or not alone:
            self._feed.put_back(task)
            return
        workers = "1 worker" if task.deaths == 1 else f"{task.deaths} workers"
        message = f"{workers} died with this row; the last: {loss.why}"
        self._give_up(task.row, loss.error, message)

    # Feeding

    def _feed_all(self) -> None:
        for gang in self._gangs:
            if not self._ending and gang.ready and not gang.told_to_stop and gang.broken is None:
                self._feed_one(gang)
        holding = [*self._gangs, *(dying.gang for dying in self._dying)]
        if not self._ending and (not self._feed.empty or any(gang.hand.tasks for gang in holding)):
            return
        for gang in list(self._gangs):
            if not gang.ready:
                # It has no rows, and loading cannot be hurried.
                self._dismiss(gang)
            elif not gang.told_to_stop:
                gang.told_to_stop = True
                gang.leader.order("stop", False)

    def _feed_one(self, gang: Gang) -> None:
        try:
            # After a loss, whether the gang or its row was at fault shows with another row.
            shard = self._feed.next_shard(gang.hand, fresh=self._losses[gang.replica] > 0)
        except OSError as error:
            self.end(Stopped(f"the manifest cannot be read any more: {error}"))
            return
        if shard:
            gang.hand.take(shard)
            gang.leader.order("submit", [task.order for task in shard])

    def _save_in_time(self) -> None:
        """After a SIGTERM the machine may go before the grace ends: let what is rendered be saved now."""
        if self._interrupts.preempted and not self._told_to_save:
            self._told_to_save = True
            for gang in self._gangs:
                if gang.ready:
                    gang.leader.order("save")

    # Listening

    def _listen(self) -> None:
        """Hear whatever there is to hear, for a quarter of a second at most where there is nothing."""
        asked: dict[Any, tuple[Gang | Dying, Member]] = {
            call: (gang, member)
            for gang in self._gangs
            for member in gang.members
            for call in (member.answer, *member.orders)
        }
        for dying in self._dying:
            leader = dying.gang.leader
            asked |= {call: (dying, leader) for call in (leader.answer, *leader.orders) if call is not None}
        if not asked:
            time.sleep(0.05)
            return
        answered, _ = ray.wait(list(asked), num_returns=1, timeout=0.25)
        if answered:
            # Whatever else is there already, without waiting for it.
            answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=0)
        said = [(call, _result(call)) for call in answered]
        # Of a gang that lost a member, the others complain: the death is the cause.
        for call, what in sorted(said, key=lambda pair: not isinstance(pair[1], Exception)):
            whose, member = asked[call]
            if isinstance(whose, Dying):
                self._hear_of_dying(whose, call, what)
            elif whose not in self._gangs:
                self._hear_too_late(whose, call, what)
            elif isinstance(what, Exception):
                why = f"{whose.rank_of(member)}: {_cause(what)}"
                self._lose(whose, Loss(why, member, dead=isinstance(what, ray.exceptions.RayActorError)))
            elif call in member.orders:
                member.orders.remove(call)
            else:
                self._hear(whose, member, what)

    def _hear_too_late(self, gang: Gang, call: Any, what: Any) -> None:
        """What came together with the news by which its gang was lost."""
        for dying in self._dying:
            if dying.gang is gang and call in (gang.leader.answer, *gang.leader.orders):
                self._hear_of_dying(dying, call, what)

    def _hear(self, gang: Gang, member: Member, said: Place | Report) -> None:
        if isinstance(said, Place):
            self._hiring.placed(gang, member, said, self._others(gang))
        else:
            member.silent = said.silent
            for event in said.events:
                if event.id is not None:
                    self._hear_of_row(gang, event, event.id)
                else:
                    self._hear_of_member(gang, member, event)
        if gang in self._gangs:
            member.poll(POLL_SECONDS)

    def _hear_of_row(self, gang: Gang, event: Event, row_id: str) -> None:
        self._on_news(gang, event)
        if event.kind == "started":
            gang.hand.started.add(row_id)
        elif event.kind == "rendered":
            gang.hand.ahead.discard(row_id)
        else:
            gang.hand.drop(row_id)
            self._losses[gang.replica] = 0
            self._on_result(event)

    def _hear_of_member(self, gang: Gang, member: Member, event: Event) -> None:
        if event.kind == "seated":
            self._hiring.seated(gang, member, event.message, self._others(gang))
        elif event.kind == "ready":
            member.ready = True
        elif event.kind == "stuck":
            self.end(Stopped(f"the output cannot be written: {event.message}"))
        elif event.kind == "refused":
            # Another gang may have loaded the model, and rendered: then it is no refusal before start.
            self.end(Stopped(event.message) if self._ready() else Refused(event.message))
        elif event.kind == "broken":
            what = "broke down" if gang.ready else "could not load the model"
            why = f"{gang.rank_of(member)} {what}: {event.error}: {event.message}"
            error = "WorkerDied" if event.error in (None, GangBroken.__name__) else event.error
            gang.broken = gang.broken or (why, error, time.monotonic())
        elif event.kind == "stopped":
            gang.stopped = True
            if gang.broken is None or self._interrupts.level > 1:
                self._dismiss(gang)

    def _others(self, gang: Gang) -> list[Gang]:
        there = (*self._gangs, *(dying.gang for dying in self._dying))
        return [other for other in there if other is not gang]

    # Watching

    def _watch(self) -> None:
        """Lose the gangs that something is wrong with."""
        now = time.monotonic()
        # If this process itself was held up, that says nothing about the others.
        held_up = max(0.0, now - self._looked - 2 * POLL_SECONDS)
        self._looked = now
        for gang in list(self._gangs):
            for member in gang.members:
                member.asked += held_up
            if loss := self._wrong_with(gang, now):
                self._lose(gang, loss)
        if self._dying or any(gang.placed for gang in self._gangs):
            self._placed = now
        elif now - self._placed - held_up > START_SECONDS:
            self.end(
                Stopped(
                    f"no worker found a place within {START_SECONDS:g} s: a replica needs "
                    f"{self._hiring.needs(1)}, the cluster has {self._hiring.there()}"
                )
            )

    def _wrong_with(self, gang: Gang, now: float) -> Loss | None:
        if gang.broken is not None:
            why, error, since = gang.broken
            # A gang of one has nobody else who could have died.
            return Loss(why, error=error) if len(gang.members) == 1 or now - since > BLAME_SECONDS else None
        if gang.gathering_since is not None and now - gang.gathering_since > GATHER_SECONDS:
            missing = [gang.rank_of(member) for member in gang.members if not member.address]
            return Loss(f"{', '.join(missing)} did not come within {GATHER_SECONDS:g} s")
        for member in gang.members:
            if silence := overdue(member.silent, self._limits):
                return Loss(f"{gang.rank_of(member)}: {silence}", member)
            allowed = POLL_SECONDS + patience(member.silent, self._limits)
            if member.place is not None and now - member.asked > allowed:
                return Loss(f"{gang.rank_of(member)}: no answer for {allowed:.0f} s", member)
        return None

    def _stop_now(self) -> None:
        """An ordered stop: what is being stored is finished, no more."""
        self._tick(self._ready(), self._waiting())
        for gang in list(self._gangs):
            if gang.ready and gang.broken is None:
                gang.leader.order("stop", True)
            else:
                self._dismiss(gang)
        until = time.monotonic() + STOP_SECONDS
        while (self._gangs or self._dying) and time.monotonic() < until:
            self._listen()
            self._bury_the_dead()


def _result(call: Any) -> Any:
    """What a call gave, or why it failed."""
    try:
        return ray.get(call, timeout=60)
    except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError) as error:
        return error


def _cause(error: Exception) -> str:
    """Ray's account in one line, without colours; of a long one, the cause is at the end."""
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())
    return f"{type(error).__name__}: {text if len(text) <= 500 else f'{text[:150]} … {text[-350:]}'}"
