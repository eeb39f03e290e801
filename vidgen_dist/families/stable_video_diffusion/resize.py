"""Resizes the image for its encoder, with a blur before it is made smaller.

As diffusers' `_resize_with_antialiasing`, after scikit-image's `resize` (van der Walt et al. 2014,
arXiv:1407.6245): a Gaussian, cut off at two standard deviations, over an image mirrored at its border, and
cubic convolution (Keys 1981, doi:10.1109/TASSP.1981.1163711) that keeps the first and last pixels in place.
Both are linear and separable: one matrix for the rows and one for the columns.
"""

from __future__ import annotations

import numpy as np

SHARPNESS = -0.75
"""Keys' `a`, with torch's value."""

LEAST_SPREAD = 0.001
"""Pixels: so small a standard deviation blurs nothing."""


def resized(image: np.ndarray, size: int) -> np.ndarray:
    """Resize an image.

    Args:
        image: (H, W, C).
        size: Pixels along each side.

    Returns:
        float32 (size, size, C).
    """
    rows, columns = (resizing(length, size) for length in image.shape[:2])
    narrow = np.einsum("xw,hwc->hxc", columns, image.astype(np.float32), optimize=True)
    return np.ascontiguousarray(np.einsum("yh,hxc->yxc", rows, narrow, optimize=True))


def resizing(length: int, size: int) -> np.ndarray:
    """The matrix, float32 (size, length), from the pixels along an axis to the resized ones."""
    blur = gaussian(length / size)
    # In float32: its rounding matters where neighbouring pixels differ much.
    places = np.arange(size, dtype=np.float32) * np.float32((length - 1) / max(size - 1, 1))
    first = np.floor(places).astype(np.int64)
    matrix = np.zeros((size, length), np.float64)
    for offset in range(-1, 3):
        share = cubic(places - first - offset)
        # A pixel beyond the border has the border's value.
        at = np.clip(first + offset, 0, length - 1)
        for shift, weight in enumerate(blur, -(len(blur) // 2)):
            np.add.at(matrix, (np.arange(size), mirrored(at + shift, length)), share * weight)
    return matrix.astype(np.float32)


def gaussian(factor: float) -> np.ndarray:
    """The weights, an odd number of them, of the blur before an axis is made smaller by a factor."""
    spread = max((factor - 1) / 2, LEAST_SPREAD)
    width = int(max(4 * spread, 3))
    width += 1 - width % 2
    weights = np.exp(-((np.arange(width) - width // 2) ** 2) / (2 * spread**2))
    return np.asarray(weights / weights.sum())


def cubic(distance: np.ndarray) -> np.ndarray:
    """The weights of pixels at these distances, up to 2."""
    x, a = np.abs(distance), SHARPNESS
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, far)


def mirrored(at: np.ndarray, length: int) -> np.ndarray:
    """Indices beyond an axis, mirrored at its borders into it; always 0 for a single pixel."""
    period = max(2 * (length - 1), 1)
    turned = np.abs(at) % period
    return np.minimum(turned, period - turned) if length > 1 else np.zeros_like(at)
