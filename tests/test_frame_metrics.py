"""Figures of two videos, against values computed by hand and what SSIM is documented to be."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vidgen_dist.frame_metrics import SSIM_WINDOW, compare_frames, equal_frames, psnr


def grey(*values: int, size: int = 16) -> np.ndarray:
    """A plain frame of each value."""
    return np.stack([np.full((size, size, 3), value, np.uint8) for value in values])


def noise(seed: int, frames: int = 2, size: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, size, size, 3), np.uint8)


def test_figures_by_hand() -> None:
    found = compare_frames(grey(100, 100, 100), grey(100, 110, 105))
    assert found.mse == pytest.approx((0 + 100 + 25) / 3)
    assert found.mean_difference == pytest.approx((0 + 10 + 5) / 3 / 255)
    # The changes of B are 10 and -5, those of A 0.
    assert found.motion_difference == pytest.approx((10 + 5) / 2 / 255)
    assert (found.first_different_frame, found.worst_frame) == (1, 1)


def test_the_ends_of_the_scales() -> None:
    flicker, opposite = grey(0, 255, 0), grey(255, 0, 255)
    found = compare_frames(flicker, opposite)
    assert (found.mse, found.mean_difference, found.motion_difference) == (255**2, 1, 2)
    assert psnr(found.mse) == 0
    # A difference that does not move.
    assert compare_frames(grey(5, 5), grey(9, 9)).motion_difference == 0


@pytest.mark.parametrize(("mse", "expected"), [(1, 48.1308), (255**2 / 100, 20), (0, math.inf)])
def test_psnr(mse: float, expected: float) -> None:
    assert psnr(mse) == pytest.approx(expected, abs=1e-4)


def test_ssim_of_plain_frames() -> None:
    """Without variance, what is left of SSIM is the term of the means, with C1 = (0.01 * 255)^2."""
    c1 = (0.01 * 255) ** 2
    expected = (2 * 100 * 130 + c1) / (100**2 + 130**2 + c1)
    assert compare_frames(grey(100), grey(130)).ssim == pytest.approx(expected, abs=1e-6)


def ssim_by_hand(a: np.ndarray, b: np.ndarray) -> float:
    """SSIM of two frames of the window's size, at the only place where the window fits."""
    ramp = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    weights = np.outer(ramp, ramp)[..., None]
    weights /= weights.sum()
    a, b = a.astype(np.float64), b.astype(np.float64)

    def mean(values: np.ndarray) -> np.ndarray:
        return (weights * values).sum(axis=(0, 1))

    ma, mb = mean(a), mean(b)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    shared, both = mean(a * b) - ma * mb, mean(a * a) - ma**2 + mean(b * b) - mb**2
    return float(np.mean((2 * ma * mb + c1) * (2 * shared + c2) / ((ma**2 + mb**2 + c1) * (both + c2))))


def test_ssim_is_that_of_wang_et_al() -> None:
    a, b = noise(1, frames=1, size=SSIM_WINDOW), noise(2, frames=1, size=SSIM_WINDOW)
    assert compare_frames(a, b).ssim == pytest.approx(ssim_by_hand(a[0], b[0]), abs=1e-9)


def test_ssim_is_symmetric_and_falls_with_noise() -> None:
    a = np.broadcast_to(np.arange(0, 256, 8, dtype=np.uint8)[None, None, :, None], (1, 32, 32, 3)).copy()
    spoiled = [
        np.clip(a + np.random.default_rng(0).normal(0, s, a.shape), 0, 255).astype(np.uint8) for s in (4, 32)
    ]
    slightly, badly = (compare_frames(a, b).ssim for b in spoiled)
    assert slightly is not None
    assert badly is not None
    assert 1 > slightly > badly > -1
    assert compare_frames(spoiled[0], a).ssim == pytest.approx(slightly)


@pytest.mark.parametrize(("frames", "size"), [(1, 16), (3, 16), (2, SSIM_WINDOW), (2, SSIM_WINDOW - 1)])
def test_equal_videos(frames: int, size: int) -> None:
    video = noise(0, frames, size)
    found = compare_frames(video, video.copy())
    assert found == equal_frames(frames, size, size)
    assert found.ssim == (1 if size >= SSIM_WINDOW else None)
    assert found.motion_difference == (None if frames == 1 else 0)
    assert found.worst_frame is found.first_different_frame is None


def test_other_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match="the same shape"):
        compare_frames(noise(0), noise(0, frames=3))
    for bad in (noise(0).astype(np.float32), noise(0)[0], noise(0)[..., :1], noise(0)[:0]):
        with pytest.raises(ValueError, match="uint8"):
            compare_frames(bad, bad)
