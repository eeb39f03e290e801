"""Entries of many parts are merged, in any order."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ledger.parts import attempts, entry, expected, found, of_row, verdicts, write
from vidgen_dist.bulk_digests import text_hashes
from vidgen_dist.ledger import LedgerEntry, attempt_merge, read_ledger
from vidgen_dist.ledger import attempts as attempts_module
from vidgen_dist.ledger import state as state_module
from vidgen_dist.ledger.attempt_merge import MergePolicy
from vidgen_dist.storage.folder import Storage


@settings(deadline=None)
@given(
    entries=st.lists(attempts, max_size=12),
    seed=st.integers(0, 2**32),
    cuts=st.lists(st.integers(0, 30), max_size=4),
)
def test_merging_is_independent_of_order_and_repetition(
    entries: list[LedgerEntry], seed: int, cuts: list[int]
) -> None:
    state = found([entries])
    truth = expected(entries, state)
    for id in "abc":
        in_place = {fingerprint for fingerprint in "fg" if state.is_done(id, fingerprint)}
        live = truth["live"].get(id, set())
        assert in_place <= live
        assert len(in_place) == bool(live)
        for fingerprint in "fg":
            tried = [each.attempt for each in of_row(entries, id, fingerprint)]
            assert state.attempts(id, fingerprint) == max(tried, default=0)
    verdict = list(truth["verdicts"].values())
    assert (state.done, state.failed) == (verdict.count("done"), verdict.count("failed"))
    assert sum(state.failures.values()) == state.failed

    shuffled = random.Random(seed)
    again = entries + shuffled.choices(entries, k=5) if entries else []
    shuffled.shuffle(again)
    bounds = [0, *sorted(cuts), len(again)]
    parts = [again[start:end] for start, end in pairwise(bounds)]
    assert verdicts(found(parts)) == verdicts(state)


def test_ids_whose_digests_begin_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    def alike(ids: pa.Array) -> np.ndarray:
        return text_hashes(ids) * np.array([0, 1], np.uint64)

    for module in (attempts_module, state_module):
        monkeypatch.setattr(module, "id_hashes", alike)
    state = found([[entry("b"), entry("a", "failed")], [entry("c", fingerprint="g"), entry("a", at=1)]])
    assert [state.is_done(id, "f") for id in "abcd"] == [True, True, False, False]
    assert state.is_done("c", "g")
    assert state.done == 3


def test_more_attempts_than_are_merged_at_once(output: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    merge = attempt_merge._best
    monkeypatch.setattr(
        attempt_merge, "_best", lambda rows, classes: sizes.append(len(rows)) or merge(rows, classes)
    )
    for at in range(4):
        failures = [
            entry(str(id), "failed", at=at, attempt=at + 1, error_class=f"E{at}") for id in range(4, 8)
        ]
        write(output, *(entry(str(id), at=at) for id in range(4)), *failures, writer=f"w{at}")
    state = read_ledger(output, MergePolicy(batch_entries=3, merge_entries=4))
    assert len(sizes) > 2
    assert max(sizes) < 32
    assert (state.done, state.failed, state.failures) == (4, 4, {"E3": 4})
    assert [state.attempts(str(id), "f") for id in range(4, 8)] == [4] * 4
