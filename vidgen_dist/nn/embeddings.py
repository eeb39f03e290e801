"""Tables of timesteps and positions, in NumPy.

Each depends on sizes alone, is computed once for a video and shared by all steps and blocks.
Sources: sinusoids, Vaswani et al. 2017 (arXiv:1706.03762) and Ho et al. 2020 (arXiv:2006.11239);
rotary embeddings, Su et al. 2021 (arXiv:2104.09864); their 3D forms, CogVideoX (arXiv:2408.06072).
The numbers agree with diffusers' `models/embeddings.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

MAX_PERIOD = 10000.0
"""The longest wavelength, divided by 2π, of every table here."""


def timestep_embedding(
    timesteps: np.ndarray, dim: int, *, flip_sin_to_cos: bool = False, freq_shift: float = 1.0
) -> np.ndarray:
    """Sinusoids of the timesteps.

    Args:
        timesteps: (B,), whole or fractional.
        dim: Width D; an odd width ends in a zero.
        flip_sin_to_cos: Cosines come first.
        freq_shift: Subtracted from the number of frequencies: with 1 the last one reaches the longest period.

    Returns:
        (B, D) float32.
    """
    half = dim // 2
    exponents = (
        np.float32(-math.log(MAX_PERIOD)) * np.arange(half, dtype=np.float32) / np.float32(half - freq_shift)
    )
    # NumPy's float32 exp may be off by two units in the last place; at timestep 999 that becomes 1e-4.
    frequencies = np.exp(exponents.astype(np.float64)).astype(np.float32)
    angles = np.asarray(timesteps, dtype=np.float32)[:, None] * frequencies[None, :]
    waves = [np.cos(angles), np.sin(angles)] if flip_sin_to_cos else [np.sin(angles), np.cos(angles)]
    return np.concatenate([*waves, np.zeros((len(angles), dim % 2), np.float32)], axis=1)


def sincos_1d(dim: int, positions: np.ndarray) -> np.ndarray:
    """Positions (N,) to sines and then cosines (N, D), float64. `dim` is even."""
    if dim % 2:
        raise ValueError(f"sincos embedding: dim is {dim}, must be even")
    frequencies = MAX_PERIOD ** (-np.arange(dim // 2, dtype=np.float64) / (dim / 2))
    angles = np.asarray(positions, dtype=np.float64)[:, None] * frequencies[None, :]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def sincos_3d(
    dim: int,
    grid: tuple[int, int, int],
    *,
    spatial_interpolation_scale: float = 1.0,
    temporal_interpolation_scale: float = 1.0,
) -> np.ndarray:
    """Absolute positions of video tokens: 1/4 of the width for time, 3/8 for x, 3/8 for y.

    Args:
        dim: Width D, a multiple of 16.
        grid: Tokens along (time, height, width).
        spatial_interpolation_scale, temporal_interpolation_scale: Positions are divided by these.

    Returns:
        (T * H * W, D) float32; width varies fastest.
    """
    if dim % 16:
        raise ValueError(f"3D sincos embedding: dim is {dim}, must be a multiple of 16")
    scales = (temporal_interpolation_scale, spatial_interpolation_scale, spatial_interpolation_scale)
    t, y, x = (
        np.arange(n, dtype=np.float32) / np.float32(scale) for n, scale in zip(grid, scales, strict=True)
    )
    table = np.empty((*grid, dim), dtype=np.float32)
    time_end, x_end = dim // 4, dim // 4 + 3 * dim // 8
    table[..., :time_end] = sincos_1d(time_end, t)[:, None, None, :]
    table[..., time_end:x_end] = sincos_1d(x_end - time_end, x)[None, None, :, :]
    table[..., x_end:] = sincos_1d(dim - x_end, y)[None, :, None, :]
    return table.reshape(-1, dim)


def rotary_1d(dim: int, positions: np.ndarray, theta: float = MAX_PERIOD) -> np.ndarray:
    """Positions (N,) to rotation angles (N, D / 2), float32: one angle per pair of neighbouring channels."""
    if dim % 2:
        raise ValueError(f"rotary embedding: dim is {dim}, must be even")
    frequencies = np.float32(1) / np.float32(theta) ** (
        np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    )
    return np.asarray(positions, dtype=np.float32)[:, None] * frequencies[None, :]


def rotary_3d(
    dim: int, t: np.ndarray, y: np.ndarray, x: np.ndarray, theta: float = MAX_PERIOD
) -> tuple[np.ndarray, np.ndarray]:
    """Rotary table of video tokens: 1/4 of a head's width for time, 3/8 for y, 3/8 for x.

    Args:
        dim: Width D of a head, a multiple of 16.
        t, y, x: Positions along each axis: (T,), (H,), (W,).
        theta: The longest wavelength, divided by 2π.

    Returns:
        As `rotary_axes`, of width D.
    """
    if dim % 16:
        raise ValueError(f"3D rotary embedding: dim is {dim}, must be a multiple of 16")
    return rotary_axes((dim // 4, 3 * dim // 8, 3 * dim // 8), (t, y, x), theta)


def rotary_axes(
    dims: Sequence[int], positions: Sequence[np.ndarray], theta: float = MAX_PERIOD
) -> tuple[np.ndarray, np.ndarray]:
    """Rotary table of a grid's points; each axis rotates channels of its own.

    Args:
        dims: Each axis's number of channels, even; together D, the width of a head.
        positions: Along each axis: (T,), (H,), (W,).
        theta: The longest wavelength, divided by 2π.

    Returns:
        (cos, sin), each (T * H * W, D) float32; the last axis varies fastest. Channels 2i and 2i + 1 rotate
        by the same angle, so each value appears twice.
    """
    grid = tuple(len(along) for along in positions)
    angles = np.empty((*grid, sum(dims) // 2), dtype=np.float32)
    start = 0
    for axis, (dim, along) in enumerate(zip(dims, positions, strict=True)):
        of_axis = [1] * len(grid) + [dim // 2]
        of_axis[axis] = len(along)
        angles[..., start : start + dim // 2] = rotary_1d(dim, along, theta).reshape(of_axis)
        start += dim // 2
    angles = angles.reshape(-1, angles.shape[-1])
    return np.repeat(np.cos(angles), 2, axis=1), np.repeat(np.sin(angles), 2, axis=1)
