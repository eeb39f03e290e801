"""The base of the kinds of exports: counts, and the rows that were left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from vidgen_dist.maintenance.manifest_join import JoinPolicy, RowCounts
from vidgen_dist.storage.folder import Storage
from vidgen_dist.storage.names import is_temporary

NO_VIDEO = "its video is not there"

ProgressCallback = Callable[[int, int], None]


@dataclass(frozen=True)
class OmittedRow:
    """A row that was left out because its video is not what the ledger says.

    Args:
        id: The row's id.
        message: What is wrong.
    """

    id: str
    message: str


@dataclass(frozen=True)
class ExportReport:
    """What an export contains, and what it leaves out.

    Args:
        videos: Rows with their videos.
        unsure: Rows among them whose settings could not be compared with the run's, and may differ.
        why_unsure: Why they could not be compared.
        failed: Rows that were given up; left out.
        stale: Rows whose videos were rendered with other settings; left out.
        pending: Rows that are not done yet; left out.
        missing: Rows that are done, says the ledger, but whose video is missing or torn; left out.
        left: The first of these.
        files: The number of videos or shards.
        kept: How many of these had been written before.
    """

    videos: int
    unsure: int
    why_unsure: str
    failed: int
    stale: int
    pending: int
    missing: int
    left: tuple[OmittedRow, ...]
    files: int
    kept: int


@dataclass(frozen=True)
class ExportPolicy:
    """How an export divides its work.

    Args:
        folder_rows: Rows whose videos are in one folder: tools become slow with more files. An export must be
            continued with the number that it was started with.
        copiers: Videos that are copied at the same time.
        packers: Shards that are written at the same time; each holds a shard's videos one by one.
        join: How many rows are joined at once.
    """

    folder_rows: int = 10_000
    copiers: int = 16
    packers: int = 4
    join: JoinPolicy = JoinPolicy()


class ExportWriter:
    """Counts what an export has written and left out. Each kind of export is a class of its own.

    Args:
        output: The output that is exported.
        place: Where the export goes.
        format: The format of the output's videos.
        counts: How many rows there are of each kind.
        limit: How many omitted rows to name.
        progress: Called with the number of rows that are done and of all rows.
        policy: How the work is divided.
    """

    def __init__(
        self,
        output: Storage,
        place: Storage,
        format: str,
        counts: RowCounts,
        limit: int,
        progress: ProgressCallback,
        policy: ExportPolicy,
    ) -> None:
        self._output = output
        self._place = place
        self._format = format
        self._counts = counts
        self._limit = limit
        self._progress = progress
        self._policy = policy
        self._left: list[OmittedRow] = []
        self._missing = self._done = self._files = self._kept = 0

    def result(self, why_unsure: str) -> ExportReport:
        """The report."""
        return ExportReport(
            videos=self._counts.videos - self._missing,
            unsure=self._counts.unsure,
            why_unsure=why_unsure,
            failed=self._counts.failed,
            stale=self._counts.stale,
            pending=self._counts.pending,
            missing=self._missing,
            left=tuple(self._left),
            files=self._files,
            kept=self._kept,
        )

    def _add_rows(self, rows: int, left: Sequence[OmittedRow]) -> None:
        """Count rows as exported, except those that were left out."""
        self._done += rows
        self._missing += len(left)
        self._left += left[: max(0, self._limit - len(self._left))]
        self._progress(self._done, self._counts.videos)


def remove_temporary_files(place: Storage, files: Iterable[str]) -> None:
    """Remove files that a killed export left half written: people pass such folders on as they are."""
    for path in filter(is_temporary, files):
        place.delete(path)


def row_key(row: int) -> str:
    """The name of a row's files, from its index in the manifest."""
    return f"{row:09d}"
