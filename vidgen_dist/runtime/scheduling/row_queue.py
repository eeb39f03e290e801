"""Which rows go to a gang next, and which come back.

Rows go out a shard at a time. Of the rows that a dead gang had, those that it can have died of count one
death and are from then on rendered alone, with nothing beside them in their gang, so that a second death
has one suspect; the others go back as they were. After a loss, whether the gang or its row was at fault
shows with another row, but not with its neighbours, which may have what it has. When no row is left to go
out, gangs that have nothing to do get what others have not begun.

A shard is a few rows, or as many as a gang renders in a second where that is more: rows whose image is
missing are done with in no time, and a message to a gang or from one costs the driver as much as many rows.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from vidgen_dist.output.pending_row import PendingRow

RESTART_DEATHS = 2
"""A row that so many gangs have died with begins at step 0: they may have died of what was saved of it.
One that has no further attempt is given up, what was saved of it goes, and so it begins in the next run."""


FEW_ROWS = 8
"""A shard of a gang that takes longer than `SHARD_SECONDS` for it, at most."""

SHARD_SECONDS = 1.0
"""For which a gang gets rows at once where it renders more than `FEW_ROWS` in it, by its latest shard."""

WINDOW, MAX_WINDOW = 16, 4096
"""After a loss a replica gets one of the next `WINDOW` rows, after two of `WINDOW` squared, and so on."""


@dataclass
class QueuedRow:
    """A row, how many gangs have died with it, and whether it was in the hand of one that is lost."""

    row: PendingRow
    deaths: int = 0
    lost: bool = False

    @property
    def order(self) -> PendingRow:
        """The row as the next gang is told of it."""
        return dataclasses.replace(
            self.row, restart=self.deaths >= RESTART_DEATHS, maybe_stored=self.row.maybe_stored or self.lost
        )


@dataclass
class RowsInFlight:
    """The rows that a gang has and that are not done.

    Args:
        tasks: Id -> task, in the order of rendering.
        ahead: Ids of those that have not left the model.
        started: Ids of those that are known to have been begun.
        asked_back: How many the gang was asked to give back and did not, since a row last left its model.
        fed: When it last got rows, and how many; None if it has not yet.
    """

    tasks: dict[str, QueuedRow] = field(default_factory=dict)
    ahead: set[str] = field(default_factory=set)
    started: set[str] = field(default_factory=set)
    asked_back: int = 0
    fed: tuple[float, int] | None = None

    @property
    def spare(self) -> int:
        """How many rows wait behind the one in the model and were not asked for."""
        return max(0, len(self.ahead) - 1 - self.asked_back)

    def portion(self, now: float) -> int:
        """How many rows a gang could do with that is back for more."""
        if self.fed is None:
            return FEW_ROWS
        since, count = self.fed
        return max(FEW_ROWS, int(count * SHARD_SECONDS / max(now - since, 1e-3)))

    def take(self, shard: list[QueuedRow], now: float) -> None:
        """Add rows behind those that are there."""
        self.fed = now, len(shard)
        for task in shard:
            self.tasks[task.row.id] = task
            self.ahead.add(task.row.id)

    def rendered(self, row_id: str) -> None:
        """A row has left the model."""
        self.ahead.discard(row_id)
        # What was not given back by now had been begun.
        self.asked_back = 0

    def returned(self, row_id: str) -> QueuedRow:
        """A row was not begun, and is given back."""
        self.asked_back = max(0, self.asked_back - 1)
        return self.drop(row_id)

    def drop(self, row_id: str) -> QueuedRow:
        """A row is done, failed, or no longer the gang's."""
        self.ahead.discard(row_id)
        self.started.discard(row_id)
        return self.tasks.pop(row_id)

    def suspects(self, *, writing: bool) -> set[str]:
        """The rows that a gang can have died of: begun and not done, or the next if the news was lost.

        Args:
            writing: Whether it can have died of writing a row; else only of what was in the model.
        """
        begun = {row_id for row_id in self.tasks if row_id in self.started}
        following = next((row_id for row_id in self.tasks if row_id not in begun), None)
        nothing_in_the_model = not (begun & self.ahead)
        suspects = begun if writing else begun & self.ahead
        return suspects | ({following} if following is not None and nothing_in_the_model else set())


class RowQueue:
    """The rows that no gang has.

    Args:
        rows: The rows that are to be rendered.
        pending: How many there are.
        shard_size: How many a gang gets at once, at most.
        replicas: How many gangs share them.
    """

    def __init__(self, rows: Iterator[PendingRow], pending: int, shard_size: int, replicas: int) -> None:
        self._rows = rows
        self._unsent = pending
        self._shard_size = shard_size
        self._replicas = replicas
        self._alone: deque[QueuedRow] = deque()
        self._back: deque[QueuedRow] = deque()

    @property
    def empty(self) -> bool:
        """Whether there is nothing left."""
        return not self._unsent and not self._alone and not self._back

    def put_back(self, task: QueuedRow) -> None:
        """A row comes back; one that gangs died with will be rendered alone."""
        (self._alone if task.deaths else self._back).append(task)

    def has_room(self, in_flight: RowsInFlight, *, losses: int = 0) -> bool:
        """Whether a gang could do with more rows than these; `losses` as for `next_shard`."""
        # One row ahead keeps the model busy. Towards the end a gang gets no row that it would only hold
        # while others have nothing to do.
        lookahead = 1 if self._unsent > 2 * self._replicas else 0
        if len(in_flight.ahead) > lookahead or any(task.deaths for task in in_flight.tasks.values()):
            return False
        return not (losses and in_flight.tasks)

    def next_shard(self, in_flight: RowsInFlight, now: float, *, losses: int = 0) -> list[QueuedRow]:
        """What a gang gets next, which has these rows; nothing while it has enough, or there is none.

        Args:
            hand: What it has.
            now: The time, in seconds.
            losses: Gangs that its replica has lost since it last did a row. With any, rows that no gang has
                died with come first, as long as there are any, one at a time and from ever farther away.

        Raises:
            OSError: The manifest cannot be read any more.
        """
        if not self.has_room(in_flight, losses=losses):
            return []
        if losses and (self._back or self._unsent):
            return [self._one_elsewhere(losses)]
        if self._alone:
            # The first gang that has nothing left takes it.
            return [] if in_flight.tasks else [self._alone.popleft()]
        if self._back:
            return [self._back.popleft()]
        # Shards shrink, so that all gangs end at about the same time.
        most = min(self._shard_size, in_flight.portion(now))
        return self._read(max(1, min(most, self._unsent // (2 * self._replicas))))

    def _read(self, count: int) -> list[QueuedRow]:
        tasks = [QueuedRow(row) for row in itertools.islice(self._rows, count)]
        self._unsent -= len(tasks)
        return tasks

    def _one_elsewhere(self, losses: int) -> QueuedRow:
        """One of the next rows that no gang has died with, each time in another part of them."""
        window = min(WINDOW**losses, MAX_WINDOW)
        self._back.extend(self._read(max(0, window - len(self._back))))
        place = int(_spread(losses) * min(window, len(self._back)))
        task = self._back[place]
        del self._back[place]
        return task


def _spread(number: int) -> float:
    """The numbers 1, 2, 3, … as 1/2, 1/4, 3/4, 1/8, …: however many, they are spread over 0 to 1."""
    bits = f"{number:b}"
    return int(bits[::-1], 2) / 2 ** len(bits)


def to_ask_back(all_in_flight: Sequence[RowsInFlight], wanted: int) -> list[int]:
    """How many rows to ask back of each gang, so that those which have most give most.

    Args:
        hands: What each has.
        wanted: How many rows others could begin.
    """
    counts = [0] * len(all_in_flight)
    most = [(-in_flight.spare, place) for place, in_flight in enumerate(all_in_flight) if in_flight.spare]
    heapq.heapify(most)
    while most and wanted > 0:
        spare, place = most[0]
        counts[place] += 1
        wanted -= 1
        if spare == -1:
            heapq.heappop(most)
        else:
            heapq.heapreplace(most, (spare + 1, place))
    return counts
