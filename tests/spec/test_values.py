"""Sizes and durations, as flags and run files have them."""

from __future__ import annotations

import pytest

from vidgen_dist.spec import parse_bytes, parse_seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64GB", 64 * 10**9),
        ("64 gib", 64 * 2**30),
        ("1.5KB", 1500),
        ("2TB", 2 * 10**12),
        ("0.5MiB", 2**19),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["64", "GB", "0GB", "-1GB", "64GBs", "1e3GB", "64B", ""])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="such as 64GB"):
        parse_bytes(text)


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("0s", 0), ("1.5 m", 90), ("2h", 7200)])
def test_spans(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds
