"""Stragglers: rows that render for far longer than similar rows, and gangs whose rows do.

Rows of another size or with another number of frames or steps take another time: a row is compared with the
median of the latest similar rows, see `kind_of`.
"""

from __future__ import annotations

import statistics
from collections import OrderedDict, deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from vidgen_dist.output.status_file import SlowGang, SlowRow
from vidgen_dist.request import FIELDS, Field, ResolvedRequest, shape_of

SLOW_ROW = 2.0
"""A row that takes more than this many times the usual seconds is a straggler."""

SLOW_GANG = 1.5
"""A gang is a straggler if its latest rows took, in the median, more than this times the usual seconds."""


@dataclass(frozen=True)
class StragglerPolicy:
    """When times are compared.

    Args:
        min_rows: The fewest rows of a kind, or of a gang, that are judged.
        grace_seconds: Added to both times of a comparison: rows of a second vary by more than rows of an
            hour.
    """

    min_rows: int = 5
    grace_seconds: float = 5.0

    def ratio(self, seconds: float, usual: float) -> float:
        """How many times the usual seconds a time is."""
        return (seconds + self.grace_seconds) / (usual + self.grace_seconds)


Kind = tuple[Any, ...]

_SAMPLES = 64
_OF_A_GANG = 9
_KINDS = 256


@dataclass(frozen=True)
class StartedRow:
    """A row that a gang renders.

    Args:
        row: Its id.
        kind: Which rows it is compared with, see `kind_of`.
        at: When it was begun, by the caller's clock.
    """

    row: str
    kind: Kind
    at: float


class RowTimes:
    """How long rows take, by kind and by gang. Times are seconds of the caller's clock.

    Args:
        fields: The declarations of rows' fields.
        policy: From when on times are compared.
    """

    def __init__(
        self, fields: Mapping[str, Field] = FIELDS, policy: StragglerPolicy = StragglerPolicy()
    ) -> None:
        self._fields = fields
        self._policy = policy
        self._usual: OrderedDict[Kind, deque[float]] = OrderedDict()
        self._ratios: dict[str, deque[float]] = {}
        self._started: dict[str, StartedRow] = {}
        self._rendered: dict[str, dict[str, tuple[Kind, float]]] = {}

    def start(self, gang: str, request: ResolvedRequest, now: float) -> None:
        """Note that a gang begins a row."""
        self._started[gang] = StartedRow(request.id, kind_of(request, self._fields), now)

    def render(self, gang: str, row: str, now: float) -> None:
        """Note that a row has left a gang's model, with or without frames."""
        started = self._started.get(gang)
        if started is not None and started.row == row:
            del self._started[gang]
            self._rendered.setdefault(gang, {})[row] = started.kind, now - started.at

    def end(self, gang: str, row: str, *, done: bool) -> None:
        """Note that a gang's row is done, or has failed: the time of a failed row does not count."""
        rendered = self._rendered.get(gang, {}).pop(row, None)
        if rendered is None or not done:
            return
        kind, seconds = rendered
        self._usual.setdefault(kind, deque(maxlen=_SAMPLES)).append(seconds)
        self._usual.move_to_end(kind)
        if len(self._usual) > _KINDS:
            self._usual.popitem(last=False)
        if (usual := self._usual_seconds(kind)) is not None:
            self._ratios.setdefault(gang, deque(maxlen=_OF_A_GANG)).append(self._policy.ratio(seconds, usual))

    def keep(self, gangs: Collection[str]) -> None:
        """Forget all other gangs."""
        known: tuple[dict[str, Any], ...] = (self._started, self._ratios, self._rendered)
        for by_gang in known:
            for gone in by_gang.keys() - set(gangs):
                del by_gang[gone]

    def row_in_model(self, gang: str) -> StartedRow | None:
        """The row that is in a gang's model."""
        return self._started.get(gang)

    def slow_rows(self, now: float) -> list[SlowRow]:
        """Rows that are stragglers, the slowest first."""
        found = []
        for gang, started in self._started.items():
            usual, seconds = self._usual_seconds(started.kind), now - started.at
            if usual is not None and self._policy.ratio(seconds, usual) > SLOW_ROW:
                found.append(SlowRow(started.row, gang, seconds, usual))
        return sorted(found, key=lambda slow: -self._policy.ratio(slow.seconds, slow.usual_seconds))

    def slow_gangs(self) -> list[SlowGang]:
        """Gangs that are stragglers, the slowest first."""
        medians = {
            gang: statistics.median(ratios)
            for gang, ratios in self._ratios.items()
            if len(ratios) >= self._policy.min_rows
        }
        found = [SlowGang(gang, ratio) for gang, ratio in medians.items() if ratio > SLOW_GANG]
        return sorted(found, key=lambda slow: -slow.times)

    def _usual_seconds(self, kind: Kind) -> float | None:
        samples = self._usual.get(kind, ())
        return statistics.median(samples) if len(samples) >= self._policy.min_rows else None


def kind_of(request: ResolvedRequest, fields: Mapping[str, Field]) -> Kind:
    """What decides how long a request takes on given hardware: its shape, its steps, and guidance or none."""
    return *shape_of(request.values(), fields), request.steps, request.is_guided
