"""Distributions of figures of millions of videos, in little memory, whatever the order in which they come."""

from __future__ import annotations

import math

import numpy as np

_BINS_PER_DECADE = 60
_SHORTEST, _DECADES = 1e-4, 12


class ShareDistribution:
    """The distribution of a figure from 0 to 1.

    Attributes:
        count: How many there are.
    """

    BINS = 20_000

    def __init__(self) -> None:
        self.count = 0
        self._bins = np.zeros(self.BINS, np.int64)

    def add(self, values: np.ndarray) -> None:
        """Take figures (N,); those that are no numbers are left out."""
        values = values[np.isfinite(values)]
        places = np.clip(values * self.BINS, 0, self.BINS - 1).astype(np.int64)
        self._bins += np.bincount(places, minlength=self.BINS)
        self.count += len(values)

    def quantile(self, share: float) -> float:
        """The figure below which a share of all lies, to 1 / `BINS`; 0 without any."""
        if not self.count:
            return 0.0
        place = int(np.searchsorted(np.cumsum(self._bins), share * self.count))
        return (min(place, self.BINS - 1) + 0.5) / self.BINS

    def histogram(self, most_bars: int, least_end: float = 0.01) -> tuple[np.ndarray, np.ndarray]:
        """Edges (n + 1,) and counts (n,) of at most so many bars, from 0 to the last or `least_end`."""
        filled = np.flatnonzero(self._bins)
        end = max(int(filled[-1]) + 1 if len(filled) else 0, round(least_end * self.BINS))
        width = _round_up(end / most_bars)
        bars = -(-end // width)
        padded = np.zeros(bars * width, np.int64)
        padded[:end] = self._bins[:end]
        return np.arange(bars + 1) * width / self.BINS, padded.reshape(bars, width).sum(1)


class DurationDistribution:
    """The distribution of durations, to 4 in 100.

    Attributes:
        count: How many there are.
        seconds: Their sum.
    """

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0
        self._bins = np.zeros(_BINS_PER_DECADE * _DECADES, np.int64)
        self._sums = np.zeros(len(self._bins))

    def add(self, values: np.ndarray) -> None:
        """Take durations in seconds (N,); those that are no numbers, or negative, are left out."""
        values = values[np.isfinite(values) & (values >= 0)]
        logs = np.log10(np.maximum(values, _SHORTEST) / _SHORTEST) * _BINS_PER_DECADE
        places = np.minimum(logs.astype(np.int64), len(self._bins) - 1)
        self._bins += np.bincount(places, minlength=len(self._bins))
        self._sums += np.bincount(places, values, minlength=len(self._bins))
        self.count += len(values)
        self.seconds += float(values.sum())

    def quantile(self, share: float) -> float:
        """The seconds below which a share of all lies; 0 without any."""
        if not self.count:
            return 0.0
        place = int(np.searchsorted(np.cumsum(self._bins), share * self.count))
        place = min(place, int(np.flatnonzero(self._bins)[-1]))
        return float(self._sums[place] / max(1, self._bins[place]))


class Timeline:
    """How many videos were done when: counts in intervals, which become longer as the time does.

    Args:
        most: Intervals with a video that are kept, at most.
    """

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._width = 1_000_000
        self._counts: dict[int, int] = {}

    def add(self, times: np.ndarray) -> None:
        """Take times (N,) in microseconds since 1970."""
        starts, counts = np.unique(times // self._width, return_counts=True)
        for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
            self._counts[start] = self._counts.get(start, 0) + count
        while len(self._counts) > self._most:
            self._widen(2)

    def _widen(self, times: int) -> None:
        before, self._counts = self._counts, {}
        self._width *= times
        for start, count in before.items():
            self._counts[start // times] = self._counts.get(start // times, 0) + count

    def series(self, most_bars: int) -> tuple[np.ndarray, np.ndarray]:
        """Edges (n + 1,) in microseconds since 1970 and counts (n,) of at most so many bars; none at all
        without a video."""
        if not self._counts:
            return np.zeros(1, np.int64), np.zeros(0, np.int64)
        first, last = min(self._counts), max(self._counts)
        step = 1
        while last // step - first // step + 1 > most_bars:
            step *= 2
        start = first // step
        counts = np.zeros(last // step - start + 1, np.int64)
        for place, count in self._counts.items():
            counts[place // step - start] += count
        return (start + np.arange(len(counts) + 1)) * step * self._width, counts


def histogram_of(values: np.ndarray, most_bars: int, unit: float) -> tuple[np.ndarray, np.ndarray]:
    """Edges (n + 1,) and counts (n,) of at most so many bars around some figures.

    Args:
        values: Finite figures (N,), at least one.
        most_bars: At least 2.
        unit: The least width of a bar.
    """
    places = np.floor(values / unit).astype(np.int64)
    least, most = int(places.min()), int(places.max()) + 1
    width = _round_up((most - least) / (most_bars - 1))
    first, last = least // width, -(-most // width)
    counts = np.bincount(places // width - first, minlength=last - first)
    return np.arange(first, last + 1) * width * unit, counts


def _round_up(number: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50, …"""
    if number <= 1:
        return 1
    power = 10 ** math.floor(math.log10(number))
    return int(next(step * power for step in (1, 2, 5, 10) if step * power >= number))
