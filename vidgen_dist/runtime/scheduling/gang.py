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
        why: A description that names no host, for it may be stored beside the videos.
        dead: Whether Ray says that the actor is dead; otherwise it may be out of reach for the moment.
        said: Ray's own account, in one line, with addresses.
    """

    why: str
    dead: bool
    said: str = ""


Answer = Placement | WorkerReport | CallFailure | None
"""What comes of a call: of `where`, of `poll`, of one that failed; None of any other."""


class Post(Protocol):
    """Calls a method of a member's actor and returns at once."""

    def __call__(
        self, member: Member, method: Callable[..., object], /, *arguments: Any, **keywords: Any
    ) -> None: ...


@dataclass(eq=False)
class Member:
    """One rank of a gang, or what will be one.

    Args:
        actor: Its handle.
        post: Calls a method of its actor; the answer comes later.
        asked: When it was last asked for news.
        place: Where it runs; None until it says.
        slot: Its place among our actors on its node.
        address: Its rendezvous's address; empty until it has opened one.
        ready: Whether its model is loaded.
        silent: What its latest report said of its signs of life.
    """

    actor: Any
    post: Post
    asked: float = 0.0
    place: Placement | None = None
    slot: int = -1
    address: str = ""
    ready: bool = False
    silent: Mapping[str, float] = field(default_factory=dict)

    def call(
        self, method: Callable[Concatenate[WorkerActor, P], object], *arguments: P.args, **keywords: P.kwargs
    ) -> None:
        """Call a method of its actor, such as `WorkerActor.submit`; nothing is waited for."""
        self.post(self, method, *arguments, **keywords)

    def poll(self, seconds: float, now: float) -> None:
        """Ask for news, for so long."""
        self.asked = now
        self.call(WorkerActor.poll, seconds)


@dataclass(eq=False)
class Gang:
    """One replica: its members render a video together.

    Args:
        replica: Which replica it stands for.
        name: What the ledger calls it.
        members: In the order of ranks, once all have a place.
        launched: When it was launched.
        group: Its placement group; None for a gang of one.
        in_flight: The rows that it has.
        gathering_since: When the first of several had a place; None before, and once all have joined.
        stopping: Whether its leader was told to stop.
        stopped: Whether its leader said that it has written all that it will.
        broken: What a member said is wrong with it, the error's class, and when.
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
