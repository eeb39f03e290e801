"""The quality of a video, measured on its frames: signs of a render that went wrong without an error.

It is measured before encoding, so the figures do not depend on the file's format. Sums are of whole numbers:
exact, and the same on every host.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

LUMA = (0.2126, 0.7152, 0.0722)
"""Weights of red, green and blue in luma, ITU-R BT.709."""

BLACK_LUMA = 0.02
"""A video with a lower mean luma is black: about 5 of 255. Night scenes have around 0.05."""

FROZEN_MOTION = 0.0005
"""A video with less motion is frozen: one value in eight changes by 1 of 255 from frame to frame."""

BLOWN_OUT_CLIPPED = 0.5
"""A bright video (mean luma above one half) with a larger share of clipped pixels is blown out."""

NOISE = 0.5
"""A video with a higher noisiness is noise."""

FLAGS = ("black", "frozen", "blown-out", "noise")


class VideoRejected(ValueError):
    """A video with a flag that the run does not accept."""


@dataclass(frozen=True)
class Quality:
    """What was measured.

    Args:
        mean_luma: Mean BT.709 luma of all pixels of all frames, of the coded values, in [0, 1].
        motion: Mean absolute difference of successive frames, over all pixels and channels, in [0, 1]; None
            for a single frame.
        clipped: Share of the pixels whose three channels are all 0 or all 255, in [0, 1]. A saturated colour,
            such as pure red, is not clipped.
        noisiness: How much the video looks like noise, in [0, 1], see `noisiness`; None for frames below
            64x64.
    """

    mean_luma: float
    motion: float | None
    clipped: float
    noisiness: float | None


def measure(frames: Iterable[np.ndarray]) -> Quality:
    """Measure a video frame by frame; never more than a few frames are held.

    Args:
        frames: (F, H, W, 3) uint8, or its frames one after the other, at least one.

    Raises:
        ValueError: There is no frame, or it has no pixels.
    """
    # The command line needs only the names of the flags, and NumPy would take a fifth of its start.
    import numpy as np

    from vidgen_dist.noisiness import NoiseMeter

    count = changes = 0
    channels = np.zeros(3, np.uint64)
    changed = clipped = pixels = 0
    before: np.ndarray | None = None
    noise = NoiseMeter()
    for frame in frames:
        red, green, blue = frame[..., 0], frame[..., 1], frame[..., 2]
        count += 1
        pixels += red.size
        channels += np.array([c.sum(dtype=np.uint64) for c in (red, green, blue)])
        clipped += int(np.count_nonzero((red | green | blue) == 0))
        clipped += int(np.count_nonzero((red & green & blue) == 255))
        if before is not None:
            changed += int((np.maximum(frame, before) - np.minimum(frame, before)).sum(dtype=np.uint64))
            changes += frame.size
        before = frame
        noise.add(frame)
    if not pixels:
        raise ValueError("there is nothing to measure; allowed: at least one frame with pixels")
    luma = sum(weight * int(total) for weight, total in zip(LUMA, channels, strict=True))
    return Quality(
        mean_luma=luma / (255 * pixels),
        motion=changed / (255 * changes) if count > 1 else None,
        clipped=clipped / pixels,
        noisiness=noise.noisiness(),
    )


def flags(quality: Quality) -> tuple[str, ...]:
    """What seems to be wrong, from `FLAGS`; nothing for most videos. A single frame is never frozen."""
    found = {
        "black": quality.mean_luma < BLACK_LUMA,
        "frozen": quality.motion is not None and quality.motion < FROZEN_MOTION,
        "blown-out": quality.clipped > BLOWN_OUT_CLIPPED and quality.mean_luma > 0.5,
        "noise": quality.noisiness is not None and quality.noisiness > NOISE,
    }
    return tuple(flag for flag in FLAGS if found[flag])


def reject(quality: Quality, rejected: Collection[str]) -> None:
    """Raise if a video has one of these flags.

    Raises:
        VideoRejected: It has; the message names the flags and the measured figures.
    """
    found = [flag for flag in flags(quality) if flag in rejected]
    if found:
        raise VideoRejected(
            f"the video is {', '.join(found)}: mean luma {_shown(quality.mean_luma)}, "
            f"motion {_shown(quality.motion)}, clipped {_shown(quality.clipped)}, "
            f"noisiness {_shown(quality.noisiness)}"
        )


def _shown(figure: float | None) -> str:
    return "none" if figure is None else f"{figure:.4g}"
