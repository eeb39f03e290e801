"""What the tests of the runtime share: small manifests, specs for the fast fake engine, one local Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vidgen_dist.runtime import retry
from vidgen_dist.runtime.cluster import connected
from vidgen_dist.spec import RunSpec, Topology, spec_from_flags

FAKE_ENGINE = "tests.runtime.fake_engine"


@pytest.fixture(scope="session")
def local_ray(s3_endpoint: str) -> Iterator[None]:
    """A local Ray that runs share; starting one takes seconds. Workers inherit the S3 server's address."""
    assert s3_endpoint
    with connected(Topology()):
        yield


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
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.0)


def entries(output: Path | str) -> list[dict[str, Any]]:
    """All ledger entries, in the order in which the attempts ended."""
    table = pq.read_table(Path(output) / "ledger")
    return sorted(table.to_pylist(), key=lambda entry: entry["finished_at"])
