"""What a sample takes: what went wrong first, of each kind some, and always some of the others."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidgen_dist.maintenance.report.sample import Group, Sample, allot, share_evenly

FAILED, OTHER, FLAGGED, ORDINARY = Group(0, "A"), Group(0, "B"), Group(1, "noise"), Group(2, "")
GROUPS = (FAILED, OTHER, FLAGGED, ORDINARY)


@pytest.mark.parametrize(
    ("counts", "rows", "expected"),
    [
        ((3, 2, 4, 1000), 40, (3, 2, 4, 31)),
        # One in four is an ordinary video, where there is one.
        ((1000, 2, 1000, 1000), 40, (13, 2, 15, 10)),
        ((1000, 2, 1000, 4), 40, (16, 2, 18, 4)),
        ((1000, 1000, 0, 0), 7, (4, 3, 0, 0)),
        ((1, 0, 0, 5), 100, (1, 0, 0, 5)),
        ((5, 0, 5, 5), 1, (1, 0, 0, 0)),
    ],
)
def test_rooms(counts: tuple[int, ...], rows: int, expected: tuple[int, ...]) -> None:
    given = {group: count for group, count in zip(GROUPS, counts, strict=True) if count}
    rooms = allot(given, rows)
    assert tuple(rooms.get(group, 0) for group in GROUPS) == expected


@given(counts=st.lists(st.integers(0, 30), min_size=4, max_size=4), rows=st.integers(1, 60))
def test_a_sample_is_as_large_as_it_can_be(counts: list[int], rows: int) -> None:
    rooms = allot(dict(zip(GROUPS, counts, strict=True)), rows)
    assert sum(rooms.values()) == min(rows, sum(counts))
    assert all(rooms[group] <= count for group, count in zip(GROUPS, counts, strict=True))


@given(wanted=st.lists(st.integers(0, 20), max_size=6), room=st.integers(0, 50))
def test_parts_are_even(wanted: list[int], room: int) -> None:
    parts = share_evenly(wanted, room)
    assert sum(parts) == min(room, sum(wanted))
    for part, most in zip(parts, wanted, strict=True):
        assert part <= most
        if part < most:
            assert part >= max(parts) - 1


@given(seed=st.integers(0, 100), cuts=st.lists(st.integers(0, 200), max_size=5), rows=st.integers(1, 20))
def test_chance_is_the_same_whatever_the_order(seed: int, cuts: list[int], rows: int) -> None:
    order = np.random.default_rng(seed).permutation(200)
    sample = Sample(rows)
    for places in np.split(order, sorted(cuts)):
        codes = np.where(places % 10 == 0, 0, 1)
        sample.add([FAILED, ORDINARY], codes, places, pa.table({"place": places}))
    assert sample.counts == {FAILED: 20, ORDINARY: 180}
    chosen = {group: [row["place"] for row in some] for group, some in sample.choose().items()}
    rooms = allot(sample.counts, rows)
    everything = {FAILED: range(0, 200, 10), ORDINARY: [n for n in range(200) if n % 10]}
    assert chosen == {group: list(everything[group])[:room] for group, room in rooms.items() if room}
