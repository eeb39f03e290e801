"""Expanding a manifest: each row many times, with other seeds, values and words in its prompt."""

from __future__ import annotations

import itertools
import os
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vidgen_dist.bulk_digests import as_list
from vidgen_dist.errors import Refused, listed
from vidgen_dist.manifest import (
    PARQUET_SUFFIXES,
    PRIORITY,
    Batch,
    Manifest,
    check,
    column_of,
    describe_problems,
    open_manifest,
    resolve_media_paths,
    row_seeds,
)
from vidgen_dist.manifest.columns import is_bytes, value_type
from vidgen_dist.request import FIELDS, MAX_SEED, Field, RequestError
from vidgen_dist.storage.folder import open_writable_file
from vidgen_dist.storage.uris import redact, split

_GROUP_ROWS = 65_536
"""Rows of a row group in the new manifest, about."""

_GROUP_BYTES = 256 * 2**20
"""Bytes of one, about: rows may carry images."""


@dataclass(frozen=True)
class ExpandReport:
    """What `expand` made.

    Args:
        uri: The new manifest.
        rows: The number of its rows.
        columns: Its columns.
    """

    uri: str
    rows: int
    columns: tuple[str, ...]


@dataclass(frozen=True)
class _Axis:
    """A column that takes several values.

    Args:
        name: The column.
        values: Its values.
        labels: What ids say of each value.
    """

    name: str
    values: Sequence[Any]
    labels: Sequence[str]


def expand(
    uri: str | os.PathLike[str],
    out_uri: str | os.PathLike[str],
    *,
    seeds: int | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
    template: str | None = None,
    fields: Mapping[str, Field] = FIELDS,
) -> ExpandReport:
    """Write a manifest with each row of another one in all combinations of seeds and values.

    A new row's id is the old one with what was chosen for it, such as `fox-guidance_scale=4-seed=2`. It does
    not depend on the other seeds and values: when these become more, rows that were there keep their ids, so
    that a run over the new manifest goes on. All columns are kept.

    Args:
        uri: The manifest.
        out_uri: The new one, named ``.parquet``; it appears when it is complete.
        seeds: How many seeds each row gets. The k-th, from 0, is the row's own plus k; for a row without one,
            the seed that it would have in a run with `--seed k`.
        grid: Column -> values, each for every row. A column that is no field of rows holds texts, for
            `template`.
        template: The prompt, with columns in braces: `a {animal} in {place}`; `{{` is a brace.
        fields: The fields that rows may have.

    Raises:
        Refused: A row, value or template that is not allowed; a seed that would be too large; two equal
            values; nothing to expand; or storage cannot be read or written.
    """
    out = os.fspath(out_uri)
    if not out.endswith(PARQUET_SUFFIXES):
        raise Refused(f"{redact(out)}: the name of a manifest must end in .parquet")
    axes = [_axis(name, values, fields) for name, values in (grid or {}).items()]
    if seeds is not None:
        axes.append(_seeds(seeds, [axis.name for axis in axes]))
    if not axes and template is None:
        raise Refused("nothing to expand: give seeds, a grid or a template")
    pieces = None if template is None else _pieces(template)
    manifest = open_manifest(uri, fields=fields, required=())
    others = (*manifest.unknown_columns, *((PRIORITY,) if manifest.has_priorities else ()))
    manifest = open_manifest(uri, passthrough=others, fields=fields, required=())
    _check_source(manifest, pieces, axes)
    storage, name = open_writable_file(out)
    target = storage.uri(name)
    if target in {file.uri for file in manifest.files}:
        raise Refused(f"{redact(out)}: is the manifest itself; give another name")
    schema: pa.Schema | None = None
    rows = 0
    try:
        with storage.create(name) as file:
            for batch in manifest.batches():
                for part in _parts(batch, axes):
                    made = _expanded(part, axes, pieces, fields, target)
                    if schema is None:
                        schema = made.schema
                        writer = pq.ParquetWriter(file, schema, compression="zstd")
                    writer.write_table(_with_schema(made, schema, batch.file))
                    rows += made.num_rows
            if schema is None:
                raise Refused(f"{redact(os.fspath(uri))}: has no rows")
            writer.close()
    except OSError as error:
        raise Refused(str(error)) from None
    return ExpandReport(target, rows, tuple(schema.names))


def _axis(name: str, values: Sequence[Any], fields: Mapping[str, Field]) -> _Axis:
    """The values of a column, checked."""
    if name in ("id", "prompt") or not values:
        why = "each row has its own" if name in ("id", "prompt") else "it has no values"
        raise Refused(f"grid: {name} is not allowed; {why}")
    try:
        parsed = [fields[name].parse(name, value) if name in fields else str(value) for value in values]
    except RequestError as error:
        raise Refused(f"grid: {error}") from None
    labels = [_label(redact(value) if isinstance(value, str) else value) for value in parsed]
    repeated = [label for label in dict.fromkeys(labels) if labels.count(label) > 1]
    if repeated:
        raise Refused(f"grid: {name} has {listed(repeated)} more than once")
    return _Axis(name, parsed, labels)


def _label(value: Any) -> str:
    """A value as ids say it."""
    if isinstance(value, tuple):
        # LoRAs, whose URIs may hold secrets.
        return "+".join(_label(redact(each) if isinstance(each, str) else each) for each in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _seeds(count: int, others: Sequence[str]) -> _Axis:
    if count < 1:
        raise Refused(f"seeds: {count} is not allowed; 1 or more")
    if "seed" in others:
        raise Refused("seeds: the grid has seed, too; leave one of them out")
    return _Axis("seed", range(count), [str(k) for k in range(count)])


def _pieces(template: str) -> list[tuple[str, str | None]]:
    """A template's texts, each with the column that follows it."""
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise Refused(f"template: {template!r}: {error}; write {{{{ for a brace") from None
    for _, name, form, conversion in parsed:
        if name is not None and (not name or form or conversion):
            raise Refused(f"template: {template!r}: braces must hold the name of a column, and nothing else")
    return [(text, name) for text, name, _, _ in parsed]


def _check_source(
    manifest: Manifest, pieces: Sequence[tuple[str, str | None]] | None, axes: Sequence[_Axis]
) -> None:
    """Refuse bad rows, and a template that names columns which are not there."""
    there = {*manifest.columns, *manifest.extra_schema.names, *(axis.name for axis in axes)}
    lacking = [name for _, name in pieces or () if name is not None and name not in there]
    if lacking:
        raise Refused(
            f"template: no column {listed(lacking)}; {redact(manifest.uri)} has {listed(sorted(there), 50)}"
        )
    if pieces is None and "prompt" not in manifest.columns and "image" not in manifest.columns:
        raise Refused(f"{redact(manifest.uri)}: has no column 'prompt'; give it, or a template")
    report = check(manifest)
    if not report.ok:
        raise Refused(describe_problems(report.problems, report.num_problems))


def _parts(batch: Batch, axes: Sequence[_Axis]) -> Iterator[Batch]:
    """Parts of a batch that become row groups of a moderate size."""
    times = int(np.prod([len(axis.values) for axis in axes], initial=1))
    by_bytes = len(batch) * _GROUP_BYTES // max(1, batch.columns.nbytes * times)
    step = max(1, min(_GROUP_ROWS // times, by_bytes))
    for start in range(0, len(batch), step):
        yield batch.slice(start, min(start + step, len(batch)))


def _expanded(
    batch: Batch,
    axes: Sequence[_Axis],
    pieces: Sequence[tuple[str, str | None]] | None,
    fields: Mapping[str, Field],
    target: str,
) -> pa.Table:
    """The rows of a batch in all combinations, one row's after another's."""
    choices = list(itertools.product(*(range(len(axis.values)) for axis in axes)))
    rows = np.repeat(np.arange(len(batch)), len(choices))
    columns = {
        name: _plain(_with_absolute_paths(batch, name, fields, target), fields.get(name)).take(pa.array(rows))
        for name in batch.columns.schema.names
    }
    ids = as_list(batch.ids)
    endings = [
        "".join(f"-{axis.name}={axis.labels[at]}" for axis, at in zip(axes, choice, strict=True))
        for choice in choices
    ]
    columns["id"] = pa.array([row_id + ending for row_id in ids for ending in endings], pa.string())
    for number, axis in enumerate(axes):
        chosen = np.tile([choice[number] for choice in choices], len(batch))
        if axis.name == "seed" and isinstance(axis.values, range):
            columns["seed"] = pa.array(_seeds_of(batch, ids, axis.values)[chosen, rows])
            continue
        kind = column_of(fields[axis.name]).written if axis.name in fields else pa.string()
        columns[axis.name] = pa.array(axis.values, kind).take(pa.array(chosen))
    if pieces is not None:
        columns["prompt"] = _prompts(pieces, columns, len(rows))
    names = [*(name for name in ("id", "prompt") if name in columns)]
    names += [name for name in columns if name not in names]
    return pa.table({name: columns[name] for name in names})


def _seeds_of(batch: Batch, ids: Sequence[str], numbers: range) -> np.ndarray:
    """The seeds of a batch's rows, for each number of a seed: int64 (numbers, rows)."""
    seeds = np.array([row_seeds(k, ids) for k in numbers], np.int64).reshape(len(numbers), len(ids))
    if "seed" in batch.fields:
        own = as_list(batch.columns.column("seed"))
        for place, seed in enumerate(own):
            if seed is not None:
                if int(seed) > MAX_SEED - numbers[-1]:
                    raise Refused(f"seeds: {ids[place]}: {seed} + {numbers[-1]} is above {MAX_SEED}")
                seeds[:, place] = np.int64(seed) + np.array(numbers, np.int64)
    return seeds


def _prompts(
    pieces: Sequence[tuple[str, str | None]], columns: Mapping[str, pa.Array], rows: int
) -> pa.Array:
    named = {name: columns[name].to_pylist() for _, name in pieces if name is not None}
    return pa.array(
        [
            "".join(text + ("" if name is None else _word(named[name][row])) for text, name in pieces)
            for row in range(rows)
        ],
        pa.string(),
    )


def _word(value: Any) -> str:
    return "" if value is None else _label(value)


def _plain(column: pa.Array, field: Field | None) -> pa.Array:
    """A column of a field in the type that `manifest_build.build` writes, so that all files have one type."""
    if field is None:
        return column
    kind = column_of(field).written
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), kind)
    simple = not (pa.types.is_nested(column.type) or is_bytes(value_type(column.type)))
    return (
        column.cast(value_type(column.type)).cast(kind) if simple and not pa.types.is_list(kind) else column
    )


def _with_schema(table: pa.Table, schema: pa.Schema, file: str) -> pa.Table:
    """A table with the columns' types of the first.

    Raises:
        Refused: A column has another type; names the file and the column.
    """
    columns = []
    for field in schema:
        try:
            columns.append(table.column(field.name).cast(field.type))
        except pa.ArrowException as error:
            raise Refused(
                f"{redact(file)}: column {field.name!r} has type {table.column(field.name).type}, and "
                f"{field.type} in the manifest's first file: {error}"
            ) from None
    return pa.table(columns, schema=schema)


def _with_absolute_paths(batch: Batch, name: str, fields: Mapping[str, Field], target: str) -> pa.Array:
    """A column whose relative paths would not open from the new manifest's folder."""
    column = batch.columns.column(name)
    if name not in fields or not fields[name].kind.has_addresses or split(batch.file)[0] == split(target)[0]:
        return column
    kind = fields[name].kind

    def beside(value: Any) -> Any:
        if isinstance(value, dict):
            path = value.get("path")
            return {**value, "path": beside(path)} if path and not value.get("bytes") else value
        return resolve_media_paths(batch.file, name, kind, value) if isinstance(value, str | list) else value

    return pa.array(map(beside, column.to_pylist()), column.type)
