"""Helpers: clips to write, and ways to look into them."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image

from vidgen_dist import media

SUFFIXES = {"mp4": ".mp4", "gif": ".gif", "png": "", "npy": ".npy"}


def smooth(count: int, height: int, width: int) -> np.ndarray:
    """A clip that codecs reproduce well: slowly moving waves of colour."""
    t, y, x = np.meshgrid(
        np.arange(count), np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij"
    )
    red, green, blue = (np.sin(6 * x + t / 5) + 1) / 2, (np.cos(5 * y + t / 7) + 1) / 2, x * y
    return (np.stack([red, green, blue], axis=-1) * 255).round().astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.mean((a.astype(np.float64) - b) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def write(frames: np.ndarray, folder: Path, format: str, fps: float = 8, crf: int = 18) -> media.EncodedVideo:
    return media.write_video(frames, folder / f"clip{SUFFIXES[format]}", format=format, fps=fps, crf=crf)


def ffmpeg(*arguments: str) -> str:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-y", *arguments]
    return subprocess.run(command, capture_output=True, check=False).stderr.decode()


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()
