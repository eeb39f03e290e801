"""A gang as its supervisor knows it: the ranks that render one video together."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec, Protocol

from vidgen_dist.runtime.messages import WorkerReport
from vidgen_dist.runtime.scheduling.row_queue import RowsInFlight
from vidgen_dist.runtime.worker.actor import Placement, WorkerActor

P = ParamSpec("P")


@dataclass(frozen=True)
class CallFailure:
    """Why a call has no answer.

    Args:
        reason: A description that names no host, because it may be stored beside the videos.
        actor_died: Whether Ray says that the actor is dead; otherwise it may be unreachable for a moment.
        ray_message: Ray's own message, in one line, with addresses.
    """

    reason: str
    actor_died: bool
    ray_message: str = ""


Answer = Placement | WorkerReport | CallFailure | None
"""The result of a call: of `get_placement`, of `poll`, of a call that failed; None of any other."""


class ActorCaller(Protocol):
    """Calls a method of a member's actor and returns at once."""

    def __call__(
        self, member: Member, method: Callable[..., object], /, *arguments: Any, **keywords: Any
    ) -> None: ...


@dataclass(eq=False)
class Member:
    """A rank of a gang, or an actor that will become one.

    Args:
        actor: Its handle.
        caller: Calls a method of the actor; the answer comes later.
        polled_at: When it was last polled.
        placement: Where it runs; None until it has answered that.
        slot: Its number among our actors on its node.
        address: Its rendezvous's address; empty until the rendezvous is open.
        ready: Whether its model is loaded.
        silence: Stage -> seconds without a sign of life, from its latest report.
        steps: Steps done, and steps of the stage, likewise.
    """

    actor: Any
    caller: ActorCaller
    polled_at: float = 0.0
    placement: Placement | None = None
    slot: int = -1
    address: str = ""
    ready: bool = False
    silence: Mapping[str, float] = field(default_factory=dict)
    steps: tuple[int, int] | None = None

    def call(
        self, method: Callable[Concatenate[WorkerActor, P], object], *arguments: P.args, **keywords: P.kwargs
    ) -> None:
        """Call a method of its actor, such as `WorkerActor.submit`, without waiting for the answer."""
        self.caller(self, method, *arguments, **keywords)

    def poll(self, seconds: float, now: float) -> None:
        """Ask for a report; the worker waits up to `seconds` for something to report."""
        self.polled_at = now
        self.call(WorkerActor.poll, seconds)


@dataclass(frozen=True)
class Breakdown:
    """What a member of a gang reported as wrong with it.

    Args:
        reason: A description that names no host.
        error: Class of the error.
        at: When it was reported.
    """

    reason: str
    error: str
    at: float


@dataclass(eq=False)
class Gang:
    """One replica: its members render a video together.

    Args:
        replica: Number of the replica that it is.
        name: Its name in the ledger.
        members: In the order of ranks, once all have a placement.
        launched: When it was launched.
        group: Its placement group; None for a gang of one.
        in_flight: Rows that it has.
        gathering_since: When the first of several members had a placement; None before, and once all have
            joined.
        stopping: Whether its leader was told to stop.
        stopped: Whether its leader has reported that it will write no more.
        breakdown: The first thing that a member reported as wrong with it.
    """

    replica: int
    name: str
    members: list[Member]
    launched: float
    group: Any = None
    in_flight: RowsInFlight = field(default_factory=RowsInFlight)
    gathering_since: float | None = None
    stopping: bool = False
    stopped: bool = False
    breakdown: Breakdown | None = None

    @property
    def leader(self) -> Member:
        return self.members[0]

    @property
    def is_placed(self) -> bool:
        """Whether a member has a placement; then the others have theirs, too."""
        return any(member.placement is not None for member in self.members)

    @property
    def ready(self) -> bool:
        """Whether all models are loaded."""
        return all(member.ready for member in self.members)

    def rank_of(self, member: Member) -> str:
        """A member's name in messages: its rank, node and NPUs."""
        if len(self.members) == 1:
            return "the worker"
        where = ""
        if (placement := member.placement) is not None:
            where = f" on {', NPU '.join((placement.host, *placement.devices))}"
        return self.without_hosts(f"rank {self.members.index(member)}{where}")

    def without_hosts(self, text: str) -> str:
        """A text with the addresses of the gang's nodes replaced by numbers, from 1 in the order of ranks."""
        hosts = dict.fromkeys(
            member.placement.host for member in self.members if member.placement is not None
        )
        for number, host in enumerate(hosts, 1):
            text = re.sub(rf"(?<![\w.:]){re.escape(host)}(?!\.?\w)", f"node {number}", text)
        return text
