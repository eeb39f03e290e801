"""`vidgen compare`: the videos of two outputs of the same rows.

It reads the columns of both ledgers that it needs, and matches their rows by id. Then it reads and compares
videos, a few pairs at a time. A row that cannot be compared stays in the result, with a reason.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vidgen_dist import ledger
from vidgen_dist.bulk_digests import text_hashes
from vidgen_dist.errors import Refused
from vidgen_dist.frame_metrics import SSIM_WINDOW, FrameMetrics, compare_frames, equal_frames, psnr
from vidgen_dist.maintenance.output_videos import OutputVideos, UnreadableVideo
from vidgen_dist.storage.uris import redact
from vidgen_dist.threads import map_ahead

COMPARED, SHAPES_DIFFER, UNREADABLE = "compared", "shapes differ", "unreadable"
ONLY_A, ONLY_B, NOT_DONE = "only in A", "only in B", "not done"
OUTCOMES: Mapping[str, str] = {
    COMPARED: "the row has figures",
    UNREADABLE: "a video is missing or torn",
    SHAPES_DIFFER: "the videos differ in frames, height or width",
    NOT_DONE: "the row failed or was lost in A, in B or in both",
    ONLY_A: "B's ledger does not have the row",
    ONLY_B: "A's ledger does not have the row",
}
"""What may become of a row, and what that means, in the order of the result."""


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
    ComparisonColumn("same_bytes", pa.bool_(), "whether the files have the same SHA-256"),
    ComparisonColumn(
        "same_frames", pa.bool_(), "whether all frames are equal; null if they were not compared"
    ),
    ComparisonColumn("psnr", pa.float64(), "dB, of the MSE of all frames; infinite if all frames are equal"),
    ComparisonColumn(
        "ssim",
        pa.float64(),
        f"mean SSIM of the frames, at most 1; null for frames below {SSIM_WINDOW}x{SSIM_WINDOW}",
    ),
    ComparisonColumn("mse", pa.float64(), "mean squared error of values from 0 to 255"),
    ComparisonColumn("mean_difference", pa.float64(), "mean absolute difference of values from 0 to 1"),
    ComparisonColumn(
        "motion_difference",
        pa.float64(),
        "mean absolute difference between A's and B's changes from frame to frame, of values from 0 to 1: "
        "0 to 2, high for flicker; null for a single frame",
    ),
    ComparisonColumn("first_different_frame", pa.int32(), "index of the first frame that differs"),
    ComparisonColumn(
        "worst_frame", pa.int32(), "index of the frame with the largest MSE; null if all are equal"
    ),
    ComparisonColumn("frames", pa.int32(), "frames of each video"),
    ComparisonColumn("width", pa.int32(), "pixels of each video"),
    ComparisonColumn("height", pa.int32(), "pixels of each video"),
    ComparisonColumn("fps_a", pa.float64(), "frames per second in A, as its ledger says"),
    ComparisonColumn("fps_b", pa.float64(), "frames per second in B, as its ledger says"),
    ComparisonColumn("uri_a", pa.string(), "the video in A, as its ledger names it"),
    ComparisonColumn("uri_b", pa.string(), "the video in B, as its ledger names it"),
)
SCHEMA = pa.schema([pa.field(column.name, column.type, column.nullable) for column in COLUMNS])
"""The schema of a comparison."""

_LEDGER_COLUMNS = ("id", "status", "uri", "bytes", "sha256", "frames", "fps", "width", "height")
_SIZE = ("frames", "height", "width")
_CONTENT = ("sha256", "bytes", *_SIZE)
# Each holds two videos, decoded.
_THREADS = min(4, os.cpu_count() or 1)
_BATCH = 1024


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Args:
        rows: A row for each row that was looked at, with the schema `SCHEMA`: in the order of `OUTCOMES`, and
            those that were compared by PSNR and SSIM, the worst first.
        all_rows: How many rows A and B have together; more than `rows` has if these are a sample.
    """

    rows: pa.Table
    all_rows: int

    @functools.cached_property
    def compared(self) -> pa.Table:
        """The rows that have figures, the worst first."""
        return self.of(COMPARED)

    @property
    def different(self) -> pa.Table:
        """The rows with a frame that differs, the worst first."""
        return self.compared.filter(pc.invert(self.compared["same_frames"]))

    def of(self, outcome: str) -> pa.Table:
        """The rows with an outcome, a key of `OUTCOMES`."""
        return self.rows.filter(pc.equal(self.rows["outcome"], outcome))

    def summary(self) -> dict[str, Any]:
        """Counts, and the figures in all.

        Returns:
            `rows` (of A and B together), `looked_at`, `outcomes` (outcome -> rows); of the rows that were
            compared the numbers of those with `same_bytes`, `same_frames` and `different_fps`; and in all
            `mse`, `psnr` (dB, of that MSE; infinite if it is 0), `ssim` and `mean_difference`, each the mean
            of all frames, so that a long video counts more. Figures are None if no row has them.
        """
        rows = self.compared
        frames = rows["frames"].to_numpy().astype(np.float64)
        mse = _weighted(rows["mse"], frames)
        counts = pc.value_counts(self.rows["outcome"]).to_pylist()
        return {
            "rows": self.all_rows,
            "looked_at": len(self.rows),
            "outcomes": dict.fromkeys(OUTCOMES, 0) | {each["values"]: each["counts"] for each in counts},
            "same_bytes": pc.sum(rows["same_bytes"]).as_py() or 0,
            "same_frames": pc.sum(rows["same_frames"]).as_py() or 0,
            "different_fps": pc.sum(pc.not_equal(rows["fps_a"], rows["fps_b"])).as_py() or 0,
            "mse": mse,
            "psnr": None if mse is None else psnr(mse),
            "ssim": _weighted(rows["ssim"], frames),
            "mean_difference": _weighted(rows["mean_difference"], frames),
        }

    def below(self, min_psnr: float | None = None, min_ssim: float | None = None) -> int:
        """How many compared rows are below a limit; a row without SSIM is below any limit of it.

        Args:
            min_psnr: dB.
            min_ssim: -1 to 1.
        """
        low = np.zeros(len(self.compared), np.bool_)
        for name, limit in (("psnr", min_psnr), ("ssim", min_ssim)):
            if limit is not None:
                # Nulls become NaN, which is not at least anything.
                low |= ~(self.compared[name].to_numpy() >= limit)
        return int(np.count_nonzero(low))


def compare_outputs(
    a: str,
    b: str,
    *,
    rows: int | None = None,
    deep: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Comparison:
    """Compare the videos of two outputs, row by row; rows are matched by id.

    Args:
        a, b: Outputs of two runs; they may have other settings, formats and sizes.
        rows: How many rows to look at: those whose ids have the smallest hashes, the same each time. They are
            chosen before a video is read. All by default.
        deep: Read also videos that are the same bytes, as both ledgers say.
        progress: Called with the number of rows that are done and of all rows to look at.

    Returns:
        The rows that were looked at, the worst first, and how many rows there are. PSNR is in dB, MSE in
        squares of 8-bit values. Videos are compared as 8-bit RGB of the shape (frames, height, width, 3);
        rows whose two shapes differ have no figures.

    Raises:
        Refused: One of them is not a run's output or its ledger has no entries, both are the same output,
            `rows` is below 1, or a storage failed.
    """
    if rows is not None and rows < 1:
        raise Refused(f"rows: {rows} is not allowed; allowed: at least 1")
    sides = OutputVideos(a, "A"), OutputVideos(b, "B")
    if sides[0].root == sides[1].root:
        raise Refused(f"A and B are the same output: {redact(sides[0].root)}")
    try:
        one, other = (side.entries(_LEDGER_COLUMNS) for side in sides)
        pairs = _Pairs(one, other, rows)
        batches, waiting = [], []
        compare = functools.partial(_compare_row, sides, deep)
        for done, found in enumerate(map_ahead(compare, pairs, threads=_THREADS), 1):
            waiting.append(found)
            if len(waiting) == _BATCH or done == len(pairs):
                batches.append(pa.RecordBatch.from_pylist(waiting, SCHEMA))
                waiting = []
            progress(done, len(pairs))
    except OSError as error:
        raise Refused(str(error)) from None
    return Comparison(_in_order(pa.Table.from_batches(batches, SCHEMA)), pairs.all_rows)


_Entry = Mapping[str, Any]


class _Pairs:
    """The entries of each id in A and in B; None where there is none.

    Args:
        a, b: The ledgers' entries, one for each id.
        rows: How many ids to take, by their hashes; all by default.
    """

    def __init__(self, a: pa.Table, b: pa.Table, rows: int | None) -> None:
        self._tables = a, b
        hashes = np.concatenate([_id_hashes(a), _id_hashes(b)])
        order = np.lexsort((hashes[:, 1], hashes[:, 0]))
        new = np.ones(len(order), np.bool_)
        new[1:] = (hashes[order[1:]] != hashes[order[:-1]]).any(axis=1)
        self.all_rows = int(np.count_nonzero(new))
        starts = np.flatnonzero(new)
        double = np.diff(starts, append=len(order)) == 2
        starts, double = starts[:rows], double[:rows]
        # The sort is stable: of two entries of an id, A's comes first.
        first, last = order[starts], order[starts + double]
        self._places = np.where(first < len(a), first, -1), np.where(last >= len(a), last - len(a), -1)

    def __len__(self) -> int:
        return len(self._places[0])

    def __iter__(self) -> Iterator[tuple[_Entry | None, _Entry | None]]:
        for start in range(0, len(self), _BATCH):
            taken = (self._take(side, start) for side in range(2))
            yield from zip(*taken, strict=True)

    def _take(self, side: int, start: int) -> list[_Entry | None]:
        places = self._places[side][start : start + _BATCH]
        entries = iter(self._tables[side].take(pa.array(places[places >= 0])).to_pylist())
        return [next(entries) if place >= 0 else None for place in places.tolist()]


def _id_hashes(entries: pa.Table) -> np.ndarray:
    chunks = [text_hashes(chunk) for chunk in entries["id"].chunks]
    return np.concatenate(chunks) if chunks else np.empty((0, 2), np.uint64)


def _compare_row(
    sides: tuple[OutputVideos, OutputVideos], deep: bool, pair: tuple[_Entry | None, _Entry | None]
) -> dict[str, Any]:
    """A row of the comparison."""
    a, b = pair
    row = {"id": (a or b or {})["id"]}
    for entry, end in ((a, "a"), (b, "b")):
        row |= {f"uri_{end}": entry and entry["uri"], f"fps_{end}": entry and entry["fps"]}
    if a is None or b is None:
        return row | {"outcome": ONLY_B if a is None else ONLY_A}
    statuses = zip(sides, (a["status"], b["status"]), strict=True)
    if bad := [f"{side.name}: {status}" for side, status in statuses if status != ledger.DONE]:
        return row | {"outcome": NOT_DONE, "reason": "; ".join(bad)}
    if not deep and all(a[name] == b[name] is not None for name in _CONTENT):
        frames, height, width = (a[name] for name in _SIZE)
        metrics = equal_frames(frames, height, width)
        return row | _figures(metrics, frames, height, width, same_bytes=True)
    return row | _compare_videos(sides, (a, b))


def _compare_videos(
    sides: tuple[OutputVideos, OutputVideos], entries: tuple[_Entry, _Entry]
) -> dict[str, Any]:
    """What reading both videos gives for a row."""
    videos, wrong = [], []
    for side, entry in zip(sides, entries, strict=True):
        try:
            videos.append(side.frames(entry["uri"], entry["sha256"]))
        except UnreadableVideo as error:
            wrong.append(str(error))
    if wrong:
        return {"outcome": UNREADABLE, "reason": "; ".join(wrong)}
    (one, digest), (other, other_digest) = videos
    if one.shape != other.shape:
        shapes = " and ".join(f"{f} frames of {w}x{h}" for f, h, w, _ in (one.shape, other.shape))
        return {"outcome": SHAPES_DIFFER, "reason": shapes, "same_bytes": False}
    frames, height, width, _ = one.shape
    return _figures(compare_frames(one, other), frames, height, width, same_bytes=digest == other_digest)


def _figures(
    metrics: FrameMetrics, frames: int, height: int, width: int, *, same_bytes: bool
) -> dict[str, Any]:
    small = f"no SSIM: a frame is smaller than its window, {SSIM_WINDOW}x{SSIM_WINDOW}"
    return {
        "outcome": COMPARED,
        "reason": small if metrics.ssim is None else None,
        "same_bytes": same_bytes,
        "same_frames": metrics.mse == 0,
        "psnr": psnr(metrics.mse),
        "frames": frames,
        "height": height,
        "width": width,
        **asdict(metrics),
    }


def _in_order(rows: pa.Table) -> pa.Table:
    rank = pc.index_in(rows["outcome"], pa.array(list(OUTCOMES)))
    keys = [("rank", "ascending"), ("psnr", "ascending"), ("ssim", "ascending"), ("id", "ascending")]
    return rows.append_column("rank", rank).sort_by(keys).select(SCHEMA.names).cast(SCHEMA)


def _weighted(column: pa.ChunkedArray, weights: np.ndarray) -> float | None:
    """The mean of a column without its nulls; None if there is nothing else."""
    values = column.to_numpy()
    known = ~np.isnan(values)
    return float(np.average(values[known], weights=weights[known])) if known.any() else None
