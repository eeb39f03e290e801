"""What a ledger holds: figures of all rows, and a sample. The ledger is read once, some rows at a time.

A row counts once, by its latest outcome, as in `vidgen status` of an output without a run: failed attempts of
rows that are done since do not count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vidgen_dist import ledger
from vidgen_dist.ledger import LedgerState
from vidgen_dist.maintenance.report.distributions import DurationDistribution, ShareDistribution, Timeline
from vidgen_dist.maintenance.report.sample import Group, Sample
from vidgen_dist.quality import FLAGS
from vidgen_dist.storage.folder import Storage

STAGES = ("encode", "denoise", "decode", "write")

FIGURES = ("mean_luma", "motion", "clipped", "noisiness")
"""The ledger's columns that say how a video looks."""

FAILED_RANK, FLAGGED_RANK, ORDINARY_RANK = range(3)

COLUMNS = [name for name in ledger.SCHEMA.names if name != "worker"]
"""What is read of the ledger: whose machine it was is nobody's business."""


@dataclass
class Survey:
    """Figures of a ledger.

    Attributes:
        videos: Rows whose latest outcome is a video.
        failed: Rows whose latest outcome is a failure.
        lost: Rows whose video was lost and that have not been tried since.
        failures: Error class -> failed and lost rows, the most frequent first.
        flagged: Videos with any flag.
        flags: Flag -> videos that have it.
        bytes: Size of all videos.
        footage: How long all videos play, in seconds.
        stages: Stage -> seconds per video.
        render_seconds: Seconds of all stages together, per video.
        figures: Column of `FIGURES` -> its distribution.
        done_at: When the videos were done.
        sample: Rows to show, by groups.
    """

    videos: int = 0
    failed: int = 0
    lost: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    flagged: int = 0
    flags: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    footage: float = 0.0
    stages: dict[str, DurationDistribution] = field(
        default_factory=lambda: {stage: DurationDistribution() for stage in STAGES}
    )
    render_seconds: DurationDistribution = field(default_factory=DurationDistribution)
    figures: dict[str, ShareDistribution] = field(
        default_factory=lambda: {name: ShareDistribution() for name in FIGURES}
    )
    done_at: Timeline = field(default_factory=Timeline)
    sample: dict[Group, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """All rows of the ledger."""
        return self.videos + self.failed + self.lost


def survey_ledger(output: Storage, state: LedgerState, rows: int) -> Survey:
    """Read an output's ledger.

    Args:
        output: The output.
        state: Its ledger's state; what was entered since is left out.
        rows: Rows of the sample.

    Raises:
        Refused: A file of the ledger is not a whole part.
        OSError: It cannot be read.
    """
    survey, sample = Survey(), Sample(rows)

    def look(places: np.ndarray, table: pa.Table) -> None:
        _add(survey, sample, places, table)

    _read_latest(output, state, look)
    survey.failures = _by_frequency(
        {group.name: count for group, count in sample.counts.items() if group.rank == FAILED_RANK}
    )
    survey.sample = sample.choose()
    return survey


def entries_of(output: Storage, ids: Collection[str]) -> dict[str, dict[str, Any]]:
    """The entries of some ids' latest outcomes, as far as the ledger has them.

    Args:
        output: An output.
        ids: The ids.

    Raises as `survey_ledger`.
    """
    found: dict[str, dict[str, Any]] = {}
    wanted = pa.array(list(ids), pa.string())

    def look(_places: np.ndarray, table: pa.Table) -> None:
        rows = table.filter(pc.is_in(table.column("id"), wanted)).to_pylist()
        found.update((row["id"], row) for row in rows)

    _read_latest(output, ledger.read_ledger(output), look)
    return found


def _read_latest(output: Storage, state: LedgerState, look: Callable[[np.ndarray, pa.Table], None]) -> None:
    """Read the entries of the latest outcomes, some at a time, each once, with its place in the state."""
    # A part that is compacted while it is read comes twice.
    seen = np.zeros(state.size, np.bool_)

    def choose(_name: str, table: pa.Table) -> None:
        places = state.latest_outcomes(table)
        places[places >= 0] = np.where(seen[places[places >= 0]], -1, places[places >= 0])
        chosen = np.unique(places, return_index=True)[1]
        chosen = np.sort(chosen[places[chosen] >= 0])
        if len(chosen):
            seen[places[chosen]] = True
            look(places[chosen], table.take(pa.array(chosen)).combine_chunks())

    ledger.read_parts(output, COLUMNS, choose)


def _add(survey: Survey, sample: Sample, places: np.ndarray, table: pa.Table) -> None:
    """Take rows, each the latest outcome of its id."""
    done = pc.equal(table.column("status"), ledger.DONE).to_numpy()
    groups, codes = _groups(table, done)
    sample.add(groups, codes, places, table)
    survey.failed += int(pc.sum(pc.equal(table.column("status"), ledger.FAILED)).as_py())
    survey.lost += int(pc.sum(pc.equal(table.column("status"), ledger.LOST)).as_py())
    if done.any():
        _add_videos(survey, table.filter(pa.array(done)))


def _add_videos(survey: Survey, videos: pa.Table) -> None:
    survey.videos += len(videos)
    survey.bytes += int(pc.sum(videos.column("bytes")).as_py() or 0)
    seconds = pc.divide(videos.column("frames").cast(pa.float64()), videos.column("fps"))
    survey.footage += float(np.nansum(_numbers(seconds)))
    survey.flagged += int(np.count_nonzero(_flag_counts(videos)))
    survey.flags.update(pc.list_flatten(videos.column("flags")).to_pylist())
    survey.done_at.add(videos.column("finished_at").cast(pa.int64()).to_numpy())
    for name, figures in survey.figures.items():
        figures.add(_numbers(videos.column(name)))
    stages = {stage: _numbers(videos.column(f"seconds_{stage}")) for stage in STAGES}
    for stage, distribution in survey.stages.items():
        distribution.add(stages[stage])
    whole = np.stack(list(stages.values()))
    survey.render_seconds.add(np.where(np.isnan(whole).all(0), np.nan, np.nansum(whole, 0)))


def _groups(table: pa.Table, done: np.ndarray) -> tuple[list[Group], np.ndarray]:
    """The groups of rows, and each row's index in them: int64 (N,)."""
    classes = table.column("error_class").fill_null("").combine_chunks().dictionary_encode()
    groups = [Group(FAILED_RANK, name) for name in classes.dictionary.to_pylist()]
    codes = classes.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    codes[done] = len(groups)
    groups.append(Group(ORDINARY_RANK, ""))
    flagged = done & (_flag_counts(table) > 0)
    firsts = [flags[0] for flags in table.column("flags").filter(pa.array(flagged)).to_pylist()]
    # Flags of another release, too.
    names = sorted(set(firsts), key=lambda name: (name not in FLAGS, name))
    numbers = {name: len(groups) + number for number, name in enumerate(names)}
    codes[flagged] = [numbers[name] for name in firsts]
    return groups + [Group(FLAGGED_RANK, name) for name in names], codes


def _flag_counts(table: pa.Table) -> np.ndarray:
    return pc.list_value_length(table.column("flags")).fill_null(0).to_numpy()


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """A column as float64 (N,), with NaN for null."""
    return column.cast(pa.float64()).to_numpy()


def _by_frequency(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
