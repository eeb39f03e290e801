"""Ledger entries as the runtime makes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.runtime.test_worker import IDENTITY, PASSTHROUGH, row
from vidgen_dist.ledger import LedgerEntry, LedgerWriter, compact
from vidgen_dist.quality import Quality
from vidgen_dist.runtime.entries import failed_entry, outcomes_of
from vidgen_dist.runtime.job import Job
from vidgen_dist.spec import Model, Output
from vidgen_dist.storage import open_storage

JOB = Job("engine", Model(id="m"), "cpu", Output(uri="out"), IDENTITY, PASSTHROUGH)


def test_whatever_a_dead_letter_quotes_is_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    message = "2 workers died with this row; the last: rank 1 raised E: s3://me:pw@b/x?sig=1 hf_0123456789"
    entry = failed_entry(JOB, "driver", row("x"), "f", "WorkerDied", message)
    assert entry.error_message == "2 workers died with this row; the last: rank 1 raised E: s3://b/x ***"


def test_the_numbers_of_a_rejected_video_are_kept() -> None:
    entry = failed_entry(JOB, "w", row("x"), "f", "VideoRejected", "…", Quality(0.9, None, 0.75))
    assert (entry.mean_luma, entry.motion, entry.clipped, entry.flags) == (0.9, None, 0.75, ("blown-out",))
    unmeasured = failed_entry(JOB, "w", row("x"), "f", "MediaError", "…")
    assert (unmeasured.mean_luma, unmeasured.flags) == (None, None)


def test_outcomes_of_a_worker_are_found_in_compacted_parts(tmp_path: Path) -> None:
    output, begun = open_storage(tmp_path), datetime.now(UTC)
    for worker, rows in (("gang-1", {"a": "done", "b": "failed"}), ("gang-2", {"c": "done"})):
        writer = LedgerWriter(output, worker)
        for row_id, status in rows.items():
            writer.append(
                LedgerEntry(
                    id=row_id,
                    status=status,
                    fingerprint="f",
                    attempt=1,
                    finished_at=begun,
                    uri="somewhere" if status == "done" else None,
                    error_class=None if status == "done" else "OSError",
                    worker=worker,
                )
            )
            writer.flush()
    expected = {"a": "done", "b": "failed"}
    assert outcomes_of(output, "gang-1", begun) == expected
    assert compact(output, min_age=timedelta(seconds=-1)).after == 1
    assert outcomes_of(output, "gang-1", begun) == expected
    # What was compacted long before the run began is not read.
    assert outcomes_of(output, "gang-1", begun + timedelta(days=1)) == {}
