"""Measurements on frames, and the flags that follow from them."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from vidgen_dist import quality
from vidgen_dist.quality import Quality, VideoRejected, flags, measure

videos = arrays.arrays(
    np.uint8,
    st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.just(3)),
    elements=st.sampled_from([0, 1, 127, 254, 255]),
)


@given(videos)
def test_as_its_definition_says(frames: np.ndarray) -> None:
    exact = frames.astype(np.float64) / 255
    found = measure(frames)
    assert found.mean_luma == pytest.approx((exact @ np.array([0.2126, 0.7152, 0.0722])).mean(), abs=1e-12)
    clipped = (frames == 0).all(axis=-1) | (frames == 255).all(axis=-1)
    assert found.clipped == clipped.mean()
    if len(frames) == 1:
        assert found.motion is None
    else:
        assert found.motion == pytest.approx(np.abs(np.diff(exact, axis=0)).mean(), abs=1e-12)


@given(videos)
def test_frames_may_come_one_by_one(frames: np.ndarray) -> None:
    assert measure(iter(frames)) == measure(frames)


def test_measures_lie_in_0_to_1() -> None:
    flicker = np.zeros((4, 8, 8, 3), np.uint8)
    flicker[1::2] = 255
    assert measure(flicker) == Quality(pytest.approx(0.5), motion=1.0, clipped=1.0, noisiness=None)


def test_a_saturated_colour_is_not_clipped() -> None:
    red = np.zeros((2, 4, 4, 3), np.uint8)
    red[..., 0] = 255
    assert measure(red) == Quality(pytest.approx(0.2126), motion=0.0, clipped=0.0, noisiness=None)


@pytest.mark.parametrize("frames", [np.zeros((0, 4, 4, 3), np.uint8), np.zeros((2, 0, 4, 3), np.uint8)])
def test_nothing_to_measure(frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match="allowed: at least one frame"):
        measure(frames)


def test_memory_is_that_of_a_few_frames() -> None:
    def played() -> Iterator[np.ndarray]:
        for index in range(40):
            yield np.full((256, 256, 3), index, np.uint8)

    tracemalloc.start()
    measure(played())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * 256 * 256 * 3


def noise(low: int, high: int, count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(low, high, (count, 32, 32, 3), dtype=np.uint8)


def still(frame: np.ndarray) -> np.ndarray:
    return np.repeat(frame[:1], 5, axis=0)


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (noise(0, 256), ()),
        (noise(0, 40), ()),
        (noise(0, 3), ("black",)),
        (still(noise(0, 256)), ("frozen",)),
        (still(noise(0, 3)), ("black", "frozen")),
        (still(noise(0, 1)), ("black", "frozen")),
        (still(noise(255, 256)), ("frozen", "blown-out")),
        (np.maximum(noise(0, 256), 200), ()),
        (np.where(noise(0, 256)[..., :1] < 150, np.uint8(255), noise(0, 256)), ("blown-out",)),
        # Half of the picture is black: much is clipped, nothing is blown out.
        (np.where(noise(0, 256)[..., :1] < 150, np.uint8(0), noise(0, 256)), ()),
        (noise(0, 256, 1), ()),
        (noise(0, 1, 1), ("black",)),
    ],
)  # fmt: skip
def test_flags(frames: np.ndarray, expected: tuple[str, ...]) -> None:
    assert flags(measure(frames)) == expected


def test_one_value_that_changes_does_not_unfreeze_a_video() -> None:
    frames = still(noise(0, 200))
    frames[2, 0, 0, 0] += 1
    assert flags(measure(frames)) == ("frozen",)


def test_reject_names_what_it_rejects_and_why() -> None:
    black = measure(still(noise(0, 1)))
    with pytest.raises(VideoRejected, match=r"the video is black, frozen: mean luma 0, motion 0, clipped 1"):
        quality.reject(black, {"black", "frozen", "blown-out"})
    with pytest.raises(VideoRejected, match="the video is frozen: "):
        quality.reject(black, ["frozen"])
    quality.reject(black, ["blown-out", "noise"])
    quality.reject(black, [])
    noisy = measure(np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8))
    with pytest.raises(
        VideoRejected, match=r"the video is noise: mean luma 0\.\d+, .*, noisiness (1|0\.[89])"
    ):
        quality.reject(noisy, ["noise"])
    with pytest.raises(VideoRejected, match=r"motion none, clipped 1, noisiness none"):
        quality.reject(measure(noise(0, 1, 1)), ["black"])
