"""The measure that judges the demo's checkpoint, on clips whose content is known."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.demo_model.clips import COLOURS, FRAMES, SHAPES, SIZE, Clip, all_clips, draw, shape_mask
from tests.demo_model.measure import ATTRIBUTES, Measured, measure

Floats = NDArray[np.float32]

NOISE = 0.04
MIDDLE = SIZE / 2


def blurred(frames: Floats) -> Floats:
    """Frames, each pixel a weighted mean of the 3 x 3 around it."""
    padded = np.pad(frames, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    rows = (padded[:, 2:] + 2 * padded[:, 1:-1] + padded[:, :-2]) / 4
    return (rows[:, :, 2:] + 2 * rows[:, :, 1:-1] + rows[:, :, :-2]) / 4


def noisy(frames: Floats, generator: np.random.Generator) -> Floats:
    return np.clip(frames + generator.normal(0, NOISE, frames.shape).astype(np.float32), 0, 1)


def painted(masks: Floats, colour: str = "red", ground: str = "blue") -> Floats:
    """Frames of masks (F, H, W), in two colours."""
    cover = masks[..., None]
    return cover * np.array(COLOURS[colour], np.float32) + (1 - cover) * np.array(COLOURS[ground], np.float32)


def still(shape: str = "square", x: float = MIDDLE, y: float = MIDDLE) -> Floats:
    """Masks of a shape that does nothing."""
    return np.stack([shape_mask(shape, x, y, 12)] * FRAMES)


def drawn(*parts: str) -> Floats:
    return draw(Clip(*parts), np.random.default_rng(0))


@pytest.mark.parametrize("seed", range(3))
def test_drawn_clips(seed: int) -> None:
    """Every combination once: as drawn, blurred, with noise, or both."""
    generator = np.random.default_rng(seed)
    clips = all_clips()[seed::3]
    wrong: Counter[str] = Counter()
    for index, clip in enumerate(clips):
        frames = draw(clip, generator)
        if index & 1:
            frames = blurred(frames)
        if index & 2:
            frames = noisy(frames, generator)
        wrong.update(name for name, right in measure(frames).right(clip).items() if not right)
    assert all(wrong[name] <= 0.01 * len(clips) for name in ATTRIBUTES), wrong


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_that_does_nothing(shape: str) -> None:
    frames = noisy(painted(still(shape)), np.random.default_rng(0))
    assert measure(frames) == Measured("blue", "red", shape, None)


def test_no_shape() -> None:
    frames = noisy(painted(np.zeros((FRAMES, SIZE, SIZE), np.float32)), np.random.default_rng(0))
    assert measure(frames) == Measured("blue")


def test_a_dot_is_no_shape() -> None:
    dot = np.stack([shape_mask("circle", MIDDLE, MIDDLE, 2.5)] * FRAMES)
    assert measure(painted(dot)) == Measured("blue", "red")


def test_noise_shows_nothing() -> None:
    frames = np.random.default_rng(0).random((FRAMES, SIZE, SIZE, 3))
    assert measure(frames) == Measured()


@pytest.mark.parametrize("colour", ["red", "yellow"])
def test_two_shapes(colour: str) -> None:
    both = painted(still(x=18))
    other = still(x=46)[..., None]
    both = other * np.array(COLOURS[colour], np.float32) + (1 - other) * both
    found = measure(both)
    assert (found.ground, found.shape, found.motion) == ("blue", None, None)


def test_scattered_pixels_are_no_shape() -> None:
    spots = (np.random.default_rng(0).random((FRAMES, SIZE, SIZE)) < 0.3).astype(np.float32)
    assert measure(painted(spots)).shape is None


def test_a_shape_like_none() -> None:
    rows, columns = np.mgrid[0:SIZE, 0:SIZE] + 0.5 - MIDDLE
    ellipse = ((columns / 24) ** 2 + (rows / 7) ** 2 < 1).astype(np.float32)
    assert measure(painted(np.stack([ellipse] * FRAMES))) == Measured("blue", "red")


def test_a_shape_that_becomes_another() -> None:
    masks = np.concatenate([still("circle")[:4], still("cross")[4:]])
    assert measure(painted(masks)).shape is None


@pytest.mark.parametrize(
    ("motion", "backwards"),
    [
        ("moves left", "moves right"),
        ("moves right", "moves left"),
        ("moves up", "moves down"),
        ("moves down", "moves up"),
        ("grows", None),
        ("turns", "turns"),
    ],
)
def test_frames_in_reverse(motion: str, backwards: str | None) -> None:
    frames = drawn("green", "triangle", motion, "white")
    assert measure(frames).motion == motion
    assert measure(frames[::-1]) == Measured("white", "green", "triangle", backwards)


def test_frames_in_disorder_do_not_turn() -> None:
    frames = drawn("green", "triangle", "turns", "white")
    assert measure(frames[[4, 0, 7, 2, 8, 1, 6, 3, 5]]).motion is None


def test_a_way_across() -> None:
    masks = np.stack([shape_mask("circle", 20 + 3 * i, 20 + 3 * i, 10) for i in range(FRAMES)])
    assert measure(painted(masks)) == Measured("blue", "red", "circle", None)


@pytest.mark.parametrize("other", ["grows", "turns"])
def test_two_motions_at_once(other: str) -> None:
    masks = [
        shape_mask(
            "square",
            18 + 3 * i,
            MIDDLE,
            radius=6 + i if other == "grows" else 11,
            angle=np.pi / 16 * i if other == "turns" else 0,
        )
        for i in range(FRAMES)
    ]
    assert measure(painted(np.stack(masks))) == Measured("blue", "red", "square", None)


def test_colours_are_those_that_are_seen() -> None:
    clip = Clip("red", "circle", "moves left", "blue")
    frames = drawn("orange", "circle", "moves left", "purple")
    assert measure(frames).right(clip) == {"ground": False, "colour": False, "shape": True, "motion": True}


def test_a_colour_without_a_name() -> None:
    grey = COLOURS["white"][0] - 0.47 * still()[..., None].repeat(3, axis=-1)
    assert measure(grey) == Measured("white", None, "square", None)
    assert measure(1 - grey).ground == "black"


def test_pale_and_mixed_frames() -> None:
    """A model's colours are not exactly those that were asked for."""
    frames = 0.9 * drawn("purple", "cross", "grows", "yellow") + 0.1 * 0.5
    assert measure(frames) == Measured("yellow", "purple", "cross", "grows")
