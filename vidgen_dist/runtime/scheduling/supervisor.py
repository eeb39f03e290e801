"""The supervisor: keeps gangs alive and hands rows to them until nothing is left.

Rows go to any gang that has room. When none is left to hand out, a gang that has nothing to do gets rows that
others have not begun. A gang one of whose members dies, hangs or disagrees with the others is replaced as a
whole, and its unfinished rows go back; other gangs are not affected. At first it is not known which of its
rows killed the gang, see `row_queue`. A row that has killed as many gangs as it has attempts is given up; its
neighbours are rendered. A gang whose node has left the cluster died of that and of nothing else: none of its
rows is blamed, and the gang is launched again.

What a lost gang has reported as finished counts. So its leader, if it still answers, is told to finish its
writing. The other rows go back only when the leader can write no more: otherwise two gangs would store the
same video. Whoever gets such a row looks whether its video is stored already, see `recovery`.

One turn of the supervisor takes time in proportion to what gangs have reported, however many gangs there are;
all gangs are looked at only every
`SupervisorPolicy.look_seconds`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from vidgen_dist.errors import Refused
from vidgen_dist.output.pending_row import PendingRow
from vidgen_dist.runtime.interrupts import Interrupts
from vidgen_dist.runtime.messages import WorkerMessage, WorkerReport
from vidgen_dist.runtime.scheduling.gang import Answer, CallFailure, Gang, Member
from vidgen_dist.runtime.scheduling.launcher import Launcher
from vidgen_dist.runtime.scheduling.policy import SupervisorPolicy
from vidgen_dist.runtime.scheduling.row_queue import QueuedRow, RowQueue, to_ask_back
from vidgen_dist.runtime.watchdog import overdue, patience
from vidgen_dist.runtime.worker.actor import Placement, WorkerActor
from vidgen_dist.runtime.worker.row_consensus import GangBroken


class RunStopped(Exception):
    """The run cannot go on; what is finished is kept."""


@dataclass(frozen=True)
class GangLoss:
    """Why a gang is lost.

    Args:
        why: For a person; it may be stored beside the videos, and names no host.
        member: Who died or is silent; None where the members themselves say that they cannot go on.
        dead: Whether Ray says that it is dead.
        error: Class of the error, for the dead letter of a row that is given up for it.
        said: Ray's own account, if it gave one.
    """

    why: str
    member: Member | None = None
    dead: bool = False
    error: str = "WorkerDied"
    said: str = ""

    def __str__(self) -> str:
        """For whoever runs the cluster: with the host, and all that Ray says."""
        host = self.member.place.host if self.member is not None and self.member.place is not None else ""
        details = "; ".join(filter(None, (host, self.said)))
        return f"{self.why} ({details})" if details else self.why


@dataclass(eq=False)
class LostGang:
    """A gang that is lost and may still write.

    Args:
        gang: Which one.
        loss: Why.
        until: When its leader must have stopped, or be dead.
        unclear: Whether Ray has yet to say what became of the member that is lost: its node may have left.
        killed: Whether its members were.
        silent: Whether its leader can write no more.
        unreached: Members that were out of reach -> when to ask them again.
    """

    gang: Gang
    loss: GangLoss
    until: float
    unclear: bool = False
    killed: bool = False
    silent: bool = False
    unreached: dict[Member, float] = field(default_factory=dict)


class SupervisorListener(Protocol):
    """What a supervisor reports to the run that it works for, and asks of it."""

    def row_progressed(self, gang: Gang, message: WorkerMessage) -> None:
        """A gang reports on one of its rows, which it still has."""

    def row_ended(self, message: WorkerMessage) -> None:
        """A row is done or has failed: enter it into the ledger."""

    def row_given_up(self, row: PendingRow, error: str, message: str) -> None:
        """A row has killed as many gangs as it may: enter it, with this error class and message."""

    def gang_lost(self, gang: Gang, why: str) -> None:
        """A gang is lost; `why` names hosts and must not be stored."""

    def output_fault(self) -> str:
        """Why the ledger cannot be written; empty while it can."""

    def tick(self, ready: int, waiting: str) -> None:
        """Called a few times a second.

        Args:
            ready: Gangs whose model is loaded.
            waiting: What other gangs wait for, if it takes long.
        """


class Supervisor:
    """Runs rows on gangs until all are done, given up, or the run is to end.

    Args:
        hiring: Makes gangs, hears them and ends them; it has the time that they live in.
        replicas: How many gangs there are at once.
        run: Name of the run, unique; part of the gangs' names.
        rows: The rows that are to be rendered.
        pending: How many there are.
        shard_size: How many a gang gets at once, at most.
        max_attempts: Gangs that a row may kill.
        limits: Stage -> seconds without a sign of life, after which a gang is taken for dead.
        listener: The run that the supervisor works for.
        interrupts: Say when to end.
        policy: How long to wait, and how many gangs to lose.
    """

    def __init__(
        self,
        *,
        launcher: Launcher,
        replicas: int,
        run: str,
        rows: Iterator[PendingRow],
        pending: int,
        shard_size: int,
        max_attempts: int,
        limits: Mapping[str, float],
        listener: SupervisorListener,
        interrupts: Interrupts,
        policy: SupervisorPolicy,
    ) -> None:
        self._run = run
        self._limits = limits
        self._listener = listener
        self._interrupts = interrupts
        self._policy = policy
        self._launcher = launcher
        self._clock = launcher.clock
        self._max_attempts = max_attempts
        self._row_queue = RowQueue(rows, pending, shard_size, replicas)
        self._pending = pending
        # By name: those at work; of them those that have said something since they were last fed, and those
        # that have room and got nothing; those that are lost.
        self._gangs: dict[str, Gang] = {}
        self._spoke: dict[str, Gang] = {}
        self._idle: dict[str, Gang] = {}
        self._lost: dict[str, LostGang] = {}
        self._gang_of: dict[Member, Gang] = {}
        self._made = 0
        # By replica: gangs lost since it last did a row, and those without one to blame; whether it did any.
        self._losses = [0] * replicas
        self._blameless = [0] * replicas
        self._proven = [False] * replicas
        self._last_loss = ""
        self._fault: Exception | None = None
        self._placed = self._turned = self._clock()
        self._told_to_save = False

    def work(self) -> None:
        """Run until the end.

        Raises:
            Refused: The model cannot be loaded.
            Stopped: The ledger cannot be written, or no gang can be kept alive.
        """
        try:
            for replica in range(len(self._losses)):
                self._launch(replica)
            looked = float("-inf")
            while (self._gangs or self._lost) and self._interrupts.level < 2:
                if why := self._listener.output_fault():
                    self.end(RunStopped(f"the output cannot be written: {why}"))
                self._hand_out()
                self._save_in_time()
                due = self._clock() - looked >= self._policy.look_seconds
                if due:
                    looked = self._clock()
                    # What is told of an interrupt is told when the gangs know of it.
                    self._listener.tick(self._ready(), self._waiting())
                self._listen()
                self._watch(everyone=due)
                self._settle_lost_gangs()
            if self._gangs or self._lost:
                self._stop_now()
        finally:
            for gang in list(self._gangs.values()):
                self._terminate(gang)
            for dying in self._lost.values():
                self._kill(dying)
        if self._fault is not None:
            raise self._fault
        if not self._ending and self._pending:
            raise RunStopped(f"no worker can be kept alive: {self._last_loss}")

    @property
    def gangs(self) -> tuple[Gang, ...]:
        """The gangs that there are, but for those that are lost."""
        return tuple(self._gangs.values())

    @property
    def _ending(self) -> bool:
        return self._interrupts.level > 0 or self._fault is not None

    def end(self, fault: Exception) -> None:
        """Let the run end with this error, the first one: what is being rendered is finished."""
        self._fault = self._fault or fault

    def _ready(self) -> int:
        return sum(gang.ready for gang in self._gangs.values())

    def _waiting(self) -> str:
        """What gangs wait for, for long."""
        now = self._clock()
        late = sum(
            not gang.placed and now - gang.launched > self._policy.place_seconds
            for gang in self._gangs.values()
        )
        return self._launcher.needs(late) if late else ""

    # Starting and ending gangs

    def _launch(self, replica: int) -> None:
        self._made += 1
        gang = self._launcher.launch(replica, f"{self._run}-{self._made:04d}")
        self._gangs[gang.name] = gang
        self._gang_of |= dict.fromkeys(gang.members, gang)

    def _terminate(self, gang: Gang) -> None:
        self._strike(gang)
        self._forget(gang)
        self._launcher.terminate(gang)

    def _strike(self, gang: Gang) -> None:
        """A gang is no longer at work."""
        for gangs in (self._gangs, self._spoke, self._idle):
            gangs.pop(gang.name, None)

    def _forget(self, gang: Gang) -> None:
        """What a gang's members may still say is of no interest."""
        for member in gang.members:
            del self._gang_of[member]

    # Losing a gang

    def _lose(self, gang: Gang, loss: GangLoss, *, unclear: bool = False) -> None:
        """A gang is lost: let its leader finish its writing if it can, then kill all of it."""
        self._strike(gang)
        self._last_loss = loss.why
        self._listener.gang_lost(gang, str(loss))
        now = self._clock()
        until = now + (self._policy.node_seconds if unclear else self._policy.last_words_seconds)
        dying = self._lost[gang.name] = LostGang(gang, loss, until, unclear)
        leader = gang.leader
        if gang.stopped or not gang.in_flight.tasks or (loss.member is leader and loss.dead):
            dying.silent = True
        elif now - leader.asked < self._policy.poll_seconds + self._policy.answer_seconds:
            leader.call(WorkerActor.stop, True)
            return
        self._kill(dying)

    def _kill(self, dying: LostGang) -> None:
        if not dying.killed:
            dying.killed = True
            dying.until = self._clock() + self._policy.death_seconds
            self._launcher.terminate(dying.gang)

    def _hear_of_lost(self, dying: LostGang, member: Member, what: Answer) -> None:
        """What the leader of a lost gang, or Ray, still has to say."""
        gang, leader = dying.gang, dying.gang.leader
        if isinstance(what, CallFailure) and not what.dead:
            dying.unreached[member] = self._clock() + self._policy.ask_seconds
            return
        if member is dying.loss.member:
            dying.unclear = False
        if member is not leader:
            return
        if isinstance(what, CallFailure):
            if dying.killed:
                dying.until = self._clock() + self._policy.linger_seconds
            else:
                dying.silent = True
        elif isinstance(what, WorkerReport):
            for event in what.events:
                if event.id is not None:
                    self._hear_of_row(gang, event, event.id)
                dying.silent |= event.kind == "stopped"
            leader.poll(self._policy.poll_seconds, self._clock())

    def _settle_lost_gangs(self) -> None:
        for dying in list(self._lost.values()):
            now = self._clock()
            for member in [member for member, again in dying.unreached.items() if now >= again]:
                del dying.unreached[member]
                member.poll(self._policy.poll_seconds, now)
            late = now > dying.until
            if (dying.silent and not dying.unclear) or (dying.killed and late):
                self._kill(dying)
                self._settle(dying)
            elif late:
                self._kill(dying)

    def _settle(self, dying: LostGang) -> None:
        """A lost gang writes no more: take its rows back and launch another gang."""
        gang, loss = dying.gang, dying.loss
        del self._lost[gang.name]
        self._forget(gang)
        left = self._launcher.left(gang)
        # Followers do not write, and who renders does not either: that is the leader's, or a gang's of one.
        writing = loss.member is gang.leader or len(gang.members) == 1
        suspects = set() if left else gang.in_flight.suspects(writing=writing)
        for row_id, task in gang.in_flight.tasks.items():
            # It may have stored the video, and died before it could say so.
            task.lost = True
            if row_id in suspects:
                self._suspect(task, loss, alone=len(suspects) == 1)
            else:
                self._row_queue.put_back(task)
        # A row that kills every gang must not end a replica: its second death says no more of that.
        first = any(gang.in_flight.tasks[row_id].deaths == 1 for row_id in suspects)
        if not left:
            self._losses[gang.replica] += first or not suspects
            self._blameless[gang.replica] += not suspects
        if not self._is_at_fault(gang.replica) and not self._ending:
            self._launch(gang.replica)

    def _is_at_fault(self, replica: int) -> bool:
        most = self._policy.max_killed if self._proven[replica] else self._policy.max_killed_first
        return self._blameless[replica] >= self._policy.max_deaths or self._losses[replica] >= most

    def _suspect(self, task: QueuedRow, loss: GangLoss, *, alone: bool) -> None:
        task.deaths += 1
        # Where another row can have done it, this one may be a neighbour; from now on each is rendered alone.
        if task.deaths < self._max_attempts or not alone:
            self._row_queue.put_back(task)
            return
        workers = "1 worker" if task.deaths == 1 else f"{task.deaths} workers"
        message = f"{workers} died with this row; the last: {loss.why}"
        self._pending -= 1
        self._listener.row_given_up(task.row, loss.error, message)

    # Feeding

    def _hand_out(self) -> None:
        if self._ending or not self._pending:
            self._tell_to_stop()
            return
        # Those who got nothing before are looked at as soon as there is something.
        hungry = self._spoke if self._row_queue.empty else self._idle | self._spoke
        self._spoke = {}
        for gang in hungry.values():
            if gang.ready and gang.broken is None:
                self._hand_out_to(gang)
        if self._idle and self._row_queue.empty:
            self._ask_back()

    def _hand_out_to(self, gang: Gang) -> None:
        losses = self._losses[gang.replica]
        now = self._clock()
        try:
            shard = self._row_queue.next_shard(gang.in_flight, now, losses=losses)
        except OSError as error:
            self.end(RunStopped(f"the manifest cannot be read any more: {error}"))
            return
        self._idle.pop(gang.name, None)
        if shard:
            gang.in_flight.take(shard, now)
            gang.leader.call(WorkerActor.submit, [task.order for task in shard])
        elif self._row_queue.has_room(gang.in_flight, losses=losses):
            self._idle[gang.name] = gang

    def _ask_back(self) -> None:
        """Let gangs give back what they have not begun, a row for each that has nothing to do."""
        lenders = [gang for gang in self._gangs.values() if gang.broken is None]
        all_in_flight = [gang.in_flight for gang in lenders]
        on_their_way = sum(in_flight.asked_back for in_flight in all_in_flight)
        wanted = sum(not gang.in_flight.ahead for gang in self._idle.values()) - on_their_way
        for gang, count in zip(lenders, to_ask_back(all_in_flight, wanted), strict=True):
            if count:
                gang.in_flight.asked_back += count
                gang.leader.call(WorkerActor.give_back, count)

    def _tell_to_stop(self) -> None:
        for gang in list(self._gangs.values()):
            if not gang.ready:
                # It has no rows, and loading cannot be hurried.
                self._terminate(gang)
            elif not gang.stopping:
                gang.stopping = True
                gang.leader.call(WorkerActor.stop, False)

    def _save_in_time(self) -> None:
        """After a SIGTERM the machine may go before the grace ends: let what is rendered be saved now."""
        if self._interrupts.preempted and not self._told_to_save:
            self._told_to_save = True
            for gang in self._gangs.values():
                if gang.ready:
                    gang.leader.call(WorkerActor.save)

    # Listening

    def _listen(self) -> None:
        """Hear whatever there is to hear, waiting a little where there is nothing."""
        said = self._launcher.hear(self._policy.look_seconds)
        # Of a gang that lost a member, the others complain: the death is the cause.
        for member, what in sorted(said, key=lambda pair: not isinstance(pair[1], CallFailure)):
            gang = self._gang_of.get(member)
            if gang is None:
                continue
            if gang.name in self._lost:
                self._hear_of_lost(self._lost[gang.name], member, what)
            elif isinstance(what, CallFailure):
                why = gang.without_hosts(f"{gang.rank_of(member)} {what.why}")
                loss = GangLoss(why, member, what.dead, said=what.said)
                self._lose(gang, loss, unclear=not what.dead)
                if not what.dead:
                    self._hear_of_lost(self._lost[gang.name], member, what)
            elif what is not None:
                self._hear(gang, member, what)

    def _hear(self, gang: Gang, member: Member, said: Placement | WorkerReport) -> None:
        self._spoke[gang.name] = gang
        if isinstance(said, Placement):
            self._launcher.placed(gang, member, said, self._others(gang))
        else:
            member.silent = said.silent
            for event in said.events:
                if event.id is not None:
                    self._hear_of_row(gang, event, event.id)
                else:
                    self._hear_of_member(gang, member, event)
        if gang.name in self._gangs:
            member.poll(self._policy.poll_seconds, self._clock())

    def _hear_of_row(self, gang: Gang, event: WorkerMessage, row_id: str) -> None:
        if event.kind == "returned":
            self._row_queue.put_back(gang.in_flight.returned(row_id))
            return
        self._listener.row_progressed(gang, event)
        if event.kind == "started":
            gang.in_flight.started.add(row_id)
        elif event.kind == "rendered":
            gang.in_flight.rendered(row_id)
        else:
            gang.in_flight.drop(row_id)
            self._losses[gang.replica] = self._blameless[gang.replica] = 0
            self._proven[gang.replica] = True
            self._pending -= 1
            self._listener.row_ended(event)

    def _hear_of_member(self, gang: Gang, member: Member, event: WorkerMessage) -> None:
        if event.kind == "seated":
            self._launcher.rendezvous_opened(gang, member, event.message, self._others(gang))
        elif event.kind == "ready":
            member.ready = True
        elif event.kind == "stuck":
            self.end(RunStopped(event.message))
        elif event.kind == "refused":
            # Another gang may have loaded the model, and rendered: then it is no refusal before start.
            self.end(RunStopped(event.message) if self._ready() else Refused(event.message))
        elif event.kind == "broken":
            what = "broke down" if gang.ready else "could not load the model"
            why = gang.without_hosts(f"{gang.rank_of(member)} {what}: {event.error}: {event.message}")
            error = "WorkerDied" if event.error in (None, GangBroken.__name__) else event.error
            gang.broken = gang.broken or (why, error, self._clock())
        elif event.kind == "stopped":
            gang.stopped = True
            if gang.broken is None or self._interrupts.level > 1:
                self._terminate(gang)

    def _others(self, gang: Gang) -> Iterable[Gang]:
        there = (*self._gangs.values(), *(dying.gang for dying in self._lost.values()))
        return [other for other in there if other is not gang]

    # Watching

    def _watch(self, *, everyone: bool) -> None:
        """Lose the gangs that something is wrong with, of those that spoke or of all."""
        now = self._clock()
        # If this process itself was held up, that says nothing about the others.
        held_up = max(0.0, now - self._turned - 2 * self._policy.poll_seconds)
        self._turned = now
        if held_up:
            for member in self._gang_of:
                member.asked += held_up
        for gang in list((self._gangs if everyone else self._spoke).values()):
            if loss := self._wrong_with(gang, now):
                self._lose(gang, loss)
        if not everyone:
            return
        if self._lost or any(gang.placed for gang in self._gangs.values()):
            self._placed = now
        elif now - self._placed - held_up > self._policy.start_seconds:
            self.end(
                RunStopped(
                    f"no worker found a place within {self._policy.start_seconds:g} s: a replica needs "
                    f"{self._launcher.needs(1)}, the cluster has {self._launcher.there()}"
                )
            )

    def _wrong_with(self, gang: Gang, now: float) -> GangLoss | None:
        if gang.broken is not None:
            why, error, since = gang.broken
            # A gang of one has nobody else who could have died.
            return (
                GangLoss(why, error=error)
                if len(gang.members) == 1 or now - since > self._policy.blame_seconds
                else None
            )
        if gang.gathering_since is not None and now - gang.gathering_since > self._policy.gather_seconds:
            missing = [gang.rank_of(member) for member in gang.members if not member.address]
            return GangLoss(f"{', '.join(missing)} did not come within {self._policy.gather_seconds:g} s")
        for member in gang.members:
            if silence := overdue(member.silent, self._limits):
                return GangLoss(f"{gang.rank_of(member)}: {silence}", member)
            allowed = self._policy.poll_seconds + patience(member.silent, self._limits)
            if member.place is not None and now - member.asked > allowed:
                return GangLoss(f"{gang.rank_of(member)}: no answer for {allowed:.0f} s", member)
        return None

    def _stop_now(self) -> None:
        """An ordered stop: what is being stored is finished, no more."""
        self._listener.tick(self._ready(), self._waiting())
        for gang in list(self._gangs.values()):
            if gang.ready and gang.broken is None:
                gang.leader.call(WorkerActor.stop, True)
            else:
                self._terminate(gang)
        until = self._clock() + self._policy.stop_seconds
        while (self._gangs or self._lost) and self._clock() < until:
            self._listen()
            self._settle_lost_gangs()
