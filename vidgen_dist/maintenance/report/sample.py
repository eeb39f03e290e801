"""A sample of rows: what went wrong first, of each kind some, and other videos by chance.

Chance is the hash of a row's id: the same output gives the same sample, whatever the order of its ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

ORDINARY_SHARE = 4
"""One in so many rows of a sample is an ordinary video, however many others there are."""


@dataclass(frozen=True, order=True)
class Group:
    """Rows that are alike in what went wrong with them.

    Args:
        rank: 0 for rows without a video, 1 for videos with a flag, 2 for all other videos.
        name: Error class or flag; empty for ordinary videos.
    """

    rank: int
    name: str


@dataclass
class _Candidates:
    """The first rows of a group, by the hashes of their ids."""

    total: int = 0
    held: int = 0
    bound: int | None = None
    places: list[np.ndarray] = field(default_factory=list)
    tables: list[pa.Table] = field(default_factory=list)

    def add(self, places: np.ndarray, table: pa.Table, most: int) -> None:
        self.total += len(places)
        if self.bound is not None:
            near = places < self.bound
            places, table = places[near], table.filter(pa.array(near))
        self.places.append(places)
        self.tables.append(table)
        self.held += len(places)
        if self.held > 2 * most:
            self.cut(most)

    def cut(self, most: int) -> pa.Table:
        """Keep so many rows; returns them in the order of their hashes."""
        places = np.concatenate(self.places)
        order = np.argsort(places)[:most]
        # A copy: a slice would keep all of the ledger that was read.
        table = pa.concat_tables(self.tables).take(pa.array(order))
        self.places, self.tables, self.held = [places[order]], [table], len(order)
        self.bound = int(places[order[-1]]) if len(order) == most else None
        return table


class Sample:
    """Chooses rows while a ledger is read. Memory grows with the sample and the number of groups.

    Args:
        rows: How many to choose.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._groups: dict[Group, _Candidates] = {}

    def add(self, groups: Sequence[Group], codes: np.ndarray, places: np.ndarray, table: pa.Table) -> None:
        """Take rows.

        Args:
            groups: Groups that some of them belong to.
            codes: Each row's group, by its index in `groups` (N,).
            places: Each row's place in the order of all ids' hashes (N,); each occurs once.
            table: The rows.
        """
        for code, group in enumerate(groups):
            members = np.flatnonzero(codes == code)
            if len(members):
                candidates = self._groups.setdefault(group, _Candidates())
                candidates.add(places[members], table.take(pa.array(members)), self._rows)

    @property
    def counts(self) -> dict[Group, int]:
        """How many rows each group has."""
        return {group: self._groups[group].total for group in sorted(self._groups)}

    def choose(self) -> dict[Group, list[dict[str, Any]]]:
        """The sample, by groups: the most important first, the rows of each in the order of their hashes."""
        rooms = allot(self.counts, self._rows)
        return {group: self._groups[group].cut(room).to_pylist() for group, room in rooms.items() if room}


def allot(counts: dict[Group, int], rows: int) -> dict[Group, int]:
    """How many rows of each group to take.

    What went wrong goes first, up to all but a quarter of the sample. Rows without a video and videos with a
    flag have equal parts of it, and so have error classes, and flags, as far as there are as many rows.
    """
    ranks = [[group for group in sorted(counts) if group.rank == rank] for rank in range(3)]
    *wrong, ordinary = [sum(counts[group] for group in groups) for groups in ranks]
    room = rows - min(ordinary, rows // ORDINARY_SHARE)
    taken = share_evenly(wrong, room)
    taken.append(min(ordinary, rows - sum(taken)))
    rooms: dict[Group, int] = {}
    for groups, room in zip(ranks, taken, strict=True):
        rooms |= zip(groups, share_evenly([counts[group] for group in groups], room), strict=True)
    return rooms


def share_evenly(wanted: Sequence[int], room: int) -> list[int]:
    """Parts of a room that are equal, except for those who want less; the first get what is left over."""
    parts = [0] * len(wanted)
    left = min(room, sum(wanted))
    while left:
        hungry = [place for place, most in enumerate(wanted) if parts[place] < most]
        each = max(1, left // len(hungry))
        for place in hungry:
            more = min(each, wanted[place] - parts[place], left)
            parts[place] += more
            left -= more
    return parts
