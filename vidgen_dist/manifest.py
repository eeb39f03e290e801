"""The manifest: Parquet in, one row one video.

A manifest is a Parquet file, a folder of them or a glob, on any storage. Its columns are
`RenderRequest`'s fields; only `prompt` is required. A null takes the run's default. A relative `image` or
`video` is taken relative to the folder of the file that the row is in. Rows are read by row group and in
batches, so a manifest may be far larger than memory.

A row is identified by its `id` column or, where that is missing or null, by a digest of its request's
fields. The digest does not depend on the order of columns or rows, on the file, on the run's defaults or on
whether a column is absent or null.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import json
import os
import posixpath
import re
import threading
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vidgen_dist.errors import Refused
from vidgen_dist.request import FIELDS, MEDIA_FIELDS, RenderRequest, RequestError
from vidgen_dist.storage import (
    StorageError,
    expand,
    open_input,
    open_storage,
    redact,
    resolve_path,
    split,
    stamp,
)

PARQUET_SUFFIXES = (".parquet", ".parq", ".pq")
INPUT_SUFFIXES = (".txt", ".csv", ".jsonl")

# Decoded rows held at once; rows may carry images.
_BATCH_ROWS = 4096
_BATCH_BYTES = 32 * 2**20
# Row groups up to this size are fetched in one go; larger ones are streamed.
_PREFETCH_BYTES = 64 * 2**20
_OPEN_FILES = 16


# --- columns -----------------------------------------------------------------------------------------


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    of_any_length = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    return of_any_length or pa.types.is_binary_view(kind) or pa.types.is_fixed_size_binary(kind)


def _is_number(kind: pa.DataType) -> bool:
    # SQL's 6.0 is a decimal: DuckDB and Spark write it as such.
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _is_id(kind: pa.DataType) -> bool:
    return _is_text(kind) or pa.types.is_integer(kind) or isinstance(kind, pa.UuidType)


def _is_image(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind):
        return _is_text(kind) or _is_bytes(kind)
    members = {field.name: field.type for field in kind}
    allowed = {"bytes": _is_bytes, "path": _is_text}
    return bool(members) and all(
        name in allowed and (allowed[name](t) or pa.types.is_null(t)) for name, t in members.items()
    )


_TEXT = (_is_text, "a string column")
_INTEGER = (_is_number, "an integer column, or a float column that holds whole numbers")
_NUMBER = (_is_number, "a float or integer column")

_KINDS: dict[str, tuple[Callable[[pa.DataType], bool], str]] = {
    "prompt": _TEXT,
    "id": (_is_id, "a string or integer column"),
    "negative_prompt": _TEXT,
    "image": (
        _is_image,
        "a string column (paths or URIs), a binary column (encoded images) or a struct of bytes and path, "
        "as Hugging Face datasets writes it",
    ),
    "video": (_is_text, "a string column (paths or URIs)"),
    "height": _INTEGER,
    "width": _INTEGER,
    "num_frames": _INTEGER,
    "num_inference_steps": _INTEGER,
    "guidance_scale": _NUMBER,
    "use_dynamic_cfg": (pa.types.is_boolean, "a boolean column"),
    "eta": _NUMBER,
    "strength": _NUMBER,
    "max_sequence_length": _INTEGER,
    "seed": _INTEGER,
    "fps": _NUMBER,
}


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _extra_type(kind: pa.DataType) -> pa.DataType:
    kind = _value_type(kind)
    # Python has no nanoseconds.
    return pa.timestamp("us", kind.tz) if pa.types.is_timestamp(kind) and kind.unit == "ns" else kind


def _check_columns(uri: str, schema: pa.Schema, passthrough: Sequence[str]) -> None:
    shown = redact(uri)
    there = ", ".join(schema.names[:50]) + (", …" if len(schema.names) > 50 else "")
    if "prompt" not in schema.names:
        near = difflib.get_close_matches("prompt", [name.lower() for name in schema.names], 1)
        hint = f" (is {near[0]!r} meant to be it?)" if near else ""
        raise Refused(
            f"{shown}: there is no column 'prompt', which every manifest needs{hint}; it has: {there}"
        )
    for name in passthrough:
        if name not in schema.names:
            raise Refused(f"{shown}: there is no column {name!r} to pass through; it has: {there}")
    for part in split(uri)[0].split("/"):
        name = part.partition("=")[0]
        if part != name and name in FIELDS and name not in schema.names:
            raise Refused(
                f"{shown}: {name!r} is in a folder's name alone, which is not read; "
                "write it as a column, too (partitioned writers leave it out)"
            )
    for name in (*FIELDS, *passthrough):
        if schema.names.count(name) > 1:
            raise Refused(
                f"{shown}: column {name!r} is there {schema.names.count(name)} times; allowed: once"
            )
    for name, (fits, allowed) in _KINDS.items():
        if name in schema.names:
            kind = _value_type(schema.field(name).type)
            if not fits(kind) and not pa.types.is_null(kind):
                raise Refused(
                    f"{shown}: column {name!r} has type {schema.field(name).type}; allowed: {allowed}"
                )


def _check_alike(
    uri: str, schema: pa.Schema, first_uri: str, first: pa.Schema, passthrough: Sequence[str]
) -> None:
    for name in FIELDS:
        if (name in schema.names) != (name in first.names):
            has, lacks = (uri, first_uri) if name in schema.names else (first_uri, uri)
            raise Refused(
                f"{redact(lacks)}: there is no column {name!r}, which {redact(has)} has; "
                "all files of a manifest need the same request columns (nulls are allowed)"
            )
    for name in passthrough:
        kinds = _extra_type(schema.field(name).type), _extra_type(first.field(name).type)
        if kinds[0] != kinds[1]:
            raise Refused(
                f"{redact(uri)}: column {name!r} has type {kinds[0]} but {kinds[1]} in {redact(first_uri)}; "
                "a passed-through column needs one type in all files"
            )


# --- files -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ManifestFile:
    """One Parquet file of a manifest.

    Args:
        uri: Where it is.
        digest: SHA-256 of its footer; tells whether the file is still the one that was opened.
        row_groups: Rows of each row group.
    """

    uri: str
    digest: str
    row_groups: tuple[int, ...]

    @property
    def num_rows(self) -> int:
        """Rows of the file."""
        return sum(self.row_groups)


@dataclass(frozen=True)
class _Footer:
    metadata: pq.FileMetaData
    digest: str


def _read_footer(uri: str) -> _Footer:
    with open_input(uri) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 2**16))
        tail = file.read()
        if tail[-4:] != b"PAR1" or size < 12:
            file.seek(0)
            raise Refused(f"{redact(uri)}: {_not_parquet(uri, file.read(4), tail[-4:])}")
        length = int.from_bytes(tail[-8:-4], "little") + 8
        if length > size - 4:
            raise Refused(f"{redact(uri)}: its Parquet footer is damaged; write the file again")
        if length > len(tail):
            file.seek(size - length)
            tail = file.read()
    footer = tail[-length:]
    try:
        # The footer is all that a reader of the metadata looks at.
        metadata = pq.read_metadata(pa.BufferReader(b"PAR1" + footer))
    except (pa.ArrowException, OSError) as error:
        raise Refused(f"{redact(uri)}: its Parquet footer is damaged ({error})") from None
    return _Footer(metadata, hashlib.sha256(footer).hexdigest())


def _not_parquet(uri: str, head: bytes, tail: bytes) -> str:
    if b"PARE" in (head, tail):
        return "is encrypted Parquet; allowed: plain Parquet"
    if head == b"PAR1":
        return "is a Parquet file cut short; write it again"
    build = "; `vidgen manifest build` makes one from it" if uri.endswith(INPUT_SUFFIXES) else ""
    return f"is not Parquet{build}"


@lru_cache(maxsize=8)
def _known_footer(uri: str, _stamp: str) -> _Footer:
    return _read_footer(uri)


class _RowGroup:
    """Reads one row group of a file from front to back, in batches."""

    def __init__(self, file: ManifestFile, index: int, columns: Sequence[str]) -> None:
        footer = _known_footer(file.uri, stamp(file.uri))
        if footer.digest != file.digest:
            raise StorageError(
                f"{redact(file.uri)}: the manifest was changed while in use; start again to take it as it is"
            )
        group = footer.metadata.row_group(index)
        small = group.total_byte_size <= _PREFETCH_BYTES
        self._source = open_input(file.uri)
        self._parquet = pq.ParquetFile(
            self._source,
            metadata=footer.metadata,
            pre_buffer=small,
            buffer_size=0 if small else 2**20,
        )
        row_bytes = group.total_byte_size / max(1, group.num_rows)
        rows = max(1, min(_BATCH_ROWS, int(_BATCH_BYTES / max(1.0, row_bytes))))
        self._batches = self._parquet.iter_batches(
            rows, row_groups=[index], columns=list(columns), use_threads=False
        )
        self._batch: pa.RecordBatch | None = None
        self.start = 0
        self._stop = 0

    def read(self, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        """Rows `start` to `stop` of the row group; `start` must not lie before the batch at hand."""
        while start < stop:
            while self._stop <= start:
                self._batch = next(self._batches, None)
                if self._batch is None:
                    raise StorageError("the row group has fewer rows than the footer says")
                self.start, self._stop = self._stop, self._stop + self._batch.num_rows
            assert self._batch is not None
            end = min(stop, self._stop)
            yield self._batch.slice(start - self.start, end - start)
            start = end

    def close(self) -> None:
        self._batch = None
        self._parquet.close(force=True)
        self._source.close()


class _OpenGroups:
    """Row groups read in part, kept for the shard that goes on where the last one ended.

    A file written by pandas has a million rows in a row group and Parquet cannot be entered in the
    middle: without this, a hundred thousand shards would each decode half of it.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._groups: dict[tuple[Any, ...], _RowGroup] = {}

    def take(self, file: ManifestFile, index: int, columns: tuple[str, ...], start: int) -> _RowGroup:
        with self._lock:
            group = self._groups.pop((file.uri, file.digest, index, columns), None)
        if group is not None and group.start <= start:
            return group
        if group is not None:
            group.close()
        return _RowGroup(file, index, columns)

    def give_back(self, file: ManifestFile, index: int, columns: tuple[str, ...], group: _RowGroup) -> None:
        with self._lock:
            replaced = self._groups.pop((file.uri, file.digest, index, columns), None)
            self._groups[file.uri, file.digest, index, columns] = group
            oldest = self._groups.pop(next(iter(self._groups))) if len(self._groups) > self._most else None
        for unused in (replaced, oldest):
            if unused is not None:
                unused.close()


_open_groups = _OpenGroups(4)


# --- the manifest ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shard:
    """A run of rows, handed out as one piece of work: `start` to `stop` of one row group of one file."""

    file: str
    row_group: int
    start: int
    stop: int

    @property
    def num_rows(self) -> int:
        """Rows of the shard."""
        return self.stop - self.start


@dataclass(frozen=True)
class Row:
    """One row of a manifest.

    Args:
        id: The row's identity.
        file: URI of the file that it is in.
        index: Its place in the file, from 0.
        request: What is to be rendered; None if the row cannot be a request.
        error: Why not, if so.
        extra: Values of the passed-through columns.
    """

    id: str
    file: str
    index: int
    request: RenderRequest | None
    error: RequestError | None
    extra: Mapping[str, Any]


@dataclass(frozen=True)
class Manifest:
    """An opened manifest. Made by `open_manifest`; it can be sent to other processes.

    Args:
        uri: What was opened.
        files: Its files, sorted by URI.
        columns: The request columns that it has.
        unknown_columns: Columns that are neither that nor passed through; they are not read.
        extra_schema: Names and Arrow types of the passed-through columns.
    """

    uri: str
    files: tuple[ManifestFile, ...]
    columns: tuple[str, ...]
    unknown_columns: tuple[str, ...]
    extra_schema: pa.Schema

    @cached_property
    def num_rows(self) -> int:
        """Rows of all files."""
        return sum(file.num_rows for file in self.files)

    @cached_property
    def _by_uri(self) -> dict[str, ManifestFile]:
        return {file.uri: file for file in self.files}

    def shards(self, size: int) -> Iterator[Shard]:
        """All rows, in order, in runs of at most `size` rows. No shard crosses a row group."""
        if size < 1:
            raise ValueError(f"shard size {size}: allowed: 1 or more")
        for file in self.files:
            for index, rows in enumerate(file.row_groups):
                for start in range(0, rows, size):
                    yield Shard(file.uri, index, start, min(rows, start + size))

    def read(self, shard: Shard, defaults: Mapping[str, Any] | None = None) -> Iterator[Row]:
        """The rows of a shard.

        Args:
            shard: One of `shards`; best in their order, as a row group is decoded from its front.
            defaults: Values of request fields where a row has none.

        Raises:
            StorageError: The file cannot be read, or is no longer the one that was opened.
        """
        index = self._first_index(shard)
        extras = tuple(self.extra_schema.names)
        for batch in self._batches(shard, tuple(dict.fromkeys((*self.columns, *extras)))):
            try:
                values = {name: _values(batch.column(name)) for name in self.columns}
                extra = {name: _extra_values(batch, self.extra_schema.field(name)) for name in extras}
            except StorageError as error:
                raise StorageError(f"cannot read {redact(shard.file)}: {error}") from None
            for at in range(batch.num_rows):
                present = {name: column[at] for name, column in values.items() if column[at] is not None}
                passed = {name: column[at] for name, column in extra.items()}
                yield _row(present, passed, shard.file, index, defaults or {})
                index += 1

    def read_ids(self, shard: Shard) -> list[str]:
        """The ids of a shard's rows: as `read`'s, and much faster where there is an `id` column."""
        if "id" in self.columns:
            batches = self._batches(shard, ("id",))
            ids = [_own_id(value) for batch in batches for value in _values(batch.column("id"))]
            if None not in ids:
                return cast(list[str], ids)
        return [row.id for row in self.read(shard)]

    @cached_property
    def _group_starts(self) -> dict[str, list[int]]:
        return {file.uri: [0, *accumulate(file.row_groups)] for file in self.files}

    def _first_index(self, shard: Shard) -> int:
        return self._group_starts[shard.file][shard.row_group] + shard.start

    def _batches(self, shard: Shard, columns: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
        file = self._by_uri[shard.file]
        try:
            group = _open_groups.take(file, shard.row_group, columns, shard.start)
            try:
                yield from group.read(shard.start, shard.stop)
            except BaseException:
                group.close()
                raise
        except (pa.ArrowException, OSError, Refused) as error:
            if isinstance(error, StorageError | FileNotFoundError):
                raise
            raise StorageError(
                f"cannot read {redact(shard.file)}, row group {shard.row_group}: {error}"
            ) from None
        if shard.stop == file.row_groups[shard.row_group]:
            group.close()
        else:
            _open_groups.give_back(file, shard.row_group, columns, group)


def open_manifest(uri: str | os.PathLike[str], *, passthrough: Sequence[str] = ()) -> Manifest:
    """Open a Parquet file, a folder of them or a glob, and check the columns of every file.

    Args:
        uri: Where; in a folder, and folders in it, all files named ``.parquet``, ``.parq`` or ``.pq``.
        passthrough: Columns whose values come along with each row, for the ledger.

    Raises:
        Refused: Nothing is there; a file is not Parquet, or cut short; `prompt` or a passed-through
            column is missing; a column has a type that cannot be; files differ in their request columns.
    """
    text = os.fspath(uri)
    passthrough = tuple(dict.fromkeys(passthrough))
    try:
        uris = _parquet_files(text)
        with ThreadPoolExecutor(min(_OPEN_FILES, len(uris))) as pool:
            opened = list(pool.map(lambda file: _open_file(file, passthrough), uris))
    except OSError as error:
        raise Refused(str(error)) from None
    (first, schema), rest = opened[0], opened[1:]
    for file, other in rest:
        _check_alike(file.uri, other, first.uri, schema, passthrough)
    known = {*FIELDS, *passthrough}
    unknown = dict.fromkeys(name for _, s in opened for name in s.names if name not in known)
    return Manifest(
        uri=text,
        files=tuple(file for file, _ in opened),
        columns=tuple(name for name in FIELDS if name in schema.names),
        unknown_columns=tuple(unknown),
        extra_schema=pa.schema([(name, _extra_type(schema.field(name).type)) for name in passthrough]),
    )


def _parquet_files(uri: str) -> list[str]:
    found = expand(uri)
    if not found:
        raise Refused(f"{redact(uri)}: there is no such file, folder with files or match")
    if len(found) == 1 and posixpath.basename(found[0]) == posixpath.basename(uri):
        return found
    files = [file for file in found if file.lower().endswith(PARQUET_SUFFIXES)]
    if not files:
        names = ", ".join(posixpath.basename(redact(file)) for file in found[:5])
        raise Refused(f"{redact(uri)}: holds no .parquet file; it holds {names}")
    return files


def _open_file(uri: str, passthrough: Sequence[str]) -> tuple[ManifestFile, pa.Schema]:
    footer = _read_footer(uri)
    schema = footer.metadata.schema.to_arrow_schema()
    _check_columns(uri, schema, passthrough)
    groups = tuple(footer.metadata.row_group(i).num_rows for i in range(footer.metadata.num_row_groups))
    return ManifestFile(uri, footer.digest, groups), schema


# --- rows --------------------------------------------------------------------------------------------


def _values(column: pa.Array) -> list[Any]:
    values = _pylist(column, "surrogateescape")
    if pa.types.is_decimal(_value_type(column.type)):
        return [
            value if value is None else int(value) if value % 1 == 0 else float(value) for value in values
        ]
    return values


def _extra_values(batch: pa.RecordBatch, field: pa.Field) -> list[Any]:
    column = batch.column(field.name)
    try:
        return _pylist(
            column.cast(field.type, safe=False) if pa.types.is_timestamp(field.type) else column, "replace"
        )
    except (pa.ArrowException, ValueError, OverflowError) as error:
        # Such as a time after the year 9999, or of nanoseconds within a list.
        raise StorageError(
            f"column {field.name!r} ({field.type}) holds what cannot be passed through ({error}); "
            "make it a text in the manifest"
        ) from None


def _pylist(column: pa.Array, errors: str) -> list[Any]:
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        # One bad text must not take its neighbours with it: `RenderRequest` refuses it by itself.
        flat = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        if not _is_text(flat.type):
            raise StorageError("a nested column holds text that is not UTF-8") from None
        raw = flat.cast(pa.large_binary()).to_pylist()
        return [value if value is None else value.decode("utf-8", errors) for value in raw]


def _row(
    values: dict[str, Any], extra: dict[str, Any], file: str, index: int, defaults: Mapping[str, Any]
) -> Row:
    image = values.get("image")
    if isinstance(image, dict):
        values["image"] = image.get("bytes") or image.get("path")
        if values["image"] is None:
            del values["image"]
    given = values.pop("id", None)
    own_id = _own_id(given)
    row_id = row_digest(values) if own_id is None else own_id
    try:
        if given is not None and own_id is None:
            raise RequestError("id", given, "a text that is not empty and that UTF-8 can hold")
        for field in MEDIA_FIELDS:
            # An empty one would become the folder.
            if isinstance(values.get(field), str) and values[field]:
                values[field] = resolve_path(values[field], file)
        request = RenderRequest(**{"prompt": None, **defaults, **values, "id": row_id})
    except RequestError as error:
        return Row(row_id, file, index, None, error, extra)
    return Row(row_id, file, index, request, None, extra)


def _own_id(value: str | int | None) -> str | None:
    """The id that a row gives itself, if it can be one."""
    return str(value) if value not in (None, "") and _is_utf8(str(value)) else None


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def row_digest(values: Mapping[str, Any]) -> str:
    """32 hex digits that stand for a row without an id: the same for the same fields that are not null."""
    plain = {name: _plain(value) for name, value in values.items() if value is not None}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"sha256": hashlib.sha256(value).hexdigest()}
    if isinstance(value, float) and value.is_integer():
        # A column turns to floats when one of its values goes missing: 49.0 is the 49 that it was.
        return int(value)
    return value


# --- checking ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with a manifest's row.

    Args:
        file: URI of the file.
        row: The row's place in the file, from 0.
        id: The row's id.
        column: The column that is at fault; empty if no single one is.
        message: What is wrong and what is allowed.
    """

    file: str
    row: int
    id: str
    column: str
    message: str

    def __str__(self) -> str:
        shown = self.id if len(self.id) <= 60 else self.id[:57] + "..."
        return f"{redact(self.file)}, row {self.row} (id {shown!r}): {self.message}"


@dataclass(frozen=True)
class CheckReport:
    """What `check` found.

    Args:
        rows: Rows looked at.
        problems: The first of the rows that cannot be rendered, and of those whose id is another's.
        counts: Column -> rows that are at fault in it; all of them, not only those in `problems`.
        unknown_columns: Columns that a run would ignore.
    """

    rows: int
    problems: tuple[Problem, ...]
    counts: Mapping[str, int]
    unknown_columns: tuple[str, ...]

    @property
    def num_problems(self) -> int:
        """All problems, not only those in `problems`."""
        return sum(self.counts.values())

    @property
    def ok(self) -> bool:
        """Whether every row can be rendered."""
        return self.num_problems == 0


def check(
    manifest: Manifest,
    *,
    defaults: Mapping[str, Any] | None = None,
    resolve: Callable[[RenderRequest], RenderRequest] | None = None,
    probe: Callable[[RenderRequest], object] | None = None,
    limit: int = 20,
) -> CheckReport:
    """Look at every row without a model.

    Of each row 8 bytes are kept, so 10 million rows need about 100 MB.

    Args:
        manifest: What to check.
        defaults: The run's values where a row has none.
        resolve: Fills a request's defaults in and raises RequestError for what the model cannot do;
            a `Rules.resolve`.
        probe: Opens and decodes a request's image and video, and raises ValueError or OSError if that
            fails. Called from several threads.
        limit: How many bad rows, and how many rows with another's id, to name.

    Raises:
        Refused: A file of the manifest cannot be read, is damaged or was changed since it was opened.
    """
    examine = _Examine(resolve, probe)
    problems: list[Problem] = []
    counts: Counter[str] = Counter()
    ids = array("q")
    try:
        with ThreadPoolExecutor(8) as pool:
            for shard in manifest.shards(1024 if probe is None else 64):
                rows = list(manifest.read(shard, defaults))
                ids.extend([hash(row.id) for row in rows])
                for problem in (pool.map if probe is not None else map)(examine, rows):
                    if problem is not None:
                        counts[problem.column] += 1
                        if len(problems) < limit:
                            problems.append(problem)
        repeated, surplus = _repeated(ids)
        shared = _shared_ids(_places(manifest), repeated, limit) if repeated else []
    except OSError as error:
        raise Refused(str(error)) from None
    if shared:
        counts["id"] += surplus
    return CheckReport(manifest.num_rows, tuple(problems + shared), dict(counts), manifest.unknown_columns)


@dataclass(frozen=True)
class _Examine:
    resolve: Callable[[RenderRequest], RenderRequest] | None
    probe: Callable[[RenderRequest], object] | None

    def __call__(self, row: Row) -> Problem | None:
        if row.request is None:
            assert row.error is not None
            return Problem(row.file, row.index, row.id, row.error.field, str(row.error))
        try:
            request = row.request if self.resolve is None else self.resolve(row.request)
            if self.probe is not None:
                self.probe(request)
        except RequestError as error:
            return Problem(row.file, row.index, row.id, error.field, str(error))
        except (ValueError, OSError, Refused) as error:
            column = next((field for field in MEDIA_FIELDS if getattr(row.request, field) is not None), "")
            return Problem(
                row.file, row.index, row.id, column, f"{column}: {error}" if column else str(error)
            )
        return None


def _repeated(hashes: array[int]) -> tuple[frozenset[int], int]:
    """Hashes that are there more than once (the first 100,000), and how many are too many."""
    if not hashes:
        return frozenset(), 0
    # In place: the array may be gigabytes.
    numbers = np.frombuffer(hashes, np.int64)
    numbers.sort()
    again = numbers[1:][numbers[1:] == numbers[:-1]]
    return frozenset(np.unique(again)[:100_000].tolist()), len(again)


def _places(manifest: Manifest) -> Iterator[tuple[str, str, int]]:
    for shard in manifest.shards(_BATCH_ROWS):
        index = manifest._first_index(shard)
        for row_id in manifest.read_ids(shard):
            yield row_id, shard.file, index
            index += 1


def _shared_ids(
    places: Iterable[tuple[str, str, int]], repeated: frozenset[int], limit: int
) -> list[Problem]:
    first: dict[str, tuple[str, int]] = {}
    found: list[Problem] = []
    for row_id, file, index in places:
        if hash(row_id) not in repeated:
            continue
        if row_id not in first:
            first[row_id] = file, index
            continue
        other_file, other = first[row_id]
        message = (
            f"id: the same as that of row {other} of {redact(other_file)}; "
            "each row needs an id of its own (rows without one need to differ, in `seed` for example)"
        )
        found.append(Problem(file, index, row_id, "id", message))
        if len(found) == limit:
            break
    return found


# --- building ----------------------------------------------------------------------------------------

_INTEGER_FIELDS = ("height", "width", "num_frames", "num_inference_steps", "max_sequence_length", "seed")
_NUMBER_FIELDS = ("guidance_scale", "eta", "strength", "fps")
_ARROW_TYPES: dict[str, pa.DataType] = {
    **dict.fromkeys(FIELDS, pa.string()),
    **dict.fromkeys(_INTEGER_FIELDS, pa.int64()),
    **dict.fromkeys(_NUMBER_FIELDS, pa.float64()),
    "use_dynamic_cfg": pa.bool_(),
}
_GROUP_ROWS = 4096
_GROUP_CHARACTERS = 16 * 2**20
_MOST_ERRORS = 20


@dataclass(frozen=True)
class BuildReport:
    """What `build` made.

    Args:
        uri: The manifest.
        rows: Its rows.
        columns: Its request columns.
        unknown_columns: Columns that are not a request's, kept as text; a run ignores them unless they are
            named under `passthrough`.
    """

    uri: str
    rows: int
    columns: tuple[str, ...]
    unknown_columns: tuple[str, ...]


@dataclass(frozen=True)
class _Line:
    """One row of an input: where it begins, counted from 1, and its values or what is wrong with it."""

    number: int
    values: Mapping[str, Any]
    error: RequestError | None = None


def build(inputs: Sequence[str | os.PathLike[str]], out_uri: str | os.PathLike[str]) -> BuildReport:
    """Make one Parquet file from text, CSV and JSON lines.

    - ``.txt``: one prompt a line; blank lines are skipped.
    - ``.csv``: a header names the columns; an empty cell is a null.
    - ``.jsonl``: one object a line; blank lines are skipped.

    All are UTF-8. A row without an id gets one from the input's name and its line, such as
    ``prompts-000012``: two rows may ask for the same, and each is a video. Relative images and videos are
    relative to the input; if the manifest goes to another folder, they are written as absolute paths.
    Inputs are read twice, first to check them: nothing is written unless every line is good.

    Args:
        inputs: Files, folders of them or globs, on any storage.
        out_uri: The manifest, named ``.parquet``; it appears when it is complete.

    Raises:
        Refused: An input is missing or of another kind, lines that cannot be (the first 20, by file, line
            and column), two rows with one id, no rows at all, or storage that cannot be read or written.
    """
    out = os.fspath(out_uri)
    if not out.endswith(PARQUET_SUFFIXES):
        raise Refused(f"{redact(out)}: a manifest's name ends in .parquet")
    folder, name = split(out)
    storage = open_storage(folder)
    target = storage.uri(name)
    try:
        sources = _sources(inputs, target)
        columns, unknown, rows = _check_sources(sources)
        schema = pa.schema(
            [(c, _ARROW_TYPES[c]) for c in columns] + [(c, pa.string()) for c in unknown],
        )
        with storage.create(name) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for group in _groups(sources, schema.names):
                writer.write_table(pa.Table.from_pylist(group, schema), row_group_size=_GROUP_ROWS)
    except OSError as error:
        raise Refused(str(error)) from None
    return BuildReport(target, rows, columns, unknown)


@dataclass(frozen=True)
class _Source:
    """An input file, the beginning of its rows' ids, and the file that relative paths start from."""

    uri: str
    id_prefix: str
    base: str | None

    def records(self) -> Iterator[tuple[int, dict[str, Any] | RequestError]]:
        """Each row's line and its checked values, with an id, or what is wrong with it."""
        with open_input(self.uri) as raw, io.BufferedReader(_Raw(raw), 2**20) as file:
            for line in _READERS[_suffix(self.uri)](file, self.uri):
                yield line.number, self._checked(line)

    def _checked(self, line: _Line) -> dict[str, Any] | RequestError:
        if line.error is not None:
            return line.error
        values = {name: value for name, value in line.values.items() if value is not None}
        given = values.get("id")
        if isinstance(given, int) and not isinstance(given, bool):
            given = str(given)
        values["id"] = f"{self.id_prefix}-{line.number:06d}" if given is None else given
        try:
            for name, value in values.items():
                if not _is_utf8(name) or (name not in _KINDS and not _is_utf8(value)):
                    raise RequestError(name, value, "a text that UTF-8 can hold")
            for field in MEDIA_FIELDS:
                if not isinstance(values.get(field, ""), str):
                    raise RequestError(field, values[field], "a text: a path or a URI")
                if values.get(field) and self.base is not None:
                    values[field] = resolve_path(values[field], self.base)
            request = RenderRequest(**{"prompt": None} | {k: v for k, v in values.items() if k in _KINDS})
        except RequestError as error:
            return error
        return values | {name: getattr(request, name) for name in values if name in _KINDS}


class _Raw(io.RawIOBase):
    """Any file-like object as what `io.BufferedReader` wants."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _suffix(uri: str) -> str:
    return os.path.splitext(uri)[1].lower()


def _sources(inputs: Sequence[str | os.PathLike[str]], target: str) -> list[_Source]:
    allowed = ", ".join(INPUT_SUFFIXES)
    uris: list[str] = []
    for item in inputs:
        text = os.fspath(item)
        found = expand(text)
        if not found:
            raise Refused(f"{redact(text)}: there is no such file, folder with files or match")
        known = [uri for uri in found if _suffix(uri) in INPUT_SUFFIXES]
        if not known:
            raise Refused(f"{redact(text)}: cannot be made into a manifest; allowed: {allowed}")
        uris += known
    taken: set[str] = set()
    sources = []
    for uri in uris:
        prefix = stem = os.path.splitext(posixpath.basename(uri))[0]
        copy = 1
        while prefix in taken:
            copy += 1
            prefix = f"{stem}-{copy}"
        taken.add(prefix)
        beside = split(uri)[0] == split(target)[0]
        sources.append(_Source(uri, prefix, None if beside else uri))
    return sources


def _check_sources(sources: Sequence[_Source]) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """The request columns and the other columns of all inputs, and the number of rows."""
    columns: dict[str, None] = {}
    errors: list[str] = []
    bad = 0
    ids = array("q")
    for source in sources:
        for number, record in source.records():
            if isinstance(record, RequestError):
                bad += 1
                if bad <= _MOST_ERRORS:
                    errors.append(f"{redact(source.uri)}, line {number}: {record}")
                continue
            columns.update(dict.fromkeys(record))
            ids.append(hash(record["id"]))
    rows = len(ids)
    if bad > _MOST_ERRORS:
        errors.append(f"and {bad - _MOST_ERRORS} more lines")
    if not errors:
        errors = _same_ids(sources, _repeated(ids)[0])
    if errors:
        raise Refused("\n".join(errors))
    if not rows:
        raise Refused(f"{', '.join(redact(source.uri) for source in sources)}: there are no rows")
    known = tuple(name for name in FIELDS if name in columns)
    return known, tuple(name for name in columns if name not in FIELDS), rows


def _same_ids(sources: Sequence[_Source], repeated: frozenset[int]) -> list[str]:
    if not repeated:
        return []
    first: dict[str, str] = {}
    errors: list[str] = []
    for source in sources:
        for number, record in source.records():
            if isinstance(record, RequestError) or hash(record["id"]) not in repeated:
                continue
            place = f"{redact(source.uri)}, line {number}"
            if record["id"] in first:
                errors.append(
                    f"{place}: id: {record['id']!r} is also that of {first[record['id']]}; allowed: once"
                )
            first.setdefault(record["id"], place)
            if len(errors) == _MOST_ERRORS:
                return errors
    return errors


def _groups(sources: Sequence[_Source], columns: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
    """Rows in groups small enough to be handed out singly and to fit in memory."""
    group: list[dict[str, Any]] = []
    characters = 0
    for source in sources:
        for number, record in source.records():
            if isinstance(record, RequestError) or not record.keys() <= set(columns):
                raise Refused(f"{redact(source.uri)}, line {number}: was changed while it was read")
            group.append(record)
            characters += sum(len(value) for value in record.values() if isinstance(value, str))
            if len(group) == _GROUP_ROWS or characters > _GROUP_CHARACTERS:
                yield group
                group, characters = [], 0
    if group:
        yield group


# --- reading text, CSV and JSON lines ----------------------------------------------------------------


def _decoded(file: BinaryIO) -> Iterator[str | UnicodeDecodeError]:
    for number, line in enumerate(file):
        try:
            yield line.decode("utf-8-sig" if number == 0 else "utf-8")
        except UnicodeDecodeError as error:
            yield error


def _bad_line(number: int, error: UnicodeDecodeError) -> _Line:
    return _Line(number, {}, RequestError("line", error.object, "UTF-8"))


def _read_txt(file: BinaryIO, _uri: str) -> Iterator[_Line]:
    for number, text in enumerate(_decoded(file), 1):
        if isinstance(text, UnicodeDecodeError):
            yield _bad_line(number, text)
        elif text.strip():
            yield _Line(number, {"prompt": text.strip()})


def _read_jsonl(file: BinaryIO, _uri: str) -> Iterator[_Line]:
    for number, text in enumerate(_decoded(file), 1):
        if isinstance(text, UnicodeDecodeError):
            yield _bad_line(number, text)
        elif text.strip():
            try:
                yield _Line(number, _json_object(text))
            except RequestError as error:
                yield _Line(number, {}, error)


def _json_object(text: str) -> dict[str, Any]:
    def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for name, times in Counter(name for name, _ in pairs).items():
            if times > 1:
                raise RequestError(name, times, "each key once in an object")
        return dict(pairs)

    try:
        value = json.loads(text, object_pairs_hook=without_repeats)
    except RequestError:
        raise
    except (ValueError, RecursionError) as error:
        raise RequestError("line", text.strip(), f"a JSON object ({error})") from None
    if not isinstance(value, dict):
        raise RequestError("line", text.strip(), "a JSON object")
    return {name: cell if name in _KINDS else _as_text(cell) for name, cell in value.items()}


def _as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _read_csv(file: BinaryIO, uri: str) -> Iterator[_Line]:
    def text() -> Iterator[str]:
        for number, line in enumerate(_decoded(file), 1):
            if isinstance(line, UnicodeDecodeError):
                raise Refused(f"{redact(uri)}, line {number}: is not UTF-8")
            yield line

    # The limit is the module's, not the reader's; 128 KiB is too little for a long prompt.
    csv.field_size_limit(max(csv.field_size_limit(), 2**26))
    reader = csv.reader(text(), strict=True)
    header: list[str] | None = None
    begin = 1
    try:
        for cells in reader:
            number, begin = begin, reader.line_num + 1
            if not cells:
                continue
            if header is None:
                header = _csv_header(cells, uri)
            else:
                yield _csv_line(number, header, cells)
    except csv.Error as error:
        raise Refused(f"{redact(uri)}, line {begin}: cannot be read as CSV ({error})") from None
    if header is None:
        raise Refused(f"{redact(uri)}: is empty; its first line must name the columns")


def _csv_header(cells: Sequence[str], uri: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    for name in names:
        if not name or names.count(name) > 1:
            raise Refused(f"{redact(uri)}: the header {names} must name each column, and each once")
    if "prompt" not in names:
        raise Refused(f"{redact(uri)}: the header has no column 'prompt'; it has: {', '.join(names)}")
    return names


def _csv_line(number: int, header: Sequence[str], cells: Sequence[str]) -> _Line:
    if len(cells) != len(header):
        return _Line(number, {}, RequestError("line", list(cells), f"{len(header)} cells, as in the header"))
    try:
        return _Line(number, {n: _csv_value(n, cell) for n, cell in zip(header, cells, strict=True) if cell})
    except RequestError as error:
        return _Line(number, {}, error)


def _csv_value(field: str, cell: str) -> Any:
    if field in _INTEGER_FIELDS or field in _NUMBER_FIELDS:
        allowed = "a whole number" if field in _INTEGER_FIELDS else "a number"
        text = _matched(field, cell, r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", allowed)
        # A whole number may come as 480.0, from a table whose column had gaps.
        return int(text) if re.fullmatch(r"[+-]?[0-9]{1,20}", text) else float(text)
    if field == "use_dynamic_cfg":
        return _matched(field, cell.lower(), "true|false", "true or false") == "true"
    return cell


def _matched(field: str, cell: str, pattern: str, allowed: str) -> str:
    if not re.fullmatch(pattern, cell.strip()):
        raise RequestError(field, cell, allowed)
    return cell.strip()


_READERS: dict[str, Callable[[BinaryIO, str], Iterator[_Line]]] = {
    ".txt": _read_txt,
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
}
