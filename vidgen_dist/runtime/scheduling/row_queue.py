"""Which rows go to a gang next, and which come back.

Rows go out a shard at a time. When a gang dies, each row that may have killed it counts one death. From then
on such a row is rendered alone, with no other row in its gang, so that a second death has one suspect. The
gang's other rows go back unchanged. After a loss, another row shows whether the gang or its row was at fault;
a neighbour of the row does not, for it may have the same defect. When no row is left to hand out, idle gangs
get rows that other gangs have not begun.

Rows of a shard have the same LoRAs: if possible those that the gang has in its weights, otherwise those that
no other gang has.

A shard is a few rows, or as many as a gang renders in a second where that is more: rows whose image is
missing take no time, and a message to or from a gang costs the driver as much as many rows.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from vidgen_dist.output.pending_row import PendingRow

RESTART_DEATHS = 2
"""A row that this many gangs have died with begins at step 0: its resume state may have killed them. A row
without a further attempt is given up and its resume state removed: the next run begins it at step 0, too."""


FEW_ROWS = 8
"""The most rows in a shard for a gang that takes longer than `SHARD_SECONDS` for them."""

SHARD_SECONDS = 1.0
"""A gang gets as many rows as it renders in this time, judged by its latest shard, if these are more than
`FEW_ROWS`."""

WINDOW, MAX_WINDOW = 16, 4096
"""After one loss a replica gets one of the next `WINDOW` rows, after two of `WINDOW` squared, and so on."""


LORA_WINDOW, LORA_WINDOW_BYTES = 4096, 64 * 2**20
"""Among so many of the next rows, of one priority, those with a gang's LoRAs are looked for; among fewer if
these take more memory: rows may carry images."""

Loras = tuple[tuple[str, float], ...]
"""The LoRAs of a row with their scales, beside the run's."""


@dataclass
class QueuedRow:
    """A row, how many gangs have died with it, and whether a gang had it when that gang was lost."""

    row: PendingRow
    deaths: int = 0
    lost: bool = False

    @property
    def assignment(self) -> PendingRow:
        """The row as it is sent to the next gang."""
        return dataclasses.replace(
            self.row, restart=self.deaths >= RESTART_DEATHS, maybe_stored=self.row.maybe_stored or self.lost
        )


@dataclass
class RowsInFlight:
    """The rows that a gang has and that are not done.

    Args:
        rows: Id -> row, in the order of rendering.
        ahead: Ids of rows that have not left the model.
        started: Ids of rows that are known to have begun.
        asked_back: How many rows the gang was asked for and has not given back, since a row last left its
            model.
        last_shard: When it last got rows, and how many; None if it has got none yet.
        loras: The LoRAs of the last row that it got; None if it has got none yet.
    """

    rows: dict[str, QueuedRow] = field(default_factory=dict)
    ahead: set[str] = field(default_factory=set)
    started: set[str] = field(default_factory=set)
    asked_back: int = 0
    last_shard: tuple[float, int] | None = None
    loras: Loras | None = None

    @property
    def spare(self) -> int:
        """How many rows wait behind the one in the model and were not asked back."""
        return max(0, len(self.ahead) - 1 - self.asked_back)

    def shard_limit(self, now: float) -> int:
        """How many rows a gang that asks for more should get at most."""
        if self.last_shard is None:
            return FEW_ROWS
        since, count = self.last_shard
        return max(FEW_ROWS, int(count * SHARD_SECONDS / max(now - since, 1e-3)))

    def add(self, shard: list[QueuedRow], now: float) -> None:
        """Add rows behind those that the gang has."""
        self.last_shard = now, len(shard)
        for queued in shard:
            self.rows[queued.row.id] = queued
            self.ahead.add(queued.row.id)
            self.loras = queued.row.request.loras

    def mark_rendered(self, row_id: str) -> None:
        """Note that a row has left the model."""
        self.ahead.discard(row_id)
        # Rows that were not given back by now had begun.
        self.asked_back = 0

    def take_back(self, row_id: str) -> QueuedRow:
        """Remove a row that the gang gave back because it had not begun it."""
        self.asked_back = max(0, self.asked_back - 1)
        return self.remove(row_id)

    def remove(self, row_id: str) -> QueuedRow:
        """Remove a row that is done, has failed, or is no longer the gang's."""
        self.ahead.discard(row_id)
        self.started.discard(row_id)
        return self.rows.pop(row_id)

    def suspects(self, *, writing: bool) -> set[str]:
        """The rows that may have killed a gang.

        They are those begun and not done, or the next one, whose start may have gone unreported.

        Args:
            writing: Whether writing a row may have killed it; otherwise only the row in the model may have.
        """
        begun = {row_id for row_id in self.rows if row_id in self.started}
        following = next((row_id for row_id in self.rows if row_id not in begun), None)
        nothing_in_the_model = not (begun & self.ahead)
        suspects = begun if writing else begun & self.ahead
        return suspects | ({following} if following is not None and nothing_in_the_model else set())


class RowQueue:
    """The rows that no gang has.

    Args:
        rows: The rows to be rendered.
        pending: Their number.
        shard_size: The most rows that a gang gets at once.
        replicas: The number of gangs that share them.
    """

    def __init__(self, rows: Iterator[PendingRow], pending: int, shard_size: int, replicas: int) -> None:
        self._rows = rows
        self._unsent = pending
        self._shard_size = shard_size
        self._replicas = replicas
        self._suspected: deque[QueuedRow] = deque()
        self._returned: deque[QueuedRow] = deque()
        self._read: dict[Loras, deque[QueuedRow]] = {}
        self._num_read = self._bytes_read = 0
        self._not_yet: PendingRow | None = None
        self._priority = 0

    @property
    def empty(self) -> bool:
        """Whether no row is left."""
        return not self._unsent and not self._suspected and not self._returned

    def put_back(self, queued: QueuedRow) -> None:
        """Put a row back; if gangs have died with it, it will be rendered alone."""
        (self._suspected if queued.deaths else self._returned).append(queued)

    def has_room(self, in_flight: RowsInFlight, *, losses: int = 0) -> bool:
        """Whether a gang with these rows should get more; `losses` as for `next_shard`."""
        # One row ahead keeps the model busy. Towards the end a gang gets no row that would only wait in it
        # while other gangs are idle.
        lookahead = 1 if self._unsent > 2 * self._replicas else 0
        if len(in_flight.ahead) > lookahead or any(queued.deaths for queued in in_flight.rows.values()):
            return False
        return not (losses and in_flight.rows)

    def next_shard(
        self, in_flight: RowsInFlight, now: float, *, losses: int = 0, others: Collection[Loras] = ()
    ) -> list[QueuedRow]:
        """The rows that a gang gets next; none if it has enough or none is left.

        Args:
            in_flight: The rows that the gang has.
            now: The time, in seconds.
            losses: Gangs that its replica has lost since it last did a row. With any, rows that no gang has
                died with come first, as long as there are any: one at a time, and from ever farther away.
            others: The LoRAs that other gangs have.

        Raises:
            OSError: The manifest can no longer be read.
        """
        if not self.has_room(in_flight, losses=losses):
            return []
        if losses and (self._returned or self._unsent):
            return [self._take_from_elsewhere(losses)]
        if self._suspected:
            # The first gang that has no other row takes it.
            return [] if in_flight.rows else [self._suspected.popleft()]
        if self._returned:
            return [self._take_returned(in_flight.loras)]
        # Shards shrink, so that all gangs end at about the same time.
        most = min(self._shard_size, in_flight.shard_limit(now))
        count = max(1, min(most, self._unsent // (2 * self._replicas)))
        return self._take_alike(count, in_flight.loras, others)

    def _take_returned(self, loras: Loras | None) -> QueuedRow:
        """Take a row that came back, if possible one with these LoRAs."""
        alike = (place for place, queued in enumerate(self._returned) if queued.row.request.loras == loras)
        place = next(alike, 0)
        queued = self._returned[place]
        del self._returned[place]
        return queued

    def _take_alike(self, most: int, own: Loras | None, others: Collection[Loras]) -> list[QueuedRow]:
        """Take some of the next rows that have the same LoRAs."""
        loras = self._choose(own, others)
        if loras is None:
            return []
        while len(self._read[loras]) < most and self._read_on() == loras:
            pass
        return [self._hand_over(loras) for _ in range(min(most, len(self._read[loras])))]

    def _choose(self, own: Loras | None, others: Collection[Loras]) -> Loras | None:
        """The LoRAs of the rows to hand out next to a gang with its own; None if no row is left.

        They are its own if there are such rows among the next; otherwise the first that no other gang has;
        otherwise those of most rows. That another gang has no LoRAs is no reason to leave such rows to it.
        """

        def is_free(loras: Loras) -> bool:
            return not loras or loras not in others

        if own is not None and self._read_to(lambda loras: loras == own) is not None:
            return own
        found = self._read_to(is_free)
        if found is not None:
            return found
        return max(self._read, key=lambda loras: len(self._read[loras]), default=None)

    def _read_to(self, suits: Callable[[Loras], bool]) -> Loras | None:
        """The LoRAs of the first of the next rows that suit; None if none of `LORA_WINDOW` rows does."""
        found = next(filter(suits, self._read), None)
        while found is None and (loras := self._read_on()) is not None:
            found = loras if suits(loras) else None
        return found

    def _read_on(self, *, at_any_price: bool = False) -> Loras | None:
        """Read the next row, and return its LoRAs; None if there is none that may be handed out yet.

        Args:
            at_any_price: Also read a row of a lower priority than those that were read, and any number.
        """
        row = self._not_yet or next(self._rows, None)
        self._not_yet = row
        if row is None:
            return None
        full = self._num_read >= LORA_WINDOW or self._bytes_read >= LORA_WINDOW_BYTES
        if self._num_read and not at_any_price and (full or row.priority != self._priority):
            return None
        self._not_yet, self._priority = None, row.priority
        loras = row.request.loras
        self._read.setdefault(loras, deque()).append(QueuedRow(row))
        self._num_read += 1
        self._bytes_read += _size(row)
        return loras

    def _hand_over(self, loras: Loras) -> QueuedRow:
        """Take the first of the rows with these LoRAs that were read."""
        rows = self._read[loras]
        queued = rows.popleft()
        if not rows:
            del self._read[loras]
        self._num_read -= 1
        self._bytes_read -= _size(queued.row)
        self._unsent -= 1
        return queued

    def _take_next(self, most: int) -> list[QueuedRow]:
        """Take some of the next rows, whatever their LoRAs."""
        while self._num_read < most and self._read_on(at_any_price=True) is not None:
            pass
        return [self._hand_over(next(iter(self._read))) for _ in range(min(most, self._num_read))]

    def _take_from_elsewhere(self, losses: int) -> QueuedRow:
        """Take one of the next rows that no gang has died with, each time from another part of them."""
        window = min(WINDOW**losses, MAX_WINDOW)
        self._returned.extend(self._take_next(max(0, window - len(self._returned))))
        place = int(_spread(losses) * min(window, len(self._returned)))
        queued = self._returned[place]
        del self._returned[place]
        return queued


def _size(row: PendingRow) -> int:
    """Bytes of the texts and images that a row carries."""
    return sum(len(value) for value in row.request.values().values() if isinstance(value, str | bytes))


def _spread(number: int) -> float:
    """Map the numbers 1, 2, 3, … to 1/2, 1/4, 3/4, 1/8, …: however many, they are spread over 0 to 1."""
    bits = f"{number:b}"
    return int(bits[::-1], 2) / 2 ** len(bits)


def plan_give_back(all_in_flight: Sequence[RowsInFlight], wanted: int) -> list[int]:
    """How many rows to ask back from each gang, so that gangs with the most rows give the most.

    Args:
        all_in_flight: The rows of each gang.
        wanted: How many rows idle gangs could begin.
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
