"""One row of a manifest: its columns' values in Python, and the request made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from vidgen_dist.errors import Refused
from vidgen_dist.kinds import Kind
from vidgen_dist.manifest.columns import (
    RowSchema,
    column_of,
    describe_required,
    is_simple,
    is_text,
    value_type,
)
from vidgen_dist.manifest.identity import row_digest, usable_id
from vidgen_dist.request import Field, RenderRequest, RequestError
from vidgen_dist.storage.failures import StorageError
from vidgen_dist.storage.uris import resolve_path


@dataclass(frozen=True)
class Row:
    """One row of a manifest.

    Args:
        id: The row's identity.
        file: The URI of the row's file.
        index: The row's place in the file, from 0.
        outcome: The request, or why the row cannot be one.
        extra: Values of the passed-through columns.
    """

    id: str
    file: str
    index: int
    outcome: RenderRequest | RequestError
    extra: Mapping[str, Any]

    @property
    def request(self) -> RenderRequest:
        """The request.

        Raises:
            RequestError: The row cannot be a request.
        """
        if isinstance(self.outcome, RequestError):
            raise self.outcome
        return self.outcome


def make_row(
    values: dict[str, Any],
    extra: dict[str, Any],
    file: str,
    index: int,
    defaults: Mapping[str, Any],
    schema: RowSchema,
) -> Row:
    """A row, even if it cannot be a request.

    Args:
        values: Its non-null fields, as `field_values` gives them; the mapping is changed.
        extra: Values of the passed-through columns.
        file, index: Where the row is, as in `Row`.
        defaults: Values of request fields that the row does not have.
        schema: What is read of the row.
    """
    given = values.pop("id", None)
    own_id = usable_id(given)
    row_id = row_digest(values) if own_id is None else own_id
    try:
        if given is not None and own_id is None:
            raise RequestError("id", given, "a text that is not empty and that UTF-8 can hold")
        if missing := schema.missing(values, defaults):
            raise RequestError(missing[0], None, describe_required(missing, schema.fields))
        for name in schema.addressed:
            if name in values:
                values[name] = _resolve_paths(file, name, values[name], schema.fields[name])
        for name in schema.ignored:
            if name in values and not _is_allowed(name, values[name], schema.fields[name]):
                del values[name]
        request = RenderRequest(**{**defaults, **values, "id": row_id}).parsed(schema.fields)
    except RequestError as error:
        return Row(row_id, file, index, error, extra)
    return Row(row_id, file, index, request, extra)


def _is_allowed(name: str, value: Any, field: Field) -> bool:
    try:
        field.parse(name, value)
    except RequestError:
        return False
    return True


def _resolve_paths(file: str, name: str, value: Any, field: Field) -> Any:
    """A value with its relative paths resolved against the folder of a file."""
    try:
        parsed = field.parse(name, value)
    except RequestError:
        # An empty path would become the folder. It is refused later, with the row's other faults.
        return value
    return resolve_media_paths(file, name, field.kind, parsed)


def resolve_media_paths(file: str, name: str, kind: Kind, value: Any) -> Any:
    """A parsed value with its relative paths resolved against the folder of a file.

    Raises:
        RequestError: An address in the field `name` is a misspelt URI.
    """

    def beside(address: str) -> str:
        try:
            return resolve_path(address, file)
        except Refused as error:
            shown, _, wrong = str(error).partition(": ")
            raise RequestError(name, shown, wrong) from None

    return kind.with_addresses(value, beside)


def field_values(field: Field, column: pa.Array) -> list[Any]:
    """A field's values (N,), None for nulls.

    Raises:
        StorageError: As `column_values`.
    """
    values, value_of = column_values(column), column_of(field).value
    return values if value_of is None else [None if each is None else value_of(each) for each in values]


def column_values(column: pa.Array) -> list[Any]:
    """A request column's values (N,) as Python objects.

    Raises:
        StorageError: Text within a nested column that is not UTF-8.
    """
    try:
        values = _pylist(column, "surrogateescape")
    except ValueError as error:
        raise StorageError(f"a column of {column.type} holds {error}") from None
    if pa.types.is_decimal(value_type(column.type)):
        return [
            value if value is None else int(value) if value % 1 == 0 else float(value) for value in values
        ]
    return values


def extra_values(column: pa.Array, field: pa.Field) -> list[Any]:
    """A passed-through column's values (N,), with the type of `field`.

    Raises:
        StorageError: A value cannot be passed through.
    """
    try:
        typed = column.cast(field.type, safe=False) if pa.types.is_timestamp(field.type) else column
        values = _pylist(typed, "replace")
        if not is_simple(field.type):
            # As the ledger's writer will.
            pa.array(values, field.type)
        return values
    except (pa.ArrowException, ValueError, TypeError, OverflowError, KeyError) as error:
        # Such as a time after the year 9999, or one with nanoseconds in a list. For these Arrow recommends
        # pandas, which brings a NumPy that MindSpore does not work with.
        reason = str(error).partition(" Install pandas")[0].rstrip(".")
        raise StorageError(
            f"column {field.name!r} ({field.type}) holds a value that cannot be passed through ({reason}); "
            "make it a text in the manifest"
        ) from None


def _pylist(column: pa.Array, errors: str) -> list[Any]:
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        # One bad text must not spoil its neighbours: `RenderRequest` refuses only that one.
        flat = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        if not is_text(flat.type):
            raise ValueError("text that is not UTF-8 in a nested value") from None
        raw = flat.cast(pa.large_binary()).to_pylist()
        return [value if value is None else value.decode("utf-8", errors) for value in raw]
