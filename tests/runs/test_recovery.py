"""A run enters the finished videos of a killed run."""

from __future__ import annotations

import io
import os
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
from rich.console import Console

from tests.commands import fake_vidgen
from tests.fake_engine import FAKE_ENGINE
from tests.waiting import wait_until
from vidgen_dist.ledger import read_ledger
from vidgen_dist.maintenance.verification import verify
from vidgen_dist.output.lease import LeasePolicy
from vidgen_dist.output.ledger_committer import CommitPolicy
from vidgen_dist.preflight.plan import Plan
from vidgen_dist.runtime.driver.policies import RunPolicies
from vidgen_dist.runtime.driver.render import render
from vidgen_dist.spec import RunSpec
from vidgen_dist.storage.folder import open_storage

ROWS = 16
STORED = 6
QUICK = LeasePolicy(interval_seconds=0.3, orphan_seconds=1.0)
"""A Ray that runs on ended workers of a dead driver within 0.1 s when measured."""


@pytest.mark.usefixtures("local_ray")
def test_videos_that_a_killed_driver_had_not_entered_are_recovered(
    make_manifest: Callable[..., str],
    make_spec: Callable[..., RunSpec],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The driver is killed before it has written any part of the ledger."""
    marks, root = tmp_path / "marks", str(tmp_path / "out")
    output = open_storage(root)
    marks.mkdir()
    ids = [f"row-{number:02d}" for number in range(ROWS)]
    manifest = make_manifest(*({"id": i, "prompt": f"stamp:{marks}/{i} sleep:0.1"} for i in ids))
    flags = [manifest, root, "--model", "fake", "--device", "cpu", "--replicas", "1"]
    flags += ["--address", ray.get_runtime_context().gcs_address]
    never = CommitPolicy(min_entries=10**6, patience_seconds=3600.0)
    command = [*fake_vidgen(RunPolicies(lease=QUICK, commit=never)), "render", *flags]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: len(output.list("videos")) >= STORED)
    finally:
        driver.kill()
        driver.wait()
    assert output.list("ledger") == []
    stored: list[str] = []
    real_rows = Plan.rows

    def record_stored(plan: Plan) -> Any:
        stored.extend(path.rpartition("/")[2].removesuffix(".mp4") for path in output.list("videos"))
        return real_rows(plan)

    monkeypatch.setattr(Plan, "rows", record_stored)
    spec = make_spec(manifest, output__format="mp4", topology__replicas=1)
    policies = RunPolicies(lease=QUICK)
    result = render(spec, Console(file=io.StringIO()), engine=FAKE_ENGINE, policies=policies)
    assert result.done == ROWS
    assert result.recovered >= len(stored) >= STORED
    assert (
        "adopted",
        f"{result.recovered} finished videos of a run or a gang that was killed",
    ) in result.lines()
    begun = Counter(name.partition(",")[0] for name in os.listdir(marks))
    assert {begun[row_id] for row_id in stored} == {1}
    state = read_ledger(output)
    assert (state.done, state.failed) == (ROWS, 0)
    assert verify(root, deep=True).whole == ROWS
