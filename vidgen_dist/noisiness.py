"""How much a video looks like noise, as those of models do whose weights or arithmetic went wrong in silence.

Pictures have structure at every scale: the means of large blocks differ about as much as those of small ones.
Noise has none beyond its grain, however coarse that is (a VAE that decodes noise gives spots of 8 to 32
pixels): from there on the variance of blocks' means falls with their area, to a quarter whenever they double.
That is looked at from blocks of 4 pixels up to the largest of which there are enough. Three things are asked
beside: whether what varies does so alike all over the frame (drawings, confetti, leaves and rain do not),
whether what lies apart is alike (patterns), and whether successive frames have anything to do with each other
(noise may have large scales, but hardly twice the same).

Sums are of whole numbers: exact, and the same on every host.
"""

from __future__ import annotations

import math

import numpy as np

FINEST = 4
"""Pixels of the smallest blocks' sides. Single pixels tell no more, and cost sixteen times as much."""

_SMALL, _MIDDLE = 8, 16
_COARSEST = 128
# Of fewer blocks of the middle size nothing can be said of a frame.
_FEWEST = 16
# Of fewer blocks a variance is too rough to be the coarsest.
_FEWEST_COARSE = 24
# Every fourth frame is looked at, with the one that follows it.
_STRIDE = 4

# Less is kept only of patterns that repeat, such as tiles, which chance leaves more even than noise.
_REGULAR = 0.12

# Blocks so far apart are compared: of noise they are no part of one spot.
_APART = range(3, 9)

# Standard deviation of the small blocks' means, of 255 and over three channels, below which a video is plain:
# grey noise of 1.4 has it.
_PLAIN = 0.6


class NoiseMeter:
    """Measures frames that come one after the other; holds the sums of one of them."""

    def __init__(self) -> None:
        self._frames = 0
        self._variances: dict[int, float] = {}
        self._looked_at = 0
        self._steps = {size: _Steps() for size in (FINEST, _SMALL)}
        self._repetition = 0.0
        self._related: list[float] = []
        self._before: np.ndarray | None = None

    def add(self, frame: np.ndarray) -> None:
        """Take the next frame, (H, W, 3) uint8."""
        index, self._frames = self._frames, self._frames + 1
        if index % _STRIDE > 1:
            return
        sums = {FINEST: _finest(frame)}
        while (size := max(sums)) < _COARSEST and min(sums[size].shape[:2]) >= 2:
            sums[2 * size] = _merged(sums[size])
        if _MIDDLE not in sums or _count(sums[_MIDDLE]) < _FEWEST:
            return
        self._looked_at += 1
        for size, each in sums.items():
            if size <= _MIDDLE or _count(each) >= _FEWEST_COARSE:
                # Of means, from that of sums.
                shifted = each if size < _MIDDLE else _overlapping(sums[size // 2])
                variance = _centred_product(shifted, shifted) / _count(shifted) / size**4
                self._variances[size] = self._variances.get(size, 0.0) + variance
        for size, steps in self._steps.items():
            steps.add(sums[size])
        coarsest = max(self._variances)
        if self._looked_at == 1:
            self._repetition = _repetition(sums[_step(coarsest)])
        # Larger ones keep what they show longer when a camera moves.
        here = sums[coarsest // 2]
        if index % _STRIDE == 1 and self._before is not None:
            self._related.append(_correlation(self._before, here))
        self._before = here

    def noisiness(self) -> float | None:
        """From 0 to 1, more for what looks more like noise; None of frames below 64x64."""
        if not self._looked_at:
            return None
        variances = {size: total / self._looked_at for size, total in self._variances.items()}
        if math.sqrt(variances[FINEST]) < _PLAIN:
            return 0.0
        evenness = self._steps[_SMALL].evenness()
        # Patterns that repeat, such as tiles, may be more even than noise.
        alike = min(_ramp(evenness, 0.70, 0.80), _ramp(evenness, 0.92, 0.86))
        if variances[_SMALL] < 0.95 * variances[FINEST]:
            # Not the squares of noise made larger, whose edges are as uneven as those of drawn things.
            alike = min(alike, _ramp(self._steps[FINEST].evenness(), 0.60, 0.76))
        shapeless = min(_ramp(self._kept(variances), 0.65, 0.25), self._free(variances))
        # One pair may be a cut.
        pairs = len(self._related)
        unrelated = (
            _ramp(sum(self._related) / pairs, 0.8, 0.0) if pairs > 1 and max(variances) > _MIDDLE else 0.0
        )
        return min(alike, max(shapeless, unrelated))

    def _free(self, variances: dict[int, float]) -> float:
        """1 if what lies apart is not alike, 0 if it is, as in patterns."""
        if max(variances) == _MIDDLE:
            # Of few blocks, those of noise are alike by chance.
            return _ramp(self._repetition, 0.85, 0.65)
        return _ramp(self._repetition, 0.45, 0.30)

    def _kept(self, variances: dict[int, float]) -> float:
        """What is left of blocks' variance when their sides double: 1/4 of noise."""
        coarsest = max(variances)
        step = _step(coarsest)
        coarse = (variances[coarsest] / variances[step]) ** (1 / math.log2(coarsest / step))
        # Fine noise is seen from the smallest blocks on, and more surely; a texture comes close to it.
        fine = math.sqrt(variances[_MIDDLE] / variances[FINEST])
        if min(fine, coarse, variances[_SMALL] / variances[FINEST]) < _REGULAR:
            return 1.0
        if coarsest == _MIDDLE:
            # Of so few blocks chance alone makes a picture look like noise.
            coarse += 0.13
        return min(fine + 0.1, coarse) + self._relation()

    def _relation(self) -> float:
        """What successive frames say beside: noise rarely moves, but stays or is another one each time."""
        if not self._related:
            return 0.0
        median = sorted(self._related)[len(self._related) // 2]
        if median < 0.3:
            return -0.08
        return 0.05 if median < 0.995 else 0.0


class _Steps:
    """The differences between neighbouring blocks of one size."""

    def __init__(self) -> None:
        self._absolute = np.zeros(3, np.int64)
        self._squared = np.zeros(3, np.int64)
        self._count = 0

    def add(self, sums: np.ndarray) -> None:
        for axis in (0, 1):
            steps = np.diff(sums, axis=axis)
            self._absolute += np.abs(steps).sum((0, 1))
            self._squared += np.square(steps).sum((0, 1))
            self._count += _count(steps)

    def evenness(self) -> float:
        """Their mean over their root mean square: 0.8 of noise, less where few are large."""
        pairs = [(int(a), int(s)) for a, s in zip(self._absolute, self._squared, strict=True)]
        energy = sum(squared for _, squared in pairs)
        # Each channel counts as much as it varies.
        weighted = sum(absolute * math.sqrt(squared) for absolute, squared in pairs)
        return weighted / math.sqrt(self._count) / energy if energy else 0.0


def _step(coarsest: int) -> int:
    """The blocks that the coarsest are compared with."""
    return max(_SMALL, coarsest // 4)


def _repetition(sums: np.ndarray) -> float:
    """The largest correlation, of either sign, of blocks that lie 3 to 8 apart in a row or column."""
    found = [0.0]
    for apart in _APART:
        for one in (sums, sums.transpose(1, 0, 2)):
            if apart < len(one) - 1:
                found.append(abs(_correlation(one[:-apart], one[apart:])))
    return max(found)


def _finest(frame: np.ndarray) -> np.ndarray:
    """Sums of the smallest blocks: (H // 4, W // 4, 3) int64."""
    height, width = (side // FINEST for side in frame.shape[:2])
    whole = frame[: height * FINEST, : width * FINEST]
    rows = sum(whole[start::FINEST].astype(np.uint16) for start in range(FINEST))
    return np.asarray(rows).reshape(height, width, FINEST, 3).sum(2, dtype=np.int64)


def _merged(sums: np.ndarray) -> np.ndarray:
    """Sums of blocks of twice the side."""
    height, width = (side // 2 * 2 for side in sums.shape[:2])
    even = sums[:height, :width]
    rows = even[::2] + even[1::2]
    return rows[:, ::2] + rows[:, 1::2]


def _overlapping(sums: np.ndarray) -> np.ndarray:
    """Likewise, each beginning in the middle of the one before: more of them, where there are few."""
    rows = sums[:-1] + sums[1:]
    return rows[:, :-1] + rows[:, 1:]


def _count(sums: np.ndarray) -> int:
    return sums.shape[0] * sums.shape[1]


def _centred_product(one: np.ndarray, other: np.ndarray) -> float:
    """Sum of the products of what differs from each channel's mean."""
    products = int((one * other).sum())
    means = sum(
        int(one[..., channel].sum()) * int(other[..., channel].sum()) for channel in range(one.shape[-1])
    )
    return products - means / _count(one)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    spread = math.sqrt(_centred_product(one, one) * _centred_product(other, other))
    return _centred_product(one, other) / spread if spread else 1.0


def _ramp(value: float, zero: float, one: float) -> float:
    """0 up to one end, 1 from the other on, straight in between."""
    return min(1.0, max(0.0, (value - zero) / (one - zero)))
