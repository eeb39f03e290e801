"""Resizing the image for its encoder: parity with diffusers, and properties of any resizing."""

import numpy as np
import pytest

from tests.references import case
from vidgen_dist.encoders.clip_vision import normalised
from vidgen_dist.encoders.config import ClipImageProcessorConfig
from vidgen_dist.families.stable_video_diffusion.config import IMAGE_SIDE
from vidgen_dist.families.stable_video_diffusion.resize import gaussian, mirrored, resized, resizing


@pytest.mark.parametrize("name", ["img2vid", "small"])
def test_pixels_equal_diffusers(name):
    """One image gets larger along one axis and smaller along the other; the other image gets larger."""
    reference = case(name, "stable_video_diffusion")
    image = np.asarray(reference.requests[0].image, np.float32) / 255
    ours = normalised(resized(image, IMAGE_SIDE), ClipImageProcessorConfig())
    expected = reference.pieces["image_encoder.some_pixels"]
    np.testing.assert_allclose(ours[:, :, ::13, ::11], expected, atol=1e-5)


@pytest.mark.parametrize("length", [1, 2, 3, 223, 224, 225, 448, 20_000])
def test_a_plain_colour_stays(length):
    """The weights of each resized pixel sum to 1, for any number of pixels."""
    matrix = resizing(length, IMAGE_SIDE)
    assert matrix.shape == (IMAGE_SIDE, length)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-5)


def test_axes_are_apart():
    image = np.zeros((2, 900, 3), np.float32)
    image[1] = 1
    ours = resized(image, IMAGE_SIDE)
    np.testing.assert_allclose(ours[[0, -1], :, 0], [[0] * IMAGE_SIDE, [1] * IMAGE_SIDE], atol=1e-5)
    # All columns are equal, and the rows rise.
    assert ours.std(axis=1).max() < 1e-5
    assert (np.diff(ours[20:-20, 0, 0]) > 0).all()


def test_the_blur_is_as_wide_as_the_image_shrinks():
    np.testing.assert_allclose(gaussian(0.5), [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(gaussian(1.0), [0, 1, 0], atol=1e-12)
    assert [len(gaussian(factor)) for factor in (2.0, 3.0, 5.0, 89.0)] == [3, 5, 9, 177]
    np.testing.assert_allclose(gaussian(3.0), np.exp([-2, -0.5, 0, -0.5, -2]) / 2.4836, atol=1e-4)


def test_pixels_beyond_the_border_are_mirrored():
    assert mirrored(np.arange(-3, 7), 4).tolist() == [3, 2, 1, 0, 1, 2, 3, 2, 1, 0]
    assert mirrored(np.arange(-2, 3), 1).tolist() == [0] * 5
