"""What of a manifest is done, according to a ledger."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from vidgen_dist.digests import as_list
from vidgen_dist.ledger import LedgerState
from vidgen_dist.manifest import Batch, Manifest
from vidgen_dist.manifest import Row as ManifestRow
from vidgen_dist.media import MediaError, media_digest
from vidgen_dist.pipelines.rules import Rules
from vidgen_dist.request import MEDIA_FIELDS, RenderRequest
from vidgen_dist.runtime.fingerprint import Identity, row_seed, row_seeds
from vidgen_dist.threads import map_ahead

_READERS = 16


@dataclass(frozen=True, eq=False)
class Found:
    """What is known of every row of a manifest, in its order.

    Args:
        is_done: Whether its video is there: bool (rows,).
        attempts: How often it was tried with what decides its pixels: int32 (rows,).
        chosen: Whether `--retry` asks for it; all rows without: bool (rows,).
    """

    is_done: np.ndarray
    attempts: np.ndarray
    chosen: np.ndarray


@dataclass(frozen=True)
class Resolving:
    """How a manifest's row becomes a request, and that a fingerprint.

    Args:
        rules: What the model takes.
        run_seed: Decides the seeds of rows that bring none.
        identity: What decides the pixels of all rows alike.
    """

    rules: Rules
    run_seed: int
    identity: Identity

    def request(self, row: ManifestRow) -> RenderRequest:
        """The row's request with every default and its seed filled in."""
        assert row.request is not None, "every row was checked"
        request = self.rules.resolve(row.request)
        if request.seed is None:
            request = dataclasses.replace(request, seed=row_seed(self.run_seed, row.id))
        return request

    def fingerprint(self, row: ManifestRow) -> str | None:
        """The row's fingerprint; None if its image or clip cannot be read: then it is not done."""
        request = self.request(row)
        sources = {
            name: getattr(request, name) for name in MEDIA_FIELDS if getattr(request, name) is not None
        }
        try:
            media = {name: media_digest(source) for name, source in sources.items()}
        except (MediaError, OSError):
            # Whether that lasts, the worker finds out; one file must not keep a run from going on.
            return None
        return self.identity.fingerprint(request, media)

    def fingerprints(self, batch: Batch, wanted: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """Places and fingerprints of some rows of a batch, but for those that have none."""
        wanted = wanted.copy()
        places: list[int] = []
        found: list[str] = []
        if self.rules.media is None:
            for row, group in batch.groups(wanted):
                found += self._alike(batch, row, group)
                places += group.tolist()
                wanted[group] = False
        if wanted.any():
            rest = np.flatnonzero(wanted).tolist()
            single = map_ahead(self.fingerprint, batch.rows(wanted), threads=_READERS)
            for place, fingerprint in zip(rest, single, strict=True):
                if fingerprint is not None:
                    places.append(place)
                    found.append(fingerprint)
        return np.array(places, np.int64), found

    def _alike(self, batch: Batch, row: ManifestRow, places: np.ndarray) -> list[str]:
        """Fingerprints of rows that differ in id, prompt and seed alone; `row` is one of them."""
        assert row.request is not None
        request = self.request(row)
        seeds: Sequence[int | None] = batch.seeds(places)
        if seeds[0] is None:
            if row.request.seed is None:
                ids = as_list(batch.ids.take(pa.array(places)))
                seeds = row_seeds(self.run_seed, ids)
            else:
                seeds = [row.request.seed] * len(places)
        return self.identity.template(request).digests(hashlib.sha256, batch.prompts(places), seeds)


def find_done(
    manifest: Manifest,
    defaults: Mapping[str, Any],
    resolving: Resolving,
    ledger: LedgerState,
    retry: str | None = None,
) -> Found:
    """Look every row up.

    Only rows whose id the ledger has are resolved and hashed; of ten million, none is held.

    Args:
        manifest: A manifest that was checked.
        defaults: Values of request fields where a row has none.
        resolving: How rows are resolved.
        ledger: What became of rows.
        retry: `failed`, or `failed:` and an error class: which rows to choose.

    Raises:
        OSError: The manifest cannot be read, or was changed.
    """
    total = manifest.num_rows
    found = Found(np.zeros(total, np.bool_), np.zeros(total, np.int32), np.full(total, retry is None))
    if not ledger.parts:
        return found
    error_class = None if retry is None else retry.partition(":")[2] or None
    first = 0
    for batch in manifest.batches(defaults, extras=False):
        known = ledger.knows(batch.ids)
        if known.any():
            places, fingerprints = resolving.fingerprints(batch, known)
            outcomes = ledger.look_up(batch.ids.take(pa.array(places)), pa.array(fingerprints, pa.string()))
            found.is_done[first + places] = outcomes.done
            found.attempts[first + places] = outcomes.attempts
            if retry is not None:
                found.chosen[first + places] = outcomes.failed(error_class)
        first += len(batch)
    return found
