"""The supervisor: keeps gangs alive and hands out rows to them until none is left.

Rows go to any gang that has room. When none is left to hand out, an idle gang gets rows that others have not
begun. A gang one of whose members dies, hangs or disagrees with the others is replaced as a whole, and its
unfinished rows go back; other gangs are not affected. At first it is not known which of its rows killed the
gang, see `row_queue`. A row that has killed as many gangs as it has attempts is given up; its neighbours are
rendered. A gang whose node has left the cluster died of that and of nothing else: none of its rows is blamed,
and the gang is launched again.

What a lost gang has reported as finished counts. So its leader, if it still answers, is told to finish its
writing. The other rows go back only when the leader can write no more: otherwise two gangs would store the
same video. The gang that gets such a row checks whether its video is stored already, see `recovery`.

The time of one turn of the supervisor's loop grows with what gangs have reported, not with the number of
gangs; all gangs are checked only every `SupervisorPolicy.look_seconds`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from vidgen_dist.errors import Refused
from vidgen_dist.output.pending_row import PendingRow
from vidgen_dist.runtime.interrupts import Interrupts
from vidgen_dist.runtime.messages import WorkerMessage, WorkerReport
from vidgen_dist.runtime.scheduling.gang import Answer, Breakdown, CallFailure, Gang, Member
from vidgen_dist.runtime.scheduling.launcher import Launcher
from vidgen_dist.runtime.scheduling.policy import SupervisorPolicy
from vidgen_dist.runtime.scheduling.row_queue import Loras, QueuedRow, RowQueue, plan_give_back
from vidgen_dist.runtime.watchdog import answer_limit, describe_overdue
from vidgen_dist.runtime.worker.actor import Placement, WorkerActor
from vidgen_dist.runtime.worker.row_consensus import GangBroken


class RunStopped(Exception):
    """The run cannot go on; what is finished is kept."""


@dataclass(frozen=True)
class GangLoss:
    """Why a gang is lost.

    Args:
        reason: A description that names no host, because it may be stored beside the videos.
        member: The member that died or hangs; None where the members themselves report that they cannot go
            on.
        actor_died: Whether Ray says that it is dead.
        error: Class of the error, for the dead letter of a row that is given up because of it.
        ray_message: Ray's own message, if there is one.
    """

    reason: str
    member: Member | None = None
    actor_died: bool = False
    error: str = "WorkerDied"
    ray_message: str = ""

    def __str__(self) -> str:
        """The reason with the host and Ray's message, for the person who operates the cluster."""
        placement = None if self.member is None else self.member.placement
        details = "; ".join(filter(None, ("" if placement is None else placement.host, self.ray_message)))
        return f"{self.reason} ({details})" if details else self.reason


@dataclass(eq=False)
class LostGang:
    """A gang that is lost and may still write.

    Args:
        gang: The gang.
        loss: Why it is lost.
        deadline: When its leader must have stopped, or be dead.
        unclear: Whether Ray has yet to say what became of the lost member: its node may have left.
        killed: Whether its members were killed.
        writing_ended: Whether its leader can write no more.
        poll_again: Members that were unreachable -> when to poll them again.
    """

    gang: Gang
    loss: GangLoss
    deadline: float
    unclear: bool = False
    killed: bool = False
    writing_ended: bool = False
    poll_again: dict[Member, float] = field(default_factory=dict)


class SupervisorListener(Protocol):
    """What a supervisor reports to its run, and asks it."""

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
            waiting: What other gangs wait for, if they have waited for long.
        """


class Supervisor:
    """Runs rows on gangs until all are done or given up, or the run is to end.

    Args:
        launcher: Starts gangs, receives their answers and ends them; has the clock.
        replicas: How many gangs there are at once.
        run: Name of the run, unique; part of the gangs' names.
        rows: The rows to be rendered.
        pending: Their number.
        shard_size: The most rows that a gang gets at once.
        max_attempts: Gangs that a row may kill.
        limits: Stage -> seconds without a sign of life after which a gang counts as dead.
        listener: The run.
        interrupts: When to end.
        policy: How long to wait, and how many gangs may be lost.
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
        # By name: gangs at work; those of them that have reported since they last got rows, and those that
        # have room and got nothing; gangs that are lost.
        self._gangs: dict[str, Gang] = {}
        self._reported: dict[str, Gang] = {}
        self._idle: dict[str, Gang] = {}
        self._lost: dict[str, LostGang] = {}
        self._gang_of: dict[Member, Gang] = {}
        self._launched = 0
        # By replica: gangs lost since it last did a row, and those without one to blame; whether it did any.
        self._losses = [0] * replicas
        self._blameless = [0] * replicas
        self._proven = [False] * replicas
        self._last_loss = ""
        self._error: Exception | None = None
        # When a gang last had a place, and when `_watch` was last called.
        self._placed_at = self._watched_at = self._clock()
        self._save_requested = False

    def work(self) -> None:
        """Run until the end.

        Raises:
            Refused: The model cannot be loaded.
            RunStopped: The ledger cannot be written, or no gang can be kept alive.
        """
        try:
            for replica in range(len(self._losses)):
                self._launch(replica)
            looked = float("-inf")
            while (self._gangs or self._lost) and self._interrupts.level < 2:
                if fault := self._listener.output_fault():
                    self.end(RunStopped(f"the output cannot be written: {fault}"))
                self._hand_out()
                self._save_if_preempted()
                due = self._clock() - looked >= self._policy.look_seconds
                if due:
                    looked = self._clock()
                    # After `_hand_out`: when the listener reports an interrupt, the gangs have been told.
                    self._listener.tick(self._count_ready(), self._describe_waiting())
                self._receive()
                self._watch(everyone=due)
                self._settle_lost_gangs()
            if self._gangs or self._lost:
                self._stop_now()
        finally:
            for gang in list(self._gangs.values()):
                self._terminate(gang)
            for lost in self._lost.values():
                self._kill(lost)
        if self._error is not None:
            raise self._error
        if not self._ending and self._pending:
            raise RunStopped(f"no worker can be kept alive: {self._last_loss}")

    @property
    def gangs(self) -> tuple[Gang, ...]:
        """All gangs except those that are lost."""
        return tuple(self._gangs.values())

    @property
    def _ending(self) -> bool:
        return self._interrupts.level > 0 or self._error is not None

    def end(self, error: Exception) -> None:
        """Let the run end with this error, unless it already ends with one; rows in a model are finished."""
        self._error = self._error or error

    def _count_ready(self) -> int:
        return sum(gang.ready for gang in self._gangs.values())

    def _describe_waiting(self) -> str:
        """What gangs have been waiting for, for long; empty if no gang has."""
        now = self._clock()
        late = sum(
            not gang.is_placed and now - gang.launched > self._policy.place_seconds
            for gang in self._gangs.values()
        )
        return self._launcher.describe_need(late) if late else ""

    # Starting and ending gangs

    def _launch(self, replica: int) -> None:
        self._launched += 1
        gang = self._launcher.launch(replica, f"{self._run}-{self._launched:04d}")
        self._gangs[gang.name] = gang
        self._gang_of |= dict.fromkeys(gang.members, gang)

    def _terminate(self, gang: Gang) -> None:
        self._remove(gang)
        self._forget_members(gang)
        self._launcher.terminate(gang)

    def _remove(self, gang: Gang) -> None:
        """Remove a gang from those at work."""
        for gangs in (self._gangs, self._reported, self._idle):
            gangs.pop(gang.name, None)

    def _forget_members(self, gang: Gang) -> None:
        """Ignore what a gang's members answer from now on."""
        for member in gang.members:
            del self._gang_of[member]

    # Losing a gang

    def _lose(self, gang: Gang, loss: GangLoss, *, unclear: bool = False) -> None:
        """Give a gang up: let its leader finish its writing if it can, then kill all of it."""
        self._remove(gang)
        self._last_loss = loss.reason
        self._listener.gang_lost(gang, str(loss))
        now = self._clock()
        deadline = now + (self._policy.node_seconds if unclear else self._policy.last_words_seconds)
        lost = self._lost[gang.name] = LostGang(gang, loss, deadline, unclear)
        leader = gang.leader
        if gang.stopped or not gang.in_flight.rows or (loss.member is leader and loss.actor_died):
            lost.writing_ended = True
        elif now - leader.polled_at < self._policy.poll_seconds + self._policy.answer_seconds:
            leader.call(WorkerActor.stop, True)
            return
        self._kill(lost)

    def _kill(self, lost: LostGang) -> None:
        if not lost.killed:
            lost.killed = True
            lost.deadline = self._clock() + self._policy.death_seconds
            self._launcher.terminate(lost.gang)

    def _handle_lost(self, lost: LostGang, member: Member, answer: Answer) -> None:
        """Handle an answer of a lost gang's member."""
        gang, leader = lost.gang, lost.gang.leader
        if isinstance(answer, CallFailure) and not answer.actor_died:
            lost.poll_again[member] = self._clock() + self._policy.ask_seconds
            return
        if member is lost.loss.member:
            lost.unclear = False
        if member is not leader:
            return
        if isinstance(answer, CallFailure):
            if lost.killed:
                lost.deadline = self._clock() + self._policy.linger_seconds
            else:
                lost.writing_ended = True
        elif isinstance(answer, WorkerReport):
            for message in answer.messages:
                if message.id is not None:
                    self._handle_row_message(gang, message, message.id)
                lost.writing_ended |= message.kind == "stopped"
            leader.poll(self._policy.poll_seconds, self._clock())

    def _settle_lost_gangs(self) -> None:
        for lost in list(self._lost.values()):
            now = self._clock()
            for member in [member for member, again in lost.poll_again.items() if now >= again]:
                del lost.poll_again[member]
                member.poll(self._policy.poll_seconds, now)
            late = now > lost.deadline
            if (lost.writing_ended and not lost.unclear) or (lost.killed and late):
                self._kill(lost)
                self._settle(lost)
            elif late:
                self._kill(lost)

    def _settle(self, lost: LostGang) -> None:
        """Take back the rows of a lost gang that can write no more; launch another gang if rows are left."""
        gang, loss = lost.gang, lost.loss
        del self._lost[gang.name]
        self._forget_members(gang)
        node_left = self._launcher.has_lost_node(gang)
        # Only a leader, or a gang of one, writes; a follower's death cannot be due to writing, nor can a
        # breakdown that the members themselves report.
        writing = loss.member is gang.leader or len(gang.members) == 1
        suspects = set() if node_left else gang.in_flight.suspects(writing=writing)
        for row_id, queued in gang.in_flight.rows.items():
            # It may have stored the video, and died before it could report that.
            queued.lost = True
            if row_id in suspects:
                self._blame(queued, loss, alone=len(suspects) == 1)
            else:
                self._row_queue.put_back(queued)
        # A row that kills every gang must not end a replica: its second death says nothing about the replica.
        first = any(gang.in_flight.rows[row_id].deaths == 1 for row_id in suspects)
        if not node_left:
            self._losses[gang.replica] += first or not suspects
            self._blameless[gang.replica] += not suspects
        # Not for nothing: a worker that Ray is told to end while it starts may keep its place for good.
        if self._pending and not self._ending and not self._is_at_fault(gang.replica):
            self._launch(gang.replica)

    def _is_at_fault(self, replica: int) -> bool:
        most = self._policy.max_killed if self._proven[replica] else self._policy.max_killed_first
        return self._blameless[replica] >= self._policy.max_deaths or self._losses[replica] >= most

    def _blame(self, queued: QueuedRow, loss: GangLoss, *, alone: bool) -> None:
        """Count a death against a row; give it up if that was its last attempt and it is the only suspect."""
        queued.deaths += 1
        # With another suspect, this row may only be its neighbour; from now on each is rendered alone.
        if queued.deaths < self._max_attempts or not alone:
            self._row_queue.put_back(queued)
            return
        workers = "1 worker" if queued.deaths == 1 else f"{queued.deaths} workers"
        message = f"{workers} died with this row; the last: {loss.reason}"
        self._pending -= 1
        self._listener.row_given_up(queued.row, loss.error, message)

    # Handing out rows

    def _hand_out(self) -> None:
        if self._ending or not self._pending:
            self._stop_gangs()
            return
        # Gangs that got nothing before are considered again as soon as there is something.
        candidates = self._reported if self._row_queue.empty else self._idle | self._reported
        self._reported = {}
        for gang in candidates.values():
            if gang.ready and gang.breakdown is None:
                self._hand_out_to(gang)
        if self._idle and self._row_queue.empty:
            self._ask_back()

    def _hand_out_to(self, gang: Gang) -> None:
        losses = self._losses[gang.replica]
        now = self._clock()
        try:
            shard = self._row_queue.next_shard(
                gang.in_flight, now, losses=losses, others=self._loras_of_others(gang)
            )
        except OSError as error:
            self.end(RunStopped(f"the manifest cannot be read any more: {error}"))
            return
        self._idle.pop(gang.name, None)
        if shard:
            gang.in_flight.add(shard, now)
            gang.leader.call(WorkerActor.submit, [queued.assignment for queued in shard])
        elif self._row_queue.has_room(gang.in_flight, losses=losses):
            self._idle[gang.name] = gang

    def _loras_of_others(self, gang: Gang) -> set[Loras]:
        in_flight = (other.in_flight for other in self._gangs.values() if other is not gang)
        return {each.loras for each in in_flight if each.loras}

    def _ask_back(self) -> None:
        """Ask gangs to give back rows that they have not begun, one for each idle gang."""
        lenders = [gang for gang in self._gangs.values() if gang.breakdown is None]
        all_in_flight = [gang.in_flight for gang in lenders]
        on_their_way = sum(in_flight.asked_back for in_flight in all_in_flight)
        wanted = sum(not gang.in_flight.ahead for gang in self._idle.values()) - on_their_way
        for gang, count in zip(lenders, plan_give_back(all_in_flight, wanted), strict=True):
            if count:
                gang.in_flight.asked_back += count
                gang.leader.call(WorkerActor.give_back, count)

    def _stop_gangs(self) -> None:
        for gang in list(self._gangs.values()):
            if not gang.ready:
                # It has no rows, and loading cannot be hurried.
                self._terminate(gang)
            elif not gang.stopping:
                gang.stopping = True
                gang.leader.call(WorkerActor.stop, False)

    def _save_if_preempted(self) -> None:
        """After a SIGTERM, have rows in a model saved now: the machine may go before the grace ends."""
        if self._interrupts.preempted and not self._save_requested:
            self._save_requested = True
            for gang in self._gangs.values():
                if gang.ready:
                    gang.leader.call(WorkerActor.save)

    # Receiving answers

    def _receive(self) -> None:
        """Handle all answers that have come; waits a little if there are none."""
        answers = self._launcher.receive(self._policy.look_seconds)
        # Failed calls first: when a member has died, the others report errors that its death caused.
        for member, answer in sorted(answers, key=lambda pair: not isinstance(pair[1], CallFailure)):
            gang = self._gang_of.get(member)
            if gang is None:
                continue
            if gang.name in self._lost:
                self._handle_lost(self._lost[gang.name], member, answer)
            elif isinstance(answer, CallFailure):
                reason = gang.without_hosts(f"{gang.rank_of(member)} {answer.reason}")
                loss = GangLoss(reason, member, answer.actor_died, ray_message=answer.ray_message)
                self._lose(gang, loss, unclear=not answer.actor_died)
                if not answer.actor_died:
                    self._handle_lost(self._lost[gang.name], member, answer)
            elif answer is not None:
                self._handle(gang, member, answer)

    def _handle(self, gang: Gang, member: Member, answer: Placement | WorkerReport) -> None:
        self._reported[gang.name] = gang
        if isinstance(answer, Placement):
            self._launcher.register_placement(gang, member, answer, self._others(gang))
        else:
            member.silence, member.steps = answer.silence, answer.steps
            for message in answer.messages:
                if message.id is not None:
                    self._handle_row_message(gang, message, message.id)
                else:
                    self._handle_member_message(gang, member, message)
        if gang.name in self._gangs:
            member.poll(self._policy.poll_seconds, self._clock())

    def _handle_row_message(self, gang: Gang, message: WorkerMessage, row_id: str) -> None:
        if message.kind == "returned":
            self._row_queue.put_back(gang.in_flight.take_back(row_id))
            return
        self._listener.row_progressed(gang, message)
        if message.kind == "started":
            gang.in_flight.started.add(row_id)
        elif message.kind == "rendered":
            gang.in_flight.mark_rendered(row_id)
        else:
            gang.in_flight.remove(row_id)
            self._losses[gang.replica] = self._blameless[gang.replica] = 0
            self._proven[gang.replica] = True
            self._pending -= 1
            self._listener.row_ended(message)

    def _handle_member_message(self, gang: Gang, member: Member, message: WorkerMessage) -> None:
        if message.kind == "seated":
            self._launcher.register_rendezvous(gang, member, message.message, self._others(gang))
        elif message.kind == "ready":
            member.ready = True
        elif message.kind == "stuck":
            self.end(RunStopped(message.message))
        elif message.kind == "refused":
            # If another gang has loaded the model, it may have rendered: this is no refusal before start.
            self.end(RunStopped(message.message) if self._count_ready() else Refused(message.message))
        elif message.kind == "broken":
            what = "broke down" if gang.ready else "could not load the model"
            reason = gang.without_hosts(f"{gang.rank_of(member)} {what}: {message.error}: {message.message}")
            error = "WorkerDied" if message.error in (None, GangBroken.__name__) else message.error
            gang.breakdown = gang.breakdown or Breakdown(reason, error, self._clock())
        elif message.kind == "stopped":
            gang.stopped = True
            if gang.breakdown is None or self._interrupts.level > 1:
                self._terminate(gang)

    def _others(self, gang: Gang) -> Iterable[Gang]:
        all_gangs = (*self._gangs.values(), *(lost.gang for lost in self._lost.values()))
        return [other for other in all_gangs if other is not gang]

    # Watching

    def _watch(self, *, everyone: bool) -> None:
        """Give up the gangs that something is wrong with, of those that have reported or of all."""
        now = self._clock()
        # A pause of this process says nothing about the others: such a pause is added to their time.
        paused = max(0.0, now - self._watched_at - 2 * self._policy.poll_seconds)
        self._watched_at = now
        if paused:
            for member in self._gang_of:
                member.polled_at += paused
        for gang in list((self._gangs if everyone else self._reported).values()):
            if loss := self._find_fault(gang, now):
                self._lose(gang, loss)
        if not everyone:
            return
        if self._lost or any(gang.is_placed for gang in self._gangs.values()):
            self._placed_at = now
        elif now - self._placed_at - paused > self._policy.start_seconds:
            self.end(
                RunStopped(
                    f"no worker found a place within {self._policy.start_seconds:g} s: a replica needs "
                    f"{self._launcher.describe_need(1)}, the cluster has {self._launcher.describe_capacity()}"
                )
            )

    def _find_fault(self, gang: Gang, now: float) -> GangLoss | None:
        """Why a gang must be given up; None if it need not."""
        if (breakdown := gang.breakdown) is not None:
            # In a gang of one, nobody else can have died.
            late = now - breakdown.at > self._policy.blame_seconds
            alone = len(gang.members) == 1
            return GangLoss(breakdown.reason, error=breakdown.error) if alone or late else None
        if gang.gathering_since is not None and now - gang.gathering_since > self._policy.gather_seconds:
            missing = [gang.rank_of(member) for member in gang.members if not member.address]
            return GangLoss(f"{', '.join(missing)} did not come within {self._policy.gather_seconds:g} s")
        for member in gang.members:
            if overdue := describe_overdue(member.silence, self._limits):
                return GangLoss(f"{gang.rank_of(member)}: {overdue}", member)
            allowed = self._policy.poll_seconds + answer_limit(member.silence, self._limits)
            if member.placement is not None and now - member.polled_at > allowed:
                return GangLoss(f"{gang.rank_of(member)}: no answer for {allowed:.0f} s", member)
        return None

    def _stop_now(self) -> None:
        """Stop at once: only videos that are being stored are finished."""
        self._listener.tick(self._count_ready(), self._describe_waiting())
        for gang in list(self._gangs.values()):
            if gang.ready and gang.breakdown is None:
                gang.leader.call(WorkerActor.stop, True)
            else:
                self._terminate(gang)
        deadline = self._clock() + self._policy.stop_seconds
        while (self._gangs or self._lost) and self._clock() < deadline:
            self._receive()
            self._settle_lost_gangs()
