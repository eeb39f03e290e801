"""Convolutions on the CPU against the plain one: strides, paddings, odd sizes."""

import numpy as np
import pytest

from tests.nn import plain
from vidgen_dist import nn


def draw(*shape, seed=3):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def check(array, expected):
    assert array.shape == expected.shape
    np.testing.assert_allclose(array, expected, rtol=1e-5, atol=3e-6 * abs(expected).max())


def conv3d(x, weight, bias=None, stride=1, padding=0):
    bias = None if bias is None else nn.from_numpy(bias)
    return nn.to_numpy(nn.conv3d(nn.from_numpy(x), nn.from_numpy(weight), bias, stride, padding))


@pytest.mark.parametrize("kernel", [(1, 1, 1), (3, 3, 3), (1, 3, 3), (2, 2, 2), (3, 1, 1), (4, 1, 5)])
@pytest.mark.parametrize("stride", [1, 2, (1, 2, 2), (3, 1, 2), (5, 1, 1)])
@pytest.mark.parametrize("padding", [0, (0, 1, 1), (2, 0, 1)])
@pytest.mark.parametrize("outputs", [3, 9])
def test_conv3d(kernel, stride, padding, outputs):
    x, w, b = draw(2, 5, 7, 13, 11), draw(outputs, 5, *kernel, seed=4), draw(outputs, seed=5)
    check(conv3d(x, w, b, stride, padding), plain.convolution(x, w, b, stride, padding))


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(3, 2, 1), (2, 2, 0), (1, 1, 0), ((3, 1), (1, 2), (1, 0))]
)
def test_conv2d(kernel, stride, padding):
    kernel = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    x, w, b = draw(2, 5, 13, 11), draw(8, 5, *kernel, seed=4), draw(8, seed=5)
    y = nn.conv2d(nn.from_numpy(x), nn.from_numpy(w), nn.from_numpy(b), stride, padding)
    check(nn.to_numpy(y), plain.convolution(x, w, b, stride, padding))


def test_few_outputs_of_a_large_frame():
    x, w, b = draw(1, 24, 9, 70, 60), draw(3, 24, 3, 3, 3, seed=4), draw(3, seed=5)
    check(conv3d(x, w, b, padding=(0, 1, 1)), plain.convolution(x, w, b, padding=(0, 1, 1)))


@pytest.mark.parametrize("outputs", [4, 12, 16])
def test_what_lies_outside_is_zero_after_larger_work(outputs):
    """Scratch memory left by a larger convolution must not leak into a smaller one's padding."""
    conv3d(draw(1, 16, 5, 40, 60) * 1e6, draw(16, 16, 3, 3, 3), padding=1)
    conv3d(draw(1, 16, 5, 40, 60) * 1e6, draw(12, 16, 3, 3, 3), padding=1)
    conv3d(draw(1, 16, 5, 40, 60) * 1e6, draw(4, 16, 3, 3, 3), padding=1)
    x, w = draw(1, 16, 3, 17, 19), draw(outputs, 16, 3, 3, 3)
    check(conv3d(x, w, padding=(2, 1, 1)), plain.convolution(x, w, padding=(2, 1, 1)))


def test_views_are_convolved_where_they_lie():
    x, w = draw(1, 20, 6, 30, 17), draw(16, 20, 1, 3, 3, seed=4)
    for view, expected in (
        (nn.from_numpy(x)[:, :, 1:4], x[:, :, 1:4]),
        (nn.from_numpy(x).permute(0, 1, 2, 4, 3), x.transpose(0, 1, 2, 4, 3)),
    ):
        y = nn.to_numpy(nn.conv3d(view, nn.from_numpy(w), padding=(0, 1, 1)))
        check(y, plain.convolution(expected, w, padding=(0, 1, 1)))
        pointwise = nn.to_numpy(nn.conv3d(view, nn.from_numpy(w[:, :, :, :1, :1])))
        check(pointwise, plain.convolution(expected, w[:, :, :, :1, :1]))


def test_a_kernel_larger_than_the_video_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        conv3d(draw(1, 2, 2, 5, 5), draw(3, 2, 3, 3, 3))
