"""What the tests of the runtime share: small manifests, specs for the fast fake engine, one local Ray."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vidgen_dist.spec import RunSpec, spec_from_flags
from vidgen_dist.storage import retries

FAKE_ENGINE = "tests.runtime.fake_engine"

NPUS = 4
"""As many as the local Ray believes to have."""


@pytest.fixture(scope="session")
def _for_all_of_ray(s3_endpoint: str) -> Iterator[None]:
    """What every local Ray inherits; workers, the S3 server's address too."""
    assert s3_endpoint
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        # As in a run's own Ray; else workers give way to the tests that run beside this one.
        patch.setenv("RAY_worker_niceness", "0")
        import ray
        from ray._private.node import Node

        # What workers print is read by nobody, and no cluster grows: two processes less for each Ray, one of
        # which looks ten times a second.
        for start in ("start_log_monitor", "start_monitor"):
            patch.setattr(Node, start, lambda _: None)
        yield
        ray.shutdown()


@pytest.fixture
def local_ray(_for_all_of_ray: None) -> None:
    """A local Ray that runs share; starting one takes seconds."""
    import ray

    # A test with a cluster of its own ends it.
    if not ray.is_initialized():
        ray.init(
            address="local",
            resources={"NPU": NPUS},
            namespace="vidgen",
            include_dashboard=False,
            object_store_memory=128 * 2**20,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )


@pytest.fixture
def make_manifest(tmp_path: Path) -> Callable[..., str]:
    """Writes rows, or prompts with the ids a, b, c, …, as a manifest and returns its path."""

    def make(*rows: dict[str, Any] | str, name: str = "manifest.parquet") -> str:
        whole = [
            {"id": chr(ord("a") + i), "prompt": row} if isinstance(row, str) else row
            for i, row in enumerate(rows)
        ]
        path = tmp_path / name
        pq.write_table(pa.Table.from_pylist(whole), path)
        return str(path)

    return make


@pytest.fixture
def make_spec(tmp_path: Path) -> Callable[..., RunSpec]:
    """A spec for a manifest; further dotted keys by flags."""

    def make(manifest: str, **flags: Any) -> RunSpec:
        defaults = {
            "model.id": "fake",
            "manifest.uri": manifest,
            "output.uri": str(tmp_path / "out"),
            "output.format": "npy",
            "topology.device": "cpu",
            "topology.replicas": 2,
        }
        return spec_from_flags(defaults | {key.replace("__", "."): value for key, value in flags.items()})

    return make


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage that refuses is asked again at once."""
    monkeypatch.setattr(retries, "FIRST_DELAY", 0.0)


@dataclass(frozen=True)
class Sign:
    """What a rank put into a file's name when it was told `sign:`."""

    rank: int
    pid: int
    npu: str
    cores: str
    at: datetime


def signs_in(folder: Path) -> list[Sign]:
    """The signs in a folder, in the order in which they were made."""
    found = []
    for file in folder.iterdir():
        rank, pid, npu, cores = file.name.split(",")
        at = datetime.fromtimestamp(file.stat().st_mtime, UTC)
        found.append(Sign(int(rank), int(pid), npu, cores, at))
    return sorted(found, key=lambda sign: sign.at)


def entries(output: Path | str) -> list[dict[str, Any]]:
    """All ledger entries, in the order in which the attempts ended."""
    # One by one: parts of earlier commits lack columns of today.
    parts = sorted((Path(output) / "ledger").glob("*.parquet"))
    found = [entry for part in parts for entry in pq.read_table(part).to_pylist()]
    return sorted(found, key=lambda entry: entry["finished_at"])
