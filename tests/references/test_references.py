"""The references themselves: complete, sensitive enough to compare with, and with NumPy's noise."""

from __future__ import annotations

import numpy as np
import pytest

from tests.references import case, cases, largest_difference
from vidgen_dist.request import RenderRequest

EXPECTED = {
    "cogvideox": ["1.5", "1.5-i2v", "2b", "5b", "i2v", "v2v", "v2v-2b"],
    "hunyuan_video": ["dummy", "odd", "t2v"],
    "i2vgen_xl": ["i2v", "odd"],
    "ltx": ["0.9.0", "0.9.0-i2v", "0.9.1", "0.9.1-i2v", "0.9.5-i2v"],
    "mochi": ["odd", "t2v"],
    "stable_video_diffusion": ["img2vid", "small"],
}
ALL = [(family, name) for family, names in EXPECTED.items() for name in names]


@pytest.mark.parametrize("family", EXPECTED)
def test_every_case_is_there(family: str) -> None:
    assert cases(family) == EXPECTED[family]


def test_a_case_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(KeyError, match=r"3b.*1\.5, .*v2v-2b"):
        case("3b")


@pytest.mark.parametrize(("family", "name"), ALL)
def test_frames_are_in_range_and_seldom_clipped(family: str, name: str) -> None:
    reference = case(name, family)
    assert len(reference.frames) == len(reference.requests)
    for request, frames in zip(reference.requests, reference.frames, strict=True):
        assert isinstance(request, RenderRequest)
        assert frames.dtype == np.float32
        assert frames.shape[3] == 3
        assert frames.min() >= 0
        assert frames.max() <= 1
        # A clipped pixel hides an error.
        assert np.mean((frames == 0) | (frames == 1)) < 0.2
        # A flat picture or a still one would, too.
        assert frames.std() > 0.1
        assert len(frames) == 1 or np.abs(np.diff(frames, axis=0)).mean() > 0.01


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
