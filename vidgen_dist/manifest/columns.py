"""Columns of a manifest: which there may be, and which types they may have."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from vidgen_dist.errors import Refused
from vidgen_dist.request import FIELDS
from vidgen_dist.storage import redact, split

PRIORITY = "priority"
"""The column that decides the order alone: rows with a higher number are rendered first."""


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is one of Arrow's texts."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def is_bytes(kind: pa.DataType) -> bool:
    """Whether a type is one of Arrow's binary ones."""
    of_any_length = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    return of_any_length or pa.types.is_binary_view(kind) or pa.types.is_fixed_size_binary(kind)


def _is_number(kind: pa.DataType) -> bool:
    # SQL's 6.0 is a decimal: DuckDB and Spark write it as such.
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _is_priority(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) and not pa.types.is_uint64(kind)


def _is_id(kind: pa.DataType) -> bool:
    return is_text(kind) or pa.types.is_integer(kind) or isinstance(kind, pa.UuidType)


def _is_image(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind):
        return is_text(kind) or is_bytes(kind)
    members = {field.name: field.type for field in kind}
    allowed = {"bytes": is_bytes, "path": is_text}
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


_TEXT = Column(is_text, "a string column", pa.string())
_INTEGER = Column(_is_number, "an integer column, or a float column that holds whole numbers", pa.int64())
_NUMBER = Column(_is_number, "a float or integer column", pa.float64())
_IMAGE = (
    "a string column (paths or URIs), a binary column (encoded images) or a struct of bytes and path, "
    "as Hugging Face datasets writes it"
)

_PRIORITY = "an integer column of at most 64 bits with a sign (nulls are 0; pandas keeps them in an Int64)"

COLUMNS: Mapping[str, Column] = {
    "prompt": _TEXT,
    "id": Column(_is_id, "a string or integer column", pa.string()),
    "negative_prompt": _TEXT,
    "image": Column(_is_image, _IMAGE, pa.string()),
    "video": Column(is_text, "a string column (paths or URIs)", pa.string()),
    "height": _INTEGER,
    "width": _INTEGER,
    "num_frames": _INTEGER,
    "num_inference_steps": _INTEGER,
    "guidance_scale": _NUMBER,
    "guidance_rescale": _NUMBER,
    "true_cfg_scale": _NUMBER,
    "use_dynamic_cfg": Column(pa.types.is_boolean, "a boolean column", pa.bool_()),
    "eta": _NUMBER,
    "strength": _NUMBER,
    "max_sequence_length": _INTEGER,
    "frame_rate": _NUMBER,
    "decode_timestep": _NUMBER,
    "decode_noise_scale": _NUMBER,
    "seed": _INTEGER,
    "fps": _NUMBER,
}
"""Of each field of a request, by its name."""

KNOWN_COLUMNS: Mapping[str, Column] = {
    **{name: COLUMNS[name] for name in FIELDS},
    PRIORITY: Column(_is_priority, _PRIORITY, pa.int64()),
}
"""Of each column that is read, whether named to be passed through or not."""


def value_type(kind: pa.DataType) -> pa.DataType:
    """The type of a column's values, also where they are dictionary-encoded."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def whole_numbers(column: pa.Array, missing: int) -> np.ndarray:
    """The values of a column of whole numbers, of whatever type holds them: int64 (N,).

    Args:
        column: Without fractions and numbers that int64 does not hold.
        missing: What stands for nulls.
    """
    flat = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    return flat.cast(pa.int64(), safe=False).fill_null(missing).to_numpy(zero_copy_only=False)


def extra_type(kind: pa.DataType) -> pa.DataType:
    """The type with which a column of this one is passed through."""
    kind = value_type(kind)
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        # Python has no nanoseconds.
        return pa.timestamp("us", kind.tz)
    return _without_views(kind)


def _without_views(kind: pa.DataType) -> pa.DataType:
    """A type with texts, binaries and lists in place of views of them, which few of Arrow's kernels take."""
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_struct(kind):
        return pa.struct([_field_without_views(field) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(_field_without_views(kind.key_field), _field_without_views(kind.item_field))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_field_without_views(kind.value_field), kind.list_size)
    if pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind):
        return pa.large_list(_field_without_views(kind.value_field))
    if pa.types.is_list(kind) or pa.types.is_list_view(kind):
        return pa.list_(_field_without_views(kind.value_field))
    return kind


def _field_without_views(field: pa.Field) -> pa.Field:
    return field.with_type(_without_views(field.type))


def check_columns(uri: str, schema: pa.Schema, passthrough: Sequence[str]) -> None:
    """Whether a file can be read as a manifest.

    Raises:
        Refused: A column is missing, there twice, of another type, or a folder's name alone; names the file.
    """
    shown = redact(uri)
    there = ", ".join(schema.names[:50]) + (", …" if len(schema.names) > 50 else "")
    if "prompt" not in schema.names:
        by_lower_case = {name.lower(): name for name in schema.names}
        near = difflib.get_close_matches("prompt", by_lower_case, 1)
        hint = f" (is {by_lower_case[near[0]]!r} meant to be it?)" if near else ""
        raise Refused(
            f"{shown}: there is no column 'prompt', which every manifest needs{hint}; it has: {there}"
        )
    for name in passthrough:
        if name not in schema.names:
            raise Refused(f"{shown}: there is no column {name!r} to pass through; it has: {there}")
    for part in split(uri)[0].split("/"):
        name = part.partition("=")[0]
        if part != name and name in KNOWN_COLUMNS and name not in schema.names:
            raise Refused(
                f"{shown}: {name!r} is in a folder's name alone, which is not read; "
                "write it as a column, too (partitioned writers leave it out)"
            )
    for name in (*KNOWN_COLUMNS, *passthrough):
        if schema.names.count(name) > 1:
            raise Refused(
                f"{shown}: column {name!r} is there {schema.names.count(name)} times; allowed: once"
            )
    for name, column in KNOWN_COLUMNS.items():
        if name in schema.names:
            kind = value_type(schema.field(name).type)
            if not column.fits(kind) and not pa.types.is_null(kind):
                raise Refused(
                    f"{shown}: column {name!r} has type {schema.field(name).type}; allowed: {column.allowed}"
                )


def check_alike(
    uri: str, schema: pa.Schema, first_uri: str, first: pa.Schema, passthrough: Sequence[str]
) -> None:
    """Whether a file goes with a manifest's first one.

    Raises:
        Refused: Their request columns, or the types of passed-through columns, differ; names both.
    """
    for name in FIELDS:
        if (name in schema.names) != (name in first.names):
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


def describe_unknown(column: str) -> str:
    """What to tell a person of a column that is not read."""
    near = difflib.get_close_matches(column, KNOWN_COLUMNS, 1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"column {column!r} is no field of a request and is not read{hint}; --passthrough keeps it"
