"""Checking every row without a model, and the report of what is wrong."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from vidgen_dist.bulk_digests import text_hashes
from vidgen_dist.errors import Refused
from vidgen_dist.manifest.problems import BadRows, Fault, Probe, Problem, Resolve, find_bad_rows, shown_text
from vidgen_dist.manifest.reader import Manifest
from vidgen_dist.storage.uris import redact

_Place = TypeVar("_Place")

MOST_REASONS = 1000
"""Reasons that are counted separately, at most: each bad image may have a reason of its own."""

_NAMED_REPEATS = 100_000


@dataclass(frozen=True)
class Reason:
    """Rows that have a fault in the same column for the same reason; numbers in the reason may differ.

    Args:
        count: How many rows.
        first: The first of them.
        others: Whether these are all the rows whose reasons are not counted separately.
    """

    count: int
    first: Problem
    others: bool = False

    def __str__(self) -> str:
        fault = self.first.fault
        value = "nothing" if fault.value is None else fault.value
        why = "other reasons" if self.others else fault.reason
        return f"{fault.column or 'row'}, {self.count:,} rows: {why}; the first: {self.first.place}: {value}"


@dataclass(frozen=True)
class CheckReport:
    """What `check` found.

    Args:
        rows: Rows checked.
        bad_rows: Rows that cannot be rendered or repeat an earlier row's id; each is counted once.
        problems: The first rows that cannot be rendered, and the first that repeat an id.
        counts: Column -> rows with a fault in it; all rows, not only those in `problems`.
        unknown_columns: Columns that a run would ignore.
        reasons: All problems by column and reason, the most frequent first; at most `MOST_REASONS`, roughly.
        id_problems: The first rows whose id is not allowed or repeats an earlier one.
        bad: Places in the manifest of the rows that cannot be rendered, ascending: int64 (n,).
    """

    rows: int
    bad_rows: int
    problems: tuple[Problem, ...]
    counts: Mapping[str, int]
    unknown_columns: tuple[str, ...]
    reasons: tuple[Reason, ...]
    id_problems: tuple[Problem, ...]
    bad: np.ndarray = field(compare=False, repr=False)

    @property
    def num_problems(self) -> int:
        """The number of all problems, not only of those in `problems`."""
        return sum(self.counts.values())

    @property
    def ok(self) -> bool:
        """Whether every row can be rendered."""
        return self.num_problems == 0


class _Tally:
    """What was found so far. Its memory does not grow with the number of bad rows.

    Args:
        limit: How many problems to name.
    """

    def __init__(self, limit: int) -> None:
        self.problems: list[Problem] = []
        self.id_problems: list[Problem] = []
        self.counts: Counter[str] = Counter()
        self._limit = limit
        self._reasons: dict[tuple[str, str], tuple[int, Problem]] = {}

    def add(self, bad: BadRows) -> None:
        """Add the bad rows of a batch."""
        if not len(bad):
            return
        self.problems += bad.problems(slice(max(0, self._limit - len(self.problems))))
        of_ids = np.array([fault.column == "id" for fault in bad.faults])[bad.numbers]
        few = np.flatnonzero(of_ids)[: max(0, self._limit - len(self.id_problems))]
        self.id_problems += bad.problems(few)
        numbers, first, counts = np.unique(bad.numbers, return_index=True, return_counts=True)
        by_row = np.argsort(first)
        for number, at, count in np.stack([numbers, first, counts], axis=1)[by_row].tolist():
            fault = bad.faults[number]
            self.counts[fault.column] += count
            # Numbers in a reason may depend on the value: a multiple of 16, such as 32.
            key = (fault.column, re.sub(r"\d+(\.\d+)?", "0", fault.reason))
            if key not in self._reasons and len(self._reasons) >= MOST_REASONS:
                key = (fault.column, "")
            before = self._reasons.get(key)
            if before is None:
                self._reasons[key] = count, next(bad.problems(slice(at, at + 1)))
            else:
                self._reasons[key] = before[0] + count, before[1]

    def reasons(self) -> tuple[Reason, ...]:
        """All problems by column and reason, the most frequent first."""
        found = [Reason(*of, others=not key[1]) for key, of in self._reasons.items()]
        return tuple(sorted(found, key=lambda reason: -reason.count))


def check(
    manifest: Manifest,
    *,
    defaults: Mapping[str, Any] | None = None,
    resolve: Resolve | None = None,
    probe: Probe | None = None,
    limit: int = 20,
    on_bad: Callable[[BadRows], None] | None = None,
) -> CheckReport:
    """Check every row without a model.

    Rows that differ only in id, prompt, seed and media are checked as one, unless they are probed. 8 bytes
    are kept per row, so 10 million rows need about 200 MB, and more if some are bad.

    Args:
        manifest: The manifest to check.
        defaults: The run's values for rows without one.
        resolve: Fills in a request's defaults and raises RequestError for what the model cannot do; a
            `Rules.resolve`. It may only look at whether id, prompt, seed and media are there.
        probe: Opens and decodes a request's image and video, and raises ProbeError, ValueError or OSError if
            that fails. Called from several threads.
        limit: How many bad rows, and how many rows with a repeated id, to name.
        on_bad: Called with all rows that cannot be rendered, some at a time, and then with all rows that
            repeat an earlier id; a row may be among both.

    Raises:
        Refused: A file of the manifest cannot be read, is damaged or has changed since it was opened.
    """
    tally, repeats = _Tally(limit), _Tally(limit)
    try:
        hashes, bad = _check_rows(manifest, defaults or {}, tally, resolve, probe, on_bad)
        bad_repeats = _count_repeats(hashes, bad) if len(bad) else 0
        repeated, surplus = repeated_hashes(hashes, None if on_bad else _NAMED_REPEATS)
        # These may be gigabytes.
        del hashes
        for again in _rows_with_repeated_ids(manifest, repeated) if surplus else ():
            repeats.add(again)
            if on_bad is not None:
                on_bad(again)
            elif len(repeats.problems) == limit:
                break
    except OSError as error:
        raise Refused(str(error)) from None
    reasons = list(tally.reasons())
    bad_rows = len(bad)
    if repeats.problems:
        tally.counts["id"] += surplus
        bad_rows += surplus - bad_repeats
        reasons.append(Reason(surplus, repeats.problems[0]))
    return CheckReport(
        rows=manifest.num_rows,
        bad_rows=bad_rows,
        problems=tuple(tally.problems + repeats.problems),
        counts=dict(tally.counts),
        unknown_columns=manifest.unknown_columns,
        reasons=tuple(sorted(reasons, key=lambda reason: -reason.count)),
        id_problems=tuple(tally.id_problems + repeats.problems),
        bad=bad,
    )


def _check_rows(
    manifest: Manifest,
    defaults: Mapping[str, Any],
    tally: _Tally,
    resolve: Resolve | None,
    probe: Probe | None,
    on_bad: Callable[[BadRows], None] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of all rows' ids, uint64 (N,), and places of the rows that cannot be rendered, int64 (n,)."""
    hashes, places = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    first = 0

    def take(bad: BadRows) -> None:
        if len(bad):
            places.append(first + bad.places)
            tally.add(bad)
            if on_bad is not None:
                on_bad(bad)

    for batch in manifest.batches(defaults):
        hashes.append(text_hashes(batch.ids)[:, 0])
        # Nothing holds on to a batch while the next one is read.
        take(find_bad_rows(batch, resolve, probe))
        first += len(batch)
    return np.concatenate(hashes), np.concatenate(places)


def _count_repeats(hashes: np.ndarray, some: np.ndarray) -> int:
    """How many of the rows at the places `some` (n,) have the hash of an earlier row, of all rows (N,)."""
    alike = np.flatnonzero(np.isin(hashes, hashes[some]))
    _, first = np.unique(hashes[alike], return_index=True)
    return int(np.count_nonzero(~np.isin(some, alike[first])))


def repeated_hashes(hashes: np.ndarray, most: int | None = _NAMED_REPEATS) -> tuple[np.ndarray, int]:
    """The hashes that occur more than once (the first `most`), and the number of surplus occurrences.

    Sorts `hashes` in place: they may be gigabytes.
    """
    hashes.sort()
    again = hashes[1:][hashes[1:] == hashes[:-1]]
    return np.unique(again)[:most], len(again)


def find_repeated_ids(rows: Iterable[tuple[str, _Place]], limit: int) -> list[tuple[str, _Place, _Place]]:
    """Of rows, given as id and place, those whose id an earlier one has: id, place, first row's place."""
    first: dict[str, _Place] = {}
    later: list[tuple[str, _Place, _Place]] = []
    for row_id, place in rows:
        if row_id not in first:
            first[row_id] = place
            continue
        later.append((row_id, place, first[row_id]))
        if len(later) == limit:
            break
    return later


def _rows_with_repeated_ids(manifest: Manifest, repeated: np.ndarray) -> Iterator[BadRows]:
    """The rows whose id an earlier row has.

    Args:
        manifest: The manifest.
        repeated: Hashes of such ids, sorted: uint64 (n,). 16 bytes more are kept for each.
    """
    origin, other_half = np.full(len(repeated), -1, np.int64), np.zeros(len(repeated), np.uint64)
    first = 0
    for batch in manifest.batches(extras=False):
        hashes = text_hashes(batch.ids)
        number = np.minimum(repeated.searchsorted(hashes[:, 0]), len(repeated) - 1)
        places = np.flatnonzero(repeated[number] == hashes[:, 0])
        known, at = np.unique(number[places], return_index=True)
        new = origin[known] < 0
        origin[known[new]] = first + places[at[new]]
        other_half[known[new]] = hashes[places[at[new]], 1]
        # Among ten thousand million ids, two may share a hash of 64 bits.
        same = other_half[number[places]] == hashes[places, 1]
        places = places[same & (origin[number[places]] != first + places)]
        earlier = origin[number[places]].tolist()
        ids = batch.ids.take(pa.array(places)).to_pylist()
        faults = [
            _repeated_id_fault(row_id, *manifest.place(at)) for row_id, at in zip(ids, earlier, strict=True)
        ]
        yield BadRows(batch, places, faults, np.arange(len(places)))
        first += len(batch)


def _repeated_id_fault(row_id: str, file: str, row: int) -> Fault:
    reason = (
        f"the same as that of row {row} of {redact(file)}; "
        "each row needs an id of its own (rows without one need to differ, in `seed` for example)"
    )
    return Fault("id", shown_text(row_id), reason, f"id: {reason}")
