"""The manifest: Parquet in, one row one video.

A manifest is a Parquet file, a folder of them or a glob, on any storage. Its columns are
`RenderRequest`'s fields; only `prompt` is required. A null takes the run's default. A relative `image` or
`video` is taken relative to the folder of the file that the row is in. Rows are read front to back and in
batches, so a manifest, and any row group of it, may be far larger than memory.

A row is identified by its `id` column or, where that is missing or null, by a digest of its request's
fields. The digest does not depend on the order of columns or rows, on the file, on the run's defaults or on
whether a column is absent or null.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import os
import posixpath
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vidgen_dist.digests import as_list, json_template, text_hashes
from vidgen_dist.errors import Refused
from vidgen_dist.request import FIELDS, MAX_SEED, MEDIA_FIELDS, RenderRequest, RequestError, is_utf8
from vidgen_dist.storage import StorageError, expand, open_input, redact, resolve_path, split, stamp
from vidgen_dist.threads import map_ahead

PARQUET_SUFFIXES = (".parquet", ".parq", ".pq")
INPUT_SUFFIXES = (".txt", ".csv", ".jsonl")

# Decoded rows held at once; rows may carry images.
_BATCH_ROWS = 4096
# Those of which most never become Python objects.
_COLUMN_ROWS = 2**16
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


@dataclass(frozen=True)
class Column:
    """A request field as a column.

    Args:
        fits: Whether a type can hold the field.
        allowed: Which types those are, for messages.
        written: The type that `manifest_build.build` gives it.
    """

    fits: Callable[[pa.DataType], bool]
    allowed: str
    written: pa.DataType


_TEXT = Column(_is_text, "a string column", pa.string())
_INTEGER = Column(_is_number, "an integer column, or a float column that holds whole numbers", pa.int64())
_NUMBER = Column(_is_number, "a float or integer column", pa.float64())
_IMAGE = (
    "a string column (paths or URIs), a binary column (encoded images) or a struct of bytes and path, "
    "as Hugging Face datasets writes it"
)

COLUMNS: Mapping[str, Column] = {
    "prompt": _TEXT,
    "id": Column(_is_id, "a string or integer column", pa.string()),
    "negative_prompt": _TEXT,
    "image": Column(_is_image, _IMAGE, pa.string()),
    "video": Column(_is_text, "a string column (paths or URIs)", pa.string()),
    "height": _INTEGER,
    "width": _INTEGER,
    "num_frames": _INTEGER,
    "num_inference_steps": _INTEGER,
    "guidance_scale": _NUMBER,
    "use_dynamic_cfg": Column(pa.types.is_boolean, "a boolean column", pa.bool_()),
    "eta": _NUMBER,
    "strength": _NUMBER,
    "max_sequence_length": _INTEGER,
    "seed": _INTEGER,
    "fps": _NUMBER,
}
"""Of each field of a request, by its name."""


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
    for name, column in COLUMNS.items():
        if name in schema.names:
            kind = _value_type(schema.field(name).type)
            if not column.fits(kind) and not pa.types.is_null(kind):
                raise Refused(
                    f"{shown}: column {name!r} has type {schema.field(name).type}; allowed: {column.allowed}"
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

    def spans(self) -> Iterator[tuple[int, int, int]]:
        """Each row group's number, its first row and the one after its last."""
        start = 0
        for group, rows in enumerate(self.row_groups):
            yield group, start, start + rows
            start += rows


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


# Of a file of many row groups the footer has megabytes: read once, as long as the file stays the same.
@lru_cache(maxsize=1)
def _known_footer(uri: str, _stamp: str) -> _Footer:
    return _read_footer(uri)


def _read_group(
    file: ManifestFile, index: int, columns: Sequence[str], most_rows: int = _BATCH_ROWS
) -> Iterator[pa.RecordBatch]:
    """A row group from front to back, in batches small enough whatever the group's size."""
    try:
        footer = _known_footer(file.uri, stamp(file.uri))
        if footer.digest != file.digest:
            raise StorageError(
                f"{redact(file.uri)}: the manifest was changed while in use; start again to take it as it is"
            )
        group = footer.metadata.row_group(index)
        small = group.total_byte_size <= _PREFETCH_BYTES
        row_bytes = group.total_byte_size / max(1, group.num_rows)
        rows = max(1, min(most_rows, int(_BATCH_BYTES / max(1.0, row_bytes))))
        missing = group.num_rows
        with (
            open_input(file.uri) as source,
            pq.ParquetFile(
                source, metadata=footer.metadata, pre_buffer=small, buffer_size=0 if small else 2**20
            ) as parquet,
        ):
            for batch in parquet.iter_batches(
                rows, row_groups=[index], columns=list(columns), use_threads=False
            ):
                missing -= batch.num_rows
                yield batch
        if missing:
            raise OSError("it has fewer rows than the footer says")
    except (StorageError, FileNotFoundError):
        raise
    except (pa.ArrowException, OSError, Refused) as error:
        raise StorageError(f"cannot read {redact(file.uri)}, row group {index}: {error}") from None


# --- the manifest ------------------------------------------------------------------------------------


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
    """An opened manifest. Made by `open_manifest`.

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

    @property
    def num_rows(self) -> int:
        """Rows of all files."""
        return sum(file.num_rows for file in self.files)

    def rows(
        self, defaults: Mapping[str, Any] | None = None, wanted: np.ndarray | None = None
    ) -> Iterator[Row]:
        """The rows, in order, read as they are asked for.

        Args:
            defaults: Values of request fields where a row has none.
            wanted: Which rows to give, all by default: bool (rows,). Row groups without any are not read.

        Raises:
            StorageError: A file cannot be read, or is no longer the one that was opened.
        """
        first = 0
        for file in self.files:
            for group, start, stop in file.spans():
                here = None if wanted is None else wanted[first + start : first + stop]
                if here is None or here.any():
                    yield from self._group_rows(file, group, start, defaults or {}, here)
            first += file.num_rows

    def ids(self) -> Iterator[str]:
        """The ids of all rows: as those of `rows`, and much faster."""
        for batch in self.batches(extras=False):
            yield from as_list(batch.ids)

    def batches(self, defaults: Mapping[str, Any] | None = None, *, extras: bool = True) -> Iterator[Batch]:
        """The rows, in order, by columns: for what looks at millions of them.

        Args:
            defaults: Values of request fields where a row has none.
            extras: Whether to read the passed-through columns.

        Raises:
            StorageError: As `rows`.
        """
        passed = self.extra_schema if extras else pa.schema([])
        names = tuple(dict.fromkeys((*self.columns, *passed.names)))
        for file in self.files:
            for group, start, _ in file.spans():
                for columns in _read_group(file, group, names, _COLUMN_ROWS):
                    yield Batch(file.uri, start, columns, self.columns, passed, defaults or {})
                    start += columns.num_rows

    def _group_rows(
        self,
        file: ManifestFile,
        group: int,
        index: int,
        defaults: Mapping[str, Any],
        wanted: np.ndarray | None,
    ) -> Iterator[Row]:
        start = 0
        for columns in _read_group(
            file, group, tuple(dict.fromkeys((*self.columns, *self.extra_schema.names)))
        ):
            batch = Batch(file.uri, index + start, columns, self.columns, self.extra_schema, defaults)
            yield from batch.rows(None if wanted is None else wanted[start : start + len(batch)])
            start += len(batch)


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of a manifest that follow one another, by columns. Made by `Manifest.batches`.

    Args:
        file: URI of the file that they are in.
        start: The first one's place in it.
        columns: Their values.
        fields: Those columns that are fields of a request.
        extra_schema: Names and types of those that are passed through.
        defaults: Values of request fields where a row has none.
    """

    file: str
    start: int
    columns: pa.RecordBatch
    fields: tuple[str, ...]
    extra_schema: pa.Schema
    defaults: Mapping[str, Any]

    def __len__(self) -> int:
        return int(self.columns.num_rows)

    def rows(self, wanted: np.ndarray | None = None) -> Iterator[Row]:
        """The rows, or those `wanted`, a mask (N,), one by one.

        Raises:
            StorageError: A value that cannot be passed through.
        """
        places = range(len(self)) if wanted is None else np.flatnonzero(wanted).tolist()
        if not len(places):
            return
        try:
            values = {name: _values(self.some(name, places)) for name in self.fields}
            extra = {
                field.name: _extra_values(self.some(field.name, places), field) for field in self.extra_schema
            }
        except StorageError as error:
            raise StorageError(f"cannot read {redact(self.file)}: {error}") from None
        for at, place in enumerate(places):
            present = {name: column[at] for name, column in values.items() if column[at] is not None}
            passed = {name: column[at] for name, column in extra.items()}
            yield _row(present, passed, self.file, self.start + place, self.defaults)

    def row(self, place: int) -> Row:
        """One of the rows, by its place in the batch."""
        wanted = np.zeros(len(self), np.bool_)
        wanted[place] = True
        return next(self.rows(wanted))

    def some(self, name: str, places: Sequence[int] | np.ndarray) -> pa.Array:
        """The values of some rows, by their places."""
        column = self.columns.column(name)
        if len(places) == len(self):
            return column
        try:
            return column.take(pa.array(places, pa.int64()))
        except pa.ArrowNotImplementedError:
            # Views, of text for example, can be cut but not picked from.
            return pa.concat_arrays([column.slice(place, 1) for place in places])

    @cached_property
    def plain(self) -> np.ndarray:
        """Whether a row's id, prompt, seed and media are certainly fine by themselves: bool (N,).

        What a row asks for then depends on its other fields alone, see `groups`.
        """
        texts = [self.columns.column(name) for name in self.fields if _is_text(self._kind(name))]
        try:
            for column in texts:
                column.validate(full=True)
        except pa.ArrowException:
            # Text that is no UTF-8: which, is found one by one.
            return np.zeros(len(self), np.bool_)
        plain = np.ones(len(self), np.bool_)
        for name in self.fields:
            if name in _ROWS_OWN:
                plain &= _mask(_surely_fine(name, self.columns.column(name)), len(self))
        return plain

    def _kind(self, name: str) -> pa.DataType:
        return self.columns.schema.field(name).type

    @cached_property
    def _group_numbers(self) -> np.ndarray:
        """Of each row the number of its group: int64 (N,)."""
        numbers = np.zeros(len(self), np.int64)
        for name in self.fields:
            column = self.columns.column(name)
            if name in _ROWS_OWN:
                # Whether there is one matters also where its value does not.
                codes, kinds = column.is_null().to_numpy(zero_copy_only=False).astype(np.int64), 2
            else:
                codes, kinds = _codes(column)
            if kinds > 1:
                _, numbers = np.unique(numbers * kinds + codes, return_inverse=True)
        return numbers

    def groups(self, wanted: np.ndarray) -> Iterator[tuple[Row, np.ndarray]]:
        """The plain ones of some rows, by what they ask for beside id, prompt, seed and media.

        Args:
            wanted: Mask of rows (N,).

        Yields:
            One row, and the places of all that differ from it in these fields alone: int64 (n,).
        """
        places = np.flatnonzero(wanted & self.plain)
        numbers = self._group_numbers[places]
        order = np.argsort(numbers, kind="stable")
        bounds = np.flatnonzero(np.diff(numbers[order], prepend=-1))
        for group in np.split(places[order], bounds[1:]) if len(places) else ():
            yield self.row(int(group[0])), group

    @cached_property
    def ids(self) -> pa.Array:
        """The rows' ids: strings (N,)."""
        own = self.columns.column("id") if "id" in self.fields else None
        if own is not None and self.plain.all() and not own.null_count:
            return _as_strings(own)
        ids: list[str] = [""] * len(self)
        named = np.zeros(len(self), np.bool_)
        if own is not None:
            named = self.plain & ~own.is_null().to_numpy(zero_copy_only=False)
            given = _as_strings(own.filter(pa.array(named))).to_pylist()
            for place, row_id in zip(np.flatnonzero(named).tolist(), given, strict=True):
                ids[place] = row_id
        unnamed = ~named
        if not any(name in self.fields for name in MEDIA_FIELDS):
            for row, places in self.groups(unnamed):
                for place, digest in zip(places.tolist(), self._digests(row, places), strict=True):
                    ids[place] = digest
                unnamed[places] = False
        bare = dataclasses.replace(self, extra_schema=pa.schema([]))
        for row in bare.rows(unnamed):
            ids[row.index - self.start] = row.id
        return pa.array(ids, pa.string())

    def _digests(self, row: Row, places: np.ndarray) -> list[str]:
        """`row_digest` of the rows of a group without media."""
        one = self.columns.slice(row.index - self.start, 1)
        values = {name: _values(one.column(name))[0] for name in self.fields}
        values.pop("id", None)
        text = _digest_text(values)
        seed = _plain(values.get("seed"))
        template = json_template(text, values["prompt"], seed, ":")
        return template.digests(_new_digest, self.prompts(places), self.seeds(places))

    def prompts(self, places: np.ndarray) -> list[str]:
        """Prompts of some plain rows, by their places."""
        return as_list(self.some("prompt", places))

    def seeds(self, places: np.ndarray) -> list[int | None]:
        """Likewise the seeds that they have of their own."""
        seeds = self.some("seed", places) if "seed" in self.fields else pa.nulls(len(places))
        return seeds.to_pylist() if seeds.null_count else as_list(seeds)


_ROWS_OWN = ("id", "prompt", "seed", *MEDIA_FIELDS)
"""Fields whose values differ from row to row; what a model can do does not depend on them."""


def _surely_fine(name: str, column: pa.Array) -> pa.Array | bool:
    """Which values certainly are allowed, nulls too where they are; others are looked at one by one."""
    kind = column.type
    if pa.types.is_null(kind):
        return name != "prompt"
    if name == "prompt":
        return column.is_valid() if _is_text(kind) else False
    if name == "seed":
        if not pa.types.is_integer(kind):
            return False
        seeds = column.fill_null(0).to_numpy()
        return pa.array(seeds <= np.uint64(MAX_SEED) if seeds.dtype == np.uint64 else seeds >= 0)
    if name == "id" and pa.types.is_integer(kind):
        return True
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind)):
        return False
    return pc.fill_null(pc.greater(pc.binary_length(column), 0), True)


def _mask(values: pa.Array | bool, length: int) -> np.ndarray:
    if isinstance(values, bool):
        return np.full(length, values)
    return values.to_numpy(zero_copy_only=False).astype(np.bool_)


def _codes(column: pa.Array) -> tuple[np.ndarray, int]:
    """A number for each value, the same for the same; and how many numbers there are."""
    kind = column.type
    if pa.types.is_null(kind):
        return np.zeros(len(column), np.int64), 1
    if pa.types.is_floating(kind):
        # Bit by bit: 0.0 and -0.0 are told apart.
        column = column.view({16: pa.int16(), 32: pa.int32(), 64: pa.int64()}[kind.bit_width])
    elif pa.types.is_string_view(kind):
        column = column.cast(pa.string())
    encoded = column if pa.types.is_dictionary(kind) else column.dictionary_encode()
    codes = encoded.indices.cast(pa.int64()).fill_null(-1).to_numpy()
    return codes + 1, len(encoded.dictionary) + 1


def _as_strings(column: pa.Array) -> pa.Array:
    return column if pa.types.is_string(column.type) else column.cast(pa.string())


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
        opened = list(map_ahead(lambda file: _open_file(file, passthrough), uris, threads=_OPEN_FILES))
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


def describe_unknown(column: str) -> str:
    """What to tell a person of a column that is not read."""
    near = difflib.get_close_matches(column, FIELDS, 1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"column {column!r} is no field of a request and is not read{hint}; --passthrough keeps it"


def find_files(uri: str) -> list[str]:
    """The files that a URI stands for, see `storage.expand`; refused if there are none."""
    found = expand(uri)
    if not found:
        raise Refused(f"{redact(uri)}: there is no such file, folder with files or match")
    return found


def _parquet_files(uri: str) -> list[str]:
    found = find_files(uri)
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


def _extra_values(column: pa.Array, field: pa.Field) -> list[Any]:
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
    return str(value) if value not in (None, "") and is_utf8(str(value)) else None


def row_digest(values: Mapping[str, Any]) -> str:
    """32 hex digits that stand for a row without an id: the same for the same fields that are not null."""
    return cast(str, _new_digest(_digest_text(values).encode()).hexdigest())


def _digest_text(values: Mapping[str, Any]) -> str:
    plain = {name: _plain(value) for name, value in values.items() if value is not None}
    return json.dumps(plain, sort_keys=True, separators=(",", ":"))


def _new_digest(data: bytes) -> Any:
    return hashlib.blake2b(data, digest_size=16)


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

    Rows that differ in id, prompt, seed and media alone are looked at as one, unless they are probed. Of each
    row 8 bytes are kept, so 10 million rows need about 200 MB.

    Args:
        manifest: What to check.
        defaults: The run's values where a row has none.
        resolve: Fills a request's defaults in and raises RequestError for what the model cannot do;
            a `Rules.resolve`. Of id, prompt, seed and media it may only ask whether they are there.
        probe: Opens and decodes a request's image and video, and raises ValueError or OSError if that
            fails. Called from several threads.
        limit: How many bad rows, and how many rows with another's id, to name.

    Raises:
        Refused: A file of the manifest cannot be read, is damaged or was changed since it was opened.
    """
    problems: list[Problem] = []
    counts: Counter[str] = Counter()
    hashes: list[np.ndarray] = []

    def look(row: Row) -> Problem | None:
        return _problem(row, resolve, probe)

    try:
        for batch in manifest.batches(defaults):
            hashes.append(text_hashes(batch.ids)[:, 0])
            if probe is not None:
                found = map_ahead(look, batch.rows(), threads=8)
            else:
                found = map(look, batch.rows(_doubtful(batch, look)))
            for problem in filter(None, found):
                counts[problem.column] += 1
                if len(problems) < limit:
                    problems.append(problem)
        repeated, surplus = _repeated(hashes)
        shared = _shared_ids(manifest, repeated, limit) if surplus else []
    except OSError as error:
        raise Refused(str(error)) from None
    if shared:
        counts["id"] += surplus
    return CheckReport(manifest.num_rows, tuple(problems + shared), dict(counts), manifest.unknown_columns)


def _doubtful(batch: Batch, look: Callable[[Row], Problem | None]) -> np.ndarray:
    """Which rows of a batch are to be looked at one by one: bool (N,)."""
    if not all(_passes(field.type) for field in batch.extra_schema):
        return np.ones(len(batch), np.bool_)
    doubtful = ~batch.plain
    for row, places in batch.groups(batch.plain):
        if look(row) is not None:
            doubtful[places] = True
    return doubtful


def _passes(kind: pa.DataType) -> bool:
    """Whether whatever a column of that type holds can be passed through."""
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return number or _is_text(kind) or _is_bytes(kind) or pa.types.is_null(kind)


def _problem(
    row: Row,
    resolve: Callable[[RenderRequest], RenderRequest] | None,
    probe: Callable[[RenderRequest], object] | None,
) -> Problem | None:
    if row.request is None:
        assert row.error is not None
        return Problem(row.file, row.index, row.id, row.error.field, str(row.error))
    try:
        request = row.request if resolve is None else resolve(row.request)
        if probe is not None:
            probe(request)
    except RequestError as error:
        return Problem(row.file, row.index, row.id, error.field, str(error))
    except (ValueError, OSError, Refused) as error:
        column = next((field for field in MEDIA_FIELDS if getattr(row.request, field) is not None), "")
        return Problem(row.file, row.index, row.id, column, f"{column}: {error}" if column else str(error))
    return None


def repeated_hashes(hashes: array[int]) -> tuple[frozenset[int], int]:
    """Hashes that are there more than once (the first 100,000), and how many are too many."""
    if not hashes:
        return frozenset(), 0
    # In place: the array may be gigabytes.
    numbers = np.frombuffer(hashes, np.int64)
    numbers.sort()
    again = numbers[1:][numbers[1:] == numbers[:-1]]
    return frozenset(np.unique(again)[:100_000].tolist()), len(again)


def _repeated(hashes: list[np.ndarray]) -> tuple[np.ndarray, int]:
    """As `repeated_hashes`; empties the list, for there may be gigabytes."""
    numbers = np.concatenate([np.empty(0, np.uint64), *hashes])
    hashes.clear()
    numbers.sort()
    again = numbers[1:][numbers[1:] == numbers[:-1]]
    return np.unique(again)[:100_000], len(again)


def _shared_ids(manifest: Manifest, repeated: np.ndarray, limit: int) -> list[Problem]:
    first: dict[str, tuple[str, int]] = {}
    found: list[Problem] = []
    for batch in manifest.batches(extras=False):
        ids = batch.ids
        for place in np.flatnonzero(np.isin(text_hashes(ids)[:, 0], repeated)).tolist():
            row_id, index = ids[place].as_py(), batch.start + place
            if row_id not in first:
                first[row_id] = batch.file, index
                continue
            other_file, other = first[row_id]
            message = (
                f"id: the same as that of row {other} of {redact(other_file)}; "
                "each row needs an id of its own (rows without one need to differ, in `seed` for example)"
            )
            found.append(Problem(batch.file, index, row_id, "id", message))
            if len(found) == limit:
                return found
    return found
