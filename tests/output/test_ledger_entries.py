"""Ledger entries as the runtime makes them."""

from __future__ import annotations

import pytest

from tests.runtime.worker.in_process import row
from vidgen_dist.output.ledger_entries import failed_entry
from vidgen_dist.quality import Quality
from vidgen_dist.spec import ModelOptions

MODEL = ModelOptions(id="m")


def test_whatever_a_dead_letter_quotes_is_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    message = "2 workers died with this row; the last: rank 1 raised E: s3://me:pw@b/x?sig=1 hf_0123456789"
    entry = failed_entry(MODEL, "driver", row("x"), "f", "WorkerDied", message)
    assert entry.error_message == "2 workers died with this row; the last: rank 1 raised E: s3://b/x ***"


def test_the_numbers_of_a_rejected_video_are_kept() -> None:
    entry = failed_entry(MODEL, "w", row("x"), "f", "VideoRejected", "…", Quality(0.9, None, 0.75, 0.25))
    assert (entry.mean_luma, entry.motion, entry.clipped, entry.noisiness) == (0.9, None, 0.75, 0.25)
    assert entry.flags == ("blown-out",)
    unmeasured = failed_entry(MODEL, "w", row("x"), "f", "MediaError", "…")
    assert (unmeasured.mean_luma, unmeasured.flags) == (None, None)
