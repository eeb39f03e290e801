"""The columns that a manifest may have, and the types that they may have."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vidgen_dist.errors import Refused
from vidgen_dist.inline import PATTERN as INLINE_PATTERN
from vidgen_dist.kinds import (
    Clip,
    Flag,
    Image,
    Kind,
    LoraPlaces,
    LoraScales,
    NotAllowed,
    Number,
    RowId,
    Text,
    Whole,
)
from vidgen_dist.manifest.arrow_types import is_list, plain_type
from vidgen_dist.request import FIELDS, Field
from vidgen_dist.storage.uris import redact, split

PRIORITY = "priority"
"""The column that decides only the order: rows with a higher number are rendered first."""


def is_text(kind: pa.DataType) -> bool:
    """Whether a plain type is one of Arrow's texts."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def is_bytes(kind: pa.DataType) -> bool:
    """Whether a plain type is one of Arrow's binary ones."""
    of_any_length = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    return of_any_length or pa.types.is_fixed_size_binary(kind)


def is_simple(kind: pa.DataType) -> bool:
    """Whether every value of a column of this plain type can be passed through."""
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return number or is_text(kind) or is_bytes(kind) or pa.types.is_null(kind)


def _is_number(kind: pa.DataType) -> bool:
    # 6.0 in SQL is a decimal, and DuckDB and Spark write it as one.
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _is_priority(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) and not pa.types.is_uint64(kind)


def _is_id(kind: pa.DataType) -> bool:
    return is_text(kind) or pa.types.is_integer(kind)


def _is_image(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind):
        return is_text(kind) or is_bytes(kind)
    members = {field.name: field.type for field in kind}
    allowed = {"bytes": is_bytes, "path": is_text}
    return bool(members) and all(
        name in allowed and (allowed[name](t) or pa.types.is_null(t)) for name, t in members.items()
    )


def _or_list_of(is_one: Callable[[pa.DataType], bool]) -> Callable[[pa.DataType], bool]:
    """Whether a plain type is of a kind, or one of Arrow's lists of these or of nulls."""

    def suits(kind: pa.DataType) -> bool:
        return is_one(kind) or (
            is_list(kind) and (is_one(kind.value_type) or pa.types.is_null(kind.value_type))
        )

    return suits


def _unless_empty(value: Any) -> Any:
    """A list that is not empty, or another value."""
    return None if isinstance(value, list) and not value else value


def _any_text(_kind: Kind, values: pa.Array) -> np.ndarray:
    return np.full(len(values), is_text(values.type))


def _any_name(_kind: Kind, values: pa.Array) -> np.ndarray:
    if pa.types.is_integer(values.type):
        return np.ones(len(values), np.bool_)
    return _not_empty(_kind, values)


def _not_empty(_kind: Kind, values: pa.Array) -> np.ndarray:
    kind = values.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind)):
        return np.zeros(len(values), np.bool_)
    return _as_mask(pc.fill_null(pc.greater(pc.binary_length(values), 0), True))


def _names_or_holds(kind: Kind, values: pa.Array) -> np.ndarray:
    fine = _not_empty(kind, values)
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        return fine
    may_hold = _as_mask(pc.fill_null(pc.match_substring_regex(values, INLINE_PATTERN), False))
    for place in np.flatnonzero(fine & may_hold):
        try:
            kind.parse(values[int(place)].as_py())
        except (NotAllowed, UnicodeDecodeError):
            fine[place] = False
    return fine


def _in_range(kind: Kind, values: pa.Array) -> np.ndarray:
    if not isinstance(kind, Whole) or not pa.types.is_integer(values.type):
        return np.zeros(len(values), np.bool_)
    numbers = values.fill_null(0).to_numpy()
    # NumPy compares uint64 with another integer type as floats.
    to_type = np.uint64 if numbers.dtype == np.uint64 else np.int64
    low = to_type(max(kind.low, np.iinfo(to_type).min))
    inside: np.ndarray = (numbers >= low) & (numbers <= to_type(kind.high))
    return inside | _as_mask(values.is_null())


def _unsure(_kind: Kind, values: pa.Array) -> np.ndarray:
    return np.zeros(len(values), np.bool_)


def _as_mask(values: pa.Array) -> np.ndarray:
    return values.to_numpy(zero_copy_only=False).astype(np.bool_)


def _bytes_or_path(value: Any) -> Any:
    """The image in a struct, as Hugging Face datasets writes it; None if the struct holds none."""
    return value.get("bytes") or value.get("path") if isinstance(value, dict) else value


@dataclass(frozen=True)
class Column:
    """How columns hold fields of a kind.

    Args:
        fits: Whether a type, as columns are read (see `arrow_types`), can hold them.
        allowed: The types that can, for messages.
        written: The type that `manifest_build.build` writes.
        certainly_valid: Kind and values (N,) -> which of them are certainly allowed, nulls too: bool (N,).
            The others are checked one by one. Asked of fields whose values differ from row to row.
        value: A value, not None, as Arrow gives it -> the value that the kind parses, or None if it holds
            none. Without this function they are the same.
    """

    fits: Callable[[pa.DataType], bool]
    allowed: str
    written: pa.DataType
    certainly_valid: Callable[[Kind, pa.Array], np.ndarray] = _unsure
    value: Callable[[Any], Any] | None = None


_IMAGE = (
    "a string column (paths or URIs), a binary column (encoded images) or a struct of bytes and path, "
    "as Hugging Face datasets writes it"
)

_PRIORITY = "an integer column of at most 64 bits with a sign (nulls are 0; pandas keeps them in an Int64)"

COLUMN_OF: Mapping[type[Kind], Column] = {
    Text: Column(is_text, "a string column", pa.string(), _any_text),
    RowId: Column(_is_id, "a string, integer or UUID column", pa.string(), _any_name),
    Whole: Column(
        _is_number, "an integer column, or a float column that holds whole numbers", pa.int64(), _in_range
    ),
    Number: Column(_is_number, "a float or integer column", pa.float64()),
    Flag: Column(pa.types.is_boolean, "a boolean column", pa.bool_()),
    Image: Column(_is_image, _IMAGE, pa.string(), _names_or_holds, _bytes_or_path),
    Clip: Column(is_text, "a string column (paths or URIs)", pa.string(), _names_or_holds),
    LoraPlaces: Column(
        _or_list_of(is_text),
        "a string column, or a column of lists of strings",
        pa.list_(pa.string()),
        value=_unless_empty,
    ),
    LoraScales: Column(
        _or_list_of(_is_number),
        "a float or integer column, or a column of lists of these",
        pa.list_(pa.float64()),
        value=_unless_empty,
    ),
}
"""Kind of field -> its column."""


def column_of(field: Field) -> Column:
    """The column that holds a field.

    Raises:
        Refused: Columns cannot hold its kind.
    """
    for kind in type(field.kind).__mro__:
        if kind in COLUMN_OF:
            return COLUMN_OF[kind]
    allowed = ", ".join(kind.__name__ for kind in COLUMN_OF)
    raise Refused(
        f"no column holds a {type(field.kind).__name__}; allowed: {allowed}, and classes derived from them"
    )


def known_columns(fields: Mapping[str, Field]) -> dict[str, Column]:
    """The columns that are read whether passed through or not: those of these fields, and `priority`."""
    own = {name: column_of(field) for name, field in fields.items()}
    return own | {PRIORITY: Column(_is_priority, _PRIORITY, pa.int64())}


def value_type(kind: pa.DataType) -> pa.DataType:
    """The type of a column's values; the type behind a dictionary encoding."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def whole_numbers(column: pa.Array, missing: int) -> np.ndarray:
    """The values of a column of whole numbers of any type: int64 (N,).

    Args:
        column: The column, without fractions and without numbers outside int64.
        missing: The value to put for nulls.
    """
    flat = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    return flat.cast(pa.int64(), safe=False).fill_null(missing).to_numpy(zero_copy_only=False)


def extra_type(kind: pa.DataType) -> pa.DataType:
    """The type as which a column of this type is passed through."""
    kind = plain_type(kind)
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        # Python has no nanoseconds.
        return pa.timestamp("us", kind.tz)
    return kind


@dataclass(frozen=True)
class RowSchema:
    """What is read of a row.

    Args:
        fields: The fields that rows may have, by name.
        required: Fields that every row needs.
        one_of: Fields of which every row needs at least one.
        ignored: Fields that nothing is rendered from: values that cannot be read are left out.
    """

    fields: Mapping[str, Field]
    required: tuple[str, ...] = ()
    one_of: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    @cached_property
    def addressed(self) -> tuple[str, ...]:
        """The fields that may hold paths or URIs."""
        return tuple(name for name, field in self.fields.items() if field.kind.has_addresses)

    def missing(self, there: Container[str], defaults: Mapping[str, Any] | None = None) -> tuple[str, ...]:
        """What is missing: the first missing required name, or the names of which one would do.

        Args:
            there: The names that are there.
            defaults: Default values by name.
        """

        def has(name: str) -> bool:
            return name in there or (defaults is not None and defaults.get(name) is not None)

        for name in self.required:
            if not has(name):
                return (name,)
        return () if not self.one_of or any(map(has, self.one_of)) else self.one_of


def describe_required(missing: Sequence[str], fields: Mapping[str, Field]) -> str:
    """What a row with missing fields needs: what the first field allows, or a value of one of the others."""
    first, *others = missing
    return ", or a value of ".join([fields[first].kind.allowed, *others])


def describe_missing(names: Sequence[str]) -> str:
    """The missing column, or the columns of which one is missing, in words."""
    return " or ".join(repr(name) for name in names)


def check_columns(uri: str, schema: pa.Schema, passthrough: Sequence[str], rows: RowSchema) -> None:
    """Check that a file can be read as a manifest.

    Raises:
        Refused: A column is missing, there twice, of a wrong type, or only in a folder's name; the message
            names the file.
    """
    shown = redact(uri)
    there = ", ".join(schema.names[:50]) + (", …" if len(schema.names) > 50 else "")
    if missing := rows.missing(schema.names):
        by_lower_case = {name.lower(): name for name in schema.names}
        near = [found for name in missing for found in difflib.get_close_matches(name, by_lower_case, 1)]
        hint = f" (is {by_lower_case[near[0]]!r} meant to be it?)" if near else ""
        reason = f"there is no column {describe_missing(missing)}, which every manifest needs{hint}"
        raise Refused(f"{shown}: {reason}; it has: {there}")
    known = known_columns(rows.fields)
    for name in passthrough:
        if name not in schema.names:
            raise Refused(f"{shown}: there is no column {name!r} to pass through; it has: {there}")
    for part in split(uri)[0].split("/"):
        name = part.partition("=")[0]
        if part != name and name in known and name not in schema.names:
            raise Refused(
                f"{shown}: {name!r} is only in a folder's name, which is not read; "
                "write it as a column too (partitioned writers leave it out)"
            )
    for name in (*known, *passthrough):
        if schema.names.count(name) > 1:
            raise Refused(
                f"{shown}: column {name!r} is there {schema.names.count(name)} times; allowed: once"
            )
    for name, column in known.items():
        if name in schema.names and name not in rows.ignored and not _fits(column, schema.field(name).type):
            raise Refused(
                f"{shown}: column {name!r} has type {schema.field(name).type}; allowed: {column.allowed}"
            )


def _fits(column: Column, kind: pa.DataType) -> bool:
    plain = plain_type(kind)
    return column.fits(plain) or pa.types.is_null(plain)


def readable_schema(rows: RowSchema, schemas: Sequence[pa.Schema]) -> RowSchema:
    """What is read of a manifest: ignored columns only if every file has them, with a type that fits.

    Args:
        rows: What rows may have.
        schemas: The schema of each file.
    """
    known = known_columns(rows.fields)
    left_out = {
        name
        for name in rows.ignored
        if not all(name in s.names and _fits(known[name], s.field(name).type) for s in schemas)
    }
    return dataclasses.replace(rows, fields={n: f for n, f in rows.fields.items() if n not in left_out})


def check_same_columns(
    uri: str,
    schema: pa.Schema,
    first_uri: str,
    first: pa.Schema,
    passthrough: Sequence[str],
    rows: RowSchema,
) -> None:
    """Check that a file has the same columns as a manifest's first file.

    Raises:
        Refused: Their request columns or the types of passed-through columns differ; the message names both.
    """
    for name in rows.fields:
        if name not in rows.ignored and (name in schema.names) != (name in first.names):
            has, lacks = (uri, first_uri) if name in schema.names else (first_uri, uri)
            raise Refused(
                f"{redact(lacks)}: there is no column {name!r}, which {redact(has)} has; "
                "all files of a manifest need the same request columns (nulls are allowed)"
            )
    for name in passthrough:
        kinds = extra_type(schema.field(name).type), extra_type(first.field(name).type)
        if kinds[0] != kinds[1]:
            raise Refused(
                f"{redact(uri)}: column {name!r} has type {kinds[0]} but {kinds[1]} in {redact(first_uri)}; "
                "a passed-through column needs one type in all files"
            )


def describe_unknown(column: str, fields: Mapping[str, Field] = FIELDS) -> str:
    """A warning about a column that is not read."""
    near = difflib.get_close_matches(column, known_columns(fields), 1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return (
        f"unknown column {column!r} is not read{hint}; `vidgen render --passthrough` copies it to the ledger"
    )
