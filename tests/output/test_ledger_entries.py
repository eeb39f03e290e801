"""Ledger entries that a run makes."""

from __future__ import annotations

import pytest

from tests.runtime.worker.in_process import row
from vidgen_dist.output.ledger_entries import RowAttempt, failed_entry
from vidgen_dist.quality import Quality
from vidgen_dist.spec import ModelOptions

ATTEMPT = RowAttempt(ModelOptions(id="m"), "w", row("x"), "f")


def test_quotes_in_a_dead_letter_contain_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    message = "2 workers died with this row; the last: rank 1 raised E: s3://me:pw@b/x?sig=1 hf_0123456789"
    entry = failed_entry(ATTEMPT, "WorkerDied", message)
    assert entry.error_message == "2 workers died with this row; the last: rank 1 raised E: s3://b/x ***"


def test_the_quality_of_a_rejected_video_is_entered() -> None:
    entry = failed_entry(ATTEMPT, "VideoRejected", "…", Quality(0.9, None, 0.75, 0.25))
    assert (entry.mean_luma, entry.motion, entry.clipped, entry.noisiness) == (0.9, None, 0.75, 0.25)
    assert entry.flags == ("blown-out",)
    unmeasured = failed_entry(ATTEMPT, "MediaError", "…")
    assert (unmeasured.mean_luma, unmeasured.flags) == (None, None)
