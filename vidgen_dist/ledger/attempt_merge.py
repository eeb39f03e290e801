"""Merging all entries of a ledger into its state: the best attempts by id and fingerprint."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from vidgen_dist.ledger.attempts import ATTEMPT, ATTEMPT_COLUMNS, in_runs, read_attempts, run_starts
from vidgen_dist.ledger.parts import read_parts
from vidgen_dist.ledger.state import LedgerState, join_shares, settle
from vidgen_dist.storage.folder import Storage

RECENT = 600
"""Seconds over which the pace of a run is measured."""

_SHARES = 16


@dataclass(frozen=True)
class MergePolicy:
    """How many entries are held before they are merged.

    Args:
        batch_entries: Entries that are converted to attempts at once: small parts cost less together.
        merge_entries: Attempts that are read before the first merge. After it, there is one whenever as many
            have been read as are kept.
    """

    batch_entries: int = 2**16
    merge_entries: int = 2**20


def read_ledger(output: Storage, policy: MergePolicy = MergePolicy()) -> LedgerState:
    """Reads and merges all parts. An output without a ledger gives an empty state.

    Args:
        output: A run's output.
        policy: How many entries are held before they are merged.

    Raises:
        Refused: A file in the folder is not a whole ledger part; the message names it.
        OSError: The storage failed.
    """
    merge = AttemptMerge(policy)
    names = read_parts(output, ATTEMPT_COLUMNS, lambda name, table: merge.add(table, output.uri(name)))
    return merge.state(names)


class AttemptMerge:
    """Merges attempts, in any order; memory grows with the rows, not with the attempts.

    Attempts are divided into shares by the first bits of their ids' hashes: a step of the merge needs copies,
    and so makes them of one share only.

    Args:
        policy: How many are held before they are merged.
    """

    def __init__(self, policy: MergePolicy = MergePolicy()) -> None:
        self._policy = policy
        self._classes: dict[str, int] = {}
        self._best = [np.empty(0, ATTEMPT)] * _SHARES
        self._read: list[list[np.ndarray]] = [[] for _ in range(_SHARES)]
        self._waiting: list[tuple[str, pa.Table]] = []
        self._rows = 0
        self._count = 0
        self._kept = 0
        self._newest = 0

    def add(self, table: pa.Table, uri: str) -> None:
        """Takes attempts with the columns `ATTEMPT_COLUMNS`, of the part `uri`.

        Raises:
            Refused: A status is not allowed, in this part or an earlier one.
        """
        self._waiting.append((uri, table))
        self._rows += len(table)
        if self._rows >= self._policy.batch_entries:
            self._take()
        if self._count > max(self._kept, self._policy.merge_entries):
            for share in range(_SHARES):
                self._merge(share)
            self._count, self._kept = 0, sum(map(len, self._best))

    def _take(self) -> None:
        for chunk in read_attempts(self._waiting, self._classes, self._policy.batch_entries):
            shares = chunk["id_high"] >> np.uint64(64 - _SHARES.bit_length() + 1)
            order = np.argsort(shares, kind="stable")
            chunk = chunk[order]
            bounds = shares[order].searchsorted(np.arange(_SHARES + 1, dtype=np.uint64))
            for share, read in enumerate(self._read):
                read.append(chunk[bounds[share] : bounds[share + 1]].copy())
            self._count += len(chunk)
            self._newest = max(self._newest, int(chunk["finished_at"].max(initial=0)))
        self._waiting, self._rows = [], 0

    def state(self, parts: tuple[str, ...]) -> LedgerState:
        """The state; nothing can be added afterwards. Raises as `add`."""
        self._take()
        since = time.time_ns() // 1000 - RECENT * 1_000_000
        shares = []
        for share in range(_SHARES):
            self._merge(share)
            shares.append(settle(self._best[share], since))
            self._best[share] = self._best[share][:0].copy()
        return join_shares(shares, self._classes, parts, self._newest)

    def _merge(self, share: int) -> None:
        if self._read[share]:
            attempts = np.concatenate([self._best[share], *self._read[share]])
            self._best[share], self._read[share] = _best(attempts, self._classes), []


def _best(attempts: np.ndarray, classes: Mapping[str, int]) -> np.ndarray:
    """The latest failure and the latest settled attempt of each id and fingerprint, sorted by these.

    Both are maxima, so the order of merging does not matter; `settle` decides which of the two counts.
    """
    attempts = attempts[np.argsort(attempts["id_high"], kind="stable")]
    # Most ids have one attempt. Sorting by all keys takes ten times as long, so only the others are.
    several = in_runs(attempts, "id_high")
    chosen = attempts[several]
    names = ("lost", "attempt", "finished_at", "settled", "fingerprint", "id_low", "id_high")
    keys = [chosen[name] for name in names]
    attempts[several] = chosen[np.lexsort([_ranks(classes)[chosen["error_class"]], *keys])]
    starts = run_starts(attempts, "id_high", "id_low", "fingerprint", "settled")
    best = attempts[starts + np.diff(starts, append=len(attempts)) - 1]
    if len(best):
        best["attempts"] = np.maximum.reduceat(attempts["attempts"], starts)
    return best


def _ranks(classes: Mapping[str, int]) -> np.ndarray:
    """The alphabetical rank of each error class, by its number; numbers depend on the order of reading."""
    ranks = np.zeros(len(classes), np.int32)
    for rank, name in enumerate(sorted(classes)):
        ranks[classes[name]] = rank
    return ranks
