"""The results of a small run, to look at: its rows and a contact sheet."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vidgen_dist import ledger, media
from vidgen_dist.storage import Storage

CONTACT_SHEET = "contact-sheet.png"


def latest_rows(output: Storage) -> dict[str, dict[str, Any]]:
    """Id -> the latest ledger entry. All parts are held in memory: for small runs."""
    latest: dict[str, dict[str, Any]] = {}
    for part in ledger.read_ledger(output).parts:
        for entry in pq.read_table(pa.BufferReader(output.read_bytes(part))).to_pylist():
            before = latest.get(entry["id"])
            if before is None or before["finished_at"] <= entry["finished_at"]:
                latest[entry["id"]] = entry
    return latest


def write_contact_sheet(output: Storage, videos: Sequence[tuple[str, str]], format: str) -> str:
    """Put some frames of some videos side by side into one PNG and return its URI.

    Args:
        output: A local output.
        videos: Label and path of each video.
        format: Format of the videos.
    """
    sheet = media.contact_sheet([(label, media.read_frames(Path(path), format)) for label, path in videos])
    data = io.BytesIO()
    sheet.save(data, "PNG")
    output.write_bytes(CONTACT_SHEET, data.getvalue())
    return output.uri(CONTACT_SHEET)
