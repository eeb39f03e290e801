"""Starts workers in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.worker.in_process import WorkerHarness, make_job, start_worker


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., WorkerHarness]:
    """Starts a worker whose output is `tmp_path / "out"`."""

    def begin(model: str = "fake", max_attempts: int = 3, **options: Any) -> WorkerHarness:
        return start_worker(make_job(tmp_path / "out", model, max_attempts, **options))

    return begin
