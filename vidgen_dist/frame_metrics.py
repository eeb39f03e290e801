"""How far two videos of the same size are apart: MSE, PSNR, SSIM, and where they differ first and most.

All of it is computed on 8-bit RGB frames, so the data range is 255. SSIM is that of Wang et al. (2004): a
Gaussian window of 11x11 pixels with sigma 1.5, population covariance, the mean of the three channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from skimage.metrics import structural_similarity

DATA_RANGE = 255
SSIM_WINDOW = 11
"""Pixels: what sigma 1.5 gives, cut at 3.5 sigma."""

_SIGMA = 1.5


@dataclass(frozen=True)
class FrameMetrics:
    """How far two videos are apart.

    Args:
        mse: Mean squared error of all frames, pixels and channels, of values from 0 to 255.
        ssim: Mean SSIM of the frames; None if they are smaller than the window.
        mean_difference: Mean absolute difference, 0 to 1.
        motion_difference: Mean absolute difference between the two videos' changes from each frame to the
            next, 0 to 2: where one goes from black to white, the other may go from white to black. It is 0
            for a difference that does not move, such as another brightness, and high for flicker. None for a
            single frame.
        first_different_frame: Index of the first frame that differs; None if none does.
        worst_frame: Index of the frame with the largest MSE; None if all are equal.
    """

    mse: float
    ssim: float | None
    mean_difference: float
    motion_difference: float | None
    first_different_frame: int | None
    worst_frame: int | None


def psnr(mse: float) -> float:
    """Peak signal-to-noise ratio in dB of 8-bit values; infinite if there is no error."""
    return math.inf if mse == 0 else 10 * math.log10(DATA_RANGE**2 / mse)


def compare_frames(a: np.ndarray, b: np.ndarray) -> FrameMetrics:
    """Compare two videos.

    Args:
        a, b: uint8 (F, H, W, 3), of the same shape, with at least one frame.

    Raises:
        ValueError: They are not.
    """
    for frames in (a, b):
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
            raise ValueError(
                f"frames are {frames.dtype} {frames.shape}; allowed: uint8 (F, H, W, 3), not empty"
            )
    if a.shape != b.shape:
        raise ValueError(f"frames are {a.shape} and {b.shape}; allowed: the same shape")
    errors, absolute, motion, similar = [], [], [], []
    before: np.ndarray | None = None
    # Frame by frame: the differences of a whole video take many times its memory.
    for one, other in zip(a, b, strict=True):
        difference = one.astype(np.int16) - other
        errors.append(float(np.mean(np.square(difference, dtype=np.float64))))
        absolute.append(float(np.mean(np.abs(difference))))
        if before is not None:
            motion.append(float(np.mean(np.abs(difference - before))))
        before = difference
        if _has_ssim(*one.shape[:2]):
            similar.append(1.0 if errors[-1] == 0 else _ssim(one, other))
    different = np.flatnonzero(errors)
    return FrameMetrics(
        mse=float(np.mean(errors)),
        ssim=float(np.mean(similar)) if similar else None,
        mean_difference=float(np.mean(absolute)) / DATA_RANGE,
        motion_difference=float(np.mean(motion)) / DATA_RANGE if motion else None,
        first_different_frame=int(different[0]) if len(different) else None,
        worst_frame=int(np.argmax(errors)) if len(different) else None,
    )


def equal_frames(frames: int, height: int, width: int) -> FrameMetrics:
    """What `compare_frames` says of equal videos of this size."""
    return FrameMetrics(
        mse=0.0,
        ssim=1.0 if _has_ssim(height, width) else None,
        mean_difference=0.0,
        motion_difference=0.0 if frames > 1 else None,
        first_different_frame=None,
        worst_frame=None,
    )


def _has_ssim(height: int, width: int) -> bool:
    return min(height, width) >= SSIM_WINDOW


def _ssim(one: np.ndarray, other: np.ndarray) -> float:
    return float(
        structural_similarity(
            one,
            other,
            data_range=DATA_RANGE,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=_SIGMA,
            use_sample_covariance=False,
        )
    )
