"""LoRAs of rows that wait are fetched, each once; one that fails is told and stops nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.fake_engine import resolved
from tests.waiting import wait_until
from vidgen_dist.output.pending_row import PendingRow
from vidgen_dist.runtime.worker import lora_fetcher
from vidgen_dist.runtime.worker.lora_fetcher import LoraFetcher
from vidgen_dist.spec import LoraOptions
from vidgen_dist.worker_events import WorkerEvent


def test_each_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [str(tmp_path / f"{k}.safetensors") for k in range(3)]
    for place in (places[0], places[2]):
        save_file({"x.diff": np.ones((2, 2), np.float32)}, place)
    opened: list[tuple[str, str | None]] = []
    open_lora = lora_fetcher.open_lora

    def record(options: LoraOptions) -> Any:
        opened.append((options.id, options.digest))
        return open_lora(options)

    monkeypatch.setattr(lora_fetcher, "open_lora", record)
    told: list[WorkerEvent] = []
    fetcher = LoraFetcher([LoraOptions(id=places[2], digest="d")], told.append)
    rows = [
        PendingRow(resolved(id=f"{i}", lora=tuple(loras), lora_scale=(1.0,) * len(loras)))
        for i, loras in enumerate([places[:2], places[:1], places[1:]])
    ]
    for row in (*rows, *rows):
        fetcher.fetch_for([row])
    wait_until(lambda: len(opened) == 3)
    assert opened == [(places[0], None), (places[1], None), (places[2], "d")]
    (failed,) = told
    assert (failed.kind, failed.error) == ("retried", "Refused")
    assert places[1] in failed.message
