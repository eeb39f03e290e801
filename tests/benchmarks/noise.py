"""How often the flag `noise` is right: on synthetic clips of several families, with noise and without.

    python -m tests.benchmarks.noise [--clips 10] [--only water confetti]

Prints the share of clips that is flagged, for each family and size (frames x height x width). The clips are
the same on every host: each is drawn from its family's name, its size and its number.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable, Mapping

import numpy as np
from scipy import ndimage

from vidgen_dist.quality import flags, measure

Clip = np.ndarray
"""(F, H, W, 3) uint8."""
Draw = Callable[[np.random.Generator, int, int, int], Clip]
"""Draws a clip with a number of frames, rows and columns."""

SIZES = ((1, 64, 64), (9, 64, 64), (1, 128, 192), (9, 128, 192), (1, 256, 384), (9, 256, 384), (6, 704, 1280))
"""Frames, height, width."""


def draw(family: str, number: int, frames: int, height: int, width: int) -> Clip:
    """A family's clip with this number and size."""
    rng = np.random.default_rng([zlib.crc32(family.encode()), number, frames, height, width])
    clip = {**NOISE, **PICTURES}[family](rng, frames, height, width)
    assert clip.shape == (frames, height, width, 3), (family, clip.shape)
    return np.round(np.clip(clip, 0, 255)).astype(np.uint8)


def is_flagged(clip: Clip) -> bool:
    return "noise" in flags(measure(clip))


# --- noise -------------------------------------------------------------------------------------------

_GREY, _BROWN, _BLUE, _DARK = (128, 128, 128), (150, 110, 70), (70, 100, 160), (60, 45, 35)


def _white(rng: np.random.Generator, frames: int, height: int, width: int) -> Clip:
    return rng.integers(0, 256, (frames, height, width, 3))


def _strong(rng: np.random.Generator, frames: int, height: int, width: int) -> Clip:
    """Noise so strong that most of it is clipped."""
    return 128 + rng.uniform(60, 300) * rng.standard_normal((frames, height, width, 3), np.float32)


def _grey(rng: np.random.Generator, frames: int, height: int, width: int) -> Clip:
    one = rng.standard_normal((frames, height, width, 1), np.float32)
    return 128 + rng.uniform(15, 90) * one + np.zeros(3)


def _tinted(rng: np.random.Generator, frames: int, height: int, width: int) -> Clip:
    shared = rng.uniform(0, 1)
    own = rng.standard_normal((frames, height, width, 3), np.float32)
    one = rng.standard_normal((frames, height, width, 1), np.float32)
    mixed = (1 - shared) * own + shared * one
    return _base(rng) + rng.uniform(15, 50) * mixed * rng.uniform(0.4, 1.3, 3)


def _base(rng: np.random.Generator) -> np.ndarray:
    return np.array([_GREY, _BROWN, _BLUE, _DARK])[rng.integers(4)]


def _one_channel(rng: np.random.Generator, frames: int, height: int, width: int) -> Clip:
    clip = np.full((frames, height, width, 3), rng.integers(0, 200, 3), np.float32)
    clip[..., rng.integers(3)] = rng.integers(0, 256, (frames, height, width))
    return clip


def _low(rng: np.random.Generator, frames: int, height: int, width: int) -> Clip:
    clip = rng.standard_normal((frames, height, width, 3), np.float32)
    return rng.uniform(60, 200, 3) + rng.uniform(3, 10) * clip


def _salt(rng: np.random.Generator, frames: int, height: int, width: int) -> Clip:
    return np.where(rng.random((frames, height, width, 1)) < rng.uniform(0.3, 0.7), 0, 255) + np.zeros(3)


def _spots(side: int, order: int, every: int = 1, *, smooth: bool = False) -> Draw:
    """Noise of a latent's size, enlarged as by a VAE's decoder.

    Args:
        side: Pixels per side of a spot.
        order: The spline's order: 0 squares, 1 linear, 3 cubic.
        every: Frames that a latent frame becomes.
        smooth: Whether these frames blend into the next ones.
    """

    def clip(rng: np.random.Generator, frames: int, height: int, width: int) -> Clip:
        rows, columns = -(-height // side), -(-width // side)
        latent = rng.standard_normal((1 + -(-(frames - 1) // every), rows, columns, 3), np.float32)
        when = np.arange(frames) / every
        if not smooth:
            when = np.ceil(when)
        first, share = np.floor(when).astype(int), (when % 1)[:, None, None, None].astype(np.float32)
        latent = latent[first] * (1 - share) + latent[np.minimum(first + 1, len(latent) - 1)] * share
        down, across = (_enlarging(count, side, order) for count in (rows, columns))
        whole = np.einsum("ab,fbcd,ec->faed", down, latent, across, optimize=True)[:, :height, :width]
        fine = rng.uniform(0, 0.3) * rng.standard_normal(whole.shape, np.float32) if order == 3 else 0.0
        return _base(rng) + rng.uniform(15, 45) * (whole / whole.std() + fine) * rng.uniform(0.4, 1.3, 3)

    return clip


def _enlarging(count: int, side: int, order: int) -> np.ndarray:
    """The matrix that turns `count` values into `side` times as many: (side * count, count)."""
    own = np.eye(count, dtype=np.float32)
    return np.stack(
        [ndimage.zoom(each, side, order=order, mode="nearest", grid_mode=True) for each in own], 1
    )


def _held(family: Draw) -> Draw:
    """The same frame repeated."""
    return lambda rng, frames, height, width: np.repeat(family(rng, 1, height, width), frames, axis=0)


def _clouds(rng: np.random.Generator, frames: int, height: int, width: int) -> Clip:
    """Noise with a brown spectrum, different in each frame."""
    return 110 + 40 * np.stack([_field(rng, height, width, 1.5, 3) for _ in range(frames)])


NOISE: Mapping[str, Draw] = {
    "white": _white,
    "strong": _strong,
    "grey": _grey,
    "tinted": _tinted,
    "one channel": _one_channel,
    "low contrast": _low,
    "black and white": _salt,
    "squares of 8": _spots(8, 0),
    "squares of 8, 4 frames each": _spots(8, 0, 4),
    "spots of 8, linear": _spots(8, 1),
    "spots of 8, cubic": _spots(8, 3, 4),
    "spots of 8, flowing": _spots(8, 3, 4, smooth=True),
    "spots of 16, cubic": _spots(16, 3, 4),
    "spots of 32, cubic": _spots(32, 3, 8),
    "white, the same": _held(_white),
    "tinted, the same": _held(_tinted),
    "low contrast, the same": _held(_low),
    "squares of 8, the same": _held(_spots(8, 0)),
    "spots of 8, the same": _held(_spots(8, 3)),
    "clouds": _clouds,
}

# --- other clips -------------------------------------------------------------------------------------


def _field(rng: np.random.Generator, height: int, width: int, slope: float, channels: int) -> np.ndarray:
    """A field whose amplitudes fall as 1 / frequency ** slope: (height, width, channels), variance 1."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    fields = []
    for _ in range(channels):
        spectrum = np.fft.rfft2(rng.standard_normal((height, width))) * frequency**-slope
        field = np.fft.irfft2(spectrum, (height, width))
        fields.append(field / field.std())
    return np.stack(fields, -1).astype(np.float32)


def _panned(
    picture: Callable[[int, int], np.ndarray], frames: int, height: int, width: int, speed: np.ndarray
) -> Clip:
    """A camera that moves over a picture, by a number of rows and columns per frame."""
    down, right = (int(abs(each) * frames) + 1 for each in speed)
    whole = picture(height + down, width + right)
    starts = [(int(abs(speed[0]) * at), int(abs(speed[1]) * at)) for at in range(frames)]
    return np.stack([whole[top : top + height, left : left + width] for top, left in starts])


def _scene(rng: np.random.Generator, frames: int, height: int, width: int, fastest: float = 4.0) -> Clip:
    slope, contrast = rng.uniform(0.9, 1.5), rng.uniform(25, 60)

    def picture(rows: int, columns: int) -> np.ndarray:
        return _field(rng, rows, columns, slope, 1) + 0.4 * _field(rng, rows, columns, slope, 3)

    speed = rng.uniform(0, fastest, 2)
    return rng.uniform(80, 150) + contrast * _panned(picture, frames, height, width, speed)


def _gradient(rng: np.random.Generator, frames: int, height: int, width: int) -> Clip:
    rows, columns = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    angle, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.2)
    ramp = (np.cos(angle) * columns + np.sin(angle) * rows)[..., None] * rng.uniform(-120, 120, 3)
    texture = _panned(lambda *size: _field(rng, *size, slope, 1), frames, height, width, np.ones(2))
    return 128 + ramp + rng.uniform(2, 20) * texture


def _cartoon(rng: np.random.Generator, frames: int, height: int, width: int) -> Clip:
    rows, columns = np.mgrid[0:height, 0:width]
    side, count = min(height, width), 12
    clip = np.broadcast_to(rng.uniform(0, 255, 3), (frames, height, width, 3)).copy()
    for _ in range(count):
        top, left, radius = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(0.05, 0.3) * side
        colour, speed = rng.uniform(0, 255, 3), rng.uniform(-0.02, 0.02, 2) * side
        for at in range(frames):
            inside = np.hypot(rows - top - speed[0] * at, columns - left - speed[1] * at) < radius
            clip[at][inside] = colour
    return clip


def _dark(rng: np.random.Generator, frames: int, height: int, width: int) -> Clip:
    return _scene(rng, frames, height, width) * rng.uniform(0.06, 0.2)


def _still(rng: np.random.Generator, frames: int, height: int, width: int) -> Clip:
    return _held(_scene if rng.random() < 0.5 else _cartoon)(rng, frames, height, width)


def _grainy(low: float, high: float, of: Draw = _scene) -> Draw:
    def clip(rng: np.random.Generator, frames: int, height: int, width: int) -> Clip:
        channels = rng.choice([1, 3])
        grain = rng.standard_normal((frames, height, width, channels), np.float32)
        return of(rng, frames, height, width) + rng.uniform(low, high) * grain

    return clip


def _falling(
    rng: np.random.Generator,
    clip: Clip,
    density: float,
    size: tuple[float, float],
    speed: float,
    colours: np.ndarray,
    cover: float,
) -> Clip:
    """Things that fall through a clip.

    Args:
        clip: The background.
        density: Pixels per thing.
        size: Size of the largest thing, in pixels.
        speed: Speed of the fastest thing, in pixels per frame.
        colours: The things' colours.
        cover: How much each thing covers the background.
    """  # fmt: skip
    frames, height, width, _ = clip.shape
    clip = clip.astype(np.float32)
    for number in range(int(height * width / density)):
        top, left, near = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(0.4, 1)
        drift, (tall, wide) = rng.uniform(-1, 1), (max(1, round(near * each)) for each in size)
        colour = cover * colours[number % len(colours)]
        for at in range(frames):
            row, column = int(top + near * speed * at) % height, int(left + drift * at) % width
            place = clip[at, row : row + tall, column : column + wide]
            place *= 1 - cover
            place += colour
    return clip


def _rain(rng: np.random.Generator, frames: int, height: int, width: int) -> Clip:
    behind = _held(_scene)(rng, frames, height, width)
    size, speed = (rng.uniform(8, 24), 1.0), rng.uniform(12, 30)
    return _falling(rng, behind, rng.uniform(100, 400), size, speed, np.full((1, 3), 220), 0.5)


def _snow(rng: np.random.Generator, frames: int, height: int, width: int) -> Clip:
    behind, side = _held(_scene)(rng, frames, height, width), rng.uniform(2, 6)
    return _falling(
        rng, behind, rng.uniform(60, 400), (side, side), rng.uniform(3, 10), np.full((1, 3), 250), 0.9
    )


def _confetti(rng: np.random.Generator, frames: int, height: int, width: int) -> Clip:
    behind = np.broadcast_to(rng.uniform(0, 255, 3), (frames, height, width, 3))
    side, colours = rng.uniform(4, max(8, min(height, width) / 20)), rng.uniform(0, 255, (9, 3))
    return _falling(
        rng, behind, rng.uniform(1.5, 8) * side**2, (side, side), rng.uniform(3, 10), colours, 1.0
    )


def _water(rng: np.random.Generator, frames: int, height: int, width: int) -> Clip:
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    if rng.random() < 0.5:
        # Towards the horizon waves look shorter.
        rows = height * np.log1p(3 * rows / height)
    surface = np.zeros((frames, height, width), np.float32)
    for _ in range(25):
        length, angle = rng.uniform(8, max(16, height / 3)), rng.uniform(1, 2.2)
        phase = 2 * np.pi / length * (np.cos(angle) * columns + np.sin(angle) * rows) + rng.uniform(0, 6.3)
        speed = rng.uniform(0.1, 0.8)
        for at in range(frames):
            surface[at] += np.sqrt(length) * np.sin(phase + speed * at)
    crests = np.exp(surface / surface.std() * rng.uniform(0.2, 0.8))
    light = rng.uniform(15, 40) * (crests - crests.mean()) / crests.std() + rng.uniform(0, 60) * rows / height
    return np.array([60, 100, 130]) + light[..., None]


def _leaves(rng: np.random.Generator, frames: int, height: int, width: int) -> Clip:
    side = rng.uniform(4, 14)

    def picture(rows: int, columns: int) -> np.ndarray:
        shade = _field(rng, rows, columns, 1.5, 1)[..., 0]
        whole = np.zeros((rows, columns, 3), np.float32)
        for _ in range(int(2.5 * rows * columns / side**2)):
            top, left = int(rng.integers(rows)), int(rng.integers(columns))
            radius, thin, angle = side * rng.uniform(0.4, 1.5), rng.uniform(0.3, 1), rng.uniform(0, np.pi)
            first = max(0, int(top - radius)), max(0, int(left - radius))
            place = whole[first[0] : int(top + radius) + 1, first[1] : int(left + radius) + 1]
            down, right = np.ogrid[: place.shape[0], : place.shape[1]]
            down, right = down + first[0] - top, right + first[1] - left
            along = down * np.cos(angle) + right * np.sin(angle)
            across = right * np.cos(angle) - down * np.sin(angle)
            colour = (
                np.array([50, 110, 40]) * (1 + 0.35 * rng.standard_normal()) * np.exp(0.4 * shade[top, left])
            )
            place[np.hypot(along, across / thin) < radius] = colour + 8 * rng.standard_normal(3)
        return whole

    return _panned(picture, frames, height, width, rng.uniform(0, 2, 2))


def _grass(rng: np.random.Generator, frames: int, height: int, width: int) -> Clip:
    """Grass or sand: fine structure with no larger one except light and shade."""
    slope, widest, power = rng.uniform(0.3, 0.8), rng.uniform(8, 30), rng.uniform(1, 1.6)

    def picture(rows: int, columns: int) -> np.ndarray:
        field = _field(rng, rows, columns, slope, 1)[..., 0]
        fine = field - ndimage.gaussian_filter(field, widest)
        blades = np.sign(fine) * np.abs(fine / fine.std()) ** power
        shade = _field(rng, rows, columns, 1.6, 1)[..., 0]
        light = rng.uniform(20, 40) * blades * np.exp(0.3 * shade) + rng.uniform(5, 15) * shade
        return np.array([90, 110, 60]) + light[..., None]

    return _panned(picture, frames, height, width, rng.uniform(0, 3, 2))


def _tiles(rng: np.random.Generator, frames: int, height: int, width: int) -> Clip:
    side = rng.integers(3, 24)
    colours = rng.uniform(0, 255, (2, 3))

    def picture(rows: int, columns: int) -> np.ndarray:
        down, right = np.mgrid[0:rows, 0:columns] // side
        return colours[(down + right) % 2] + 4 * _field(rng, rows, columns, 1.2, 1)

    return _panned(picture, frames, height, width, rng.uniform(0, 3, 2))


def _plain(rng: np.random.Generator, frames: int, height: int, width: int) -> Clip:
    """One colour, with a random last bit."""
    return rng.uniform(0, 255, 3) + rng.uniform(-0.5, 0.5, (frames, height, width, 3))


PICTURES: Mapping[str, Draw] = {
    "scene": _scene,
    "scene, fast": lambda *size: _scene(*size, fastest=16.0),
    "gradient": _gradient,
    "cartoon": _cartoon,
    "dark": _dark,
    "still": _still,
    "grain 5 to 20": _grainy(5, 20),
    "grain 20 to 50": _grainy(20, 50),
    "gradient, grain 5 to 30": _grainy(5, 30, _gradient),
    "dark, grain 3 to 12": _grainy(3, 12, _dark),
    "rain": _rain,
    "snow": _snow,
    "water": _water,
    "leaves": _leaves,
    "grass": _grass,
    "confetti": _confetti,
    "tiles": _tiles,
    "one colour": _plain,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--clips", type=int, default=10, help="Clips per family and size; a third of it above 128x192."
    )
    parser.add_argument("--only", nargs="*", help="The families to measure.")
    arguments = parser.parse_args()
    names = [f"{frames}x{height}x{width}" for frames, height, width in SIZES]
    print(f"{'flagged, of a hundred':28}", *(f"{name:>11}" for name in names))
    for title, families in (("noise", NOISE), ("pictures", PICTURES)):
        flagged, drawn = np.zeros(len(SIZES)), np.zeros(len(SIZES))
        for family in families:
            if arguments.only and family not in arguments.only:
                continue
            shares = []
            for place, size in enumerate(SIZES):
                count = arguments.clips if size[1] <= 128 else max(1, arguments.clips // 3)
                found = sum(is_flagged(draw(family, number, *size)) for number in range(count))
                flagged[place] += found
                drawn[place] += count
                shares.append(100 * found / count)
            print(f"{family:28}", *(f"{share:11.0f}" for share in shares), flush=True)
        print(
            f"{title.upper():28}",
            *(f"{share:11.1f}" for share in 100 * flagged / np.maximum(drawn, 1)),
            flush=True,
        )


if __name__ == "__main__":
    main()
