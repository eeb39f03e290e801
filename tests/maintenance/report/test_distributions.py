"""Distributions say what the figures say, whatever the order in which they come."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidgen_dist.maintenance.report.distributions import (
    DurationDistribution,
    ShareDistribution,
    Timeline,
    histogram_of,
)

SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=50)
DURATIONS = st.lists(st.floats(0.001, 1e6), min_size=1, max_size=50)


@given(values=SHARES, share=st.floats(0.01, 1))
def test_shares(values: list[float], share: float) -> None:
    distribution = ShareDistribution()
    for some in (values[:7], [*values[7:], float("nan")]):
        distribution.add(np.array(some))
    assert distribution.count == len(values)
    exact = float(np.quantile(values, share, method="inverted_cdf"))
    assert distribution.quantile(share) == pytest.approx(exact, abs=1.1 / ShareDistribution.BINS)
    edges, counts = distribution.histogram(40)
    assert counts.sum() == len(values)
    assert len(edges) == len(counts) + 1 <= 41
    assert edges[0] == 0
    assert edges[-1] >= min(max(values), 1 - 1 / ShareDistribution.BINS)


@given(values=DURATIONS, share=st.floats(0.01, 1))
def test_durations(values: list[float], share: float) -> None:
    distribution = DurationDistribution()
    distribution.add(np.array([*values, float("nan"), -1.0]))
    assert distribution.count == len(values)
    assert distribution.seconds == pytest.approx(sum(values))
    exact = float(np.quantile(values, share, method="inverted_cdf"))
    assert distribution.quantile(share) == pytest.approx(exact, rel=0.04)


@given(
    seconds=st.lists(st.integers(0, 10**6), min_size=1, max_size=60),
    most=st.integers(2, 20),
    bars=st.integers(1, 10),
)
def test_times(seconds: list[int], most: int, bars: int) -> None:
    times = 1_800_000_000_000_000 + np.array(seconds) * 1_000_000
    series = []
    for order in (times, times[::-1]):
        timeline = Timeline(most)
        for time in order:
            timeline.add(np.array([time]))
        series.append(timeline.series(bars))
    edges, counts = series[0]
    assert counts.sum() == len(times)
    assert len(edges) == len(counts) + 1 <= bars + 1
    assert edges[0] <= times.min()
    assert times.max() < edges[-1]
    expected, _ = np.histogram(times, edges)
    assert counts.tolist() == expected.tolist()
    assert [each.tolist() for each in series[1]] == [edges.tolist(), counts.tolist()]


def test_nothing() -> None:
    assert ShareDistribution().quantile(0.5) == DurationDistribution().quantile(0.5) == 0
    edges, counts = ShareDistribution().histogram(10)
    assert (edges[-1], counts.sum()) == (0.01, 0)
    assert len(Timeline().series(10)[1]) == 0


@given(values=st.lists(st.floats(-1, 100), min_size=1, max_size=50), most=st.integers(2, 60))
def test_a_histogram_has_all_figures(values: list[float], most: int) -> None:
    edges, counts = histogram_of(np.array(values), most, 0.01)
    assert counts.sum() == len(values)
    assert len(edges) == len(counts) + 1 <= most + 1
    assert edges[0] <= min(values) + 1e-9
    assert edges[-1] >= max(values)


def test_a_histogram_of_equal_figures_has_one_bar() -> None:
    edges, counts = histogram_of(np.array([0.99, 0.99]), 20, 0.01)
    assert counts.tolist() == [2]
    assert edges == pytest.approx([0.99, 1.0])
