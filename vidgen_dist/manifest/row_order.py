"""The order in which rows are rendered: by priority, rows with the same LoRAs and of one shape together.

Rows of a higher `priority` come first. Rows of the same priority are taken in the manifest's order, one
window at a time (`OrderPolicy`). Within a window, rows with the same LoRAs come together, so that a renderer
seldom changes weights; and among these, rows of the same shape, so that it can reuse compiled graphs and
buffers. LoRAs and shapes come in the order of their first rows in the manifest, and rows that have both alike
keep the manifest's order.

Windows are held by columns; the next one is read while one is handed out. All windows of a priority are read
in one pass over the row groups that have rows of it. Priorities with few rows are read together, as many as a
window holds: however many priorities N rows have, there are at most 1 + 2 * N / window_rows passes, unless
windows are full by bytes.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from vidgen_dist.manifest.batches import Batch
from vidgen_dist.manifest.columns import whole_numbers
from vidgen_dist.manifest.reader import Manifest
from vidgen_dist.manifest.rows import Row

_LORAS = ("lora", "lora_scale")
"""The fields that decide which LoRAs a row has."""


@dataclass(frozen=True)
class OrderPolicy:
    """How many rows are put in order together, and how much memory that takes.

    Args:
        window_rows: Rows of a window. The more there are, the more rows of one shape follow each other; the
            fewer, the closer the order is to the manifest's.
        window_bytes: Bytes of a window's columns: rows may carry images, and two windows are held.
        chunk_rows: Rows that are Python objects at the same time.
        chunk_bytes: Bytes of these rows.
    """

    window_rows: int = 2**16
    window_bytes: int = 128 * 2**20
    chunk_rows: int = 1024
    chunk_bytes: int = 16 * 2**20


@dataclass(frozen=True, eq=False)
class Window:
    """Rows that are put in order together.

    Args:
        pieces: The rows by columns, in the manifest's order; each piece with its rows' places, int64 (n,).
    """

    pieces: tuple[tuple[np.ndarray, Batch], ...]

    @cached_property
    def places(self) -> np.ndarray:
        """The rows' places in the manifest: int64 (N,)."""
        return np.concatenate([places for places, _ in self.pieces])

    def shapes(self, defaults: Mapping[str, int | None]) -> list[np.ndarray]:
        """The values of each field that decides shapes: int64 (N,), 0 where there is no value."""
        return [self._field(name, default or 0) for name, default in defaults.items()]

    def loras(self) -> np.ndarray:
        """A number for the LoRAs of each row, the same for the same LoRAs: int64 (N,)."""
        numbers: dict[str, int] = {}
        found = []
        for _, batch in self.pieces:
            columns = [batch.columns.column(n).to_pylist() for n in _LORAS if n in batch.fields]
            if columns:
                texts = map(str, zip(*columns, strict=True))
                found.append(np.array([numbers.setdefault(text, len(numbers)) for text in texts], np.int64))
            else:
                found.append(np.full(len(batch), numbers.setdefault("", len(numbers)), np.int64))
        return np.concatenate(found)

    def _field(self, name: str, missing: int) -> np.ndarray:
        return np.concatenate(
            [
                whole_numbers(batch.columns.column(name), missing)
                if name in batch.fields
                else np.full(len(batch), missing)
                for _, batch in self.pieces
            ]
        )

    def rows(self, order: np.ndarray, policy: OrderPolicy) -> Iterator[tuple[int, Row]]:
        """The rows, each with its place in the manifest, in the order given: int64 (N,)."""
        size = sum(batch.columns.nbytes for _, batch in self.pieces)
        step = max(1, min(policy.chunk_rows, len(order) * policy.chunk_bytes // max(1, size)))
        starts = np.cumsum([0, *(len(batch) for _, batch in self.pieces)])
        for begin in range(0, len(order), step):
            chunk = order[begin : begin + step]
            owner = np.searchsorted(starts, chunk, side="right") - 1
            made: dict[int, Row] = {}
            for number in np.unique(owner).tolist():
                mine = chunk[owner == number]
                made.update(
                    zip(mine.tolist(), self.pieces[number][1].pick(mine - starts[number]), strict=True)
                )
            for at in chunk.tolist():
                yield int(self.places[at]), made[at]


def ordered_rows(
    manifest: Manifest,
    wanted: np.ndarray,
    defaults: Mapping[str, Any],
    model_defaults: Mapping[str, Any],
    policy: OrderPolicy = OrderPolicy(),
) -> Iterator[tuple[int, Row]]:
    """Some rows in the order in which they are to be rendered, each with its place in the manifest.

    Without priorities and shapes, rows are read as they are asked for, as by `Manifest.rows`. Otherwise
    reading starts at once, in a thread that ends with the iterator.

    Args:
        manifest: A manifest that was checked.
        wanted: Which rows to read: bool (rows,).
        defaults: Values of request fields for rows without one.
        model_defaults: The model's values where there is no default either; they only decide shapes.
        policy: How many rows are put in order together.

    Raises:
        StorageError: A file cannot be read or has changed since it was opened.
    """
    deciding = [name for name, field in manifest.row_schema.fields.items() if field.shape]
    if not manifest.has_priorities and not any(name in manifest.columns for name in (*deciding, *_LORAS)):
        rows = manifest.rows(defaults, wanted)
        return ((int(place), row) for place, row in zip(np.flatnonzero(wanted), rows, strict=True))
    shape = {name: {**model_defaults, **defaults}.get(name) for name in deciding}
    ended = threading.Event()
    reading = _read_ahead(_ordered_windows(manifest, wanted, defaults, shape, ended, policy), ended)
    next(reading)
    return itertools.chain.from_iterable(
        window.rows(order, policy) for window, order in filter(None, reading)
    )


def _read_ahead(
    windows: Iterator[tuple[Window, np.ndarray]], ended: threading.Event
) -> Iterator[tuple[Window, np.ndarray] | None]:
    """First None, once reading has started; then the windows, the next one read while one is used."""
    with ThreadPoolExecutor(1, "manifest") as pool:
        try:
            coming = pool.submit(next, windows, None)
            yield None
            while (window := coming.result()) is not None:
                coming = pool.submit(next, windows, None)
                yield window
        finally:
            ended.set()


def _ordered_windows(
    manifest: Manifest,
    wanted: np.ndarray,
    defaults: Mapping[str, Any],
    shape: Mapping[str, int | None],
    ended: threading.Event,
    policy: OrderPolicy,
) -> Iterator[tuple[Window, np.ndarray]]:
    """Windows, each with the order of its rows."""
    if not manifest.has_priorities:
        for window in _windows(manifest, wanted, defaults, ended, policy):
            yield window, _order(np.zeros_like(window.places), window.loras(), window.shapes(shape))
        return
    # The complement reverses the order, and unlike the negative it exists for every int64.
    levels = ~manifest.priorities()
    for window in _level_windows(manifest, wanted, defaults, levels, ended, policy):
        yield window, _order(levels[window.places], window.loras(), window.shapes(shape))


def _order(levels: np.ndarray, loras: np.ndarray, shapes: Sequence[np.ndarray]) -> np.ndarray:
    """The order by level; within a level rows with the same LoRAs are together, and among these rows of a
    shape. All arrays are (N,)."""
    keys = np.stack([levels, loras, *shapes])
    if (keys == keys[:, :1]).all():
        return np.arange(len(levels))
    return np.lexsort((_first_alike(keys), _first_alike(keys[:2]), levels))


def _first_alike(keys: np.ndarray) -> np.ndarray:
    """For each row the place of the first row with the same keys, (K, N): int64 (N,)."""
    _, first, group = np.unique(keys, axis=1, return_index=True, return_inverse=True)
    return first[group]


def _windows(
    manifest: Manifest,
    wanted: np.ndarray,
    defaults: Mapping[str, Any],
    ended: threading.Event,
    policy: OrderPolicy,
) -> Iterator[Window]:
    """Some rows, in order, a window at a time; stops once `ended` is set."""
    held: list[tuple[np.ndarray, Batch]] = []
    rows = size = 0
    for places, batch in manifest.wanted_batches(defaults, wanted):
        if ended.is_set():
            return
        if held and size + batch.columns.nbytes > policy.window_bytes:
            yield Window(tuple(held))
            held, rows, size = [], 0, 0
        while rows + len(batch) >= policy.window_rows:
            room = policy.window_rows - rows
            yield Window((*held, (places[:room], batch.slice(0, room))))
            held, rows, size = [], 0, 0
            places, batch = places[room:], batch.slice(room, len(batch))
        if len(batch):
            held.append((places, batch))
            rows, size = rows + len(batch), size + batch.columns.nbytes
    if held:
        yield Window(tuple(held))


def _level_windows(
    manifest: Manifest,
    wanted: np.ndarray,
    defaults: Mapping[str, Any],
    levels: np.ndarray,
    ended: threading.Event,
    policy: OrderPolicy,
) -> Iterator[Window]:
    """Likewise, the lowest level first. A window holds rows of one level, or several whole levels."""
    places = np.flatnonzero(wanted)
    places = places[np.argsort(levels[places], kind="stable")]
    ordered = levels[places]
    changes = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    del ordered
    bounds = np.concatenate([[0], changes, [len(places)]])
    at, most = 0, policy.window_rows
    while at < len(bounds) - 1:
        end = max(at + 1, int(np.searchsorted(bounds, bounds[at] + most, side="right")) - 1)
        some = np.zeros(len(wanted), np.bool_)
        some[places[bounds[at] : bounds[end]]] = True
        windows = _windows(manifest, some, defaults, ended, policy)
        first = next(windows, None)
        if first is None:
            return
        if end > at + 1 and len(first.places) < bounds[end] - bounds[at]:
            # The window was full by bytes before it had all levels.
            most = len(first.places) // 2
            continue
        yield first
        del first
        yield from windows
        at = end
