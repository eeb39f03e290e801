"""Ids that are not file names, from the manifest to the videos, the ledger and the next run."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from tests.fake_engine import FAKE_ENGINE
from vidgen_dist.runtime.driver.render import render
from vidgen_dist.spec import RunSpec
from vidgen_dist.storage.files import read_bytes
from vidgen_dist.storage.folder import open_storage

IDS = [
    "plain",
    "PLAIN",
    "Plain",
    "a/b",
    "a//b",
    "a\\b",
    "/etc/passwd",
    "..",
    "../../escaped",
    "videos/../../ledger/part.parquet",
    ".lease.json",
    "CON",
    "nul.mp4",
    "two\nlines",
    "a\ttab",
    "trailing ",
    " ",
    "%2e%2e%2f",
    "?x=1#y",
    "s3://bucket/key",
    "x" * 1000,
    "x" * 999 + "y",
    "é",
    "e\u0301",
    "🦊" * 40,
    "狐",
    "-rf",
    "*",
]


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("where", ["local", "s3"])
def test_every_id_has_a_video_of_its_own_within_the_output(
    make_spec: Callable[..., RunSpec],
    make_manifest: Callable[..., str],
    tmp_path: Path,
    s3_bucket: str,
    where: str,
) -> None:
    uri = str(tmp_path / "below" / "out") if where == "local" else f"s3://{s3_bucket}/below/out"
    manifest = make_manifest(*({"id": row_id, "prompt": f"seed {i}"} for i, row_id in enumerate(IDS)))
    spec = make_spec(manifest, output__uri=uri)
    result = render(spec, Console(file=io.StringIO()), engine=FAKE_ENGINE)
    assert (result.done, result.failed, result.exit_status) == (len(IDS), 0, 0)
    output = open_storage(uri)
    parts = [pq.read_table(io.BytesIO(output.read_bytes(name))) for name in output.list("ledger")]
    found = {entry["id"]: entry["uri"] for part in parts for entry in part.to_pylist()}
    assert found.keys() == set(IDS)
    # They differ even on a case-insensitive file system.
    assert len({video.casefold() for video in found.values()}) == len(IDS)
    assert sorted(found.values()) == sorted(output.uri(name) for name in output.list("videos"))
    assert len({read_bytes(video) for video in found.values()}) == len(IDS)
    # There is no file beside the output, and no unknown file in it.
    everything = open_storage(tmp_path if where == "local" else f"s3://{s3_bucket}/").list()
    beside = [name for name in everything if not name.startswith("below/out/") and name != "manifest.parquet"]
    assert beside == []
    again = render(spec, Console(file=io.StringIO()), engine=FAKE_ENGINE)
    assert (again.done_before, again.done, again.exit_status) == (len(IDS), 0, 0)
