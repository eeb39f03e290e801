"""The references themselves: whole, sensitive enough to compare with, and drawn from NumPy's noise."""

from __future__ import annotations

import numpy as np
import pytest

from tests.references import case, cases, largest_difference
from vidgen_dist.request import RenderRequest

EXPECTED = ["1.5", "1.5-i2v", "2b", "5b", "i2v", "v2v", "v2v-2b"]


def test_every_case_is_there() -> None:
    assert cases() == EXPECTED


def test_a_case_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(KeyError, match=r"3b.*1\.5, .*v2v-2b"):
        case("3b")


@pytest.mark.parametrize("name", EXPECTED)
def test_frames_are_in_range_and_seldom_clipped(name: str) -> None:
    reference = case(name)
    assert len(reference.frames) == len(reference.requests)
    for request, frames in zip(reference.requests, reference.frames, strict=True):
        assert isinstance(request, RenderRequest)
        assert frames.dtype == np.float32
        assert frames.shape[3] == 3
        assert frames.min() >= 0
        assert frames.max() <= 1
        # A clipped pixel hides an error.
        assert np.mean((frames == 0) | (frames == 1)) < 0.2
        # And so would a flat picture or a still one.
        assert frames.std() > 0.1
        assert np.abs(np.diff(frames, axis=0)).mean() > 0.01


@pytest.mark.parametrize("name", ["1.5", "2b", "5b"])
def test_text_to_video_starts_from_the_seeds_noise(name: str) -> None:
    reference = case(name)
    start = reference.pieces["transformer.first.hidden_states"]
    rng = np.random.Generator(np.random.PCG64(reference.requests[0].seed))
    noise = rng.standard_normal((1, *start.shape[1:])).astype(np.float32)
    np.testing.assert_array_equal(start, np.concatenate([noise, noise]))


def test_conditioning_is_opened() -> None:
    image = case("i2v").requests[0].image
    assert (image.mode, image.size) == ("RGB", (52, 40))
    video = case("v2v").requests[0].video
    assert [frame.size for frame in video] == [(60, 40)] * 9


def test_largest_difference_sees_shapes_and_nans() -> None:
    assert largest_difference(np.zeros(2), np.array([0.0, -0.5])) == 0.5
    assert largest_difference(np.zeros(2), np.zeros(3)) == float("inf")
    assert largest_difference(np.array([np.nan]), np.zeros(1)) == float("inf")
