"""`vidgen export`: an output as a data set that others read.

- `hf`: a folder for Hugging Face `datasets` (its `videofolder`): `videos/00000/000000000.mp4`, …, ten
  thousand to a folder, and one `metadata.parquet`, whose `file_name` says whose video is which. Files have
  the number of their row: a name made of an id with `test` in it would be taken for a split of that name.
- `webdataset`: tar shards `00000.tar`, … with `000000000.json` and `000000000.mp4` a row.

Both have the manifest's order, and are the same bytes whenever the same output is exported. `.export.json` in
the destination says of which rows and videos the export is. One that was killed goes on when it is started
again: what is there was written whole, and is taken as it is if it has the right size. Beside a shard
that lacks rows lies `.00000.tar.left.json`, which names them; the next export looks for their videos again.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import math
import re
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vidgen_dist import engine as engines
from vidgen_dist.engine import get_engine
from vidgen_dist.errors import Refused
from vidgen_dist.families.common.tasks import Rules
from vidgen_dist.families.rules import compute_dtype
from vidgen_dist.maintenance.manifest_join import ROW, URI, ManifestJoin, RowCounts
from vidgen_dist.maintenance.status import is_current, open_output, reopen_manifest, run_fields
from vidgen_dist.maintenance.verification import path_in_output
from vidgen_dist.manifest import Manifest, check
from vidgen_dist.output.fingerprint import identity_of
from vidgen_dist.output.resume import RowResolver
from vidgen_dist.output.status_file import read_status_file
from vidgen_dist.output.video_files import fetch_video
from vidgen_dist.preflight.manifest_check import describe_problems
from vidgen_dist.preflight.sampling import sampling_defaults
from vidgen_dist.spec import RunSpec, parse_bytes
from vidgen_dist.storage.files import size
from vidgen_dist.storage.folder import Storage, open_writable
from vidgen_dist.storage.names import is_temporary
from vidgen_dist.storage.retries import with_retries
from vidgen_dist.storage.uris import redact
from vidgen_dist.threads import map_ahead

HF, WEBDATASET = "hf", "webdataset"
KINDS = {HF: ("mp4",), WEBDATASET: ("mp4", "gif", "png", "npy")}
"""What there is to export to, and from which formats."""

SHARD_SIZE, SHARD_ROWS = "1GB", 10_000

EXPORT_FILE = ".export.json"
METADATA = "metadata.parquet"

_FOLDER_ROWS = 10_000
_COPIERS = 16
_PACKERS = 4
_TAR_BLOCK = tarfile.BLOCKSIZE
_NO_VIDEO = "its video is not there"

ProgressCallback = Callable[[int, int], None]


@dataclass(frozen=True)
class OmittedRow:
    """A row whose video is not what the ledger says, and was left out.

    Args:
        id: The row's.
        message: What is wrong.
    """

    id: str
    message: str


@dataclass(frozen=True)
class ExportReport:
    """What an export has.

    Args:
        videos: Rows with their videos.
        unsure: Those of them that may be of other settings than the run's: they could not be compared.
        why_unsure: Why not.
        failed: Rows that were given up, and are not in it.
        stale: Rows whose videos are of other settings, and are not in it.
        pending: Rows that were not done yet, and are not in it.
        missing: Rows that the ledger says are done, whose video is missing or torn.
        left: The first of them.
        files: Videos, or shards.
        kept: Of these, those that were there before.
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


def export(
    uri: str,
    to: str,
    destination: str,
    *,
    manifest: str | None = None,
    shard_size: str = SHARD_SIZE,
    shard_rows: int = SHARD_ROWS,
    limit: int = 20,
    progress: ProgressCallback = lambda _done, _all: None,
    engine: str | None = None,
) -> ExportReport:
    """Write the rows of an output that are done, with their videos, to another place.

    Args:
        uri: Output of a run.
        to: `hf` or `webdataset`.
        destination: An empty folder, or one in which this export was begun.
        manifest: Where the run's manifest is now, if it was moved.
        shard_size: Of `webdataset` the size of a shard, such as `1GB`, at most; of one row it may be more.
        shard_rows: Its rows, at most.
        limit: How many rows that were left out to name.
        progress: Told how many rows of how many are done.
        engine: Module name of what rendered; by default the models. Tests have one of their own.

    Raises:
        Refused: There is no run's output, its manifest cannot be read, its format cannot be exported so, or
            something else is in the destination.
    """
    output, spec = open_output(uri)
    place = open_writable(destination)
    _check(output, spec, to, place)
    try:
        most_bytes = parse_bytes(shard_size)
    except ValueError as error:
        raise Refused(f"--shard-size: {error}") from None
    rows = _open_manifest(spec, manifest)
    try:
        with tempfile.TemporaryDirectory(prefix="vidgen-") as folder:
            resolvings, bad, why_unsure = _resolvings(output, spec, rows, engine or engines.ENGINE)
            rules = resolvings[0].rules if resolvings else None
            join = ManifestJoin(output, rows, _defaults(spec, rules), Path(folder), resolvings, bad)
            if why_unsure:
                join.counts.unsure = join.counts.videos
            elif join.counts.unsure:
                why_unsure = "their images or clips cannot be read"
            mark: dict[str, Any] = {"to": to, "rows": join.digest}
            if to == WEBDATASET:
                mark |= {"shard_size": most_bytes, "shard_rows": shard_rows}
            there = _claim_destination(place, mark)
            writing = _ExportWriter(output, place, spec.output.format, join.counts, limit, progress)
            if to == HF:
                writing.write_folder(join)
            else:
                writing.write_shards(join, there, most_bytes, shard_rows)
            return writing.result(why_unsure)
    except OSError as error:
        raise Refused(str(error)) from None


def _check(output: Storage, spec: RunSpec, to: str, place: Storage) -> None:
    if to not in KINDS:
        raise Refused(f"--to: {to!r} is not allowed; allowed: {', '.join(KINDS)}")
    if spec.output.format not in KINDS[to]:
        raise Refused(
            f"{redact(output.root)}: its videos are {spec.output.format}; --to {to} takes "
            f"{', '.join(KINDS[to])}; --to {WEBDATASET} takes all formats"
        )
    if place.root.startswith("hf://"):
        raise Refused(
            f"{redact(place.root)}: the Hub makes a commit of each file; export to a folder, and upload that "
            "with `hf upload-large-folder`"
        )
    if f"{place.root}/".startswith(f"{output.root.rstrip('/')}/"):
        raise Refused(f"{redact(place.root)}: lies in the output that is exported; give a folder elsewhere")


def _open_manifest(spec: RunSpec, uri: str | None) -> Manifest:
    try:
        return reopen_manifest(spec, uri)
    except Refused as error:
        hint = (
            ""
            if uri
            else "; an export has the prompts: if the manifest was moved, say with --manifest where to"
        )
        raise Refused(f"{error}{hint}") from None


def _resolvings(
    output: Storage, spec: RunSpec, manifest: Manifest, engine: str
) -> tuple[list[RowResolver], np.ndarray, str]:
    """How a run makes fingerprints of the manifest's rows, and places of those that have none; nothing if all
    are known to be done, or, with the reason, if it cannot be known how."""
    run = read_status_file(output)
    none = np.empty(0, np.int64)
    if run is not None and is_current(run, output, manifest) and run.done == run.total:
        return [], none, ""
    # Whose weights are hashed once. Ascend takes every dtype.
    auto = spec.topology.device == "auto"
    try:
        opened = get_engine(engine).open_model(spec.model, "ascend" if auto else spec.topology.device)
        defaults = _defaults(spec, opened.rules)
        report = check(manifest, defaults=defaults, resolve=opened.rules.resolve)
        if report.id_problems:
            raise Refused(describe_problems(report.id_problems, report.counts["id"]))
    except Refused as error:
        return [], none, str(error)
    dtypes = [opened.dtype]
    if auto and spec.model.dtype is None:
        # The run may have been on another device than this machine has.
        dtypes.append(compute_dtype(None, "cpu"))
    models = (dataclasses.replace(opened, dtype=dtype) for dtype in dtypes)
    resolvings = [RowResolver(opened.rules, spec.seed, identity_of(model, spec)) for model in models]
    return resolvings, report.bad, ""


def _defaults(spec: RunSpec, rules: Rules[Any] | None) -> dict[str, Any]:
    fields = {**run_fields(spec.sampling, "sampling"), **(rules.declared if rules else {})}
    # 49.0 is 49.
    return {name: fields[name].parse(name, value) for name, value in sampling_defaults(spec, rules).items()}


def _claim_destination(place: Storage, mark: Mapping[str, Any]) -> dict[str, int]:
    """Take an empty destination, or find that this export was begun in it; what files lie in it."""
    content = json.dumps(mark, sort_keys=True).encode()
    files, folders = place.entries()
    if EXPORT_FILE in files:
        if place.read_bytes(EXPORT_FILE) != content:
            raise Refused(
                f"{redact(place.root)}: has another export, or one of this output as it was before more rows "
                "were done, or with other shards; give an empty folder, or remove what is in this one"
            )
        _remove_temporary_files(place, files)
        return files
    if others := [path for path in (*files, *folders) if not is_temporary(path)]:
        raise Refused(
            f"{redact(place.root)}: there is something else in it, such as {min(others)}; "
            "give an empty folder"
        )
    _remove_temporary_files(place, files)
    place.write_bytes(EXPORT_FILE, content)
    return {}


def _remove_temporary_files(place: Storage, files: Iterable[str]) -> None:
    """Remove what an export that was killed left half written: folders of data are sent on as they are."""
    for path in filter(is_temporary, files):
        place.delete(path)


@dataclass(frozen=True)
class _Sample:
    """A row in a shard: its number, what is said of it, and its video's files."""

    key: str
    id: str
    text: bytes
    uris: tuple[str, ...]
    suffixes: tuple[str, ...]
    sha256: str
    size: int

    @property
    def tar_bytes(self) -> int:
        """In a tar; of frames, whose sizes the ledger does not have, roughly."""
        return _tar_bytes(len(self.text)) + _tar_bytes(self.size) + _TAR_BLOCK * (len(self.suffixes) - 1)


class _ExportWriter:
    """An export under way."""

    def __init__(
        self,
        output: Storage,
        place: Storage,
        format: str,
        counts: RowCounts,
        limit: int,
        progress: ProgressCallback,
    ) -> None:
        self._output = output
        self._place = place
        self._format = format
        self._counts = counts
        self._limit = limit
        self._progress = progress
        self._left: list[OmittedRow] = []
        self._missing = self._done = self._files = self._kept = 0

    def result(self, why_unsure: str) -> ExportReport:
        """What became of it."""
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

    def write_folder(self, join: ManifestJoin) -> None:
        """`videos/` and, last, `metadata.parquet`."""
        schema = _folder_schema(join.schema)
        with (
            self._place.create(METADATA) as file,
            pq.ParquetWriter(file, schema, compression="zstd") as writer,
        ):
            listed, there = "", dict[str, int]()
            for table in join.tables():
                for folder, piece in _by_folder(table):
                    if folder != listed:
                        listed, there = folder, self._place.sizes(folder)
                        _remove_temporary_files(self._place, there)
                    whole = self._copy_all(piece, there)
                    names = pa.array([_file_name(row) for row in piece.column(ROW).to_pylist()], pa.string())
                    told = piece.drop_columns([ROW, URI]).cast(_as_exported(piece.schema))
                    columns = pa.table([names, *told.columns], schema=schema)
                    writer.write_table(columns.filter(pa.array(whole, pa.bool_())))

    def _copy_all(self, table: pa.Table, there: Mapping[str, int]) -> list[bool]:
        """Copy the videos that were not there before; of each row whether its video is now."""

        def copy(row: Mapping[str, Any]) -> tuple[bool, str | None]:
            name = _file_name(row[ROW])
            if there.get(name) == row["bytes"]:
                return True, None
            source = self._output.uri(path_in_output(row[URI]))
            return False, with_retries(
                lambda: self._copy(source, name, row["bytes"]), hurry=threading.Event()
            )

        rows = table.select([ROW, URI, "id", "bytes"]).to_pylist()
        whole = []
        for row, (kept, message) in zip(rows, map_ahead(copy, rows, threads=_COPIERS), strict=True):
            whole.append(message is None)
            self._files += message is None
            self._kept += kept
            self._add(1, [] if message is None else [OmittedRow(row["id"], message)])
        return whole

    def _copy(self, source: str, name: str, expected: int) -> str | None:
        """Copy a video; what is wrong with it, if it is not copied."""
        try:
            found = size(source)
            if found == expected:
                self._place.copy_file(source, name)
                return None
        except FileNotFoundError:
            return _NO_VIDEO
        return f"its video has {found:,} bytes, where the ledger says {expected:,}"

    def write_shards(
        self, join: ManifestJoin, there: Mapping[str, int], most_bytes: int, most_rows: int
    ) -> None:
        """`00000.tar` and so on; those that are there, with their sizes, are kept."""

        def pack(shard: tuple[str, list[_Sample]]) -> tuple[int, bool, list[OmittedRow]]:
            name, samples = shard
            whole = there.get(name) == _shard_bytes(samples) or (name in there and self._format == "png")
            # Without some rows it may have the size of one that has them all.
            lacking = _omissions_file(name) in there
            if whole and not lacking:
                return len(samples), True, []
            left = with_retries(lambda: self._pack(name, samples), hurry=threading.Event())
            if lacking and not left:
                self._place.delete(_omissions_file(name))
            return len(samples), False, left

        shards = _shards(_samples(join, self._output, self._format), most_bytes, most_rows)
        for rows, kept, left in map_ahead(pack, shards, threads=_PACKERS):
            self._files += 1
            self._kept += kept
            self._add(rows, left)

    def _pack(self, name: str, samples: Sequence[_Sample]) -> list[OmittedRow]:
        """Write a shard; the rows that are not in it."""
        left = []
        with (
            self._place.create(name) as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for sample in samples:
                with tempfile.TemporaryDirectory(prefix="vidgen-") as folder:
                    try:
                        files, digest = fetch_video(sample.uris, Path(folder))
                    except FileNotFoundError:
                        left.append(OmittedRow(sample.id, _NO_VIDEO))
                        continue
                    if digest != sample.sha256:
                        left.append(
                            OmittedRow(sample.id, "its video's SHA-256 is not the one that the ledger has")
                        )
                        continue
                    _add(tar, f"{sample.key}.json", io.BytesIO(sample.text), len(sample.text))
                    for local, suffix in zip(files, sample.suffixes, strict=True):
                        with local.open("rb") as video:
                            _add(tar, f"{sample.key}.{suffix}", video, local.stat().st_size)
            if left:
                # Before the shard appears: one that lacks rows is never alone.
                told = {row.id: row.message for row in left}
                self._place.write_bytes(_omissions_file(name), json.dumps(told, indent=1).encode())
        return left

    def _add(self, rows: int, left: Sequence[OmittedRow]) -> None:
        self._done += rows
        self._missing += len(left)
        self._left += left[: max(0, self._limit - len(self._left))]
        self._progress(self._done, self._counts.videos)


# --- a folder of videos ------------------------------------------------------------------------------


def _by_folder(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """A table's rows by the folder of their videos."""
    folders = table.column(ROW).to_numpy() // _FOLDER_ROWS
    bounds = np.append(np.flatnonzero(np.diff(folders, prepend=-1)), len(folders))
    for start, stop in pairwise(bounds):
        yield _folder(folders[start]), table.slice(start, stop - start)


def _folder(number: int) -> str:
    return f"videos/{number:05d}"


def _file_name(row: int) -> str:
    return f"{_folder(row // _FOLDER_ROWS)}/{_key(row)}.mp4"


def _key(row: int) -> str:
    return f"{row:09d}"


def _folder_schema(schema: pa.Schema) -> pa.Schema:
    """Columns of `metadata.parquet`: names that `datasets` takes for itself get `_given` behind them."""
    told = _as_exported(schema)
    renamed = [
        column.with_name(f"{column.name}_given") if _is_reserved(column.name) else column for column in told
    ]
    return pa.schema([pa.field("file_name", pa.string()), *renamed])


def _as_exported(schema: pa.Schema) -> pa.Schema:
    """The columns that are told, with types that `datasets` reads."""
    told = (column for column in schema if column.name not in (ROW, URI))
    return pa.schema([column.with_type(_without_uint64(column.type)) for column in told])


def _without_uint64(kind: pa.DataType) -> pa.DataType:
    """A plain type with decimals in place of numbers from 2**63 on, at which `datasets` breaks."""
    if pa.types.is_uint64(kind):
        return pa.decimal128(20, 0)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_without_uint64(field.type)) for field in kind])
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_without_uint64(kind.value_type)))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_without_uint64(kind.value_type)))
    return kind


def _is_reserved(name: str) -> bool:
    return name == "video" or re.fullmatch(r"(.*_)?file_names?", name) is not None


# --- shards ------------------------------------------------------------------------------------------


def _samples(join: ManifestJoin, output: Storage, format: str) -> Iterator[_Sample]:
    for table in join.tables():
        for row in table.to_pylist():
            number, video = row.pop(ROW), output.uri(path_in_output(row.pop(URI)))
            text = json.dumps(_plain(row), ensure_ascii=False, allow_nan=False).encode()
            frames = [f"{frame:06d}.png" for frame in range(row["frames"])] if format == "png" else []
            yield _Sample(
                key=_key(number),
                id=row["id"],
                text=text,
                uris=tuple(f"{video}/{frame}" for frame in frames) or (video,),
                suffixes=tuple(frames) or (format,),
                sha256=row["sha256"],
                size=row["bytes"],
            )


def _shards(
    samples: Iterable[_Sample], most_bytes: int, most_rows: int
) -> Iterator[tuple[str, list[_Sample]]]:
    """Samples by the shard that they are in, with its name."""
    shard: list[_Sample] = []
    count = total = 0
    for sample in samples:
        total += sample.tar_bytes
        if shard and (len(shard) == most_rows or _in_records(total) > most_bytes):
            yield f"{count:05d}.tar", shard
            count, total, shard = count + 1, sample.tar_bytes, []
        shard.append(sample)
    if shard:
        yield f"{count:05d}.tar", shard


def _omissions_file(shard: str) -> str:
    """What names the rows that a shard lacks."""
    return f".{shard}.left.json"


def _shard_bytes(samples: Sequence[_Sample]) -> int:
    """Size of the tar with all samples; of frames not known."""
    return _in_records(sum(sample.tar_bytes for sample in samples))


def _in_records(size: int) -> int:
    """Of a tar with members of this size: two empty blocks are its end, and it consists of whole records."""
    return -(-(size + 2 * _TAR_BLOCK) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE


def _tar_bytes(size: int) -> int:
    """Of a member, with its header."""
    return _TAR_BLOCK + -(-size // _TAR_BLOCK) * _TAR_BLOCK


def _add(tar: tarfile.TarFile, name: str, file: BinaryIO, size: int) -> None:
    # A header says no more than this: no time, no owner.
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = 0o644
    tar.addfile(member, file)


def _plain(value: Any) -> Any:
    """A value as JSON has it: times in ISO 8601, bytes in base64, no NaN."""
    if isinstance(value, dict):
        return {str(name): _plain(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, date | time):
        return value.isoformat()
    return value if value is None or isinstance(value, str | int | bool) else str(value)
