"""Helpers: manifests to export, and the content of an export."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.maintenance.outputs import ODD_IDS, path_in_output
from vidgen_dist.ledger import LedgerEntry, LedgerWriter
from vidgen_dist.storage.folder import Storage, open_storage

DONE = ODD_IDS
IDS = ("late", *reversed(DONE), "bad")
"""The manifest's ids, in its order; the ledger has the opposite order."""


def put_manifest(path: Path, ids: tuple[str, ...] = IDS, **columns: list) -> str:
    table = {
        "id": list(ids),
        "prompt": [f"prompt of {row}"[:100] for row in ids],
        "source": [f"source of {row}"[:100] for row in ids],
        "num_inference_steps": [float(place) if place % 2 else None for place in range(1, len(ids) + 1)],
    }
    pq.write_table(pa.table(table | columns), path, row_group_size=3)
    return str(path)


def put_failure(output: Storage, row: str) -> None:
    with LedgerWriter(output, "w1") as writer:
        now = datetime.now(UTC)
        failed = LedgerEntry(
            id=row, status="failed", fingerprint="f", attempt=1, finished_at=now, error_class="OSError"
        )
        writer.append(failed)


def bytes_of(output: Storage, row: str) -> bytes:
    return output.read_bytes(path_in_output(output, row))


def contents(place: str) -> dict[str, bytes]:
    storage = open_storage(place)
    return {path: storage.read_bytes(path) for path in storage.sizes()}


def members(place: str) -> Iterator[tuple[str, tarfile.TarInfo, bytes]]:
    """Shard, header and content of all members, in their order."""
    storage = open_storage(place)
    for name in storage.list():
        if name.endswith(".tar"):
            with tarfile.open(fileobj=io.BytesIO(storage.read_bytes(name))) as tar:
                for member in tar:
                    file = tar.extractfile(member)
                    assert file is not None
                    yield name, member, file.read()


def samples(place: str) -> dict[str, dict[str, bytes]]:
    """Members as readers of tar shards group them: neighbours with the same name up to the first dot."""
    found: dict[str, dict[str, bytes]] = {}
    last = None
    for _, member, content in members(place):
        key, _, suffix = member.name.partition(".")
        assert key == last or key not in found
        found.setdefault(key, {})[suffix] = content
        last = key
    return found
