"""What a clip shows, found from its frames alone: the measure by which the demo's checkpoint is judged.

Each attribute is None where the frames do not show one clearly: a colour far from all names, a shape that is
too small, torn or like none, a motion that is none or several at once.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache

import numpy as np
from numpy.typing import NDArray

from tests.demo_model.clips import COLOURS, DIRECTIONS, SHAPES, SIZE, Clip, shape_mask

Floats = NDArray[np.float32]

COLOUR_DISTANCE = 0.3
"""Most that a colour may differ from the one whose name it gets; the two closest names differ by 0.38."""
GROUND_SHARE = 0.6
"""Least part of the border that has the ground's colour."""
FOREGROUND_DISTANCE = 0.2
"""Least by which a pixel that is surely no ground differs from it."""
SHAPE_PIXELS = 40
"""Least area of a shape in one frame."""
MISSING_FRAMES = 2
"""Most frames that may show no shape: one that grows may start as a dot."""
ONE_PIECE = 0.85
"""Least part of the foreground that the largest piece holds."""
SHAPE_OVERLAP = 0.75
"""Least overlap with a shape's template, in intersection over union and in the mean of the frames."""
SHAPE_FRAMES = 2 / 3
"""Least part of the frames that no other shape fits better."""
MOVED_PIXELS = 8.0
"""Least way of a shape that moves; drawn ones move 24."""
GROWN = 1.5
"""Least ratio of the radii of a shape that grows; drawn ones grow to more than twice their size."""
TURNED_DEGREES = 40.0
"""Least angle by which a shape turns; drawn ones turn by 80."""
TURNED_ONE_WAY = 0.6
"""Least part of all turning, there and back, that is left at the end."""

_BORDER = 2
_GRID = 32
_REACH = 1.1
_TEMPLATE_RADIUS = 14.0
_ANGLE_STEP = 5
_PERIODS = {"circle": _ANGLE_STEP, "square": 90, "triangle": 120, "cross": 90}
"""Degrees after which a turned shape looks the same."""


@dataclass(frozen=True)
class Measured:
    """What a clip shows; None where it is not clear."""

    ground: str | None = None
    colour: str | None = None
    shape: str | None = None
    motion: str | None = None

    def right(self, clip: Clip) -> dict[str, bool]:
        """Whether each attribute is the one that was asked for."""
        return {name: getattr(self, name) == getattr(clip, name) for name in ATTRIBUTES}


ATTRIBUTES = tuple(field.name for field in fields(Measured))


def measure(frames: NDArray[np.floating]) -> Measured:
    """Measure a clip.

    Args:
        frames: (F, SIZE, SIZE, 3) in [0, 1].
    """
    frames = np.asarray(frames, np.float32)
    ground = np.median(_border(frames), axis=0)
    near_ground = np.linalg.norm(_border(frames) - ground, axis=-1) < FOREGROUND_DISTANCE
    if near_ground.mean() < GROUND_SHARE:
        return Measured()
    ground_name = _nearest_colour(ground)

    away = np.linalg.norm(frames - ground, axis=-1)
    rough = away > FOREGROUND_DISTANCE
    if rough.sum() < SHAPE_PIXELS:
        return Measured(ground_name)
    inner = _eroded(rough)
    colour = np.median(frames[inner if inner.any() else rough], axis=0)
    colour_name = _nearest_colour(colour)

    # A rim pixel is a mixture of both colours: it belongs to the one that it is closer to.
    foreground = away > 0.5 * np.linalg.norm(colour - ground)
    masks = _largest_pieces(foreground)
    shown = masks.sum((1, 2)) >= SHAPE_PIXELS
    torn = masks.sum() < ONE_PIECE * foreground.sum()
    if torn or shown.sum() < len(frames) - MISSING_FRAMES:
        return Measured(ground_name, colour_name)
    masks = masks[shown].astype(np.float32)
    shape, angles = _fit(masks)
    return Measured(ground_name, colour_name, shape, _motion(masks, _turned(shape, angles)))


def _border(frames: Floats) -> Floats:
    """The pixels (N, 3) along the edges of all frames."""
    edge = np.ones((SIZE, SIZE), bool)
    edge[_BORDER:-_BORDER, _BORDER:-_BORDER] = False
    return frames[:, edge].reshape(-1, 3)


def _nearest_colour(colour: Floats) -> str | None:
    distances = {name: np.linalg.norm(colour - np.array(rgb)) for name, rgb in COLOURS.items()}
    nearest = min(distances, key=distances.__getitem__)
    return nearest if distances[nearest] <= COLOUR_DISTANCE else None


def _eroded(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels of each frame (F, H, W) whose neighbours, two pixels far, are all in the mask."""
    for _ in range(2):
        padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
        mask = mask & padded[:, 2:, 1:-1] & padded[:, :-2, 1:-1] & padded[:, 1:-1, 2:] & padded[:, 1:-1, :-2]
    return mask


def _largest_pieces(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest connected piece of each frame (F, H, W)."""
    # Each pixel starts with a number of its own and takes the largest of its neighbours' until none changes.
    labels = np.where(mask, np.arange(1, mask.size + 1, dtype=np.int32).reshape(mask.shape), 0)
    while True:
        padded = np.pad(labels, ((0, 0), (1, 1), (1, 1)))
        spread = np.maximum.reduce(
            [labels, padded[:, 2:, 1:-1], padded[:, :-2, 1:-1], padded[:, 1:-1, 2:], padded[:, 1:-1, :-2]]
        )
        spread *= mask
        if np.array_equal(spread, labels):
            break
        labels = spread
    pieces = np.zeros_like(mask)
    for piece, frame in zip(pieces, labels, strict=True):
        names, sizes = np.unique(frame[frame > 0], return_counts=True)
        if len(names):
            piece[:] = frame == names[sizes.argmax()]
    return pieces


def _centres(masks: Floats) -> Floats:
    """Centres of mass (F, 2) of masks (F, H, W), as x and y in pixels."""
    at = np.arange(SIZE, dtype=np.float32) + 0.5
    return np.stack([masks.sum(1) @ at, masks.sum(2) @ at], -1) / masks.sum((1, 2))[:, None]


def _normalised(masks: Floats) -> Floats:
    """Masks (F, H, W) on a grid (F, G, G) around their centres of mass, in units of their size: of area 1."""
    at = np.arange(SIZE, dtype=np.float32) + 0.5
    unit = np.sqrt(masks.sum((1, 2)))
    cell = 2 * _REACH / _GRID * unit
    offsets = (np.arange(_GRID, dtype=np.float32) - (_GRID - 1) / 2) * cell[:, None]
    width = np.maximum(cell, 1)[:, None, None]

    def weights(centre: Floats) -> Floats:
        distance = np.abs(at - (centre[:, None] + offsets)[..., None])
        return np.maximum(0, 1 - distance / width) / width

    centres = _centres(masks)
    return weights(centres[:, 1]) @ masks @ weights(centres[:, 0]).transpose(0, 2, 1)


@cache
def _templates(shape: str) -> Floats:
    """A shape turned by all angles that differ, (angles, G * G)."""
    middle = SIZE / 2
    degrees = np.arange(0, _PERIODS[shape], _ANGLE_STEP)
    drawn = [shape_mask(shape, middle, middle, _TEMPLATE_RADIUS, np.deg2rad(angle)) for angle in degrees]
    return _normalised(np.stack(drawn)).reshape(len(degrees), -1)


def _fit(masks: Floats) -> tuple[str | None, NDArray[np.floating]]:
    """The one shape that the frames show, and its angle in degrees in each frame."""
    normalised = _normalised(masks).reshape(len(masks), 1, -1)
    overlaps, angles = [], []
    for shape in SHAPES:
        # Both have the area 1.
        common = np.minimum(normalised, _templates(shape)).sum(-1) * (2 * _REACH / _GRID) ** 2
        overlap = common / (2 - common)
        overlaps.append(overlap.max(1))
        angles.append(overlap.argmax(1) * float(_ANGLE_STEP))
    of_shapes = np.array(overlaps)
    best = int(of_shapes.mean(1).argmax())
    in_most = (of_shapes.argmax(0) == best).mean() >= SHAPE_FRAMES
    fits = in_most and of_shapes[best].mean() >= SHAPE_OVERLAP
    return SHAPES[best] if fits else None, angles[best]


def _turned(shape: str | None, angles: NDArray[np.floating]) -> float:
    """Degrees from the first frames to the last ones; 0 for one that turns to and fro."""
    if shape is None:
        return 0.0
    # From frame to frame it turned the shorter way.
    unwrapped = np.unwrap(angles, period=_PERIODS[shape])
    one_way = abs(unwrapped[-1] - unwrapped[0]) >= TURNED_ONE_WAY * np.abs(np.diff(unwrapped)).sum()
    return float(_ends(unwrapped)) if one_way else 0.0


def _ends(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """What values (F, …) gain from the first two frames to the last two."""
    return values[-2:].mean(0) - values[:2].mean(0)


def _motion(masks: Floats, turned: float) -> str | None:
    """The one motion that the frames show."""
    way = _ends(_centres(masks))
    growth = np.exp(_ends(0.5 * np.log(masks.sum((1, 2)))))
    seen = [
        name
        for name, direction in DIRECTIONS.items()
        # Along the axis, and clearly not across it.
        if (along := way @ direction) >= MOVED_PIXELS and np.abs(way).min() <= along / 2
    ]
    if growth >= GROWN:
        seen.append("grows")
    if abs(turned) >= TURNED_DEGREES:
        seen.append("turns")
    return seen[0] if len(seen) == 1 else None
