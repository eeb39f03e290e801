"""What is wrong with rows, found by columns: rows that share a fault are checked as one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from vidgen_dist.errors import Refused, shortened
from vidgen_dist.manifest.batches import Batch
from vidgen_dist.manifest.rows import Row
from vidgen_dist.request import (
    SHOWN_VALUE,
    Field,
    RenderRequest,
    RequestError,
    ResolvedRequest,
    shown_value,
)
from vidgen_dist.storage.uris import redact, to_record
from vidgen_dist.threads import map_ahead

Resolve: TypeAlias = Callable[[RenderRequest], ResolvedRequest]
Probe: TypeAlias = Callable[[RenderRequest | ResolvedRequest], object]

_PROBERS = 8


class ProbeError(ValueError):
    """An image or a clip that a probe could not read.

    Attributes:
        column: The column that it is in.
    """

    def __init__(self, column: str, reason: str) -> None:
        super().__init__(reason)
        self.column = column


@dataclass(frozen=True)
class Fault:
    """What is wrong with a row, wherever the row is.

    Args:
        column: The column with the fault; empty if it is not in a single one.
        value: The column's value as shortened text; None if there is none.
        reason: What is allowed, or what went wrong.
        message: The whole message for a person.
    """

    column: str
    value: str | None
    reason: str
    message: str


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with a manifest's row.

    Args:
        file: URI of the file.
        row: The row's place in the file, from 0.
        id: The row's id.
        fault: What is wrong.
    """

    file: str
    row: int
    id: str
    fault: Fault

    @property
    def column(self) -> str:
        """The column with the fault; empty if it is not in a single one."""
        return self.fault.column

    @property
    def message(self) -> str:
        """What is wrong and what is allowed."""
        return self.fault.message

    @property
    def place(self) -> str:
        """Where the row is, for a person."""
        return f"{redact(self.file)}, row {self.row} (id {shortened(self.id)!r})"

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


@dataclass(frozen=True, eq=False)
class BadRows:
    """The rows of a batch that have a fault.

    Args:
        batch: The batch.
        places: The rows' places in it, ascending: int64 (n,).
        faults: What is wrong with them.
        numbers: Each row's index in `faults`: int64 (n,).
    """

    batch: Batch
    places: np.ndarray
    faults: Sequence[Fault]
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    def problems(self, some: slice | np.ndarray) -> Iterator[Problem]:
        """The problems of some of the rows, by their indices among the bad ones."""
        ids = self.batch.ids
        for place, number in zip(self.places[some].tolist(), self.numbers[some].tolist(), strict=True):
            file, index = self.batch.file, int(self.batch.indices[place])
            yield Problem(file, index, ids[place].as_py(), self.faults[number])

    def fault_texts(self, attribute: str) -> pa.Array:
        """An attribute of each row's fault: strings (n,)."""
        texts = [getattr(fault, attribute) for fault in self.faults]
        texts = pa.array([text if text is None else _as_utf8(text) for text in texts], pa.string())
        return texts.take(pa.array(self.numbers))

    @classmethod
    def of(cls, batch: Batch, found: Sequence[tuple[np.ndarray, Fault]]) -> BadRows:
        """The bad rows of a batch, from faults, each with the places of its rows: int64 (n,)."""
        places = np.concatenate([np.empty(0, np.int64), *(places for places, _ in found)])
        numbers = np.repeat(np.arange(len(found)), [len(places) for places, _ in found])
        order = np.argsort(places, kind="stable")
        return cls(batch, places[order], [fault for _, fault in found], numbers[order])


def find_bad_rows(batch: Batch, resolve: Resolve | None = None, probe: Probe | None = None) -> BadRows:
    """The rows of a batch that cannot be rendered.

    Args:
        batch: Some rows.
        resolve, probe: As `check` takes them.

    Raises:
        StorageError: A value cannot be passed through.
    """
    fields = batch.row_schema.fields
    everyone = np.ones(len(batch), np.bool_)
    if probe is not None:
        faults = map_ahead(
            lambda row: _find_fault(row, fields, resolve, probe), batch.rows(), threads=_PROBERS
        )
        return BadRows.of(batch, list(_single_faults(everyone, faults)))
    found: list[tuple[np.ndarray, Fault]] = []
    batch.check_extras()
    doubtful = ~batch.plain
    for row, places in batch.groups(batch.plain):
        fault = _find_fault(row, fields, resolve)
        if fault is None:
            continue
        if fault.column in fields and not fields[fault.column].is_own:
            found.append((places, fault))
        else:
            # The fault lies in a value that differs from row to row.
            doubtful[places] = True
    found += _single_faults(doubtful, (_find_fault(row, fields, resolve) for row in batch.rows(doubtful)))
    return BadRows.of(batch, found)


def _single_faults(wanted: np.ndarray, faults: Iterator[Fault | None]) -> Iterator[tuple[np.ndarray, Fault]]:
    for place, fault in zip(np.flatnonzero(wanted), faults, strict=True):
        if fault is not None:
            yield np.array([place]), fault


def _find_fault(
    row: Row, fields: Mapping[str, Field], resolve: Resolve | None, probe: Probe | None = None
) -> Fault | None:
    try:
        request = row.request if resolve is None else resolve(row.request)
        if probe is not None:
            probe(request)
    except RequestError as error:
        return Fault(error.field, shown_text(error.value), error.allowed, str(error))
    except (ValueError, OSError, Refused) as error:
        given = row.request.values()
        some = next((name for name in given if name in fields and fields[name].kind.has_sources), "")
        column = error.column if isinstance(error, ProbeError) else some
        message = f"{column}: {error}" if column else str(error)
        return Fault(column, shown_text(given.get(column)), str(error), message)
    return None


def shown_text(value: Any) -> str | None:
    """A value as shortened text; None if there is none."""
    if not isinstance(value, str):
        return None if value is None else shown_value(value)
    return shortened(to_record(value), SHOWN_VALUE)


def _as_utf8(text: str) -> str:
    """The text with escapes for lone surrogates, which UTF-8 cannot hold."""
    return text.encode("utf-8", "backslashreplace").decode()


def describe_problems(problems: Sequence[Problem], count: int) -> str:
    """What is wrong with a manifest, one row a line.

    Args:
        problems: The first of them.
        count: How many there are.
    """
    lines = [str(problem) for problem in problems]
    if count > len(lines):
        lines.append(f"and {count - len(lines):,} more")
    return "\n".join(lines)
