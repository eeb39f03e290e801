"""Attempts as plain arrays, the form in which millions of entries are merged and looked up."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vidgen_dist.bulk_digests import text_hashes
from vidgen_dist.errors import Refused
from vidgen_dist.ledger.entries import FAILED, LOST, STATUSES
from vidgen_dist.storage.uris import redact

ATTEMPT_COLUMNS = ("id", "fingerprint", "status", "attempt", "finished_at", "error_class")
"""The ledger's columns that attempts are made from."""

ATTEMPT = np.dtype(
    [
        ("id_high", np.uint64),
        ("id_low", np.uint64),
        ("fingerprint", np.uint64),
        ("settled", np.bool_),
        ("lost", np.bool_),
        ("finished_at", np.int64),
        ("attempt", np.int32),
        ("attempts", np.int32),
        ("error_class", np.int32),
    ]
)
"""One attempt, or the best of several. Digests stand for texts: 10 million rows fit in half a gigabyte.

An attempt is settled if it says something about a video: that it is there (done) or was (lost).
"""


def read_attempts(
    tables: list[tuple[str, pa.Table]], classes: dict[str, int], batch_entries: int
) -> Iterator[np.ndarray]:
    """The attempts in the tables of some parts, as arrays (N,) of `ATTEMPT`.

    Args:
        tables: A part's URI, and entries of it with the columns `ATTEMPT_COLUMNS`.
        classes: Error class -> number; new classes are added.
        batch_entries: Entries of an array at most.

    Raises:
        Refused: A status is not allowed; the message names the part.
    """
    if not tables:
        return
    whole = pa.concat_tables([table for _, table in tables]).combine_chunks()
    if not pc.all(pc.is_in(whole.column("status"), pa.array(STATUSES)), min_count=0).as_py():
        _check_statuses(tables)
    for batch in whole.to_batches(max_chunksize=batch_entries):
        out = np.empty(batch.num_rows, ATTEMPT)
        out["id_high"], out["id_low"] = id_hashes(batch.column("id")).T
        out["fingerprint"] = text_hashes(batch.column("fingerprint"))[:, 0]
        out["settled"] = pc.not_equal(batch.column("status"), FAILED).to_numpy(zero_copy_only=False)
        out["lost"] = pc.equal(batch.column("status"), LOST).to_numpy(zero_copy_only=False)
        out["finished_at"] = batch.column("finished_at").cast(pa.int64()).to_numpy()
        out["attempt"] = out["attempts"] = batch.column("attempt").to_numpy()
        names = batch.column("error_class").fill_null("").dictionary_encode()
        numbers = [classes.setdefault(name, len(classes)) for name in names.dictionary.to_pylist()]
        out["error_class"] = np.array(numbers, np.int32)[names.indices.to_numpy()]
        yield out


def _check_statuses(tables: list[tuple[str, pa.Table]]) -> None:
    for uri, table in tables:
        found = table.column("status").to_pylist()
        if strange := set(found) - set(STATUSES):
            status = min(strange)
            raise Refused(
                f"{redact(uri)}: row {found.index(status)}: status: {status!r} is not allowed; "
                f"allowed: {', '.join(STATUSES)}"
            )


def id_hashes(ids: pa.Array) -> np.ndarray:
    """128 bits of each id: uint64 (N, 2). A collision would skip a row; for fingerprints 64 are enough."""
    return text_hashes(ids)


def run_starts(attempts: np.ndarray, *keys: str) -> np.ndarray:
    """The indices at which runs of equal keys begin: int64 (n,)."""
    begins = np.ones(len(attempts), np.bool_)
    if len(attempts):
        begins[1:] = np.logical_or.reduce([attempts[key][1:] != attempts[key][:-1] for key in keys])
    return np.flatnonzero(begins)


def in_runs(attempts: np.ndarray, *keys: str) -> np.ndarray:
    """Indices of the attempts that share their keys with a neighbour: int64 (n,)."""
    sizes = np.diff(run_starts(attempts, *keys), append=len(attempts))
    return np.flatnonzero(np.repeat(sizes > 1, sizes))
