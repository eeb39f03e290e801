"""Rows held by columns, for work on millions of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from vidgen_dist.bulk_digests import as_list, json_template
from vidgen_dist.manifest.columns import RowSchema, column_of, is_simple, is_text
from vidgen_dist.manifest.identity import digest_text, new_digest, plain_value, row_digest
from vidgen_dist.manifest.rows import Row, extra_values, field_values, make_row
from vidgen_dist.storage.failures import StorageError
from vidgen_dist.storage.uris import redact

_TEMPLATED = ("id", "prompt", "seed")
"""Fields in which rows may differ whose digests are made by one `JsonTemplate`."""

_CHUNK_ROWS = 1024
"""Nested values that are Python objects at the same time, at most."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of one file of a manifest, by columns. Made by `Manifest.batches` and `Manifest.wanted_batches`.

    Args:
        file: The file's URI.
        indices: The rows' places in the file, from 0.
        columns: The rows' values.
        fields: The columns that are fields of a request.
        row_schema: What is read of a row.
        extra_schema: Names and types of the passed-through columns.
        defaults: Values of request fields for rows without one.
    """

    file: str
    indices: Sequence[int] | np.ndarray
    columns: pa.RecordBatch
    fields: tuple[str, ...]
    row_schema: RowSchema
    extra_schema: pa.Schema
    defaults: Mapping[str, Any]

    def __len__(self) -> int:
        return int(self.columns.num_rows)

    def rows(self, wanted: np.ndarray | None = None) -> Iterator[Row]:
        """All rows, or those of the mask `wanted` (N,), one by one.

        Raises:
            StorageError: A value cannot be passed through.
        """
        yield from self.pick(range(len(self)) if wanted is None else np.flatnonzero(wanted))

    def pick(self, places: Sequence[int] | np.ndarray) -> Iterator[Row]:
        """The rows at these places of the batch, one by one, in the order given. Raises as `rows`."""
        if not len(places):
            return
        values = self._columns(self.fields, places)
        for at, (place, passed) in enumerate(zip(places, self.extras(places), strict=True)):
            present = {name: column[at] for name, column in values.items() if column[at] is not None}
            yield make_row(
                present, passed, self.file, int(self.indices[place]), self.defaults, self.row_schema
            )

    def extras(self, places: Sequence[int] | np.ndarray) -> Iterator[dict[str, Any]]:
        """The passed-through values of the rows at these places. Raises as `rows`."""
        columns = {field.name: self._extra(field, places) for field in self.extra_schema}
        for at in range(len(places)):
            yield {name: column[at] for name, column in columns.items()}

    def _columns(self, names: Sequence[str], places: Sequence[int] | np.ndarray) -> dict[str, list[Any]]:
        try:
            return {name: self._values(name, places) for name in names}
        except StorageError as error:
            raise StorageError(f"cannot read {redact(self.file)}: {error}") from None

    def _values(self, name: str, places: Sequence[int] | np.ndarray) -> list[Any]:
        return field_values(self.row_schema.fields[name], self.values_at(name, places))

    def _extra(self, field: pa.Field, places: Sequence[int] | np.ndarray) -> list[Any]:
        column = self.values_at(field.name, places)
        try:
            return extra_values(column, field)
        except StorageError as error:
            if len(places) > 1:
                half = len(places) // 2
                # One of the halves raises and names its row.
                self._extra(field, places[:half])
                self._extra(field, places[half:])
            raise StorageError(f"{redact(self.file)}, row {self.indices[places[0]]}: {error}") from None

    def check_extras(self) -> None:
        """Check that all values of the passed-through columns can be passed through.

        Raises:
            StorageError: One cannot; the message names file, row and column.
        """
        for field in self.extra_schema:
            for start in range(0, 0 if is_simple(field.type) else len(self), _CHUNK_ROWS):
                self._extra(field, np.arange(start, min(start + _CHUNK_ROWS, len(self))))

    def take(self, places: np.ndarray) -> Batch:
        """A batch of the rows at these places, in the order given."""
        names = self.columns.schema.names
        columns = pa.RecordBatch.from_arrays([self.values_at(name, places) for name in names], names)
        return dataclasses.replace(self, columns=columns, indices=np.asarray(self.indices)[places])

    def slice(self, start: int, stop: int) -> Batch:
        """The rows from `start` up to, not including, `stop`; nothing is copied."""
        return dataclasses.replace(
            self, columns=self.columns.slice(start, stop - start), indices=self.indices[start:stop]
        )

    def values_at(self, name: str, places: Sequence[int] | np.ndarray) -> pa.Array:
        """A column's values for the rows at these places."""
        column = self.columns.column(name)
        if len(places) == len(self) and np.array_equal(places, np.arange(len(self))):
            return column
        return column.take(pa.array(places, pa.int64()))

    @cached_property
    def plain(self) -> np.ndarray:
        """Whether a row's own values (id, prompt, seed, media) are certainly valid by themselves: bool (N,).

        Whether such a row can be rendered depends only on its other fields, see `groups`.
        """
        texts = [self.columns.column(name) for name in self.fields if is_text(self._kind(name))]
        try:
            for column in texts:
                column.validate(full=True)
        except pa.ArrowException:
            # Some text is not UTF-8; checking the rows one by one shows which.
            return np.zeros(len(self), np.bool_)
        plain = np.ones(len(self), np.bool_)
        for name in self._own:
            column = self.columns.column(name)
            if not pa.types.is_null(column.type):
                field = self.row_schema.fields[name]
                plain &= column_of(field).certainly_valid(field.kind, column)
            if name in self.row_schema.required:
                plain &= column.is_valid().to_numpy(zero_copy_only=False)
        return plain & self._has_one()

    def _has_one(self) -> np.ndarray:
        """Which rows have at least one of the fields `one_of`: bool (N,)."""
        if not self.row_schema.one_of:
            return np.ones(len(self), np.bool_)
        has = np.zeros(len(self), np.bool_)
        for name in (name for name in self.row_schema.one_of if name in self.fields):
            has |= self.columns.column(name).is_valid().to_numpy(zero_copy_only=False)
        return has

    @cached_property
    def _own(self) -> tuple[str, ...]:
        """Fields whose values differ from row to row; what a model can render does not depend on them."""
        return tuple(name for name in self.fields if self.row_schema.fields[name].is_own)

    @property
    def untemplated(self) -> tuple[str, ...]:
        """Such fields other than id, prompt and seed. With any of them, rows are digested one by one."""
        return tuple(name for name in self._own if name not in _TEMPLATED)

    def _kind(self, name: str) -> pa.DataType:
        return self.columns.schema.field(name).type

    @cached_property
    def _group_numbers(self) -> np.ndarray:
        """Each row's group number: int64 (N,)."""
        numbers = np.zeros(len(self), np.int64)
        for name in self.fields:
            column = self.columns.column(name)
            if name in self._own:
                # The value does not matter, but whether there is one does.
                codes, kinds = column.is_null().to_numpy(zero_copy_only=False).astype(np.int64), 2
            else:
                codes, kinds = _codes(column)
            if kinds > 1:
                _, numbers = np.unique(numbers * kinds + codes, return_inverse=True)
        return numbers

    def groups(self, wanted: np.ndarray) -> Iterator[tuple[Row, np.ndarray]]:
        """Groups of `plain` rows that differ only in fields whose values differ from row to row.

        Args:
            wanted: Mask of the rows to group (N,).

        Yields:
            One row of the group, and the places of all its rows: int64 (n,).
        """
        places = np.flatnonzero(wanted & self.plain)
        numbers = self._group_numbers[places]
        order = np.argsort(numbers, kind="stable")
        bounds = np.flatnonzero(np.diff(numbers[order], prepend=-1))
        groups = np.split(places[order], bounds[1:]) if len(places) else []
        # All at once: there may be as many groups as rows.
        firsts = np.array([group[0] for group in groups], np.int64)
        yield from zip(self.pick(firsts), groups, strict=True)

    @property
    def has_all_ids(self) -> bool:
        """Whether the column `id` certainly holds every row's id as it is."""
        return "id" in self.fields and not self.columns.column("id").null_count and bool(self.plain.all())

    @cached_property
    def ids(self) -> pa.Array:
        """The rows' ids: strings (N,)."""
        own = self.columns.column("id") if "id" in self.fields else None
        if own is not None and self.has_all_ids:
            return _as_strings(own)
        ids: list[str] = [""] * len(self)
        unnamed = np.ones(len(self), np.bool_)
        if own is not None:
            unnamed = own.is_null().to_numpy(zero_copy_only=False)
            named = self.plain & ~unnamed
            texts = _as_strings(own.filter(pa.array(named))).to_pylist()
            for place, row_id in zip(np.flatnonzero(named).tolist(), texts, strict=True):
                ids[place] = row_id
            # A row that is not plain may still have a valid id.
            unsure = ~self.plain & ~unnamed
            bare = dataclasses.replace(self, extra_schema=pa.schema([]))
            for place, row in zip(np.flatnonzero(unsure).tolist(), bare.rows(unsure), strict=True):
                ids[place] = row.id
        for place, digest in zip(np.flatnonzero(unnamed).tolist(), self.digests(unnamed), strict=True):
            ids[place] = digest
        return pa.array(ids, pa.string())

    def digests(self, wanted: np.ndarray) -> list[str]:
        """`row_digest` of the rows of a mask (N,) as they stand, bad ones too. Raises as `rows`."""
        found: dict[int, str] = {}
        left = wanted.copy()
        if not self.untemplated:
            for _, places in self.groups(wanted):
                found.update(zip(places.tolist(), self._digests(places), strict=True))
                left[places] = False
        single = np.flatnonzero(left)
        names = [name for name in self.fields if name != "id"] if len(single) else []
        values = self._columns(names, single)
        for at, place in enumerate(single.tolist()):
            found[place] = row_digest({name: column[at] for name, column in values.items()})
        return [found[place] for place in np.flatnonzero(wanted).tolist()]

    def _digests(self, places: np.ndarray) -> list[str]:
        """`row_digest` of the rows of a group that differ only in id, prompt and seed."""
        values = {name: self._values(name, places[:1])[0] for name in self.fields}
        values.pop("id", None)
        text = digest_text(values)
        seed = plain_value(values.get("seed"))
        template = json_template(text, values.get("prompt"), seed, ":")
        prompts, seeds = self.prompts(places), self.seeds(places)
        return template.digests(
            new_digest,
            len(places),
            None if prompts is None else as_list(prompts),
            None if seeds is None else as_list(seeds),
        )

    def prompts(self, places: np.ndarray) -> pa.Array | None:
        """The prompts of a group's rows, by their places; None if the group has no prompts."""
        return self._of_group("prompt", places)

    def seeds(self, places: np.ndarray) -> pa.Array | None:
        """The rows' own seeds, likewise."""
        return self._of_group("seed", places)

    def _of_group(self, name: str, places: np.ndarray) -> pa.Array | None:
        # Either all rows of a group have a value or none has.
        column = self.values_at(name, places) if name in self.fields else None
        return None if column is None or column.null_count else column


def _codes(column: pa.Array) -> tuple[np.ndarray, int]:
    """A number for each value, the same for equal values, and how many numbers there are."""
    kind = column.type
    if pa.types.is_null(kind):
        return np.zeros(len(column), np.int64), 1
    if pa.types.is_floating(kind):
        # By bits: 0.0 and -0.0 are different values.
        column = column.view({16: pa.int16(), 32: pa.int32(), 64: pa.int64()}[kind.bit_width])
    try:
        encoded = column if pa.types.is_dictionary(kind) else column.dictionary_encode()
    except pa.ArrowNotImplementedError:
        encoded = pa.array(map(str, column.to_pylist()), pa.string()).dictionary_encode()
    codes = encoded.indices.cast(pa.int64()).fill_null(-1).to_numpy()
    return codes + 1, len(encoded.dictionary) + 1


def _as_strings(column: pa.Array) -> pa.Array:
    return column if pa.types.is_string(column.type) else column.cast(pa.string())
