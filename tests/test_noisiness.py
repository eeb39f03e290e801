"""Clips that look like noise, and clips that do not. `tests/benchmarks/noise.py` checks many more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.noise import NOISE, PICTURES, draw
from vidgen_dist import media
from vidgen_dist.noisiness import NoiseMeter
from vidgen_dist.quality import NOISE as THRESHOLD
from vidgen_dist.quality import flags, measure

LARGE_SCALES = {"spots of 32, cubic"}
"""Kinds of noise that a small frame cannot show well enough to distinguish it from a picture."""


def noisiness(frames: np.ndarray) -> float:
    found = measure(frames).noisiness
    assert found is not None
    return found


@pytest.mark.parametrize("family", sorted(NOISE.keys() - LARGE_SCALES))
def test_noise_is_flagged(family: str) -> None:
    for number in range(2):
        assert "noise" in flags(measure(draw(family, number, 9, 128, 192)))


@pytest.mark.parametrize("family", PICTURES)
def test_pictures_are_not(family: str) -> None:
    for number in range(2):
        assert "noise" not in flags(measure(draw(family, number, 9, 128, 192)))


@pytest.mark.parametrize("family", ["white", "tinted", "low contrast", "squares of 8"])
@pytest.mark.parametrize("size", [(1, 64, 64), (1, 70, 101), (17, 64, 64), (2, 96, 64)])
def test_noise_of_any_size_is_flagged(family: str, size: tuple[int, int, int]) -> None:
    assert noisiness(draw(family, 0, *size)) > THRESHOLD


@pytest.mark.parametrize("size", [(1, 64, 64), (1, 70, 101), (17, 64, 64), (2, 96, 64)])
def test_no_picture_of_any_size_is(size: tuple[int, int, int]) -> None:
    for family in ("scene", "cartoon", "dark", "gradient", "grain 5 to 20"):
        assert noisiness(draw(family, 1, *size)) <= THRESHOLD


def test_noise_of_a_large_frame_may_be_coarse() -> None:
    assert noisiness(draw("spots of 32, cubic", 0, 5, 704, 1280)) > THRESHOLD


@pytest.mark.parametrize("shape", [(3, 63, 64, 3), (3, 64, 40, 3), (1, 1, 1, 3), (1, 2, 4000, 3)])
def test_frames_too_small_to_tell(shape: tuple[int, ...]) -> None:
    frames = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert measure(frames).noisiness is None
    assert flags(measure(frames)) == ()


def test_a_plain_video_is_no_noise() -> None:
    assert noisiness(np.full((5, 64, 64, 3), 128, np.uint8)) == 0


def test_a_meter_takes_frames_of_any_layout() -> None:
    frames = draw("tinted", 0, 6, 64, 96)
    meter = NoiseMeter()
    for frame in np.asfortranarray(frames):
        meter.add(frame)
    assert meter.noisiness() == noisiness(frames)


@pytest.mark.parametrize(
    ("family", "expected"), [("tinted", True), ("spots of 8, cubic", True), ("scene", False)]
)
def test_what_was_encoded_is_told_alike(family: str, expected: bool, tmp_path: Path) -> None:
    """Videos that a run finds are measured as they were stored."""
    frames = draw(family, 0, 9, 128, 192)
    video = media.write_video(frames, tmp_path / "x.mp4", format="mp4", fps=8, crf=18)
    stored = np.stack([np.asarray(frame) for frame in media.read_video(video.path)])
    assert (noisiness(stored) > THRESHOLD) is expected
