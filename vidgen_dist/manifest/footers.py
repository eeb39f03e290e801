"""Footers of Parquet files: reading them, and describing what is wrong with unreadable ones."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vidgen_dist.errors import Refused
from vidgen_dist.manifest import thrift
from vidgen_dist.storage.files import open_input
from vidgen_dist.storage.uris import redact

INPUT_SUFFIXES = (".txt", ".csv", ".jsonl")
"""Files that `manifest_build` makes manifests from."""

_MAGIC, _ENCRYPTED = b"PAR1", b"PARE"

# Field numbers in Parquet's declaration (parquet.thrift), by struct.
_VERSION, _SCHEMA, _ROWS, _GROUPS = range(1, 5)
_KIND, _LENGTH, _, _NAME, _CHILDREN, _CONVERTED = range(1, 7)
_LOGICAL = 10
_COLUMNS = 1
_CRYPTO = 8

# Parquet's names of types, in the order of their numbers.
_KINDS = "BOOLEAN INT32 INT64 INT96 FLOAT DOUBLE BYTE_ARRAY FIXED_LEN_BYTE_ARRAY"
_CONVERTED_NAMES = (
    "UTF8 MAP MAP_KEY_VALUE LIST ENUM DECIMAL DATE TIME_MILLIS TIME_MICROS TIMESTAMP_MILLIS TIMESTAMP_MICROS "
    "UINT_8 UINT_16 UINT_32 UINT_64 INT_8 INT_16 INT_32 INT_64 JSON BSON INTERVAL"
)
_LOGICAL_NAMES = (
    "? STRING MAP LIST ENUM DECIMAL DATE TIME TIMESTAMP ? INTEGER UNKNOWN JSON BSON UUID FLOAT16 VARIANT "
    "GEOMETRY GEOGRAPHY"
)


@dataclass(frozen=True)
class Footer:
    """The footer of a Parquet file: its schema and metadata.

    Args:
        metadata: Arrow's metadata. Asking it for an encrypted leaf of a row group ends the process.
        schema: Names and types of the columns.
        digest: SHA-256 of the footer.
        encrypted: Columns that are encrypted, wholly or in part.
        encrypted_leaves: Numbers of the encrypted leaves.
        enums: Columns of type ENUM. They are texts, though Arrow reads them as bytes; `schema` has texts.
    """

    metadata: pq.FileMetaData
    schema: pa.Schema
    digest: str
    encrypted: frozenset[str]
    encrypted_leaves: frozenset[int]
    enums: frozenset[str]

    def leaves(self, columns: Iterable[str]) -> list[int]:
        """Numbers of the leaves of these columns, without encrypted ones."""
        names = tuple(columns)
        below = tuple(f"{name}." for name in names)
        paths = ((leaf, self.metadata.schema.column(leaf).path) for leaf in range(self.metadata.num_columns))
        return [
            leaf
            for leaf, path in paths
            if leaf not in self.encrypted_leaves and (path in names or path.startswith(below))
        ]


def read_footer(uri: str) -> Footer:
    """The footer of a file.

    Raises:
        Refused: It is not Parquet, is truncated or encrypted, or Arrow cannot read the footer; then the
            message names the column that causes it and its type.
        OSError: The storage failed.
    """
    footer = _footer_bytes(uri)
    try:
        parquet = _parse(footer)
        signed = len(footer) - 8 > parquet.metadata.serialized_size
        encrypted = dict(_encrypted(thrift.decode(footer))) if signed else {}
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Refused(f"{redact(uri)}: {_describe_bad_footer(footer, error)}") from None
    enums = frozenset(_enums(parquet))
    fields = [
        field.with_type(pa.string()) if field.name in enums else field for field in parquet.schema_arrow
    ]
    return Footer(
        parquet.metadata,
        pa.schema(fields),
        hashlib.sha256(footer).hexdigest(),
        frozenset(encrypted.values()),
        frozenset(encrypted),
        enums,
    )


def open_parquet(source: Any, **options: Any) -> pq.ParquetFile:
    """Open a Parquet file as all of this package does; `options` are those of `pq.ParquetFile`."""
    # The default, nanoseconds, covers 1677 to 2262 only, and Arrow does not check.
    return pq.ParquetFile(source, coerce_int96_timestamp_unit="us", **options)


def _enums(parquet: pq.ParquetFile) -> Iterator[str]:
    """Names of the top-level columns of type ENUM."""
    binary = {field.name for field in parquet.schema_arrow if pa.types.is_binary(field.type)}
    for leaf in range(parquet.metadata.num_columns):
        column = parquet.metadata.schema.column(leaf)
        if column.path in binary and column.logical_type.type == "ENUM":
            yield column.path


def _footer_bytes(uri: str) -> bytes:
    """The end of a file, from where its metadata begins."""
    with open_input(uri) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 2**16))
        tail = file.read()
        if tail[-4:] != _MAGIC or size < 12:
            file.seek(0)
            raise Refused(f"{redact(uri)}: {_not_parquet(uri, file.read(4), tail[-4:])}")
        length = int.from_bytes(tail[-8:-4], "little") + 8
        if length > size - 4:
            raise Refused(f"{redact(uri)}: its Parquet footer is damaged; write the file again")
        if length > len(tail):
            file.seek(size - length)
            tail = file.read()
    return tail[-length:]


def _not_parquet(uri: str, head: bytes, tail: bytes) -> str:
    if _ENCRYPTED in (head, tail):
        return (
            "is encrypted Parquet; allowed: a plain footer, and plain columns where they are read; write the "
            "file without encryption"
        )
    if head == _MAGIC:
        return "is a truncated Parquet file; write it again"
    build = "; `vidgen manifest build` makes one from it" if uri.endswith(INPUT_SUFFIXES) else ""
    return f"is not Parquet{build}"


def _parse(footer: bytes) -> pq.ParquetFile:
    # To read the metadata, Arrow needs only the footer.
    return open_parquet(pa.BufferReader(_MAGIC + footer))


def _describe_bad_footer(footer: bytes, error: Exception) -> str:
    """What is wrong with a footer that Arrow cannot read."""
    try:
        columns = list(_columns(thrift.decode(footer)))
    except ValueError:
        return f"its Parquet footer is damaged ({_one_line(error)}); write the file again"
    for name, elements in columns:
        try:
            _parse(_footer_with_column(elements))
        except (pa.ArrowException, OSError) as reason:
            kinds = ", ".join(dict.fromkeys(map(_describe_type, elements)))
            return (
                f"column {name!r} has the type {kinds}, which pyarrow {pa.__version__} cannot read "
                f"({_one_line(reason)}); leave the column out, or write it with another type"
            )
    return (
        f"pyarrow {pa.__version__} cannot read its Parquet footer ({_one_line(error)}); write the file again"
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _columns(metadata: thrift.Struct) -> Iterator[tuple[str, list[thrift.Struct]]]:
    """Each column's name and the elements of its schema, its own first.

    Raises:
        ValueError: The metadata holds no schema.
    """
    try:
        elements: list[thrift.Struct] = metadata[_SCHEMA][1][1]
        _ = metadata[_ROWS], metadata[_GROUPS]
        at = 1
        for _ in range(elements[0][_CHILDREN][1]):
            end = at + _subtree_size(elements, at)
            yield elements[at][_NAME][1].decode(), elements[at:end]
            at = end
    except (KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"it has no schema ({error!r})") from None
    if at != len(elements):
        raise ValueError("its schema has elements that are in no column")


def _subtree_size(elements: list[thrift.Struct], start: int) -> int:
    """The number of elements in the subtree of an element, itself included."""
    at = start + 1
    for _ in range(elements[start].get(_CHILDREN, (0, 0))[1]):
        at += _subtree_size(elements, at)
    return at - start


def _footer_with_column(elements: list[thrift.Struct]) -> bytes:
    """The footer of a file with one column and no rows."""
    root = {_NAME: (thrift.BINARY, b"schema"), _CHILDREN: (thrift.I32, 1)}
    metadata = thrift.encode(
        {
            _VERSION: (thrift.I32, 2),
            _SCHEMA: (thrift.LIST, (thrift.STRUCT, [root, *elements])),
            _ROWS: (thrift.I64, 0),
            _GROUPS: (thrift.LIST, (thrift.STRUCT, [])),
        }
    )
    return metadata + len(metadata).to_bytes(4, "little") + _MAGIC


def _describe_type(element: thrift.Struct) -> str:
    """The Parquet name of an element's type."""

    def member(number: int) -> Any:
        return element[number][1] if number in element else None

    kind = "group" if member(_KIND) is None else _type_name(_KINDS, member(_KIND))
    size = f"({member(_LENGTH)})" if member(_LENGTH) else ""
    if member(_LOGICAL):
        return f"{kind}{size} as {_type_name(_LOGICAL_NAMES, min(member(_LOGICAL)))}"
    if member(_CONVERTED) is not None:
        return f"{kind}{size} as {_type_name(_CONVERTED_NAMES, member(_CONVERTED))}"
    return f"{kind}{size}"


def _type_name(names: str, number: int) -> str:
    known = dict(enumerate(names.split()))
    return known.get(number, "?").replace("?", f"number {number}")


def _encrypted(metadata: thrift.Struct) -> Iterator[tuple[int, str]]:
    """The numbers of leaves that are encrypted in a row group, with their columns.

    Raises:
        ValueError: As `_columns`.
    """
    owners = [
        name for name, elements in _columns(metadata) for element in elements if _CHILDREN not in element
    ]
    for group in metadata[_GROUPS][1][1]:
        chunks = group[_COLUMNS][1][1]
        yield from ((leaf, owners[leaf]) for leaf, chunk in enumerate(chunks) if _CRYPTO in chunk)
