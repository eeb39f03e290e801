"""Counting the frames of a video: the whole file is decoded, so a damaged one is found."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
from PIL import Image

from vidgen_dist.media.decoding import MediaError, check_not_killed, decoder_command, describe_broken_clip


def count_frames(path: Path, format: str) -> int:
    """The number of frames in a file, or for "png" in a folder, that `write_video` made.

    Args:
        path: Where it is, on this machine.
        format: One of `FORMATS`.

    Raises:
        MediaError: It does not decode from front to back.
        ChildProcessError: ffmpeg was killed; trying again may help.
    """
    if format == "mp4":
        return _count_in_clip(path)
    try:
        if format == "npy":
            # Only mapped: all there is to check is that it is as long as its header says.
            return len(np.load(path, mmap_mode="r", allow_pickle=False))
        if format == "gif":
            return _count_in_image(path)
        return sum(_count_in_image(file) for file in sorted(path.iterdir()))
    except Exception as error:  # decoders of foreign bytes raise whatever they please
        raise MediaError(f"{path.name}: does not decode ({type(error).__name__}: {error})") from error


def _count_in_image(path: Path) -> int:
    with Image.open(path) as image:
        frames = getattr(image, "n_frames", 1)
        for index in range(frames):
            image.seek(index)
            image.load()
    return int(frames)


def _count_in_clip(path: Path) -> int:
    # One line per frame, beside comments. There are many files, so each is decoded by one thread.
    command = [*decoder_command(path, "-threads", "1"), "-map", "0:v:0", "-f", "framecrc", "pipe:1"]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, start_new_session=True, check=False
    )
    check_not_killed(done.returncode, path.name)
    complaint = done.stderr.decode("utf-8", "replace")
    frames = sum(not line.startswith(b"#") for line in done.stdout.splitlines())
    if done.returncode != 0 or not frames:
        raise MediaError(describe_broken_clip(path, path.name, complaint))
    return frames
