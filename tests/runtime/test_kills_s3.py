"""Drivers, workers and all of Ray killed at random moments, to a storage that fails one request in ten."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tests.runtime.siege import KILLS, QUICK, ROWS, SEED, MakeManifest, Siege, assert_whole, manifest_of
from tests.s3_traffic import HANG_SECONDS, Traffic
from vidgen_dist.storage import open_storage


def test_with_a_ray_of_its_own_to_a_storage_that_fails(
    make_manifest: MakeManifest, tmp_path: Path, s3_bucket: str, s3_traffic: Traffic
) -> None:
    """One request in ten fails. Killed are workers, drivers, and drivers with all of Ray."""
    print(f"seed {SEED}")
    marks, output = tmp_path / "marks", open_storage(f"s3://{s3_bucket}/out")
    manifest, ids = manifest_of(make_manifest, marks)
    flags = [manifest, output.root, "--model", "fake", "--device", "cpu", "--replicas", "2"]
    chance = random.Random(SEED)
    settings = {
        "VIDGEN_TEST_CONSTANTS": json.dumps({**QUICK, "lease.INTERVAL_SECONDS": 0.5}),
        "FSSPEC_S3": json.dumps({"config_kwargs": {"read_timeout": HANG_SECONDS / 3}}),
    }
    s3_traffic.share = 0.1
    siege = Siege(flags, marks, tmp_path / "log", chance, settings)
    try:
        siege.attack(chance.sample(["worker"] * (KILLS - 3) + ["driver", "node", "driver"], KILLS))
        siege.finish()
    finally:
        siege.end()
        s3_traffic.share = 0.0
    print(siege.killed, s3_traffic.spoiled, siege.log.read_text())
    assert siege.killed.total() >= KILLS
    assert set(s3_traffic.spoiled) == {"refused", "obeyed", "cut", "hanging"}
    begun = siege.rows_begun()
    assert sum(map(len, begun.values())) > ROWS, "nobody was killed while it rendered"
    assert_whole(output, ids, begun)
