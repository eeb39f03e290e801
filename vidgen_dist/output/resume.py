"""What of a manifest is done, according to a ledger."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from vidgen_dist.families.common.tasks import Rules
from vidgen_dist.ledger import LedgerState
from vidgen_dist.manifest import Batch, Manifest, Row
from vidgen_dist.media import MediaError, media_digest
from vidgen_dist.output.fingerprint import Identity, fingerprints_of, row_seed
from vidgen_dist.processes import InlineExecutor, open_pool
from vidgen_dist.request import ResolvedRequest, sources_of
from vidgen_dist.threads import map_ahead

MANY = 500_000
"""Rows from which on several processes are worth their start."""

_READERS = 16
_AHEAD = 32
_AHEAD_BYTES = 256 * 2**20
_LOOKED_UP = 2**18


@dataclass(frozen=True, eq=False)
class RowRecords:
    """What is known of every row of a manifest, in its order.

    Args:
        is_done: Whether its video is there: bool (rows,).
        attempts: How often it was tried with what decides its pixels; as long as its image or clip cannot be
            read, as often as its dead letter says: int32 (rows,).
        chosen: Whether `--retry` asks for it, whose id has a dead letter; all rows without: bool (rows,).
        spoilt: Whether its video was there and is lost: bool (rows,).
        bad: Whether it cannot be rendered as it stands: bool (rows,).
        entered: Whether, of these, that is what the ledger says of it: bool (rows,).
    """

    is_done: np.ndarray
    attempts: np.ndarray
    chosen: np.ndarray
    invalidated: np.ndarray
    bad: np.ndarray
    entered: np.ndarray


@dataclass(frozen=True)
class RowResolver:
    """How a manifest's row becomes a request, and that a fingerprint.

    Args:
        rules: What the model takes.
        run_seed: Decides the seeds of rows that bring none.
        identity: What decides the pixels of all rows alike.
    """

    rules: Rules[Any]
    run_seed: int
    identity: Identity

    def request(self, row: Row) -> ResolvedRequest:
        """The row's request with every default and its seed filled in."""
        seed = row_seed(self.run_seed, row.id) if row.request.seed is None else row.request.seed
        return self.rules.resolve(row.request, seed)

    def fingerprint(self, row: Row) -> str | None:
        """The row's fingerprint; None if its image or clip cannot be read: then it is not done."""
        request = self.request(row)
        sources = sources_of(request.values(), self.identity.counting.fields)
        try:
            media = {name: media_digest(source.value) for name, source in sources.items()}
        except (MediaError, OSError):
            # Whether that lasts, the worker finds out; one file must not keep a run from going on.
            return None
        return self.identity.fingerprint(request, media)

    def fingerprints(self, batch: Batch, wanted: np.ndarray, pool: Executor) -> Iterator[FingerprintBatch]:
        """Starts to work out the fingerprints of some rows of a batch, but for those that have none."""
        wanted = wanted.copy()
        if not self._one_by_one(batch):
            for row, places in batch.groups(wanted):
                yield self._alike(batch, row, places, pool)
                wanted[places] = False
        if wanted.any():
            single = list(map_ahead(self.fingerprint, batch.rows(wanted), threads=_READERS))
            known = [fingerprint for fingerprint in single if fingerprint is not None]
            places = np.flatnonzero(wanted)[[fingerprint is not None for fingerprint in single]]
            yield FingerprintBatch(places, InlineExecutor().submit(pa.array, known, pa.string()))

    def _one_by_one(self, batch: Batch) -> bool:
        """Whether rows of a batch may have what no template has, such as an image."""
        fields = self.identity.counting.fields
        shared = [name for name in batch.defaults if name in fields and fields[name].kind.has_sources]
        return any(name in self.rules.fields for name in (*batch.untemplated, *shared))

    def _alike(self, batch: Batch, row: Row, places: np.ndarray, pool: Executor) -> FingerprintBatch:
        """Of rows that differ in id, prompt and seed alone; `row` is one of them."""
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
    """Rows of a batch, by their places, and their fingerprints: strings (n,), once they are known.

    Until then they hold so many bytes of prompts.
    """

    places: np.ndarray
    fingerprints: Future[pa.Array]
    size: int = 0


def find_done(
    manifest: Manifest,
    defaults: Mapping[str, Any],
    resolving: RowResolver,
    ledger: LedgerState,
    retry: str | None = None,
    bad: Sequence[int] | np.ndarray = (),
) -> RowRecords:
    """Look every row up.

    Only rows whose id the ledger has are resolved and hashed; of ten million, none is held.

    Args:
        manifest: A manifest that was checked.
        defaults: Values of request fields where a row has none.
        resolving: How rows are resolved.
        ledger: What became of rows.
        retry: `failed`, or `failed:` and an error class: which rows to choose.
        bad: Places of the rows that cannot be resolved.

    Raises:
        OSError: The manifest cannot be read, or was changed.
    """
    total = manifest.num_rows
    found = RowRecords(
        is_done=np.zeros(total, np.bool_),
        attempts=np.zeros(total, np.int32),
        chosen=np.full(total, retry is None),
        invalidated=np.zeros(total, np.bool_),
        bad=np.zeros(total, np.bool_),
        entered=np.zeros(total, np.bool_),
    )
    found.bad[np.asarray(bad, np.int64)] = True
    if not ledger.parts:
        return found
    error_class = error_class_of(retry)
    by_id = ledger.failed > 0 and (retry is not None or resolving.rules.takes_sources)

    ready: list[tuple[np.ndarray, pa.Array, pa.Array]] = []

    def enter(first: int, ids: pa.Array, looking: FingerprintBatch) -> None:
        ready.append((first + looking.places, ids, looking.fingerprints.result()))
        # Looked up many at a time: the state is large, and neighbours in it share memory's cache.
        if sum(len(places) for places, _, _ in ready) >= _LOOKED_UP:
            look_up()

    def look_up() -> None:
        if ready:
            places = np.concatenate([each[0] for each in ready])
            ids, fingerprints = (pa.concat_arrays([each[n] for each in ready]) for n in (1, 2))
            outcomes = ledger.look_up(ids, fingerprints)
            found.is_done[places] = outcomes.done
            found.attempts[places] = outcomes.attempts
            found.invalidated[places] = outcomes.lost
            ready.clear()

    def choose(first: int, ids: pa.Array) -> None:
        """By ids alone: what failed may have had another image, or none that could be read."""
        letters = ledger.dead_letters(ids, error_class)
        dead = np.flatnonzero(letters >= 0)
        found.attempts[first + dead] = ledger.dead_letter_attempts(letters[dead])
        if retry is not None:
            found.chosen[first + dead] = True

    def look_up_bad(first: int, batch: Batch, wanted: np.ndarray) -> None:
        """Bad rows have no fingerprint: their entries have digests of what they hold."""
        if not wanted.any():
            return
        places = np.flatnonzero(wanted)
        ids, digests = batch.ids.take(pa.array(places)), pa.array(batch.digests(wanted), pa.string())
        found.entered[first + places] = ledger.dead_letter_indices(ids, digests) >= 0
        found.attempts[first + places] = ledger.look_up(ids, digests).attempts

    # Hashing one by one is most of the work, and Python does it on one core.
    processes = _cores() if total >= MANY else 1
    waiting: deque[tuple[int, pa.Array, FingerprintBatch]] = deque()
    with open_pool(processes) as pool:
        first = 0
        for batch in manifest.batches(defaults, extras=False):
            if by_id:
                choose(first, batch.ids)
            known, is_bad = ledger.has_entries(batch.ids), found.bad[first : first + len(batch)]
            look_up_bad(first, batch, known & is_bad)
            for looking in resolving.fingerprints(batch, known & ~is_bad, pool):
                waiting.append((first, batch.ids.take(pa.array(looking.places)), looking))
                while len(waiting) > _AHEAD * processes or _size(waiting) > _AHEAD_BYTES:
                    enter(*waiting.popleft())
            first += len(batch)
        while waiting:
            enter(*waiting.popleft())
    look_up()
    return found


def error_class_of(retry: str | None) -> str | None:
    """The error class that `--retry failed:CLASS` names, if any."""
    return None if retry is None else retry.partition(":")[2] or None


def _size(waiting: Iterable[tuple[int, pa.Array, FingerprintBatch]]) -> int:
    return sum(looking.size for _, _, looking in waiting)


def _cores() -> int:
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8)
