"""How much a video looks like noise, as it does if a model's weights or arithmetic are wrong without error.

Pictures have structure at every scale: the means of large blocks differ about as much as those of small ones.
Noise has no structure beyond its grain, however coarse that is (a VAE that decodes noise gives spots of 8 to
32 pixels): beyond it, the variance of blocks' means falls with their area, to a quarter whenever the side
doubles. This is measured from blocks of 4 pixels up to the largest of which there are enough. Three more
questions are asked: whether variation is the same all over the frame (in drawings, confetti, leaves and rain
it is not), whether distant parts are alike (patterns), and whether successive frames are related (noise may
have large scales, but hardly the same ones twice).

Sums are of whole numbers: exact, and the same on every host.
"""

from __future__ import annotations

import math

import numpy as np

FINEST = 4
"""Side of the smallest blocks, in pixels. Single pixels show no more and cost sixteen times as much."""

_SMALL, _MIDDLE = 8, 16
_COARSEST = 128
# With fewer blocks of the middle size, a frame cannot be judged.
_FEWEST = 16
# With fewer blocks, a variance is too rough to be the coarsest.
_FEWEST_COARSE = 24
# Every fourth frame is measured, with the one that follows it.
_STRIDE = 4

# Less variance remains only for repeating patterns, such as tiles, which may be more even than noise.
_REGULAR = 0.12

# Blocks this far apart are compared: in noise they do not belong to the same spot.
_APART = range(3, 9)

# Standard deviation of the small blocks' means, of 255 and over three channels, below which a video is plain;
# that of grey noise with a deviation of 1.4.
_PLAIN = 0.6


class NoiseMeter:
    """Measures frames one after the other; holds the block sums of one frame."""

    def __init__(self) -> None:
        self._frames = 0
        self._variances: dict[int, float] = {}
        self._measured = 0
        self._differences = {size: _BlockDifferences() for size in (FINEST, _SMALL)}
        self._repetition = 0.0
        self._correlations: list[float] = []
        self._before: np.ndarray | None = None

    def add(self, frame: np.ndarray) -> None:
        """Take the next frame, (H, W, 3) uint8."""
        index, self._frames = self._frames, self._frames + 1
        if index % _STRIDE > 1:
            return
        sums = {FINEST: _finest_sums(frame)}
        while (size := max(sums)) < _COARSEST and min(sums[size].shape[:2]) >= 2:
            sums[2 * size] = _double_blocks(sums[size])
        if _MIDDLE not in sums or _count(sums[_MIDDLE]) < _FEWEST:
            return
        self._measured += 1
        for size, each in sums.items():
            if size <= _MIDDLE or _count(each) >= _FEWEST_COARSE:
                # The variance of means, from that of sums.
                shifted = each if size < _MIDDLE else _overlapping_blocks(sums[size // 2])
                variance = _centred_product(shifted, shifted) / _count(shifted) / size**4
                self._variances[size] = self._variances.get(size, 0.0) + variance
        for size, steps in self._differences.items():
            steps.add(sums[size])
        coarsest = max(self._variances)
        if self._measured == 1:
            self._repetition = _repetition(sums[_compared_size(coarsest)])
        # When a camera moves, larger blocks keep their content longer.
        here = sums[coarsest // 2]
        if index % _STRIDE == 1 and self._before is not None:
            self._correlations.append(_correlation(self._before, here))
        self._before = here

    def noisiness(self) -> float | None:
        """From 0 to 1, more if the video looks more like noise; None for frames below 64x64."""
        if not self._measured:
            return None
        variances = {size: total / self._measured for size, total in self._variances.items()}
        if math.sqrt(variances[FINEST]) < _PLAIN:
            return 0.0
        evenness = self._differences[_SMALL].evenness()
        # Repeating patterns, such as tiles, may be more even than noise.
        alike = min(_ramp(evenness, 0.70, 0.80), _ramp(evenness, 0.92, 0.86))
        if variances[_SMALL] < 0.95 * variances[FINEST]:
            # Enlarged noise is excepted: the edges of its squares are as uneven as those of drawings.
            alike = min(alike, _ramp(self._differences[FINEST].evenness(), 0.60, 0.76))
        shapeless = min(_ramp(self._remaining_share(variances), 0.65, 0.25), self._irregularity(variances))
        # One pair may be a cut.
        pairs = len(self._correlations)
        unrelated = (
            _ramp(sum(self._correlations) / pairs, 0.8, 0.0)
            if pairs > 1 and max(variances) > _MIDDLE
            else 0.0
        )
        return min(alike, max(shapeless, unrelated))

    def _irregularity(self, variances: dict[int, float]) -> float:
        """1 if distant parts are not alike, 0 if they are, as in patterns."""
        if max(variances) == _MIDDLE:
            # With few blocks, noise is alike by chance.
            return _ramp(self._repetition, 0.85, 0.65)
        return _ramp(self._repetition, 0.45, 0.30)

    def _remaining_share(self, variances: dict[int, float]) -> float:
        """The share of the blocks' variance that remains when their sides double: 1/4 for noise."""
        coarsest = max(variances)
        step = _compared_size(coarsest)
        coarse = (variances[coarsest] / variances[step]) ** (1 / math.log2(coarsest / step))
        # Fine noise shows from the smallest blocks on, and more surely; a texture comes close to it.
        fine = math.sqrt(variances[_MIDDLE] / variances[FINEST])
        if min(fine, coarse, variances[_SMALL] / variances[FINEST]) < _REGULAR:
            return 1.0
        if coarsest == _MIDDLE:
            # With so few blocks, a picture may look like noise by chance.
            coarse += 0.13
        return min(fine + 0.1, coarse) + self._frame_correction()

    def _frame_correction(self) -> float:
        """A correction from successive frames: noise rarely moves, but stays or is different each time."""
        if not self._correlations:
            return 0.0
        median = sorted(self._correlations)[len(self._correlations) // 2]
        if median < 0.3:
            return -0.08
        return 0.05 if median < 0.995 else 0.0


class _BlockDifferences:
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
        """Their mean over their root mean square: 0.8 for noise, less if few are large."""
        pairs = [(int(a), int(s)) for a, s in zip(self._absolute, self._squared, strict=True)]
        energy = sum(squared for _, squared in pairs)
        # Each channel is weighted by its variation.
        weighted = sum(absolute * math.sqrt(squared) for absolute, squared in pairs)
        return weighted / math.sqrt(self._count) / energy if energy else 0.0


def _compared_size(coarsest: int) -> int:
    """The size of the blocks that the coarsest are compared with."""
    return max(_SMALL, coarsest // 4)


def _repetition(sums: np.ndarray) -> float:
    """The largest correlation, of either sign, of blocks that are 3 to 8 apart in a row or column."""
    found = [0.0]
    for apart in _APART:
        for one in (sums, sums.transpose(1, 0, 2)):
            if apart < len(one) - 1:
                found.append(abs(_correlation(one[:-apart], one[apart:])))
    return max(found)


def _finest_sums(frame: np.ndarray) -> np.ndarray:
    """Sums of the smallest blocks: (H // 4, W // 4, 3) int64."""
    height, width = (side // FINEST for side in frame.shape[:2])
    whole = frame[: height * FINEST, : width * FINEST]
    rows = sum(whole[start::FINEST].astype(np.uint16) for start in range(FINEST))
    return np.asarray(rows).reshape(height, width, FINEST, 3).sum(2, dtype=np.int64)


def _double_blocks(sums: np.ndarray) -> np.ndarray:
    """Sums over blocks of twice the side."""
    height, width = (side // 2 * 2 for side in sums.shape[:2])
    even = sums[:height, :width]
    rows = even[::2] + even[1::2]
    return rows[:, ::2] + rows[:, 1::2]


def _overlapping_blocks(sums: np.ndarray) -> np.ndarray:
    """Likewise, with each block overlapping half of the one before: more blocks, where there are few."""
    rows = sums[:-1] + sums[1:]
    return rows[:, :-1] + rows[:, 1:]


def _count(sums: np.ndarray) -> int:
    return sums.shape[0] * sums.shape[1]


def _centred_product(one: np.ndarray, other: np.ndarray) -> float:
    """The sum of the products of the deviations from each channel's mean."""
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
