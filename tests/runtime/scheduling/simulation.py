"""Simulated gangs and a simulated clock: a supervisor's launcher without Ray.

The supervisor is the real one. Its gangs have one rank, and behave as workers do as far as the supervisor can
tell: they render one row after the other, keep rendered rows until they are stored, answer polls, give rows
back, stop, and die. A fault of the supervisor raises AssertionError: a row that two gangs have, or that is
entered twice.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from tests.fake_engine import resolved
from vidgen_dist.output.pending_row import PendingRow
from vidgen_dist.runtime.interrupts import Interrupts
from vidgen_dist.runtime.messages import WorkerMessage, WorkerReport
from vidgen_dist.runtime.scheduling.gang import Answer, CallFailure, Gang, Member
from vidgen_dist.runtime.scheduling.policy import SupervisorPolicy
from vidgen_dist.runtime.scheduling.supervisor import Supervisor
from vidgen_dist.runtime.watchdog import LIMITS
from vidgen_dist.runtime.worker.actor import Placement, WorkerActor
from vidgen_dist.spec import TopologyOptions

NEVER = float("inf")


def rows(count: int) -> list[PendingRow]:
    """Rows named "0", "1", …"""
    return rows_with([None] * count)


def rows_with(loras: Iterable[str | None]) -> list[PendingRow]:
    """Rows named "0", "1", … with these LoRAs."""
    return [
        PendingRow(resolved(id=f"{i}", lora=None if lora is None else (lora,), lora_scale=lora and (1.0,)))
        for i, lora in enumerate(loras)
    ]


@dataclass(frozen=True)
class GangBehaviour:
    """How simulated gangs behave. All seconds are of simulated time.

    Args:
        render: Id of a row, number of a replica -> seconds that it takes.
        life: Name of a gang -> seconds from its loaded model until it dies.
        killers: Ids of rows that kill the gang that begins them.
        load: Seconds until a model is loaded.
        write: Seconds until a rendered row is stored.
        latency: Seconds that a message takes.
        call: Seconds that the driver spends on sending or receiving a message.
        charged: Whether the supervisor's own processor time passes on the simulated clock.
    """

    render: Callable[[str, int], float]
    life: Callable[[str], float] = lambda _: NEVER
    killers: frozenset[str] = frozenset()
    load: float = 60.0
    write: float = 2.0
    latency: float = 0.002
    call: float = 0.0
    charged: bool = False


@dataclass(eq=False)
class Actor:
    """A simulated worker.

    Args:
        gang: Name of its gang.
        replica: Number of its replica.
        node: Its node; empty while it waits for a place.
        ready_at: When its model was loaded; None before.
        ended_at: When it died or was killed; None before.
        held: Id -> row, of the rows that it has and that are not done, in the order of rendering.
        waiting: Ids of those that it has not begun.
        rendering: Id of the row in the model, and since when.
        busy: (begin, end) of the rendering of each row.
        messages: What it has to report.
        polled_at: When the poll came that it has not answered; None if there is none.
    """

    gang: str
    replica: int
    node: str = ""
    ready_at: float | None = None
    ended_at: float | None = None
    held: dict[str, PendingRow] = field(default_factory=dict)
    waiting: deque[str] = field(default_factory=deque)
    rendering: tuple[str, float] | None = None
    busy: list[tuple[float, float]] = field(default_factory=list)
    messages: list[WorkerMessage] = field(default_factory=list)
    polled_at: float | None = None
    stopping: bool = False


class Simulation:
    """Takes the place of `Launcher`, and of the run that listens to the supervisor.

    Args:
        behaviour: How gangs behave.
        nodes: Name -> how many gangs have room there.
    """

    def __init__(self, behaviour: GangBehaviour, nodes: Mapping[str, int]) -> None:
        self.behaviour = behaviour
        self.now = 0.0
        self.actors: list[Actor] = []
        self.done_at: dict[str, float] = {}
        self.given_up: dict[str, str] = {}
        self.driver_seconds = 0.0
        self.messages = 0
        self._room = dict(nodes)
        self._members: dict[Actor, Member] = {}
        self._holder: dict[str, Actor] = {}
        self._answers: list[tuple[Member, Answer]] = []
        self._agenda: list[tuple[float, int, Callable[[float], None]]] = []
        self._numbers = itertools.count()
        self._since = time.process_time()

    # What a supervisor calls of a launcher

    def clock(self) -> float:
        return self.now + (time.process_time() - self._since if self.behaviour.charged else 0.0)

    def launch(self, replica: int, name: str) -> Gang:
        actor = Actor(name, replica)
        member = Member(actor, self._call)
        self.actors.append(actor)
        self._members[actor] = member
        self._find_places(self.clock())
        return Gang(replica, name, [member], self.clock())

    def terminate(self, gang: Gang) -> None:
        for member in gang.members:
            self.at(
                self.clock() + self.behaviour.latency, lambda at, actor=member.actor: self._end(actor, at)
            )

    def register_placement(
        self, _gang: Gang, member: Member, placement: Placement, _others: Iterable[Gang]
    ) -> None:
        member.placement = placement
        member.call(WorkerActor.start, None)

    def has_lost_node(self, gang: Gang) -> bool:
        return any(member.actor.node and member.actor.node not in self._room for member in gang.members)

    def describe_need(self, gangs: int) -> str:
        return f"{gangs} places"

    def describe_capacity(self) -> str:
        return f"{sum(self._room.values())} more"

    def receive(self, seconds: float) -> list[tuple[Member, Answer]]:
        spent = time.process_time() - self._since
        self.driver_seconds += spent
        if self.behaviour.charged:
            self.now += spent
        until = self.now + seconds
        while self._agenda and self._agenda[0][0] <= (self.now if self._answers else until):
            at, _, act = heapq.heappop(self._agenda)
            self.now = max(self.now, at)
            act(at)
        if not self._answers:
            self.now = until
        answers, self._answers = self._answers, []
        self.messages += len(answers)
        self.now += self.behaviour.call * len(answers)
        self._since = time.process_time()
        return answers

    # Scheduled events

    def at(self, when: float, act: Callable[[float], None]) -> None:
        """Call `act` at a time; it gets that time."""
        heapq.heappush(self._agenda, (when, next(self._numbers), act))

    def join(self, node: str, room: int) -> None:
        """Add a node to the cluster."""
        self._room[node] = room
        self._find_places(self.now)

    def leave(self, node: str) -> None:
        """Remove a node, with all actors on it."""
        del self._room[node]
        for actor in [actor for actor in self.actors if actor.node == node]:
            self._end(actor, self.now)

    def on(self, node: str) -> list[Actor]:
        """The actors that are or were on a node."""
        return [actor for actor in self.actors if actor.node == node]

    # Workers

    def _find_places(self, at: float) -> None:
        for actor in self.actors:
            free = next((node for node, room in self._room.items() if room), None)
            if free is None:
                return
            if not actor.node and actor.ended_at is None:
                self._room[free] -= 1
                actor.node = free
                self._answer(actor, at, Placement(free, "10.0.0.1", (), ()))

    def _call(self, member: Member, method: Callable[..., object], /, *arguments: object) -> None:
        actor: Actor = member.actor
        self.messages += 1
        self.now += self.behaviour.call
        arrival = self.clock() + self.behaviour.latency

        def arrive(at: float) -> None:
            if actor.ended_at is not None:
                self._answer(actor, at, CallFailure("it is dead", actor_died=True))
            else:
                getattr(self, f"_{method.__name__}")(actor, at, *arguments)

        self.at(arrival, arrive)

    def _answer(self, actor: Actor, at: float, answer: Answer) -> None:
        member = self._members[actor]
        self.at(at + self.behaviour.latency, lambda _: self._answers.append((member, answer)))

    def _send(self, actor: Actor, at: float, *messages: WorkerMessage) -> None:
        actor.messages += messages
        if actor.polled_at is not None and actor.messages:
            report = WorkerReport(tuple(actor.messages), {})
            actor.messages, actor.polled_at = [], None
            self._answer(actor, at, report)

    def _start(self, actor: Actor, at: float, _cores: object) -> None:
        def load(at: float) -> None:
            if actor.ended_at is None:
                actor.ready_at = at
                self._send(actor, at, WorkerMessage("ready"))
                self.at(at + self.behaviour.life(actor.gang), lambda at: self._end(actor, at))

        self.at(at + self.behaviour.load, load)

    def _poll(self, actor: Actor, at: float, seconds: float) -> None:
        actor.polled_at = at
        self._send(actor, at)

        def give_up(until: float) -> None:
            if actor.polled_at == at and actor.ended_at is None:
                actor.polled_at = None
                self._answer(actor, until, WorkerReport((), {}))

        if actor.polled_at is not None:
            self.at(at + seconds, give_up)

    def _submit(self, actor: Actor, at: float, shard: list[PendingRow]) -> None:
        for row in shard:
            assert row.id not in self._holder, f"two gangs have {row.id}"
            assert row.id not in self.done_at, f"{row.id} is done and is handed out again"
            self._holder[row.id] = actor
            actor.held[row.id] = row
            actor.waiting.append(row.id)
        self._begin(actor, at)

    def _begin(self, actor: Actor, at: float) -> None:
        if actor.stopping and actor.rendering is None:
            if all(row_id in actor.waiting for row_id in actor.held):
                self._send(actor, at, WorkerMessage("stopped"))
            return
        if actor.rendering is not None or not actor.waiting:
            return
        row_id = actor.waiting.popleft()
        actor.rendering = row_id, at
        self._send(actor, at, WorkerMessage("started", row_id))
        if row_id in self.behaviour.killers:
            self._end(actor, at)
            return
        seconds = self.behaviour.render(row_id, actor.replica)
        self.at(at + seconds, lambda at: self._end_rendering(actor, at, row_id))

    def _end_rendering(self, actor: Actor, at: float, row_id: str) -> None:
        if actor.ended_at is not None or actor.rendering is None or actor.rendering[0] != row_id:
            return
        actor.busy.append((actor.rendering[1], at))
        actor.rendering = None
        self._send(actor, at, WorkerMessage("rendered", row_id))
        self.at(at + self.behaviour.write, lambda at: self._end_writing(actor, at, row_id))
        self._begin(actor, at)

    def _end_writing(self, actor: Actor, at: float, row_id: str) -> None:
        if actor.ended_at is not None:
            return
        del actor.held[row_id]
        del self._holder[row_id]
        self._send(actor, at, WorkerMessage("done", row_id))
        self._begin(actor, at)

    def _give_back(self, actor: Actor, at: float, count: int) -> None:
        back = [actor.waiting.pop() for _ in range(min(count, len(actor.waiting)))]
        for row_id in back:
            del actor.held[row_id]
            del self._holder[row_id]
        self._send(actor, at, *(WorkerMessage("returned", row_id) for row_id in back))

    def _stop(self, actor: Actor, at: float, now: bool) -> None:
        actor.stopping = True
        if now and actor.rendering is not None:
            actor.held.pop(actor.rendering[0])
            self._holder.pop(actor.rendering[0])
            actor.rendering = None
        self._begin(actor, at)

    def _end(self, actor: Actor, at: float) -> None:
        """Let an actor die, or be killed, and free its place."""
        if actor.ended_at is not None:
            return
        actor.ended_at = at
        if actor.rendering is not None:
            actor.busy.append((actor.rendering[1], at))
        for row_id in actor.held:
            self._holder.pop(row_id, None)
        if actor.polled_at is not None:
            self._answer(actor, at, CallFailure("it died", actor_died=True))
        if actor.node in self._room:
            self._room[actor.node] += 1
            self._find_places(at)

    # What a supervisor reports

    def row_progressed(self, gang: Gang, message: WorkerMessage) -> None:
        pass

    def row_ended(self, message: WorkerMessage) -> None:
        assert message.id is not None
        assert message.id not in self.done_at, f"{message.id} is entered twice"
        assert message.id not in self.given_up
        self.done_at[message.id] = self.clock()

    def row_given_up(self, row: PendingRow, error: str, message: str) -> None:
        assert row.id not in self.done_at
        assert row.id not in self.given_up
        self.given_up[row.id] = f"{error}: {message}"

    def gang_lost(self, gang: Gang, why: str) -> None:
        pass

    def output_fault(self) -> str:
        return ""

    def tick(self, ready: int, waiting: str) -> None:
        pass

    # A run

    def supervisor(
        self,
        count: int,
        replicas: int,
        *,
        shard_size: int = TopologyOptions().shard_size,
        pending: list[PendingRow] | None = None,
    ) -> Supervisor:
        """A supervisor of these gangs, for these rows, by default some named "0", "1", …"""
        return Supervisor(
            launcher=self,
            replicas=replicas,
            run="run",
            rows=iter(rows(count) if pending is None else pending),
            pending=count,
            shard_size=shard_size,
            max_attempts=3,
            limits=LIMITS["ascend"],
            listener=self,
            interrupts=Interrupts(),
            policy=SupervisorPolicy(),
        )

    def busy_share(self, share: float = 0.99) -> float:
        """The share of time that loaded gangs rendered, until this share of rows is done."""
        until = sorted(self.done_at.values())[int(len(self.done_at) * share) - 1]
        busy = loaded = 0.0
        for actor in self.actors:
            if actor.ready_at is not None:
                loaded += max(0.0, min(until, actor.ended_at or until) - actor.ready_at)
                busy += sum(max(0.0, min(until, end) - begin) for begin, end in actor.busy)
                if actor.rendering is not None and actor.ended_at is None:
                    busy += max(0.0, until - actor.rendering[1])
        return busy / loaded

    def tail(self, share: float = 0.99) -> float:
        """Seconds from when this share of rows is done until all are."""
        ended = sorted(self.done_at.values())
        return ended[-1] - ended[int(len(ended) * share) - 1]
