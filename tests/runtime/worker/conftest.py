"""Starts workers in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fake_engine import FAKE_ENGINE
from tests.policies import AT_ONCE
from tests.runtime.worker.in_process import IDENTITY, PASSTHROUGH, WorkerHarness
from vidgen_dist.runtime.messages import Job
from vidgen_dist.runtime.worker.worker import Worker
from vidgen_dist.spec import ModelOptions, OutputOptions
from vidgen_dist.storage.folder import open_storage


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., WorkerHarness]:
    """Starts a worker whose output is `tmp_path / "out"`."""

    def begin(model: str = "fake", max_attempts: int = 3, **output: Any) -> WorkerHarness:
        job = Job(
            engine=FAKE_ENGINE,
            model=ModelOptions(id=model),
            device="cpu",
            output=open_storage(tmp_path / "out"),
            output_options=OutputOptions(**{"uri": str(tmp_path / "out"), "format": "npy", **output}),
            identity=IDENTITY,
            passthrough=PASSTHROUGH,
            max_attempts=max_attempts,
            retries=AT_ONCE,
        )
        worker = Worker(job, "w1")
        worker.start(None)
        return WorkerHarness(worker)

    return begin
