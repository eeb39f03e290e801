"""`vidgen compare`: the videos of two outputs of the same rows.

Both ledgers are read by columns, and their rows are matched by id, some hundred bytes a row; then videos are
read and compared, a few pairs at a time. A row that cannot be compared stays in the result, with a reason.
"""

from __future__ import annotations

import math
import os
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, ImageDraw

from vidgen_dist import ledger
from vidgen_dist.bulk_digests import text_hashes
from vidgen_dist.errors import Refused, shortened
from vidgen_dist.frame_metrics import SSIM_WINDOW, compare_frames, psnr
from vidgen_dist.maintenance.status import open_output
from vidgen_dist.media import MediaError
from vidgen_dist.media.contact_sheet import read_frames
from vidgen_dist.output.video_files import fetch_video, path_in_output
from vidgen_dist.storage.folder import Storage
from vidgen_dist.storage.names import is_temporary, safe_name
from vidgen_dist.storage.retries import with_retries
from vidgen_dist.threads import map_ahead

COMPARED, SHAPES_DIFFER, UNREADABLE = "compared", "shapes differ", "unreadable"
ONLY_A, ONLY_B, NOT_DONE = "only in A", "only in B", "not done"
OUTCOMES: Mapping[str, str] = {
    COMPARED: "both videos were compared",
    SHAPES_DIFFER: "the videos differ in frames, height or width",
    UNREADABLE: "a video is missing or torn",
    ONLY_A: "B's ledger does not have the row",
    ONLY_B: "A's ledger does not have the row",
    NOT_DONE: "the row failed or was lost in A, in B or in both",
}
"""What may become of a row, and what that means."""


@dataclass(frozen=True)
class ComparisonColumn:
    """A column of the comparison.

    Args:
        name: Its name.
        type: Its Arrow type.
        about: What it holds, as the documentation says it.
        nullable: Whether it may be null.
    """

    name: str
    type: pa.DataType
    about: str
    nullable: bool = True


COLUMNS = (
    ComparisonColumn("id", pa.string(), "the row's identity", nullable=False),
    ComparisonColumn("outcome", pa.string(), ", ".join(f"`{name}`" for name in OUTCOMES), nullable=False),
    ComparisonColumn("reason", pa.string(), "why the row, or its SSIM, has no figures"),
    ComparisonColumn("same_bytes", pa.bool_(), "whether the files are equal, byte by byte"),
    ComparisonColumn("psnr", pa.float64(), "dB, of the MSE of all frames; infinite if all frames are equal"),
    ComparisonColumn("ssim", pa.float64(), "mean SSIM of the frames; null for frames below 11x11"),
    ComparisonColumn("mse", pa.float64(), "mean squared error of values from 0 to 255"),
    ComparisonColumn("mean_difference", pa.float64(), "mean absolute difference, 0 to 1"),
    ComparisonColumn(
        "motion_difference",
        pa.float64(),
        "mean absolute difference of the changes from frame to frame, 0 to 1; null for a single frame",
    ),
    ComparisonColumn(
        "first_different_frame", pa.int32(), "index of the first frame that differs; null if none does"
    ),
    ComparisonColumn("worst_frame", pa.int32(), "index of the frame with the largest MSE"),
    ComparisonColumn("frames", pa.int32(), "frames of each video"),
    ComparisonColumn("uri_a", pa.string(), "the video in A, as its ledger names it"),
    ComparisonColumn("uri_b", pa.string(), "the video in B, as its ledger names it"),
)
SCHEMA = pa.schema([pa.field(column.name, column.type, column.nullable) for column in COLUMNS])
"""The schema of a comparison."""

_LEDGER_COLUMNS = ("id", "status", "uri", "sha256", "attempt", "finished_at")
_READ_COLUMNS = ("status", "uri", "sha256")
# Each holds two videos, decoded.
_THREADS = min(4, os.cpu_count() or 1)
_BATCH = 1024
_AMPLIFIED = 8


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Args:
        rows: A row for each compared or listed row, the worst first, with the schema `SCHEMA`: rows whose
            video is unreadable, other rows without figures, then by PSNR and SSIM.
        all_rows: How many rows A and B have together; more than `rows` has if these are a sample.
    """

    rows: pa.Table
    all_rows: int

    def summary(self) -> dict[str, Any]:
        """Counts by outcome and the figures in all.

        PSNR in all is that of the mean MSE of all frames, SSIM the mean of all frames: a long video counts
        more.
        Figures are None if no row has them.
        """
        done = self.rows.filter(pc.equal(self.rows["outcome"], COMPARED))
        frames = done["frames"].to_numpy().astype(np.float64)
        mse = _weighted(done["mse"], frames)
        outcomes = self.rows["outcome"].to_pylist()
        return {
            "rows": self.all_rows,
            "looked_at": len(self.rows),
            "outcomes": {name: outcomes.count(name) for name in OUTCOMES},
            "same_bytes": pc.sum(done["same_bytes"]).as_py() or 0,
            "same_frames": pc.sum(pc.equal(done["mse"], 0)).as_py() or 0,
            "mse": mse,
            "psnr": None if mse is None else psnr(mse),
            "ssim": _weighted(done["ssim"], frames),
            "mean_difference": _weighted(done["mean_difference"], frames),
        }

    def below(self, min_psnr: float | None, min_ssim: float | None) -> int:
        """How many compared rows are below a limit; a row without SSIM is below any limit of it."""
        done = self.rows.filter(pc.equal(self.rows["outcome"], COMPARED))
        figures = zip(done["psnr"].to_pylist(), done["ssim"].to_pylist(), strict=True)
        return sum(
            (min_psnr is not None and noise < min_psnr)
            or (min_ssim is not None and (similar is None or similar < min_ssim))
            for noise, similar in figures
        )


def compare_outputs(
    a: str,
    b: str,
    *,
    rows: int | None = None,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Comparison:
    """Compare the videos of two outputs, row by row.

    Args:
        a, b: Outputs of runs; they may be of different settings, formats and sizes.
        rows: How many rows to look at: those whose ids have the smallest hashes, the same each time. All by
            default.
        progress: Called with the number of rows that are done and of all rows to look at.

    Raises:
        Refused: One of them is not a run's output, or a storage failed.
    """
    one, other = (_Side(uri, name) for uri, name in ((a, "A"), (b, "B")))
    try:
        pairs = one.latest("_a").join(other.latest("_b"), keys="id", join_type="full outer").combine_chunks()
        count = len(pairs)
        if count:
            hashes = text_hashes(pairs["id"].combine_chunks())
            pairs = pairs.take(pa.array(np.lexsort((hashes[:, 1], hashes[:, 0]))[:rows]))
        batches, waiting = [], []
        listed = (pair for batch in pairs.to_batches(_BATCH) for pair in batch.to_pylist())
        for found in map_ahead(lambda pair: _compare_row(one, other, pair), listed, threads=_THREADS):
            waiting.append(found)
            if len(waiting) == _BATCH:
                batches.append(pa.RecordBatch.from_pylist(waiting, SCHEMA))
                waiting = []
            progress(len(batches) * _BATCH + len(waiting), len(pairs))
        batches.append(pa.RecordBatch.from_pylist(waiting, SCHEMA))
    except OSError as error:
        raise Refused(str(error)) from None
    return Comparison(_worst_first(pa.Table.from_batches(batches, SCHEMA)), count)


def write_worst_frames(a: str, b: str, found: Comparison, place: Storage, count: int) -> int:
    """Write A, B and their amplified difference side by side, for the worst rows that differ.

    Args:
        a, b: The outputs that were compared.
        found: Their comparison.
        place: Where the PNG files go, one a row, of its worst frame.
        count: For how many rows.

    Returns:
        How many files were written.

    Raises:
        Refused: A storage failed, or a video is gone or torn since.
    """
    one, other = _Side(a, "A"), _Side(b, "B")
    worst = found.rows.filter(pc.greater(found.rows["mse"], 0)).slice(0, count).to_pylist()
    try:
        for number, row in enumerate(worst, 1):
            frames = [side.frames(row[f"uri_{side.name.lower()}"])[0] for side in (one, other)]
            sheet = side_by_side(
                row["id"], row["worst_frame"], *(each[row["worst_frame"]] for each in frames)
            )
            data = BytesIO()
            sheet.save(data, "PNG")
            place.write_bytes(f"{number:04d}-{safe_name(row['id'])}.png", data.getvalue())
    except (OSError, _Unreadable) as error:
        raise Refused(f"--frames: {error}") from None
    return len(worst)


def side_by_side(id: str, index: int, one: np.ndarray, other: np.ndarray) -> Image.Image:
    """A frame of A, of B, and their difference times 8, under a line that names the row.

    Args:
        id: The row's id.
        index: The frame's index.
        one, other: uint8 (H, W, 3).
    """
    difference = np.abs(one.astype(np.int16) - other) * _AMPLIFIED
    picture = np.concatenate([one, other, np.minimum(difference, 255).astype(np.uint8)], axis=1)
    label = f"{shortened(id)!r}, frame {index}: A | B | difference x{_AMPLIFIED}"
    text = label.encode("ascii", "backslashreplace").decode()
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    width = max(picture.shape[1], math.ceil(draw.textlength(text)) + 8)
    sheet = Image.new("RGB", (width, picture.shape[0] + 18), "white")
    ImageDraw.Draw(sheet).text((4, 3), text, fill="black")
    sheet.paste(Image.fromarray(picture), (0, 18))
    return sheet


class _Unreadable(Exception):
    """A video is missing or torn; the message says which and why."""


class _Side:
    """One of the two outputs."""

    def __init__(self, uri: str, name: str) -> None:
        self.name = name
        self._output, spec = open_output(uri)
        self._format = spec.output.format

    def latest(self, suffix: str) -> pa.Table:
        """The latest entry of each id; columns other than the id get a suffix."""
        tables: list[pa.Table] = []
        ledger.read_parts(self._output, _LEDGER_COLUMNS, lambda _name, table: tables.append(table))
        fields = [ledger.SCHEMA.field(name) for name in _LEDGER_COLUMNS]
        schema = pa.schema([field.with_nullable(True) for field in fields])
        whole = pa.concat_tables(
            [schema.empty_table(), *(t.select(_LEDGER_COLUMNS).cast(schema) for t in tables)]
        )
        # A `lost` entry has the time and the attempt of the entry that it revokes.
        whole = whole.append_column("lost", pc.equal(whole["status"], ledger.LOST))
        keys = ("id", "finished_at", "attempt", "lost")
        whole = whole.sort_by([(key, "ascending") for key in keys]).combine_chunks()
        if len(whole):
            ids = whole["id"].combine_chunks()
            last = pc.not_equal(ids.slice(1), ids.slice(0, len(ids) - 1))
            whole = whole.filter(pa.concat_arrays([last, pa.array([True])]))
        whole = whole.select(["id", *_READ_COLUMNS])
        return whole.rename_columns(["id", *(name + suffix for name in _READ_COLUMNS)])

    def frames(self, uri: str, sha256: str | None = None) -> tuple[np.ndarray, str]:
        """A video's frames, uint8 (F, H, W, 3), and the SHA-256 of its files.

        Raises:
            _Unreadable: It is missing or torn.
            OSError: The storage failed, again and again.
        """
        return with_retries(lambda: self._frames_once(uri, sha256), hurry=threading.Event())

    def _frames_once(self, uri: str, sha256: str | None) -> tuple[np.ndarray, str]:
        path = path_in_output(uri)
        with tempfile.TemporaryDirectory(prefix="vidgen-") as folder:
            try:
                nested = self._format == "png"
                names = [n for n in self._output.list(path) if not is_temporary(n)] if nested else [path]
                if not names:
                    raise FileNotFoundError
                files, digest = fetch_video(list(map(self._output.uri, names)), Path(folder))
            except FileNotFoundError:
                raise _Unreadable(f"{self.name}: {path}: there is no such file") from None
            if sha256 is not None and digest != sha256:
                raise _Unreadable(f"{self.name}: {path}: its SHA-256 is not the one that the ledger has")
            try:
                return read_frames(folder if nested else files[0], self._format), digest
            except (MediaError, ValueError, EOFError) as error:
                raise _Unreadable(f"{self.name}: {path}: {error}") from None


def _compare_row(a: _Side, b: _Side, pair: Mapping[str, Any]) -> dict[str, Any]:
    row = {"id": pair["id"], "uri_a": pair["uri_a"], "uri_b": pair["uri_b"]}
    statuses = {side.name: pair[f"status_{side.name.lower()}"] for side in (a, b)}
    for missing, outcome in (("B", ONLY_A), ("A", ONLY_B)):
        if statuses[missing] is None:
            return row | {"outcome": outcome, "reason": f"{missing}: no ledger entry"}
    bad = [f"{name}: {status}" for name, status in statuses.items() if status != ledger.DONE]
    if bad:
        return row | {"outcome": NOT_DONE, "reason": "; ".join(bad)}
    videos, wrong = [], []
    for side, end in ((a, "_a"), (b, "_b")):
        try:
            videos.append(side.frames(pair[f"uri{end}"], pair[f"sha256{end}"]))
        except _Unreadable as error:
            wrong.append(str(error))
    if wrong:
        return row | {"outcome": UNREADABLE, "reason": "; ".join(wrong)}
    (one, digest), (other, other_digest) = videos
    if one.shape != other.shape:
        shapes = " and ".join(f"{f} frames of {w}x{h}" for f, h, w, _ in (one.shape, other.shape))
        return row | {"outcome": SHAPES_DIFFER, "reason": shapes, "same_bytes": False}
    metrics = compare_frames(one, other)
    small = f"no SSIM: a frame is smaller than its window, {SSIM_WINDOW}x{SSIM_WINDOW}"
    return row | {
        "outcome": COMPARED,
        "reason": small if metrics.ssim is None else None,
        "same_bytes": digest == other_digest,
        "psnr": psnr(metrics.mse),
        "frames": len(one),
        **asdict(metrics),
    }


def _worst_first(rows: pa.Table) -> pa.Table:
    order = (UNREADABLE, SHAPES_DIFFER, ONLY_A, ONLY_B, NOT_DONE, COMPARED)
    rank = pc.index_in(rows["outcome"], pa.array(order))
    keys = [("rank", "ascending"), ("psnr", "ascending"), ("ssim", "ascending"), ("id", "ascending")]
    return rows.append_column("rank", rank).sort_by(keys).select(SCHEMA.names).cast(SCHEMA)


def _weighted(column: pa.ChunkedArray, weights: np.ndarray) -> float | None:
    """The mean of a column without its nulls; None if there is nothing else."""
    values = column.cast(pa.float64()).to_numpy()
    known = ~np.isnan(values)
    return float(np.average(values[known], weights=weights[known])) if known.any() else None
