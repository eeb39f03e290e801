"""Draws the pictures of `jobs/samples/`, and builds its manifests from the CSV files there.

python -m tests.jobs.make_samples
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vidgen_dist.families import known_fields, needed_columns
from vidgen_dist.manifest_build import build
from vidgen_dist.media import write_video

SAMPLES = Path(__file__).parents[2] / "jobs" / "samples"

HEIGHT, WIDTH = 240, 360
CLIP_FRAMES = 49
"""As many as CogVideoX makes."""

Pixels = NDArray[np.float64]


def sunset() -> Pixels:
    """A sun above water: (rows, columns, RGB) in [0, 1]."""
    down, across = _places()
    sky = _mixed(down / 0.6, (0.98, 0.62, 0.25), (0.75, 0.20, 0.25))
    water = _mixed((down - 0.6) / 0.4, (0.55, 0.22, 0.30), (0.08, 0.10, 0.25))
    picture = np.where((down < 0.6)[..., None], sky, water)
    _paint(picture, _disc(down, across, 0.5, 0.5, 0.1) & (down < 0.6), (1.0, 0.9, 0.55))
    return picture


def balloon(height: float = 0.4) -> Pixels:
    """A balloon above hills, its centre that share of the picture from the top."""
    down, across = _places()
    picture = _mixed(down, (0.45, 0.70, 0.95), (0.85, 0.93, 1.0))
    hills = 0.78 + 0.06 * np.sin(7 * across) + 0.03 * np.cos(17 * across)
    _paint(picture, down > hills, (0.25, 0.55, 0.25))
    _paint(picture, _disc(down, across, height, 0.5, 0.14), (0.85, 0.15, 0.12))
    _paint(picture, (abs(down - height - 0.19) < 0.02) & (abs(across - 0.5) < 0.02), (0.40, 0.25, 0.12))
    return picture


def _places() -> tuple[Pixels, Pixels]:
    """Each pixel's distance from the top and from the left, as a share of the picture."""
    down, across = np.mgrid[0:HEIGHT, 0:WIDTH]
    return (down + 0.5) / HEIGHT, (across + 0.5) / WIDTH


def _mixed(share: Pixels, start: tuple[float, ...], end: tuple[float, ...]) -> Pixels:
    share = np.clip(share, 0, 1)[..., None]
    return (1 - share) * np.array(start) + share * np.array(end)


def _disc(down: Pixels, across: Pixels, y: float, x: float, radius: float) -> NDArray[np.bool_]:
    return np.hypot(down - y, (across - x) * WIDTH / HEIGHT) < radius


def _paint(picture: Pixels, where: NDArray[np.bool_], colour: tuple[float, ...]) -> None:
    picture[where] = colour


def _to_uint8(picture: Pixels) -> NDArray[np.uint8]:
    return (picture * 255).round().astype(np.uint8)


def main() -> None:
    """Draw the pictures and build the manifests."""
    for name, picture in (("sunset", sunset()), ("balloon", balloon())):
        Image.fromarray(_to_uint8(picture)).save(SAMPLES / f"{name}.png", optimize=True)
    frames = np.stack([_to_uint8(balloon(height)) for height in np.linspace(0.6, 0.25, CLIP_FRAMES)])
    write_video(frames, SAMPLES / "balloon.mp4", format="mp4", fps=8, crf=23)
    for source in sorted(SAMPLES.glob("*.csv")):
        build(
            [str(source)], str(source.with_suffix(".parquet")), fields=known_fields(), one_of=needed_columns()
        )


if __name__ == "__main__":
    main()
