"""Which rows of a manifest are done, according to the ledger."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from vidgen_dist.families.common.tasks import Rules
from vidgen_dist.ledger import LedgerState
from vidgen_dist.manifest import Batch, Manifest, Row, row_seed
from vidgen_dist.media import MediaError, media_digest
from vidgen_dist.output.fingerprint import Identity, fingerprints_of
from vidgen_dist.processes import InlineExecutor, open_pool
from vidgen_dist.request import RenderRequest, ResolvedRequest, sources_of
from vidgen_dist.threads import map_ahead

_READERS = 16
_AHEAD = 32
_LOOKED_UP = 2**18


@dataclass(frozen=True)
class LookupPolicy:
    """How many processes compute fingerprints, and how much memory that takes.

    Args:
        processes_min_rows: With fewer rows, starting more processes takes longer than it saves.
        processes: Number of processes with more rows; None for the number of cores, at most 8.
        ahead_bytes: Bytes of prompts that may wait for their fingerprints.
    """

    processes_min_rows: int = 500_000
    processes: int | None = None
    ahead_bytes: int = 256 * 2**20

    def processes_for(self, rows: int) -> int:
        """How many processes compute the fingerprints of this many rows."""
        if rows < self.processes_min_rows:
            return 1
        return _cores() if self.processes is None else self.processes


@dataclass(frozen=True, eq=False)
class RowRecords:
    """What the ledger says about every row of a manifest, in the manifest's order.

    Args:
        is_done: Whether its video is stored: bool (rows,).
        attempts: How often it was tried with its present fingerprint; while its image or clip cannot be read,
            the attempts of its dead letter: int32 (rows,).
        chosen: Whether `--retry` asks for it, because its id has a dead letter; without `--retry`, all rows:
            bool (rows,).
        invalidated: Whether its video was stored and is lost: bool (rows,).
        bad: Whether it cannot be rendered as it is: bool (rows,).
        entered: Whether it is bad and the ledger has that entry: bool (rows,).
    """

    is_done: np.ndarray
    attempts: np.ndarray
    chosen: np.ndarray
    invalidated: np.ndarray
    bad: np.ndarray
    entered: np.ndarray


@dataclass(frozen=True)
class RowResolver:
    """How a manifest's row becomes a request, and how its fingerprint is computed.

    Args:
        rules: What the model takes.
        run_seed: Decides the seeds of rows that have none.
        identity: What decides the pixels of all rows alike.
        resolve: How requests are resolved; by default as the rules do it.
    """

    rules: Rules[Any]
    run_seed: int
    identity: Identity
    resolve: Callable[[RenderRequest, int], ResolvedRequest] | None = None

    def request(self, row: Row) -> ResolvedRequest:
        """The row's request with every default and its seed filled in."""
        seed = row_seed(self.run_seed, row.id) if row.request.seed is None else row.request.seed
        return (self.resolve or self.rules.resolve)(row.request, seed)

    def fingerprint(self, row: Row) -> str | None:
        """The row's fingerprint; None if its image or clip cannot be read: then it is not done."""
        request = self.request(row)
        sources = sources_of(request.values(), self.identity.pixel_fields.fields)
        try:
            media = {name: media_digest(source.value) for name, source in sources.items()}
        except (MediaError, OSError):
            # The worker finds out whether that lasts; one file must not stop a run.
            return None
        return self.identity.fingerprint(request, media)

    def fingerprints(self, batch: Batch, wanted: np.ndarray, pool: Executor) -> Iterator[FingerprintBatch]:
        """Begin to compute the fingerprints of the wanted rows of a batch; rows without one are left out."""
        wanted = wanted.copy()
        if not self._needs_single_rows(batch):
            for row, places in batch.groups(wanted):
                yield self._similar_rows(batch, row, places, pool)
                wanted[places] = False
        if wanted.any():
            single = list(map_ahead(self.fingerprint, batch.rows(wanted), threads=_READERS))
            known = [fingerprint for fingerprint in single if fingerprint is not None]
            places = np.flatnonzero(wanted)[[fingerprint is not None for fingerprint in single]]
            yield FingerprintBatch(places, InlineExecutor().submit(pa.array, known, pa.string()))

    def _needs_single_rows(self, batch: Batch) -> bool:
        """Whether rows of a batch may have a field that no template has, such as an image."""
        fields = self.identity.pixel_fields.fields
        shared = [name for name in batch.defaults if name in fields and fields[name].kind.has_sources]
        return any(name in self.rules.fields for name in (*batch.untemplated, *shared))

    def _similar_rows(self, batch: Batch, row: Row, places: np.ndarray, pool: Executor) -> FingerprintBatch:
        """The fingerprints of rows that differ only in id, prompt and seed; `row` is one of them."""
        request = self.request(row)
        seeds = batch.seeds(places)
        if seeds is None:
            seeds = row.request.seed
        ids = batch.ids.take(pa.array(places)) if seeds is None else None
        template = self.identity.template(request)
        prompts = batch.prompts(places) if template.has_prompt else None
        hashing = pool.submit(fingerprints_of, template, len(places), prompts, seeds, ids, self.run_seed)
        return FingerprintBatch(places, hashing, 0 if prompts is None else prompts.nbytes)


@dataclass(frozen=True, eq=False)
class FingerprintBatch:
    """Rows of a batch and their fingerprints.

    Args:
        places: The rows' indices in the batch.
        fingerprints: Strings (n,), once they are computed.
        size: Bytes of prompts that are held until then.
    """

    places: np.ndarray
    fingerprints: Future[pa.Array]
    size: int = 0


def find_done(
    manifest: Manifest,
    defaults: Mapping[str, Any],
    resolver: RowResolver,
    ledger: LedgerState,
    retry: str | None = None,
    bad: Sequence[int] | np.ndarray = (),
    policy: LookupPolicy = LookupPolicy(),
) -> RowRecords:
    """Look every row of a manifest up in the ledger.

    Only rows whose id the ledger has are resolved and hashed; of ten million rows, none is kept in memory.

    Args:
        manifest: A manifest that was checked.
        defaults: Values of request fields where a row has none.
        resolver: How rows are resolved.
        ledger: The ledger's entries.
        retry: `failed`, or `failed:` and an error class: which rows to choose.
        bad: Indices of the rows that cannot be resolved.
        policy: How many processes look, and how much memory that takes.

    Raises:
        OSError: The manifest cannot be read, or was changed.
    """
    total = manifest.num_rows
    records = RowRecords(
        is_done=np.zeros(total, np.bool_),
        attempts=np.zeros(total, np.int32),
        chosen=np.full(total, retry is None),
        invalidated=np.zeros(total, np.bool_),
        bad=np.zeros(total, np.bool_),
        entered=np.zeros(total, np.bool_),
    )
    records.bad[np.asarray(bad, np.int64)] = True
    if not ledger.parts:
        return records
    by_id = ledger.failed > 0 and (retry is not None or resolver.rules.takes_sources)
    lookup = _LedgerLookup(ledger, records, retry)
    # Hashing rows one by one is most of the work, and Python does it on one core.
    processes = policy.processes_for(total)
    hashing: deque[tuple[int, pa.Array, FingerprintBatch]] = deque()
    with open_pool(processes) as pool:
        first = 0
        for batch in manifest.batches(defaults, extras=False):
            if by_id:
                lookup.choose(first, batch.ids)
            known, is_bad = ledger.has_entries(batch.ids), records.bad[first : first + len(batch)]
            lookup.look_up_bad(first, batch, known & is_bad)
            for fingerprints in resolver.fingerprints(batch, known & ~is_bad, pool):
                hashing.append((first, batch.ids.take(pa.array(fingerprints.places)), fingerprints))
                while len(hashing) > _AHEAD * processes or _size(hashing) > policy.ahead_bytes:
                    lookup.add(*hashing.popleft())
            first += len(batch)
        while hashing:
            lookup.add(*hashing.popleft())
    lookup.look_up()
    return records


class _LedgerLookup:
    """Looks rows up in the ledger and fills in their records.

    Args:
        ledger: The ledger's entries.
        records: The records.
        retry: As for `find_done`.
    """

    def __init__(self, ledger: LedgerState, records: RowRecords, retry: str | None) -> None:
        self._ledger = ledger
        self._records = records
        self._chooses = retry is not None
        self._error_class = error_class_of(retry)
        self._hashed: list[tuple[np.ndarray, pa.Array, pa.Array]] = []

    def add(self, first: int, ids: pa.Array, batch: FingerprintBatch) -> None:
        """Add rows whose fingerprints are being computed; `first` is the index of their batch's first row."""
        self._hashed.append((first + batch.places, ids, batch.fingerprints.result()))
        # Looked up many at a time: the ledger's state is large, and neighbours in it share memory's cache.
        if sum(len(places) for places, _, _ in self._hashed) >= _LOOKED_UP:
            self.look_up()

    def look_up(self) -> None:
        """Look up the rows that were added."""
        if not self._hashed:
            return
        places = np.concatenate([each[0] for each in self._hashed])
        ids, fingerprints = (pa.concat_arrays([each[n] for each in self._hashed]) for n in (1, 2))
        outcomes = self._ledger.look_up(ids, fingerprints)
        self._records.is_done[places] = outcomes.done
        self._records.attempts[places] = outcomes.attempts
        self._records.invalidated[places] = outcomes.lost
        self._hashed.clear()

    def choose(self, first: int, ids: pa.Array) -> None:
        """Find dead letters by id alone: a failed row may have had another image, or an unreadable one."""
        letters = self._ledger.dead_letters(ids, self._error_class)
        dead = np.flatnonzero(letters >= 0)
        self._records.attempts[first + dead] = self._ledger.dead_letter_attempts(letters[dead])
        if self._chooses:
            self._records.chosen[first + dead] = True

    def look_up_bad(self, first: int, batch: Batch, wanted: np.ndarray) -> None:
        """Look up bad rows, which have no fingerprint: their entries have digests of their values."""
        if not wanted.any():
            return
        places = np.flatnonzero(wanted)
        ids, digests = batch.ids.take(pa.array(places)), pa.array(batch.digests(wanted), pa.string())
        self._records.entered[first + places] = self._ledger.dead_letter_indices(ids, digests) >= 0
        self._records.attempts[first + places] = self._ledger.look_up(ids, digests).attempts


def error_class_of(retry: str | None) -> str | None:
    """The error class that `--retry failed:CLASS` names, if any."""
    return None if retry is None else retry.partition(":")[2] or None


def _size(hashing: Iterable[tuple[int, pa.Array, FingerprintBatch]]) -> int:
    return sum(batch.size for _, _, batch in hashing)


def _cores() -> int:
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8)
