"""Building a manifest: text, CSV and JSON lines in, one Parquet file out."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import posixpath
import re
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vidgen_dist.errors import Refused, shortened
from vidgen_dist.kinds import is_utf8
from vidgen_dist.manifest import (
    INPUT_SUFFIXES,
    PARQUET_SUFFIXES,
    PRIORITY,
    Column,
    RowSchema,
    column_of,
    describe_missing,
    describe_required,
    find_files,
    find_repeated_ids,
    known_columns,
    repeated_hashes,
    resolve_media_paths,
)
from vidgen_dist.request import FIELDS, Field, RequestError
from vidgen_dist.storage.files import open_input
from vidgen_dist.storage.folder import open_writable_file
from vidgen_dist.storage.uris import redact, split

_GROUP_ROWS = 4096
_GROUP_CHARACTERS = 16 * 2**20
_MOST_ERRORS = 20


@dataclass(frozen=True)
class BuildReport:
    """What `build` made.

    Args:
        uri: The manifest.
        rows: The number of its rows.
        columns: Its columns that a run reads.
        unknown_columns: Its other columns, kept as text; a run ignores them unless `passthrough` names them.
    """

    uri: str
    rows: int
    columns: tuple[str, ...]
    unknown_columns: tuple[str, ...]


@dataclass(frozen=True)
class _Line:
    """One row of an input: the line at which it begins, from 1, and its values or what is wrong with it."""

    number: int
    values: Mapping[str, Any]
    error: RequestError | None = None


def build(
    inputs: Sequence[str | os.PathLike[str]],
    out_uri: str | os.PathLike[str],
    *,
    fields: Mapping[str, Field] = FIELDS,
    one_of: Sequence[str] = ("prompt",),
) -> BuildReport:
    """Make one Parquet file from text, CSV and JSON lines.

    - ``.txt``: one prompt per line; blank lines are skipped.
    - ``.csv``: a header names the columns; an empty cell is a null. A column without a name, such as pandas'
      index, is called `Unnamed: 0` and so on, as in pandas.
    - ``.jsonl``: one object per line; blank lines are skipped.

    All are UTF-8. A row without an id gets one from the input's name and its line, such as
    ``prompts-000012``, so that equal rows make separate videos. Relative paths of images and videos start
    from the input's folder; if the manifest goes to another folder, they are written as absolute paths.
    Inputs are read twice, first to check them: nothing is written unless every line is good.

    Args:
        inputs: Files, folders of them or globs, on any storage.
        out_uri: The manifest, named ``.parquet``; it appears when it is complete.
        fields: The fields that rows may have; other columns are kept as text.
        one_of: Fields of which every row needs at least one.

    Raises:
        Refused: An input is missing or of another kind, lines are bad (the first 20, by file, line and
            column), two rows have the same id, there are no rows, or storage cannot be read or written.
    """
    out = os.fspath(out_uri)
    if not out.endswith(PARQUET_SUFFIXES):
        raise Refused(f"{redact(out)}: the name of a manifest must end in .parquet")
    storage, name = open_writable_file(out)
    target = storage.uri(name)
    try:
        known = known_columns(fields)
        sources = _sources(inputs, target, RowSchema(fields, one_of=tuple(one_of)))
        columns, unknown, rows = _check_sources(sources)
        schema = pa.schema(
            [(c, known[c].written) for c in columns] + [(c, pa.string()) for c in unknown],
        )
        with storage.create(name) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for group in _groups(sources, schema.names):
                writer.write_table(pa.Table.from_pylist(group, schema), row_group_size=_GROUP_ROWS)
    except OSError as error:
        raise Refused(str(error)) from None
    return BuildReport(target, rows, columns, unknown)


@dataclass(frozen=True)
class _Source:
    """An input file, the beginning of its rows' ids, the file that paths are relative to, and its fields."""

    uri: str
    id_prefix: str
    base: str | None
    schema: RowSchema

    def records(self) -> Iterator[tuple[int, dict[str, Any] | RequestError]]:
        """Each row's line, and its checked values with an id, or what is wrong with it."""
        with open_input(self.uri) as raw, io.BufferedReader(_RawFile(raw), 2**20) as file:
            for line in _READERS[_suffix(self.uri)](file, self.uri, self.schema):
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
                known = name in self.schema.fields or name == PRIORITY
                if not is_utf8(name) or (not known and not is_utf8(value)):
                    raise RequestError(name, value, "a text that UTF-8 can hold")
            if PRIORITY in values:
                values[PRIORITY] = _priority(values[PRIORITY])
            for name in self.schema.addressed:
                if name in values:
                    values[name] = self._resolve_paths(name, values[name])
            if missing := self.schema.missing(values):
                raise RequestError(missing[0], None, describe_required(missing, self.schema.fields))
            parsed = {n: f.parse(n, values[n]) for n, f in self.schema.fields.items() if n in values}
        except RequestError as error:
            return error
        # A text that holds an image stays a text.
        return values | {name: value for name, value in parsed.items() if not isinstance(value, bytes)}

    def _resolve_paths(self, name: str, value: Any) -> Any:
        field = self.schema.fields[name]
        if column_of(field).written == pa.string() and not isinstance(value, str):
            raise RequestError(name, value, "a text: a path or a URI")
        if self.base is None or value == "":
            return value
        parsed = field.parse(name, value)
        return (
            value if isinstance(parsed, bytes) else resolve_media_paths(self.base, name, field.kind, parsed)
        )


def _priority(value: Any) -> int:
    whole = isinstance(value, int | float) and not isinstance(value, bool) and value % 1 == 0
    if not whole or not -(2**63) <= value < 2**63:
        raise RequestError(PRIORITY, value, "a whole number from -2**63 to 2**63 - 1")
    return int(value)


class _RawFile(io.RawIOBase):
    """Any file-like object, in the form that `io.BufferedReader` needs."""

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


def _sources(inputs: Sequence[str | os.PathLike[str]], target: str, schema: RowSchema) -> list[_Source]:
    allowed = ", ".join(INPUT_SUFFIXES)
    uris: list[str] = []
    for item in inputs:
        text = os.fspath(item)
        known = [uri for uri in find_files(text) if _suffix(uri) in INPUT_SUFFIXES]
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
        sources.append(_Source(uri, prefix, None if beside else uri, schema))
    return sources


def _check_sources(sources: Sequence[_Source]) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """All inputs' columns that a run reads, their other columns, and the number of rows."""
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
        repeated, _ = repeated_hashes(np.asarray(ids))
        errors = _describe_repeated_ids(sources, frozenset(repeated.tolist()))
    if errors:
        raise Refused("\n".join(errors))
    if not rows:
        raise Refused(f"{', '.join(redact(source.uri) for source in sources)}: there are no rows")
    known = known_columns(sources[0].schema.fields)
    read = tuple(name for name in known if name in columns)
    return read, tuple(name for name in columns if name not in known), rows


def _describe_repeated_ids(sources: Sequence[_Source], repeated: frozenset[int]) -> list[str]:
    if not repeated:
        return []
    doubtful = (
        (record["id"], f"{redact(source.uri)}, line {number}")
        for source in sources
        for number, record in source.records()
        if not isinstance(record, RequestError) and hash(record["id"]) in repeated
    )
    return [
        f"{place}: id: {shortened(row_id)!r} is also the id of {first}; allowed: once"
        for row_id, place, first in find_repeated_ids(doubtful, _MOST_ERRORS)
    ]


def _groups(sources: Sequence[_Source], columns: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
    """Rows in row groups, which are small enough to fit in memory."""
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


def _decode_lines(file: BinaryIO) -> Iterator[str | UnicodeDecodeError]:
    for number, line in enumerate(file):
        try:
            yield line.decode("utf-8-sig" if number == 0 else "utf-8")
        except UnicodeDecodeError as error:
            yield error


def _bad_line(number: int, error: UnicodeDecodeError) -> _Line:
    return _Line(number, {}, RequestError("line", error.object, "UTF-8"))


def _read_txt(file: BinaryIO, _uri: str, _schema: RowSchema) -> Iterator[_Line]:
    for number, text in enumerate(_decode_lines(file), 1):
        if isinstance(text, UnicodeDecodeError):
            yield _bad_line(number, text)
        elif text.strip():
            yield _Line(number, {"prompt": text.strip()})


def _read_jsonl(file: BinaryIO, _uri: str, schema: RowSchema) -> Iterator[_Line]:
    known = known_columns(schema.fields)
    for number, text in enumerate(_decode_lines(file), 1):
        if isinstance(text, UnicodeDecodeError):
            yield _bad_line(number, text)
        elif text.strip():
            try:
                yield _Line(number, _json_object(text, known))
            except RequestError as error:
                yield _Line(number, {}, error)


def _json_object(text: str, known: Collection[str]) -> dict[str, Any]:
    def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for name, times in Counter(name for name, _ in pairs).items():
            if times > 1:
                raise RequestError(name, f"{times} times", "each key once in an object")
        return dict(pairs)

    try:
        # With the end of line, the error would name a place in a second line.
        value = json.loads(text.strip(), object_pairs_hook=without_repeats)
    except RequestError:
        raise
    except (ValueError, RecursionError) as error:
        raise RequestError("line", text.strip(), f"a JSON object ({error})") from None
    if not isinstance(value, dict):
        raise RequestError("line", text.strip(), "a JSON object")
    return {name: cell if name in known else _as_text(cell) for name, cell in value.items()}


def _as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _read_csv(file: BinaryIO, uri: str, schema: RowSchema) -> Iterator[_Line]:
    def text() -> Iterator[str]:
        for number, line in enumerate(_decode_lines(file), 1):
            if isinstance(line, UnicodeDecodeError):
                raise Refused(f"{redact(uri)}, line {number}: is not UTF-8")
            yield line

    # The limit belongs to the module, not to a reader; 128 KiB is too little for a long prompt.
    csv.field_size_limit(max(csv.field_size_limit(), 2**26))
    reader = csv.reader(text(), strict=True)
    header: list[str] | None = None
    known = known_columns(schema.fields)
    begin = 1
    try:
        for cells in reader:
            number, begin = begin, reader.line_num + 1
            if not cells:
                continue
            if header is None:
                header = _csv_header(cells, uri, schema)
            else:
                yield _csv_line(number, header, cells, known)
    except csv.Error as error:
        raise Refused(f"{redact(uri)}, line {begin}: cannot be read as CSV ({error})") from None
    if header is None:
        raise Refused(f"{redact(uri)}: is empty; its first line must name the columns")


def _csv_header(cells: Sequence[str], uri: str, schema: RowSchema) -> list[str]:
    names = _fill_empty_names([cell.strip() for cell in cells])
    for name in names:
        if names.count(name) > 1:
            raise Refused(f"{redact(uri)}: the header {names} must name each column once")
    if missing := schema.missing(names):
        reason = f"the header has no column {describe_missing(missing)}"
        raise Refused(f"{redact(uri)}: {reason}; it has: {', '.join(names)}")
    return names


def _fill_empty_names(header: list[str]) -> list[str]:
    """A header in which columns without a name have the names that pandas gives them when it reads one."""
    names = list(header)
    for place, name in enumerate(header):
        if not name:
            wanted = f"Unnamed: {place}"
            tries = itertools.chain([wanted], (f"{wanted}.{number}" for number in itertools.count(1)))
            names[place] = next(each for each in tries if each not in names)
    return names


def _csv_line(number: int, header: Sequence[str], cells: Sequence[str], known: Mapping[str, Column]) -> _Line:
    if len(cells) != len(header):
        return _Line(number, {}, RequestError("line", list(cells), f"{len(header)} cells, as in the header"))
    try:
        return _Line(
            number, {n: _csv_value(n, cell, known) for n, cell in zip(header, cells, strict=True) if cell}
        )
    except RequestError as error:
        return _Line(number, {}, error)


def _csv_value(field: str, cell: str, known: Mapping[str, Column]) -> Any:
    kind = known[field].written if field in known else pa.string()
    if kind in (pa.int64(), pa.float64()):
        allowed = "a whole number" if kind == pa.int64() else "a number"
        text = _matched(field, cell, r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", allowed)
        # A whole number may be written as 480.0, from a table whose column had gaps.
        return int(text) if re.fullmatch(r"[+-]?[0-9]{1,20}", text) else float(text)
    if kind == pa.bool_():
        return _matched(field, cell.lower(), "true|false", "true or false") == "true"
    return cell


def _matched(field: str, cell: str, pattern: str, allowed: str) -> str:
    if not re.fullmatch(pattern, cell.strip()):
        raise RequestError(field, cell, allowed)
    return cell.strip()


_READERS: dict[str, Callable[[BinaryIO, str, RowSchema], Iterator[_Line]]] = {
    ".txt": _read_txt,
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
}
