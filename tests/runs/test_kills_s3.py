"""Drivers, workers and a whole Ray are killed at random moments; the storage fails one request in ten."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
import ray

from tests.runs.chaos import (
    KILLS,
    QUICK,
    ROWS,
    SEED,
    Chaos,
    MakeManifest,
    assert_whole,
    flags_of,
    manifest_of,
)
from tests.storage.s3_traffic import HANG_SECONDS, Traffic
from vidgen_dist.output.lease import LeasePolicy
from vidgen_dist.runtime.driver.policies import RunPolicies
from vidgen_dist.storage.folder import open_storage


@pytest.mark.usefixtures("local_ray")
def test_kills_on_a_runs_own_ray_and_on_one_that_runs_on_with_a_failing_storage(
    make_manifest: MakeManifest, tmp_path: Path, s3_bucket: str, s3_traffic: Traffic
) -> None:
    """One request in ten fails. A driver is killed with all of its Ray, then workers and drivers."""
    print(f"seed {SEED}")
    marks, output = tmp_path / "marks", open_storage(f"s3://{s3_bucket}/out")
    manifest, ids = manifest_of(make_manifest, marks)
    chance = random.Random(SEED)
    policies = RunPolicies(commit=QUICK, lease=LeasePolicy(interval_seconds=0.5))
    settings = {"FSSPEC_S3": json.dumps({"config_kwargs": {"read_timeout": HANG_SECONDS / 1.5}})}
    s3_traffic.share = 0.1
    chaos = Chaos(flags_of(manifest, output), marks, tmp_path / "log", chance, policies, settings)
    try:
        chaos.attack(["node"], range(5, 15))
        chaos.attach(ray.get_runtime_context().gcs_address, os.getpid())
        kinds = ["driver", "driver twice"] + ["worker"] * (KILLS - 4)
        chaos.attack(chance.sample(kinds, len(kinds)), range(15, ROWS - 20))
        chaos.finish()
    finally:
        chaos.end()
        s3_traffic.share = 0.0
    print(chaos.killed, s3_traffic.spoiled, chaos.log.read_text())
    assert chaos.killed.total() == KILLS
    assert set(s3_traffic.spoiled) == {"refused", "obeyed", "cut", "hanging"}
    begun = chaos.rows_begun()
    assert sum(map(len, begun.values())) > ROWS, "no process was killed while it rendered"
    there = {
        path.rpartition("/")[2]: at for (method, path), at in s3_traffic.obeyed.items() if method == "PUT"
    }
    assert_whole(output, ids, begun, there)
