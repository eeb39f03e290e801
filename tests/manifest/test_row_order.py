"""Rows come by priority, with rows of one shape together, whatever the files; only windows are held."""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.manifest.parquet import write
from vidgen_dist.manifest import Manifest, check, open_manifest, ordered_rows, reader
from vidgen_dist.manifest.reader import ReadPolicy
from vidgen_dist.manifest.row_order import OrderPolicy
from vidgen_dist.storage.failures import StorageError

MODEL_DEFAULTS = {"height": 16, "width": 32, "guidance_scale": 6.0}
RUN_DEFAULTS = {"width": 48}

SHAPE_TYPES = [
    pa.int32(),
    pa.uint64(),
    pa.float64(),
    pa.decimal128(12, 2),
    pa.dictionary(pa.int8(), pa.int32()),
]
PRIORITY_TYPES = [pa.int64(), pa.int8(), pa.uint32(), pa.dictionary(pa.int8(), pa.int64()), pa.null()]
LEAST, MOST = -(2**63), 2**63 - 1


@dataclass(frozen=True)
class Wish:
    """The values of a row that decide its place in the order."""

    priority: int | None
    height: int | None
    width: int | None
    lora: str | None = None

    def shape(self) -> tuple[int, int]:
        return self.height or 16, self.width or 48


wishes = st.builds(
    Wish,
    priority=st.sampled_from([None, 0, 1, 2, -3, LEAST, MOST]),
    height=st.sampled_from([None, 16, 32]),
    width=st.sampled_from([None, 48, 64]),
    lora=st.sampled_from([None, "org/a", "org/b"]),
)


def column(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_null(kind):
        return pa.nulls(len(values))
    if pa.types.is_dictionary(kind):
        return pa.array(values, kind.value_type).dictionary_encode()
    return pa.array(values, kind)


def columns_of(
    rows: list[Wish], first: int, shape: pa.DataType, priority: pa.DataType
) -> dict[str, pa.Array]:
    """A file's columns, possibly without those that no row needs."""
    columns = {
        "prompt": pa.array([f"p{first + n}" for n in range(len(rows))], pa.string()),
        "height": column([row.height for row in rows], shape),
        "width": column([row.width for row in rows], shape),
    }
    loras = [row.lora for row in rows]
    columns["lora"] = pa.array(loras, pa.string())
    priorities = [row.priority for row in rows]
    if any(each is not None for each in priorities):
        small = not pa.types.is_null(priority) and all(each is None or 0 <= each < 100 for each in priorities)
        columns["priority"] = column(priorities, priority if small else pa.int64())
    elif pa.types.is_null(priority):
        columns["priority"] = pa.nulls(len(rows))
    return columns


def in_order(rows: list[Wish], wanted: list[bool], window: int) -> list[int]:
    """The promised order, computed row by row."""
    order = []
    places = [place for place, want in enumerate(wanted) if want]
    for priority in sorted({rows[place].priority or 0 for place in places}, reverse=True):
        level = [place for place in places if (rows[place].priority or 0) == priority]
        for start in range(0, len(level), window):
            here = level[start : start + window]
            loras = list(dict.fromkeys(rows[place].lora for place in here))
            shapes = list(dict.fromkeys((rows[place].lora, rows[place].shape()) for place in here))
            order += sorted(
                here,
                key=lambda place: (
                    loras.index(rows[place].lora),
                    shapes.index((rows[place].lora, rows[place].shape())),
                ),
            )
    return order


@settings(max_examples=40)
@given(
    files=st.lists(st.lists(wishes, max_size=20), min_size=1, max_size=3),
    group=st.integers(1, 12),
    sizes=st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 5)),
    shape=st.sampled_from(SHAPE_TYPES),
    priority=st.sampled_from(PRIORITY_TYPES),
    cramped=st.booleans(),
    data=st.data(),
)
def test_the_wanted_rows_come_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[list[Wish]],
    group: int,
    sizes: tuple[int, int, int],
    shape: pa.DataType,
    priority: pa.DataType,
    cramped: bool,
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("m")
    rows = [row for file in files for row in file]
    for number, file in enumerate(files):
        first = sum(map(len, files[:number]))
        write(folder / f"{number}.parquet", columns_of(file, first, shape, priority), row_group_size=group)
    wanted = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    window, batch, chunk = sizes
    manifest = dataclasses.replace(open_manifest(folder), reading=ReadPolicy(column_rows=batch))
    assert check(manifest).ok
    policy = OrderPolicy(window_rows=window, chunk_rows=chunk)
    if cramped:
        policy = dataclasses.replace(policy, window_bytes=1, chunk_bytes=1)
    found = list(ordered_rows(manifest, np.array(wanted, np.bool_), RUN_DEFAULTS, MODEL_DEFAULTS, policy))
    whole = list(manifest.rows(RUN_DEFAULTS))
    assert [row for _, row in found] == [whole[place] for place, _ in found]
    places = [place for place, _ in found]
    if cramped:
        # A batch is a window.
        assert sorted(places) == np.flatnonzero(wanted).tolist()
        levels = [rows[place].priority or 0 for place in places]
        assert levels == sorted(levels, reverse=True)
    else:
        assert places == in_order(rows, wanted, window)


def numbered(path: Path, rows: int, **columns: Any) -> Manifest:
    """A manifest with row groups of ten rows."""
    return open_manifest(write(path, {"prompt": [f"p{n}" for n in range(rows)]} | columns, row_group_size=10))


def everything(manifest: Manifest, **policy: int) -> Iterator[tuple[int, Any]]:
    return ordered_rows(manifest, np.ones(manifest.num_rows, np.bool_), {}, {}, OrderPolicy(**policy))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[int, bool]]:
    """How often row groups were read: (number, whether only for the priorities) -> times."""
    counted: Counter[tuple[int, bool]] = Counter()
    read = reader.read_group

    def counting(file: Any, group: int, columns: Any, most_rows: int) -> Any:
        counted[group, tuple(columns) == ("priority",)] += 1
        return read(file, group, columns, most_rows)

    monkeypatch.setattr(reader, "read_group", counting)
    return counted


def test_without_priority_and_shape_rows_are_read_as_they_are_asked_for(
    tmp_path: Path, reads: Counter[tuple[int, bool]]
) -> None:
    rows = everything(numbered(tmp_path / "m.parquet", 100))
    assert next(rows)[0] == 0
    assert reads == {(0, False): 1}
    assert [place for place, _ in rows] == list(range(1, 100))
    assert set(reads.values()) == {1}


def test_each_priority_is_read_in_one_pass_over_its_row_groups(
    tmp_path: Path, reads: Counter[tuple[int, bool]]
) -> None:
    # Groups 0 and 1 have rows of both, the others of one.
    priority = [0, 1] * 10 + [1] * 40 + [0] * 40
    manifest = numbered(tmp_path / "m.parquet", 100, priority=priority)
    places = [place for place, _ in everything(manifest, window_rows=4)]
    assert places == sorted(range(100), key=lambda place: -priority[place])
    assert [reads[group, False] for group in range(10)] == [2, 2] + [1] * 8
    assert [reads[group, True] for group in range(10)] == [1] * 10


def test_many_priorities_are_read_together(tmp_path: Path, reads: Counter[tuple[int, bool]]) -> None:
    priority = np.random.default_rng(0).permutation(100)
    manifest = numbered(tmp_path / "m.parquet", 100, priority=priority)
    places = [place for place, _ in everything(manifest, window_rows=30)]
    assert priority[places].tolist() == list(range(99, -1, -1))
    assert max(reads.values()) <= 4


@pytest.mark.parametrize("asked", [False, True])
def test_who_asks_no_more_ends_the_reading(tmp_path: Path, asked: bool) -> None:
    before = set(threading.enumerate())
    rows = everything(numbered(tmp_path / "m.parquet", 1000, height=[16, 32] * 500), window_rows=10)
    assert set(threading.enumerate()) > before
    assert not asked or next(rows)[0] == 0
    del rows
    assert set(threading.enumerate()) == before


def test_a_file_that_changes_is_named_when_it_is_read_on(tmp_path: Path) -> None:
    rows = everything(numbered(tmp_path / "m.parquet", 100, height=[16, 32] * 50), window_rows=10)
    next(rows)
    numbered(tmp_path / "other.parquet", 100, height=[16, 64] * 50)
    # At once: what reads ahead would find half a file.
    (tmp_path / "other.parquet").replace(tmp_path / "m.parquet")
    with pytest.raises(StorageError, match=r"m\.parquet: the manifest was changed while in use"):
        list(rows)


@pytest.mark.parametrize("levels", [1, 3, 600])
def test_windows_are_bounded_by_bytes(tmp_path: Path, levels: int) -> None:
    # 600 rows of 64 KiB: the whole would be 37 MiB.
    columns = {
        "image": pa.array([np.random.default_rng(n).bytes(2**16) for n in range(600)], pa.binary()),
        "height": [16, 32] * 300,
        "priority": [n * 7 % levels for n in range(600)],
    }
    manifest = numbered(tmp_path / "m.parquet", 600, **columns)
    del columns
    pool = pa.default_memory_pool()
    before, most = pool.bytes_allocated(), 0
    places = set()
    for place, _ in everything(manifest, window_bytes=2**20):
        places.add(place)
        most = max(most, pool.bytes_allocated() - before)
    assert len(places) == 600
    assert 0 < most < 6 * 2**20
