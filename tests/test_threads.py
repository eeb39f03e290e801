"""`map_ahead` gives the results of `map`, in threads and not far ahead."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from vidgen_dist.threads import map_ahead


def test_results_come_in_order_and_few_are_taken_ahead() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        while taken < 1000:
            taken += 1
            yield taken

    for given, result in enumerate(map_ahead(lambda n: n * n, items(), threads=4), 1):
        assert result == given * given
        assert taken < given + 8
    assert taken == 1000


def test_as_many_run_at_once_as_there_are_threads() -> None:
    together = threading.Barrier(4, timeout=30)
    assert sorted(map_ahead(lambda _: together.wait(), range(4), threads=4)) == [0, 1, 2, 3]


def test_what_fails_is_raised_in_its_place() -> None:
    results = map_ahead(lambda n: 1 // n, [1, 1, 0, 1], threads=2)
    assert [next(results), next(results)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_who_stops_early_leaves_no_thread() -> None:
    before = threading.active_count()
    results = map_ahead(str, range(1000), threads=4)
    assert next(results) == "0"
    results.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
