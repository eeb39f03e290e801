"""Plain Arrow types, which every reader of Parquet knows, in place of rarer ones.

| in a manifest | as it is read |
|---|---|
| UUID | text, with hyphens |
| JSON, and other extension types | what they are stored as |
| tensor of a fixed shape | lists in lists, row by row |
| map | list of structs of `key` and `value` |
| list of a fixed size, view of a list | list |
| view of texts or binaries, dictionary | texts, binaries, values |
| decimal of 32 or 64 bits | decimal of 128 bits |

Lists of a fixed size become lists because Arrow cannot read the nulls that it writes among them. Members of
nested values may be null.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_UUID_LENGTH = 36


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type as which a column of this type is read."""
    if isinstance(kind, pa.UuidType):
        return pa.string()
    if isinstance(kind, pa.Bool8Type):
        return pa.bool_()
    if isinstance(kind, pa.FixedShapeTensorType):
        return _lists(plain_type(kind.value_type), len(kind.shape))
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_decimal32(kind) or pa.types.is_decimal64(kind):
        return pa.decimal128(kind.precision, kind.scale)
    if pa.types.is_struct(kind):
        return pa.struct([_plain_field(field) for field in kind])
    if pa.types.is_map(kind):
        key, value = _plain_field(kind.key_field), _plain_field(kind.item_field)
        return pa.list_(pa.struct([key.with_name("key"), value.with_name("value")]))
    if pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind):
        return pa.large_list(_plain_field(kind.value_field))
    if is_list(kind):
        return pa.list_(_plain_field(kind.value_field))
    return kind


def is_list(kind: pa.DataType) -> bool:
    """Whether a type is one of Arrow's lists, other than a map."""
    any_length = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return any_length or _is_list_view(kind)


def _is_list_view(kind: pa.DataType) -> bool:
    return pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind)


def _plain_field(field: pa.Field) -> pa.Field:
    return pa.field(field.name, plain_type(field.type))


def _lists(kind: pa.DataType, depth: int) -> pa.DataType:
    for _ in range(max(1, depth)):
        kind = pa.list_(kind)
    return kind


def plain_array(array: pa.Array) -> pa.Array:
    """An array converted to the `plain_type` of its type."""
    kind = array.type
    target = plain_type(kind)
    if target == kind:
        return array
    if isinstance(kind, pa.UuidType):
        return _uuid_texts(array.storage)
    if isinstance(kind, pa.Bool8Type):
        return array.storage.cast(target)
    if isinstance(kind, pa.FixedShapeTensorType):
        return _of_one_size(array.storage, target, kind.shape or [1])
    if isinstance(kind, pa.BaseExtensionType):
        return plain_array(array.storage)
    if pa.types.is_dictionary(kind):
        return plain_array(array.dictionary).take(array.indices)
    if pa.types.is_struct(kind):
        members = [plain_array(array.field(number)) for number in range(kind.num_fields)]
        return pa.StructArray.from_arrays(members, fields=list(target), mask=array.is_null())
    if pa.types.is_map(kind):
        members = [plain_array(array.keys), plain_array(array.items)]
        return _with_values(
            array, target, pa.StructArray.from_arrays(members, fields=list(target.value_type))
        )
    if pa.types.is_fixed_size_list(kind):
        return _of_one_size(array, target, [kind.list_size])
    if _is_list_view(kind):
        return _in_order(array, target)
    if is_list(kind):
        return _with_values(array, target, plain_array(array.values))
    return array.cast(target)


def plain_columns(batch: pa.RecordBatch, texts: Container[str] = ()) -> pa.RecordBatch:
    """A batch with its columns converted to `plain_type`; dictionaries of plain types stay as they are.

    Args:
        batch: A batch.
        texts: Names of binary columns that hold texts.
    """
    columns, before = [], batch.columns
    for name, column in zip(batch.schema.names, before, strict=True):
        kind = column.type
        if name in texts:
            column = column.view(pa.string())
        elif not (pa.types.is_dictionary(kind) and plain_type(kind.value_type) == kind.value_type):
            column = plain_array(column)
        columns.append(column)
    changed = any(new is not old for new, old in zip(columns, before, strict=True))
    return pa.RecordBatch.from_arrays(columns, batch.schema.names) if changed else batch


def _with_values(array: pa.Array, kind: pa.DataType, values: pa.Array) -> pa.Array:
    """An array of lists, list views or maps as another type, with other values in the same places."""
    own = array.buffers()[: kind.num_buffers]
    return pa.Array.from_buffers(kind, len(array), own, offset=array.offset, children=[values])


def _in_order(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """An array of lists from one of list views, whose lists may lie in any order and overlap."""
    view = pa.large_list_view if pa.types.is_large_list(kind) else pa.list_view
    # Arrow cannot take from every type that is not plain.
    array = _with_values(array, view(kind.value_field), plain_array(array.values))
    lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
    return _lists_of(array.flatten(), lengths, kind, array.is_null())


def _of_one_size(array: pa.Array, kind: pa.DataType, sizes: Sequence[int]) -> pa.Array:
    """An array of lists of a fixed size as lists of `sizes[0]` lists of `sizes[1]` … values."""
    length = array.type.list_size
    values = plain_array(array.values.slice(array.offset * length, len(array) * length))
    counts = np.cumprod([len(array), *sizes])
    kinds = [kind]
    for _ in sizes[1:]:
        kinds.append(kinds[-1].value_type)
    for count, size, inner in zip(counts[-2:0:-1], sizes[:0:-1], kinds[:0:-1], strict=True):
        values = _lists_of(values, np.full(count, size), inner)
    return _lists_of(values, np.full(len(array), sizes[0]), kind, array.is_null())


def _lists_of(
    values: pa.Array, lengths: np.ndarray, kind: pa.DataType, nulls: pa.Array | None = None
) -> pa.Array:
    """Lists of these lengths, int64 (N,), one after another."""
    build: Any = pa.LargeListArray if pa.types.is_large_list(kind) else pa.ListArray
    offsets = np.append(0, np.cumsum(lengths)).astype(np.int64 if build is pa.LargeListArray else np.int32)
    return build.from_arrays(pa.array(offsets), values, kind, mask=nulls)


def _uuid_texts(values: pa.Array) -> pa.Array:
    """UUIDs, 16 bytes each, as texts."""
    count = len(values)
    if not count:
        return pa.array([], pa.string())
    raw = np.frombuffer(values.buffers()[1], np.uint8)[16 * values.offset :][: 16 * count]
    digits = np.frombuffer(raw.tobytes().hex().encode(), np.uint8).reshape(count, 32)
    texts = np.full((count, _UUID_LENGTH), ord("-"), np.uint8)
    for start, stop in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32)):
        hyphens = sum(start >= place for place in (8, 12, 16, 20))
        texts[:, start + hyphens : stop + hyphens] = digits[:, start:stop]
    offsets = np.arange(count + 1, dtype=np.int32) * _UUID_LENGTH
    whole = pa.Array.from_buffers(pa.string(), count, [None, pa.py_buffer(offsets), pa.py_buffer(texts)])
    return pc.if_else(values.is_valid(), whole, pa.scalar(None, pa.string()))
