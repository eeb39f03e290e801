"""Drivers and workers are killed at random moments; the cluster runs on, the output is a folder."""

from __future__ import annotations

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
    Watch,
    assert_whole,
    flags_of,
    manifest_of,
)
from vidgen_dist.output.lease import LeasePolicy
from vidgen_dist.runtime.driver.policies import RunPolicies
from vidgen_dist.storage.folder import open_storage


@pytest.mark.usefixtures("local_ray")
def test_kills_on_a_cluster_that_runs_on_with_a_local_output(
    make_manifest: MakeManifest, tmp_path: Path
) -> None:
    """Workers are killed, and drivers, whose workers Ray must end."""
    print(f"seed {SEED}")
    marks, output = tmp_path / "marks", open_storage(tmp_path / "out")
    manifest, ids = manifest_of(make_manifest, marks)
    flags = [*flags_of(manifest, output), "--address", ray.get_runtime_context().gcs_address]
    chance = random.Random(SEED)
    # Ray ended such workers within 0.1 s when measured.
    policies = RunPolicies(commit=QUICK, lease=LeasePolicy(orphan_seconds=1.0))
    chaos = Chaos(flags, marks, tmp_path / "log", chance, policies, tree=os.getpid())
    kinds = ["driver", "driver twice"] + ["worker"] * (KILLS - 3)
    with Watch(tmp_path / "out" / "videos") as watch:
        try:
            chaos.attack(chance.sample(kinds, len(kinds)), range(5, ROWS - 20))
            chaos.finish()
        finally:
            chaos.end()
    print(chaos.killed, chaos.log.read_text())
    assert chaos.killed.total() == KILLS
    begun = chaos.rows_begun()
    assert sum(map(len, begun.values())) > ROWS, "no process was killed while it rendered"
    assert_whole(output, ids, begun, watch.seen)
