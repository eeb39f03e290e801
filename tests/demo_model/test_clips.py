"""The clips that the demo's checkpoint is trained on, and those that training never sees."""

from __future__ import annotations

import numpy as np
import pytest

from tests.demo_model.clips import (
    COLOURS,
    FRAMES,
    MOTIONS,
    SHAPES,
    SIZE,
    Clip,
    all_clips,
    draw,
    held_out_clips,
    shape_mask,
)


def test_all_combinations_that_can_be_seen() -> None:
    clips = all_clips()
    assert len(set(clips)) == len(clips) == 8 * 7 * (4 * 6 - 1)
    assert not any(clip.colour == clip.ground for clip in clips)
    assert not any((clip.shape, clip.motion) == ("circle", "turns") for clip in clips)


def test_prompts_are_english() -> None:
    assert Clip("red", "circle", "moves right", "blue").prompt == "a red circle moves right on a blue ground"
    assert Clip("orange", "cross", "grows", "white").prompt == "an orange cross grows on a white ground"
    assert Clip("black", "square", "turns", "orange").prompt == "a black square turns on an orange ground"
    assert len({clip.prompt for clip in all_clips()}) == len(all_clips())


def test_one_in_six_is_held_out_and_the_others_show_everything() -> None:
    seen = [clip for clip in all_clips() if not clip.held_out]
    assert 1 / 7 < 1 - len(seen) / len(all_clips()) < 1 / 5
    assert {clip.colour for clip in seen} == {clip.ground for clip in seen} == set(COLOURS)
    assert {(clip.shape, clip.motion) for clip in seen} == {(c.shape, c.motion) for c in all_clips()}


def test_held_out_clips_are_always_the_same() -> None:
    clips = held_out_clips(200)
    assert all(clip.held_out for clip in clips)
    assert len(set(clips)) == 200
    assert held_out_clips(12) == clips[:12]
    assert {clip.motion for clip in clips} == set(MOTIONS)
    with pytest.raises(ValueError, match="5000 clips asked for"):
        held_out_clips(5000)


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_have_about_the_same_area_and_their_centre_of_mass_in_the_middle(shape: str) -> None:
    mask = shape_mask(shape, 30, 34, 12, angle=0.4)
    assert mask.sum() == pytest.approx(np.pi * 12**2, rel=0.02)
    at = np.arange(SIZE) + 0.5
    assert mask.sum(0) @ at / mask.sum() == pytest.approx(30, abs=0.1)
    assert mask.sum(1) @ at / mask.sum() == pytest.approx(34, abs=0.1)


def test_an_unknown_shape() -> None:
    with pytest.raises(ValueError, match="'star' is not one of circle, square"):
        shape_mask("star", 32, 32, 10)


def test_a_drawn_clip() -> None:
    clip = Clip("yellow", "square", "moves down", "purple")
    frames = draw(clip, np.random.default_rng(3))
    assert frames.shape == (FRAMES, SIZE, SIZE, 3)
    assert frames.dtype == np.float32
    np.testing.assert_array_equal(frames, draw(clip, np.random.default_rng(3)))
    np.testing.assert_allclose(frames[:, 0, 0], [COLOURS["purple"]] * FRAMES)
    yellow = np.isclose(frames, COLOURS["yellow"]).all(-1)
    middles = [np.nonzero(frame)[0].mean() for frame in yellow]
    assert (np.diff(middles) > 2).all()
