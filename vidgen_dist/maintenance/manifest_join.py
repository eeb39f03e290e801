"""The rows of a manifest with their videos, where neither manifest nor ledger fits into memory.

The ledger is in the order in which videos were done, the manifest in its own order. So the ledger's entries
are first sorted by the places of their rows into files on this machine's disk, one per run of rows; then run
after run is joined in memory. 48 bytes are kept per row.

Rows and videos are matched by id. If an id was rendered several times with different settings, the video in
place is the one that was done last. If its fingerprint is not the row's present one, manifest and settings do
not describe how it was made: it is stale, and left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vidgen_dist import ledger
from vidgen_dist.bulk_digests import find_hashes, text_hashes
from vidgen_dist.errors import Refused
from vidgen_dist.inline import is_inline
from vidgen_dist.manifest import Batch, Manifest, column_of
from vidgen_dist.manifest.columns import is_text, value_type
from vidgen_dist.manifest.rows import extra_values
from vidgen_dist.output.resume import RowResolver
from vidgen_dist.processes import InlineExecutor
from vidgen_dist.provenance import shown_model
from vidgen_dist.request import Field
from vidgen_dist.storage.folder import Storage
from vidgen_dist.storage.uris import redact, without_secrets

ROW, URI = "__row", "__uri"
"""Extra columns of a joined table: the row's place in the manifest, and where its video is."""

_PRIVATE_COLUMNS = ("status", "uri", "worker", "error_class", "error_message")
"""Columns of the ledger that do not describe a video, or that describe somebody's machine."""

_ENTRY = pa.schema([pa.field(ROW, pa.int64()), *ledger.SCHEMA])


@dataclass(frozen=True)
class JoinPolicy:
    """How many rows are joined at once: neighbours in the manifest, which are called a run.

    Args:
        run_rows: Rows of a run, at least; they are in memory.
        max_runs: Runs, at most; each is a file that is open.
    """

    run_rows: int = 2**16
    max_runs: int = 256


@dataclass
class RowCounts:
    """Rows of a manifest, counted by what became of them.

    Args:
        videos: Rows whose video is there, according to the ledger.
        unsure: Rows among them that may be stale: their image or clip cannot be read.
        failed: Rows that were given up and not done.
        stale: Rows whose video was rendered with other settings.
        pending: All other rows.
    """

    videos: int = 0
    unsure: int = 0
    failed: int = 0
    stale: int = 0
    pending: int = 0


class ManifestJoin:
    """A manifest's rows that have a video.

    Args:
        output: A run's output.
        manifest: Its manifest.
        defaults: The run's values of request fields for rows without one.
        folder: An empty folder on this machine, with space for as much as the ledger holds.
        resolvers: They make the rows' fingerprints as a run does; several if its device is not known. Without
            any, no video is taken to be stale.
        bad: Places of the rows that cannot be requests; their videos are stale.

    Raises:
        Refused: A file of the ledger is not a whole part.
        OSError: Manifest or ledger cannot be read.
    """

    def __init__(
        self,
        output: Storage,
        manifest: Manifest,
        defaults: Mapping[str, Any],
        folder: Path,
        resolvers: Sequence[RowResolver] = (),
        bad: Sequence[int] | np.ndarray = (),
        policy: JoinPolicy = JoinPolicy(),
    ) -> None:
        self._manifest = manifest
        self._defaults = defaults
        self._folder = folder
        self._fields = _fields(manifest, defaults)
        self._policy = policy
        self._run_rows = max(policy.run_rows, -(-manifest.num_rows // policy.max_runs))
        self._sort(output)
        self.counts = RowCounts(pending=manifest.num_rows)
        self._stale = np.zeros(manifest.num_rows, np.bool_)
        if resolvers:
            self._compare(resolvers, np.asarray(bad, np.int64))
        digest = hashlib.sha256(repr([file.digest for file in manifest.files]).encode())
        digest.update(repr((sorted(defaults.items()), self.schema.to_string())).encode())
        for run in range(self._runs):
            videos = self._videos(run, count=True)
            for name in (ROW, "finished_at", "attempt"):
                digest.update(videos.column(name).cast(pa.int64()).to_numpy().tobytes())
            digest.update(text_hashes(videos.column("sha256").fill_null("").combine_chunks()).tobytes())
        self.digest = digest.hexdigest()
        """A digest of the rows, their videos, and the exported columns."""

    @property
    def schema(self) -> pa.Schema:
        """The columns of `tables`: `ROW`, `URI`, `id`, the fields of requests, the ledger's, and others."""
        fields = [pa.field(name, column_of(field).written) for name, field in self._fields.items()]
        own = [column for column in ledger.SCHEMA if column.name not in ("id", *_PRIVATE_COLUMNS)]
        known = {*ledger.SCHEMA.names, *self._fields}
        extras = [column for column in self._manifest.extra_schema if column.name not in known]
        first = [pa.field(ROW, pa.int64()), pa.field(URI, pa.string()), ledger.SCHEMA.field("id")]
        return pa.schema([*first, *fields, *own, *extras])

    def tables(self) -> Iterator[pa.Table]:
        """The rows that have a video, in the manifest's order, some at a time.

        Raises:
            OSError: The manifest cannot be read or has changed.
            Refused: It has a value that is not allowed in its column.
        """
        for batch, first, videos in self._pieces(self._manifest.batches()):
            yield self._with_fields(batch, first, videos)

    def _pieces(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, int, pa.Table]]:
        """Batches of the manifest, their first rows' places, and the entries of their videos."""
        first, loaded, videos = 0, -1, _ENTRY.empty_table()
        for batch in batches:
            last = first + len(batch)
            for run in range(first // self._run_rows, (last - 1) // self._run_rows + 1):
                if run != loaded:
                    loaded, videos = run, self._videos(run)
                start, stop = np.searchsorted(videos.column(ROW).to_numpy(), (first, last))
                if start < stop:
                    yield batch, first, videos.slice(start, stop - start)
            first = last

    def _compare(self, resolvers: Sequence[RowResolver], bad: np.ndarray) -> None:
        """Find the stale videos."""
        is_bad = np.zeros(len(self._stale), np.bool_)
        is_bad[bad] = True
        batches = self._manifest.batches(self._defaults, extras=False)
        # Collected first: `_pieces` leaves out what `self._stale` has.
        stale = np.zeros(len(self._stale), np.bool_)
        for batch, first, videos in self._pieces(batches):
            places = videos.column(ROW).to_numpy() - first
            wanted = np.zeros(len(batch), np.bool_)
            wanted[places] = True
            known = wanted & is_bad[first : first + len(batch)]
            good, same = wanted & ~known, np.zeros(len(batch), np.bool_)
            for resolver in resolvers:
                for found in resolver.fingerprints(batch, good, InlineExecutor()):
                    theirs = videos.column("fingerprint").take(
                        pa.array(np.searchsorted(places, found.places))
                    )
                    equal = pc.equal(theirs.combine_chunks(), found.fingerprints.result())
                    same[found.places] |= equal.to_numpy(zero_copy_only=False)
                    known[found.places] = True
            stale[first : first + len(batch)] |= known & ~same
            self.counts.unsure += int(np.count_nonzero(wanted & ~known))
        self._stale = stale

    @property
    def _runs(self) -> int:
        return -(-self._manifest.num_rows // self._run_rows)

    def _sort(self, output: Storage) -> None:
        """Write the ledger's entries into the files of their runs."""
        places = _RowIndex(self._manifest)
        waiting: list[pa.Table] = []
        held = 0
        writers: dict[int, pa.RecordBatchStreamWriter] = {}

        def take(_name: str, table: pa.Table) -> None:
            nonlocal held
            waiting.append(table)
            held += len(table)
            if held >= self._policy.run_rows:
                write()
                held = 0

        def write() -> None:
            table = pa.concat_tables([ledger.SCHEMA.empty_table(), *waiting])
            waiting.clear()
            rows = places.of(table.column("id").combine_chunks())
            order = np.argsort(rows, kind="stable")
            order = order[rows[order] >= 0]
            runs = rows[order] // self._run_rows
            table = table.take(pa.array(order)).add_column(0, ROW, pa.array(rows[order]))
            bounds = np.append(np.flatnonzero(np.diff(runs, prepend=-1)), len(runs))
            for start, stop in pairwise(bounds):
                run = int(runs[start])
                if run not in writers:
                    writers[run] = pa.ipc.new_stream(str(self._file(run)), _ENTRY)
                writers[run].write_table(table.slice(start, stop - start))

        try:
            ledger.read_parts(output, ledger.SCHEMA.names, take)
            write()
        finally:
            for writer in writers.values():
                writer.close()

    def _file(self, run: int) -> Path:
        return self._folder / f"{run}.arrow"

    def _videos(self, run: int, *, count: bool = False) -> pa.Table:
        """The entries of the videos in place for a run of rows, in the rows' order."""
        if not self._file(run).exists():
            return _ENTRY.empty_table()
        with pa.ipc.open_stream(str(self._file(run))) as reader:
            entries = reader.read_all()
        lost = pc.equal(entries.column("status"), ledger.LOST)
        order = [(name, "ascending") for name in (ROW, "finished_at", "attempt", "lost")]
        entries = entries.append_column("lost", lost).sort_by(order).drop_columns(["lost"])
        settled = _last_of_each_row(entries.filter(pc.not_equal(entries.column("status"), ledger.FAILED)))
        videos = settled.filter(pc.equal(settled.column("status"), ledger.DONE))
        stale = self._stale[videos.column(ROW).to_numpy()]
        old = videos.column(ROW).filter(pa.array(stale))
        videos = videos.filter(pa.array(~stale))
        if count:
            latest = _last_of_each_row(entries)
            failed = latest.filter(pc.equal(latest.column("status"), ledger.FAILED)).column(ROW)
            dead = int(pc.sum(pc.invert(pc.is_in(failed, videos.column(ROW).combine_chunks()))).as_py() or 0)
            # A row that failed with the present settings may have a video of others.
            left = int(np.count_nonzero(~np.isin(old.to_numpy(), failed.to_numpy())))
            self.counts.videos += len(videos)
            self.counts.failed += dead
            self.counts.stale += left
            self.counts.pending -= len(videos) + dead + left
        return videos

    def _with_fields(self, batch: Batch, first: int, videos: pa.Table) -> pa.Table:
        places = videos.column(ROW).to_numpy() - first
        columns: dict[str, Any] = {name: videos.column(name) for name in videos.column_names}
        columns[URI] = videos.column("uri")
        columns["model"] = _without_folders(videos.column("model"), videos.column("revision"))
        for name, field in self._fields.items():
            kind = column_of(field).written
            column = batch.values_at(name, places) if _is_exported(name, batch) else pa.nulls(len(places))
            try:
                column = _as_written(column.cast(value_type(column.type)), kind)
            except pa.ArrowException as error:
                # The manifest was changed after its rows were rendered.
                raise Refused(f"{redact(batch.file)}: column {name!r}: {error}") from None
            default = self._defaults.get(name)
            column = column if default is None else column.fill_null(pa.scalar(default, kind))
            columns[name] = _without_credentials(column, field) if field.kind.has_addresses else column
        for extra in self._manifest.extra_schema:
            if extra.name not in columns:
                # As for the ledger: Arrow's casts do not take every type.
                values = extra_values(batch.values_at(extra.name, places), extra)
                columns[extra.name] = pa.array(values, extra.type)
        return pa.table([columns[name] for name in self.schema.names], schema=self.schema)


def _as_written(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """A column in the type that `manifest_build.build` writes: single values where lists are written, too."""
    if pa.types.is_list(kind) and not pa.types.is_nested(column.type):
        values = column.cast(kind.value_type).to_pylist()
        return pa.array([None if value is None else [value] for value in values], kind)
    return column.cast(kind)


def _fields(manifest: Manifest, defaults: Mapping[str, Any]) -> dict[str, Field]:
    """The fields of requests that are exported beside the ledger's columns."""
    first = next(manifest.batches(extras=False), None)
    return {
        name: field
        for name, field in manifest.row_schema.fields.items()
        if name not in ledger.SCHEMA.names
        and (name in defaults or (first is not None and _is_exported(name, first)))
    }


def _is_exported(name: str, batch: Batch) -> bool:
    """Whether a batch has a field that can be exported; images and clips only as paths."""
    if name not in batch.fields:
        return False
    has_sources = batch.row_schema.fields[name].kind.has_sources
    return not has_sources or is_text(value_type(batch.columns.schema.field(name).type))


class _RowIndex:
    """Finds the places of rows in a manifest by their ids."""

    def __init__(self, manifest: Manifest) -> None:
        found = [text_hashes(batch.ids) for batch in manifest.batches(extras=False)]
        hashes = np.concatenate([np.empty((0, 2), np.uint64), *found])
        found.clear()
        self._order = np.argsort(hashes[:, 0])
        self._high, self._low = hashes[self._order].T.copy()

    def of(self, ids: pa.Array) -> np.ndarray:
        """The places, from 0, of some ids; -1 for ids that are not there: int64 (N,)."""
        hashes = text_hashes(ids)
        at = find_hashes(self._high, hashes[:, 0], [(self._low, hashes[:, 1])])
        return np.where(at >= 0, self._order[at], -1) if len(self._order) else at


def _last_of_each_row(entries: pa.Table) -> pa.Table:
    """The last entry of each row, of entries sorted by row."""
    return entries.filter(pa.array(np.diff(entries.column(ROW).to_numpy(), append=-1) != 0))


def _without_credentials(column: pa.Array | pa.ChunkedArray, field: Field) -> pa.Array:
    """The addresses of files in a form for others: a signed URL opens for everybody."""

    def without_credentials(value: Any) -> Any:
        if value is None or (isinstance(value, str) and is_inline(value)):
            return None
        return field.kind.with_addresses(value, without_secrets)

    return pa.array(map(without_credentials, column.to_pylist()), column.type)


def _without_folders(models: pa.ChunkedArray, revisions: pa.ChunkedArray) -> pa.Array:
    """Models as the videos' tags name them: a local checkpoint only by its folder's name."""
    pairs = zip(models.to_pylist(), revisions.to_pylist(), strict=True)
    return pa.array([None if model is None else shown_model(model, revision) for model, revision in pairs])
