"""Stragglers: rows that render for far longer than others like them, and gangs on which rows do.

Rows of other sizes, frames or steps take other times: a row is compared with the median of the latest ones
like it, see `kind_of`.
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
"""Times the usual seconds after which a row is a straggler."""

SLOW_GANG = 1.5
"""Times the usual seconds at which a gang is one, in the median of its latest rows."""

GRACE_SECONDS = 5.0
"""Added to what is compared: rows of a second vary by more than rows of an hour."""

ENOUGH = 5
"""Rows of a kind, or of a gang, on which a judgement may rest."""

Kind = tuple[Any, ...]

_SAMPLES = 64
_OF_A_GANG = 9
_KINDS = 256


@dataclass(frozen=True)
class StartedRow:
    """A row that a gang renders.

    Args:
        row: Its id.
        kind: What rows it is compared with, see `kind_of`.
        at: When it was begun, by the clock of the one who keeps `Paces`.
    """

    row: str
    kind: Kind
    at: float


class Paces:
    """How long rows take, by kind and by gang. Times are seconds of any one clock.

    Args:
        fields: The declarations of what rows have.
    """

    def __init__(self, fields: Mapping[str, Field] = FIELDS) -> None:
        self._fields = fields
        self._usual: OrderedDict[Kind, deque[float]] = OrderedDict()
        self._times: dict[str, deque[float]] = {}
        self._begun: dict[str, StartedRow] = {}
        self._rendered: dict[str, dict[str, tuple[Kind, float]]] = {}

    def started(self, gang: str, request: ResolvedRequest, now: float) -> None:
        """A gang begins a row."""
        self._begun[gang] = StartedRow(request.id, kind_of(request, self._fields), now)

    def rendered(self, gang: str, row: str, now: float) -> None:
        """A row has left a gang's model, with frames or without."""
        begun = self._begun.get(gang)
        if begun is not None and begun.row == row:
            del self._begun[gang]
            self._rendered.setdefault(gang, {})[row] = begun.kind, now - begun.at

    def ended(self, gang: str, row: str, *, done: bool) -> None:
        """A gang's row is done, or failed: how long it took to fail says nothing."""
        rendered = self._rendered.get(gang, {}).pop(row, None)
        if rendered is None or not done:
            return
        kind, seconds = rendered
        self._usual.setdefault(kind, deque(maxlen=_SAMPLES)).append(seconds)
        self._usual.move_to_end(kind)
        if len(self._usual) > _KINDS:
            self._usual.popitem(last=False)
        if (usual := self._usual_seconds(kind)) is not None:
            self._times.setdefault(gang, deque(maxlen=_OF_A_GANG)).append(_times(seconds, usual))

    def keep(self, gangs: Collection[str]) -> None:
        """Forget the gangs that are no more."""
        known: tuple[dict[str, Any], ...] = (self._begun, self._times, self._rendered)
        for of_gangs in known:
            for gone in of_gangs.keys() - set(gangs):
                del of_gangs[gone]

    def begun(self, gang: str) -> StartedRow | None:
        """The row that is in a gang's model."""
        return self._begun.get(gang)

    def slow_rows(self, now: float) -> list[SlowRow]:
        """Rows that are stragglers, the slowest first."""
        found = []
        for gang, begun in self._begun.items():
            usual, seconds = self._usual_seconds(begun.kind), now - begun.at
            if usual is not None and _times(seconds, usual) > SLOW_ROW:
                found.append(SlowRow(begun.row, gang, seconds, usual))
        return sorted(found, key=lambda slow: -_times(slow.seconds, slow.usual_seconds))

    def slow_gangs(self) -> list[SlowGang]:
        """Gangs that are stragglers, the slowest first."""
        medians = {
            gang: statistics.median(times) for gang, times in self._times.items() if len(times) >= ENOUGH
        }
        found = [SlowGang(gang, times) for gang, times in medians.items() if times > SLOW_GANG]
        return sorted(found, key=lambda slow: -slow.times)

    def _usual_seconds(self, kind: Kind) -> float | None:
        samples = self._usual.get(kind, ())
        return statistics.median(samples) if len(samples) >= ENOUGH else None


def kind_of(request: ResolvedRequest, fields: Mapping[str, Field]) -> Kind:
    """What decides how long a request takes on the same hardware: its shape, steps, and guidance or none."""
    return *shape_of(request.values(), fields), request.steps, request.is_guided


def _times(seconds: float, usual: float) -> float:
    return (seconds + GRACE_SECONDS) / (usual + GRACE_SECONDS)
