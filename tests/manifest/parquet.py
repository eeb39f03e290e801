"""Helpers: a small manifest, its rows and their requests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vidgen_dist.manifest import Manifest, Row
from vidgen_dist.request import RenderRequest


def write(path: Path, columns: Mapping[str, Any] | pa.Table, **options: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(dict(columns)), path, **options)
    return str(path)


def rows_of(manifest: Manifest) -> list[Row]:
    return list(manifest.rows())


def request_of(row: Row) -> RenderRequest:
    assert isinstance(row.outcome, RenderRequest)
    assert row.request is not None
    return row.request
