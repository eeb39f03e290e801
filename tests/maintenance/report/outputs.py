"""Helpers: an output with videos, failures and flags, and what its report says."""

from __future__ import annotations

import dataclasses
import re
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.maintenance.outputs import path_in_output, put_video, smooth
from vidgen_dist.ledger import LedgerEntry, LedgerWriter
from vidgen_dist.media import EncodedVideo, write_video
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


def put_run_file(output: Storage, manifest: str, format: str = "mp4", dtype: str = "float32") -> None:
    run = (
        f"model: {{id: /home/somebody/checkpoint, digest: d, task: text-to-video, dtype: {dtype}}}\n"
        f"manifest: {{uri: '{manifest}'}}\n"
        f"output: {{uri: '{output.root}', format: {format}}}\n"
    )
    output.write_bytes("run.yaml", run.encode())


def put_entries(output: Storage, *entries: LedgerEntry) -> None:
    with LedgerWriter(output, "w") as writer:
        for entry in entries:
            writer.append(entry)


def put_two_outputs(folder: Path) -> tuple[Storage, Storage]:
    """Outputs A and B that have a row of each kind; `near` differs little, `far` much; one prompt is hostile.

    The runs differ in their dtype, `far` in its seed and LoRA.
    """
    a, b = (open_storage(str(folder / name)) for name in ("one", "two"))
    names = ["same", "near", "far", "length", "gone", "failed", "only-a", "only-b"]
    manifest = folder / "manifest.parquet"
    prompts = [HOSTILE if name == "near" else f"a fox, {name}" for name in names]
    pq.write_table(pa.table({"id": names, "prompt": prompts}), manifest)
    for output, dtype in ((a, "bfloat16"), (b, "float32")):
        put_run_file(output, str(manifest), dtype=dtype)
    waves = smooth(0, frames=8)
    with tempfile.TemporaryDirectory(prefix="vidgen-") as scratch:

        def clip(name: str, frames: np.ndarray) -> EncodedVideo:
            return write_video(frames, Path(scratch, f"{name}.mp4"), format="mp4", fps=8, crf=18)

        wave = clip("wave", waves)
        others = {
            "same": wave,
            "near": clip("near", waves + (waves < 255).astype(np.uint8)),
            "far": clip("far", 255 - waves),
            "length": clip("length", waves[:4]),
            "gone": clip("gone", waves[::-1]),
            "only-b": wave,
        }
        put_entries(
            a,
            *(
                video(a, name, 1, local=wave, seed=7, loras=None)
                for name in names
                if name not in ("only-b", "failed")
            ),
            video(a, "failed", 1),
        )
        put_entries(
            b,
            *(
                video(b, name, 2, local=local, seed=8 if name == "far" else 7, loras=[LORA] * (name == "far"))
                for name, local in others.items()
            ),
            failure("failed"),
        )
    b.delete(path_in_output(b, "gone"))
    return a, b


def video(
    output: Storage,
    name: str,
    number: int,
    format: str = "mp4",
    local: EncodedVideo | None = None,
    **values: Any,
) -> LedgerEntry:
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
    return dataclasses.replace(put_video(output, name, number, format, local), **(given | values))


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
