"""The tables, against their formulas written out value by value in float64."""

import math

import numpy as np
import pytest

from vidgen_dist.nn.embeddings import (
    MAX_PERIOD,
    rotary_1d,
    rotary_3d,
    sincos_1d,
    sincos_3d,
    timestep_embedding,
)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("shift", [0.0, 1.0])
@pytest.mark.parametrize("dim", [8, 13, 512])
def test_timestep_embedding(dim, shift, flip):
    steps = np.array([0, 1, 37.5, 999])
    table = timestep_embedding(steps, dim, flip_sin_to_cos=flip, freq_shift=shift)
    assert table.shape == (4, dim)
    assert table.dtype == np.float32
    half = dim // 2
    for row, step in enumerate(steps):
        for i in range(half):
            angle = step * MAX_PERIOD ** (-i / (half - shift))
            sine, cosine = (half + i, i) if flip else (i, half + i)
            assert table[row, sine] == pytest.approx(math.sin(angle), abs=3e-4)
            assert table[row, cosine] == pytest.approx(math.cos(angle), abs=3e-4)
    if dim % 2:
        np.testing.assert_array_equal(table[:, -1], 0)


def test_timestep_embedding_takes_whole_timesteps():
    whole = timestep_embedding(np.array([3, 700], dtype=np.int64), 16)
    np.testing.assert_array_equal(whole, timestep_embedding(np.array([3.0, 700.0]), 16))


def test_sincos_3d_lays_time_then_x_then_y():
    dim, grid = 32, (2, 3, 4)
    table = sincos_3d(dim, grid, spatial_interpolation_scale=1.875, temporal_interpolation_scale=0.5)
    assert table.shape == (24, dim)
    assert table.dtype == np.float32
    for t, y, x in np.ndindex(grid):
        row = table[(t * grid[1] + y) * grid[2] + x]
        expected = [
            wave(position * 10000 ** (-i / (width / 2)))
            for position, width in ((t / 0.5, 8), (x / 1.875, 12), (y / 1.875, 12))
            for wave in (math.sin, math.cos)
            for i in range(width // 2)
        ]
        np.testing.assert_allclose(row, expected, atol=1e-6)


def test_rotary_3d_lays_time_then_y_then_x():
    dim, t, y, x = 32, np.array([0.0, 1.0]), np.array([0.0, 1.5, 3.0]), np.array([-1.0, 0.25, 7.0, 8.0])
    cos, sin = rotary_3d(dim, t, y, x)
    assert cos.shape == sin.shape == (24, dim)
    for row, position in enumerate(np.ndindex(2, 3, 4)):
        angles = [
            axis[index] * 10000 ** (-2 * i / width)
            for axis, index, width in zip((t, y, x), position, (8, 12, 12), strict=True)
            for i in range(width // 2)
        ]
        np.testing.assert_allclose(cos[row], np.repeat(np.cos(angles), 2), atol=1e-6)
        np.testing.assert_allclose(sin[row], np.repeat(np.sin(angles), 2), atol=1e-6)


def test_rotary_theta_is_the_longest_wavelength():
    angles = rotary_1d(4, np.array([1.0]), theta=256.0)
    np.testing.assert_allclose(angles, [[1.0, 1 / 16]])


@pytest.mark.parametrize("make", [lambda: sincos_1d(7, np.arange(3)), lambda: rotary_1d(7, np.arange(3))])
def test_an_odd_width_is_refused(make):
    with pytest.raises(ValueError, match="dim is 7, must be even"):
        make()


@pytest.mark.parametrize(
    "make",
    [lambda: sincos_3d(24, (1, 2, 2)), lambda: rotary_3d(24, np.arange(1), np.arange(2), np.arange(2))],
)
def test_a_width_that_three_axes_cannot_share_is_refused(make):
    with pytest.raises(ValueError, match="dim is 24, must be a multiple of 16"):
        make()
