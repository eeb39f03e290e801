"""Looking at every row without a model, and the report of what is wrong."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from vidgen_dist.digests import text_hashes
from vidgen_dist.errors import Refused
from vidgen_dist.manifest.batches import Batch
from vidgen_dist.manifest.columns import is_bytes, is_text
from vidgen_dist.manifest.opening import Manifest
from vidgen_dist.manifest.rows import Row
from vidgen_dist.request import Field, RenderRequest, RequestError, ResolvedRequest
from vidgen_dist.storage import redact
from vidgen_dist.threads import map_ahead

_Place = TypeVar("_Place")


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with a manifest's row.

    Args:
        file: URI of the file.
        row: The row's place in the file, from 0.
        id: The row's id.
        column: The column that is at fault; empty if no single one is.
        message: What is wrong and what is allowed.
    """

    file: str
    row: int
    id: str
    column: str
    message: str

    def __str__(self) -> str:
        shown = self.id if len(self.id) <= 60 else self.id[:57] + "..."
        return f"{redact(self.file)}, row {self.row} (id {shown!r}): {self.message}"


class ProbeError(ValueError):
    """An image or a clip that a probe could not read.

    Attributes:
        column: Whose it is.
    """

    def __init__(self, column: str, reason: str) -> None:
        super().__init__(reason)
        self.column = column


@dataclass(frozen=True)
class CheckReport:
    """What `check` found.

    Args:
        rows: Rows looked at.
        bad_rows: Those that cannot be rendered, or whose id is an earlier one's; each once.
        problems: The first of the rows that cannot be rendered, and of those whose id is another's.
        counts: Column -> rows that are at fault in it; all of them, not only those in `problems`.
        unknown_columns: Columns that a run would ignore.
    """

    rows: int
    bad_rows: int
    problems: tuple[Problem, ...]
    counts: Mapping[str, int]
    unknown_columns: tuple[str, ...]

    @property
    def num_problems(self) -> int:
        """All problems, not only those in `problems`."""
        return sum(self.counts.values())

    @property
    def ok(self) -> bool:
        """Whether every row can be rendered."""
        return self.num_problems == 0


def check(
    manifest: Manifest,
    *,
    defaults: Mapping[str, Any] | None = None,
    resolve: Callable[[RenderRequest], ResolvedRequest] | None = None,
    probe: Callable[[RenderRequest | ResolvedRequest], object] | None = None,
    limit: int = 20,
) -> CheckReport:
    """Look at every row without a model.

    Rows that differ in id, prompt, seed and media alone are looked at as one, unless they are probed. Of each
    row 8 bytes are kept, so 10 million rows need about 200 MB; more, where some are bad.

    Args:
        manifest: What to check.
        defaults: The run's values where a row has none.
        resolve: Fills a request's defaults in and raises RequestError for what the model cannot do;
            a `Rules.resolve`. Of id, prompt, seed and media it may only ask whether they are there.
        probe: Opens and decodes a request's image and video, and raises ProbeError, ValueError or OSError if
            that fails. Called from several threads.
        limit: How many bad rows, and how many rows with another's id, to name.

    Raises:
        Refused: A file of the manifest cannot be read, is damaged or was changed since it was opened.
    """
    problems: list[Problem] = []
    counts: Counter[str] = Counter()
    hashes: list[np.ndarray] = []
    bad = array("q")
    first = 0

    def look(row: Row) -> Problem | None:
        return _problem(row, manifest.row_schema.fields, resolve, probe)

    try:
        for batch in manifest.batches(defaults):
            hashes.append(text_hashes(batch.ids)[:, 0])
            if probe is not None:
                found = map_ahead(look, batch.rows(), threads=8)
            else:
                found = map(look, batch.rows(_doubtful(batch, look)))
            for problem in filter(None, found):
                counts[problem.column] += 1
                bad.append(first + problem.row - batch.indices[0])
                if len(problems) < limit:
                    problems.append(problem)
            first += len(batch)
        whole = np.concatenate([np.empty(0, np.uint64), *hashes])
        # There may be gigabytes.
        hashes.clear()
        bad_twice = _count_seconds(whole, np.frombuffer(bad, np.int64)) if bad else 0
        repeated, surplus = repeated_hashes(whole)
        shared = _shared_ids(manifest, repeated, limit) if surplus else []
    except OSError as error:
        raise Refused(str(error)) from None
    bad_rows = len(bad)
    if shared:
        counts["id"] += surplus
        bad_rows += surplus - bad_twice
    named = tuple(problems + shared)
    return CheckReport(manifest.num_rows, bad_rows, named, dict(counts), manifest.unknown_columns)


def _doubtful(batch: Batch, look: Callable[[Row], Problem | None]) -> np.ndarray:
    """Which rows of a batch are to be looked at one by one: bool (N,)."""
    if not all(_passes(field.type) for field in batch.extra_schema):
        return np.ones(len(batch), np.bool_)
    doubtful = ~batch.plain
    for row, places in batch.groups(batch.plain):
        if look(row) is not None:
            doubtful[places] = True
    return doubtful


def _passes(kind: pa.DataType) -> bool:
    """Whether whatever a column of that type holds can be passed through."""
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return number or is_text(kind) or is_bytes(kind) or pa.types.is_null(kind)


def _problem(
    row: Row,
    fields: Mapping[str, Field],
    resolve: Callable[[RenderRequest], ResolvedRequest] | None,
    probe: Callable[[RenderRequest | ResolvedRequest], object] | None,
) -> Problem | None:
    try:
        request = row.request if resolve is None else resolve(row.request)
        if probe is not None:
            probe(request)
    except RequestError as error:
        return Problem(row.file, row.index, row.id, error.field, str(error))
    except (ValueError, OSError, Refused) as error:
        given = row.request.values()
        some = next((name for name in given if name in fields and fields[name].kind.has_sources), "")
        column = error.column if isinstance(error, ProbeError) else some
        return Problem(row.file, row.index, row.id, column, f"{column}: {error}" if column else str(error))
    return None


def _count_seconds(hashes: np.ndarray, some: np.ndarray) -> int:
    """How many of some rows (n,), by their places, have the hash of an earlier one, of all (N,)."""
    alike = np.flatnonzero(np.isin(hashes, hashes[some]))
    _, first = np.unique(hashes[alike], return_index=True)
    return int(np.count_nonzero(~np.isin(some, alike[first])))


def repeated_hashes(hashes: np.ndarray) -> tuple[np.ndarray, int]:
    """Hashes that are there more than once (the first 100,000), and how many are too many.

    Sorts them in place: there may be gigabytes.
    """
    hashes.sort()
    again = hashes[1:][hashes[1:] == hashes[:-1]]
    return np.unique(again)[:100_000], len(again)


def later_places(rows: Iterable[tuple[str, _Place]], limit: int) -> list[tuple[str, _Place, _Place]]:
    """Of rows, as ids and places, those with an earlier one's id: id, place, and where it was first."""
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


def _shared_ids(manifest: Manifest, repeated: np.ndarray, limit: int) -> list[Problem]:
    def doubtful() -> Iterator[tuple[str, tuple[str, int]]]:
        for batch in manifest.batches(extras=False):
            ids = batch.ids
            for place in np.flatnonzero(np.isin(text_hashes(ids)[:, 0], repeated)).tolist():
                yield ids[place].as_py(), (batch.file, int(batch.indices[place]))

    return [
        Problem(
            file,
            index,
            row_id,
            "id",
            f"id: the same as that of row {other} of {redact(other_file)}; "
            "each row needs an id of its own (rows without one need to differ, in `seed` for example)",
        )
        for row_id, (file, index), (other_file, other) in later_places(doubtful(), limit)
    ]
