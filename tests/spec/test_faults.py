"""How many rows may fail."""

from __future__ import annotations

import math
from typing import Any

import pytest

from vidgen_dist.spec import FaultsOptions


@pytest.mark.parametrize(
    ("given", "tried", "rows", "allowed"),
    [
        (None, 1000, 1000, math.inf),
        (0, 1000, 1000, 0),
        (7, 1, 1000, 7),
        ("5%", 1, 1000, 5),
        ("5%", 1000, 10_000, 50),
        ("2.5 %", 1, 40, 1),
        ("0%", 1000, 1000, 0),
    ],
)
def test_failures_that_a_run_puts_up_with(given: Any, tried: int, rows: int, allowed: float) -> None:
    assert FaultsOptions(max_failures=given).failures_allowed(tried, rows) == allowed


@pytest.mark.parametrize(
    ("given", "tried", "rows", "bad", "allowed"),
    [
        (None, 0, 0, 1000, math.inf),
        (7, 0, 100, 7, 0),
        (7, 0, 100, 8, -1),
        ("100%", 0, 0, 10, 0),
        ("99%", 0, 0, 100, -1),
        ("29%", 0, 71, 29, 0),
        # Four of a hundred are bad: of the others, about one of a hundred may fail.
        ("5%", 1000, 9600, 400, 1000 / 96),
        ("5%", 9600, 9600, 400, 100),
        ("4%", 1000, 9600, 400, 0),
    ],
)
def test_bad_rows_count_as_failures(given: Any, tried: int, rows: int, bad: int, allowed: float) -> None:
    assert FaultsOptions(max_failures=given).failures_allowed(tried, rows, bad) == pytest.approx(allowed)
