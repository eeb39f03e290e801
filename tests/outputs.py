"""What tests read of an output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq


def entries(output: Path | str) -> list[dict[str, Any]]:
    """All ledger entries, in the order in which the attempts ended."""
    # One by one: parts of earlier commits lack columns of today.
    parts = sorted((Path(output) / "ledger").glob("*.parquet"))
    found = [entry for part in parts for entry in pq.read_table(part).to_pylist()]
    return sorted(found, key=lambda entry: entry["finished_at"])
