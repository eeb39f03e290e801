"""Helpers: an output with videos, failures and flags, and what its report says."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.maintenance.outputs import put_video
from vidgen_dist.ledger import LedgerEntry, LedgerWriter
from vidgen_dist.storage.folder import Storage, open_storage

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"> & {{ 7 * 7 }} 'q' \u202egnp"
HOSTILE_ID = "<svg/onload=\"document.title='owned'\">"

LORA = {"id": "/home/somebody/loras/ink.safetensors", "revision": None, "digest": "d", "scale": 0.8}


def put_output(folder: Path, *, videos: int = 20, failures: int = 4, format: str = "mp4") -> Storage:
    """An output: of its videos each fifth has a flag, some a LoRA; one prompt and one id are hostile."""
    output = open_storage(str(folder / "out"))
    names = [f"clip-{number:02d}" for number in range(videos)]
    failed = [f"bad-{number}" for number in range(failures - 1)] + [HOSTILE_ID] * bool(failures)
    prompts = [f"a fox number {number}" for number in range(videos)] + ["a bad prompt"] * failures
    if videos > 1:
        prompts[1] = HOSTILE
    manifest = folder / "manifest.parquet"
    table = pa.table({"id": [*names, *failed, "pending"], "prompt": [*prompts, "later"]})
    pq.write_table(table, manifest, row_group_size=7)
    put_run_file(output, str(manifest), format)
    put_entries(
        output,
        *(video(output, name, number, format) for number, name in enumerate(names)),
        *(failure(name, number) for number, name in enumerate(failed)),
    )
    return output


def put_run_file(output: Storage, manifest: str, format: str = "mp4") -> None:
    run = (
        f"model: {{id: /home/somebody/checkpoint, task: text-to-video}}\nmanifest: {{uri: '{manifest}'}}\n"
        f"output: {{uri: '{output.root}', format: {format}}}\n"
    )
    output.write_bytes("run.yaml", run.encode())


def put_entries(output: Storage, *entries: LedgerEntry) -> None:
    with LedgerWriter(output, "w") as writer:
        for entry in entries:
            writer.append(entry)


def video(output: Storage, name: str, number: int, format: str = "mp4", **values: Any) -> LedgerEntry:
    """A video's entry; the video is there."""
    given: dict[str, Any] = {
        "finished_at": NOON + timedelta(seconds=60 * number),
        "mean_luma": 0.01 if number % 5 == 0 else 0.3 + number / 100,
        "motion": 0.01 * number,
        "clipped": 0.0,
        "noisiness": 0.1,
        "flags": ["black"] if number % 5 == 0 else [],
        "seconds_encode": 0.1,
        "seconds_denoise": 20.0 + number,
        "seconds_decode": 3.0,
        "seconds_write": 0.5,
        "loras": [LORA] if number % 4 == 2 else None,
        "extra": {},
    }
    return dataclasses.replace(put_video(output, name, number, format), **(given | values))


def failure(name: str, number: int = 0, **values: Any) -> LedgerEntry:
    given: dict[str, Any] = {
        "fingerprint": "f",
        "attempt": 1,
        "finished_at": NOON + timedelta(seconds=60 * number),
        "error_class": "MediaError" if number % 2 else "NumericalError",
        "error_message": f"message {number} <b>",
        "seed": number,
    }
    return LedgerEntry(id=name, status="failed", **(given | values))


def read_pages(place: Storage) -> dict[str, str]:
    """The report's own files but posters and videos, by their paths without digests."""
    return {
        re.sub(r"pages/[0-9a-f]{16}-", "pages/", path): place.read_bytes(path).decode()
        for path in place.list()
        if not path.startswith("media/")
    }


def cards_of(page: str) -> Sequence[str]:
    return re.findall(r"<article.*?</article>", page, re.DOTALL)
