"""Helpers: outputs with small real videos as a run leaves them, made without a run."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vidgen_dist import media
from vidgen_dist.ledger import LedgerEntry, LedgerWriter
from vidgen_dist.output.status_file import (
    GangStatus,
    RunStatus,
    SlowGang,
    SlowRow,
)
from vidgen_dist.output_layout import STATUS_FILE
from vidgen_dist.storage.folder import Storage, open_storage
from vidgen_dist.storage.names import safe_name

ODD_IDS = ("a", "../b/c", "line\nbreak", "熊猫 🐼", "x" * 1000, "Case", "case", "d.e")
_CLIPS = tempfile.TemporaryDirectory(prefix="vidgen-clips-")


@functools.cache
def clip(number: int, format: str) -> media.EncodedVideo:
    """A small real video, encoded once: encoding would take the longest."""
    frames = np.random.default_rng(number).integers(0, 255, (3, 16, 16, 3), np.uint8)
    return media.write_video(frames, Path(_CLIPS.name, f"{number}.{format}"), format=format, fps=8, crf=18)


def put_run(
    uri: str, format: str = "mp4", ids: tuple[str, ...] = ODD_IDS, manifest: str = "nowhere"
) -> Storage:
    """An output with a small real video per row."""
    output = open_storage(uri)
    run = (
        f"model: {{id: /gone/m, digest: d}}\nmanifest: {{uri: '{manifest}', passthrough: [source]}}\n"
        f"output: {{uri: '{uri}', format: {format}}}\nsampling: {{guidance_scale: 6}}\n"
    )
    output.write_bytes("run.yaml", run.encode())
    with LedgerWriter(output, "w", pa.schema([("source", pa.string())]), max_entries=3) as writer:
        for number, row in enumerate(ids):
            writer.append(put_video(output, row, number, format))
    return output


def put_video(
    output: Storage,
    row: str,
    number: int,
    format: str = "mp4",
    local: media.EncodedVideo | None = None,
) -> LedgerEntry:
    """Store a small real video, or this one, and return its ledger entry."""
    local = local or clip(number, format)
    return LedgerEntry(
        id=row,
        status="done",
        fingerprint=f"f{number}",
        attempt=1,
        finished_at=datetime.now(UTC),
        uri=media.commit_video(output, local, safe_name(row)),
        bytes=local.bytes,
        sha256=local.sha256,
        frames=local.frames,
        fps=local.fps,
        width=local.width,
        height=local.height,
        seed=number,
        model="/home/somebody/checkpoint",
        worker="w",
        extra={"source": "s"},
    )


def path_in_output(output: Storage, row: str) -> str:
    (found,) = (name for name in output.list("videos") if Path(name).stem == safe_name(row))
    return found


def write_status(output: Path, *, age: float = 1.0, **fields: Any) -> None:
    """A run's status file, with other numbers than the ledger's."""
    now = datetime.now(UTC)
    gangs = [GangStatus(gang=f"r-{n}", replica=n, state="rendering" if n else "loading") for n in range(3)]
    status_content = {
        "run": "r",
        "state": "running",
        "since": now - timedelta(hours=3),
        "updated": now - timedelta(seconds=age),
        "total": 8,
        "done": 5,
        "failed": 1,
        "pending": 2,
        "failures": {"VideoRejected": 1},
        "videos_per_minute": 0.5,
        "seconds_left": 240.0,
        "gangs": gangs,
        "slow_rows": [SlowRow("[x]", "r-1", 600.0, 120.0)],
        "slow_gangs": [SlowGang("r-2", 2.5)],
        **fields,
    }
    status = RunStatus.model_validate(status_content)
    (output / STATUS_FILE).write_text(json.dumps(status.model_dump(mode="json")))


def put_clips(uri: str, clips: Mapping[str, np.ndarray], format: str = "npy", fps: float = 8) -> Storage:
    """An output with these frames, uint8 (F, H, W, 3), of each id."""
    output = put_run(uri, format, ids=())
    with LedgerWriter(output, "w") as writer, tempfile.TemporaryDirectory(prefix="vidgen-") as folder:
        for number, (row, frames) in enumerate(clips.items()):
            path = Path(folder, f"{number}.{format}")
            local = media.write_video(frames, path, format=format, fps=fps, crf=18)
            writer.append(replace(put_video(output, row, number, format, local), extra={}))
    return output


def smooth(number: int, frames: int = 3, height: int = 32, width: int = 48) -> np.ndarray:
    """Frames that video codecs keep well: a gradient that moves, other for each number."""
    f, y, x, c = np.ogrid[:frames, :height, :width, :3]
    wave = np.sin((x + 2 * f) / 9 + number) + np.cos((y + f) / 7 + c)
    return ((wave + 2) / 4 * 255).astype(np.uint8)
