"""The demo model's data: clips of one moving coloured shape on a coloured ground, and their prompts."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FRAMES = 9
SIZE = 64
"""Height and width of a clip in pixels."""

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.10, 0.10),
    "orange": (1.00, 0.55, 0.05),
    "yellow": (0.98, 0.92, 0.15),
    "green": (0.10, 0.65, 0.20),
    "blue": (0.10, 0.30, 0.95),
    "purple": (0.55, 0.15, 0.75),
    "white": (0.97, 0.97, 0.97),
    "black": (0.03, 0.03, 0.03),
}
"""RGB in [0, 1] of the colours, which are those of the grounds too."""

SHAPES = ("circle", "square", "triangle", "cross")

DIRECTIONS = {
    "moves left": (-1, 0),
    "moves right": (1, 0),
    "moves up": (0, -1),
    "moves down": (0, 1),
}
"""Direction (x, y) of the motions along a line; y points down."""

MOTIONS = (*DIRECTIONS, "grows", "turns")

_TRAVEL = 28.0
_TURN = np.pi / 2
_HELD_OUT = 6


@dataclass(frozen=True)
class Clip:
    """What a clip shows."""

    colour: str
    shape: str
    motion: str
    ground: str

    @property
    def prompt(self) -> str:
        """The one sentence that names the clip."""
        return f"{_article(self.colour)} {self.shape} {self.motion} on {_article(self.ground)} ground"

    @property
    def held_out(self) -> bool:
        """Whether training never sees this combination: one in six, chosen by the digest of its prompt."""
        return int.from_bytes(self.digest[:4], "big") % _HELD_OUT == 0

    @property
    def digest(self) -> bytes:
        """SHA-256 of the prompt."""
        return hashlib.sha256(self.prompt.encode()).digest()


def _article(colour: str) -> str:
    return f"an {colour}" if colour[0] in "aeiou" else f"a {colour}"


def all_clips() -> list[Clip]:
    """All combinations that can be seen: no shape of its ground's colour, no circle that turns."""
    combinations = (Clip(*parts) for parts in itertools.product(COLOURS, SHAPES, MOTIONS, COLOURS))
    return [c for c in combinations if c.colour != c.ground and (c.shape, c.motion) != ("circle", "turns")]


def trained_clips() -> list[Clip]:
    """The combinations that training sees."""
    return [clip for clip in all_clips() if not clip.held_out]


def held_out_clips(count: int) -> list[Clip]:
    """The first `count` combinations that training never sees, in the order of their prompts' digests.

    Raises:
        ValueError: There are fewer.
    """
    clips = [clip for clip in all_clips() if clip.held_out]
    if count > len(clips):
        raise ValueError(f"{count} clips asked for, {len(clips)} are held out of training")
    return sorted(clips, key=lambda clip: clip.digest)[:count]


def shape_mask(shape: str, x: float, y: float, radius: float, angle: float = 0.0) -> NDArray[np.float32]:
    """How much of each pixel (SIZE, SIZE) a shape covers, in [0, 1].

    Args:
        shape: One of SHAPES.
        x: Its centre, in pixels from the left edge.
        y: Its centre, in pixels from the upper edge.
        radius: Of a circle of about the same area, in pixels.
        angle: Radians by which it is turned clockwise.
    """
    rows, columns = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) + np.float32(0.5)
    right, down = columns - x, rows - y
    across = right * np.cos(angle) + down * np.sin(angle)
    along = down * np.cos(angle) - right * np.sin(angle)
    return np.clip(0.5 - _distance(shape, across, along, radius), 0, 1).astype(np.float32)


def _distance(
    shape: str, x: NDArray[np.float32], y: NDArray[np.float32], radius: float
) -> NDArray[np.float32]:
    """Pixels from a shape's outline, negative inside; exact along its sides, which drawing needs."""
    if shape == "circle":
        return np.hypot(x, y) - radius
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.89 * radius
    if shape == "triangle":
        return np.maximum(np.abs(x) * np.sqrt(0.75) - y * 0.5, y) - 0.78 * radius
    if shape == "cross":
        long, short = 1.15 * radius, 0.42 * radius
        wide = np.maximum(np.abs(x) - long, np.abs(y) - short)
        high = np.maximum(np.abs(x) - short, np.abs(y) - long)
        return np.minimum(wide, high)
    raise ValueError(f"{shape!r} is not one of {', '.join(SHAPES)}")


def draw(clip: Clip, generator: np.random.Generator) -> NDArray[np.float32]:
    """Frames (FRAMES, SIZE, SIZE, 3) in [0, 1]; the generator chooses place and size."""
    middle = SIZE / 2
    radius = generator.uniform(11, 13)
    x, y = middle + generator.uniform(-6, 6, 2)
    frames = np.empty((FRAMES, SIZE, SIZE, 3), np.float32)
    colour = np.array(COLOURS[clip.colour], np.float32)
    ground = np.array(COLOURS[clip.ground], np.float32)
    drift = generator.uniform(-2, 2)
    for index, progress in enumerate(np.linspace(0, 1, FRAMES)):
        at_x, at_y, at_radius, angle = x, y, radius, 0.0
        if clip.motion == "grows":
            at_x, at_y = middle + 0.4 * (x - middle), middle + 0.4 * (y - middle)
            at_radius = 6 + (radius + 7 - 6) * progress
        elif clip.motion == "turns":
            at_x, at_y = middle + 0.6 * (x - middle), middle + 0.6 * (y - middle)
            at_radius, angle = radius + 3, _TURN * progress
        else:
            right, down = DIRECTIONS[clip.motion]
            travelled = drift + _TRAVEL * (progress - 0.5)
            at_x = middle + right * travelled if right else x
            at_y = middle + down * travelled if down else y
        mask = shape_mask(clip.shape, at_x, at_y, at_radius, angle)[..., None]
        frames[index] = mask * colour + (1 - mask) * ground
    return frames
