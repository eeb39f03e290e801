"""A still picture of a video, and a small copy of it that plays in a browser."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import numpy as np
from PIL import Image

from vidgen_dist.media.contact_sheet import read_frames
from vidgen_dist.media.decoding import MediaError, check_not_killed, decoder_command, describe_broken_clip
from vidgen_dist.media.encoding import EncodedVideo, Frames, write_video
from vidgen_dist.media.tags import read_tags

_CRF = 23
_QUALITY = 78


def middle_frame(path: Path, fps: float, frames: int) -> Image.Image:
    """The frame in the middle of an mp4 file, mode "RGB", without decoding all of it.

    Raises:
        MediaError: It does not decode.
        ChildProcessError: ffmpeg was killed; trying again may help.
    """
    # Between two frames, so that no rounding leads past one.
    command = decoder_command(path, "-ss", f"{max(0.0, (frames // 2 - 0.5) / fps):.6f}")
    command += ["-an", "-sn", "-dn", "-frames:v", "1", "-c:v", "ppm", "-f", "image2pipe", "pipe:1"]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, start_new_session=True, check=False
    )
    check_not_killed(done.returncode, path.name)
    if done.returncode != 0 or not done.stdout:
        raise MediaError(describe_broken_clip(path, path.name, done.stderr.decode("utf-8", "replace")))
    with Image.open(io.BytesIO(done.stdout), formats=["PPM"]) as image:
        return image.convert("RGB")


def write_poster(image: Image.Image, path: Path, side: int) -> None:
    """Write an image as WebP, its longer side at most so many pixels."""
    image.resize(_fitted(*image.size, side), Image.Resampling.LANCZOS).save(path, "WEBP", quality=_QUALITY)


def write_preview(source: Path, format: str, target: Path, fps: float, side: int) -> EncodedVideo:
    """Write a gif, npy or folder of png frames as mp4, the longer side at most so many pixels; tags stay.

    Raises:
        MediaError: It does not decode.
        OSError: A file is missing, or the disk refused.
    """
    try:
        frames = read_frames(source, format)
        size = _fitted(frames.shape[2], frames.shape[1], side)
        small: Frames = np.stack(
            [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS)) for frame in frames]
        )
    except (ValueError, TypeError, EOFError) as error:
        # What is raised names a copy with a name that differs each time.
        raise MediaError(f"its video does not decode as {format}") from error
    return write_video(small, target, format="mp4", fps=fps, crf=_CRF, tags=read_tags(source, format))


def _fitted(width: int, height: int, side: int) -> tuple[int, int]:
    scale = min(1.0, side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))
