"""Posters, and small copies that play in a browser."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vidgen_dist.media import FORMATS, MediaError, read_tags, read_video, write_video
from vidgen_dist.media.poster import middle_frame, write_poster, write_preview

TAGS = {"id": "a", "seed": "7"}


def clip(frames: int, height: int = 32, width: int = 48) -> np.ndarray:
    """Frames of one grey each, lighter and lighter."""
    greys = np.linspace(20, 235, frames).astype(np.uint8)
    return np.broadcast_to(greys[:, None, None, None], (frames, height, width, 3)).copy()


@pytest.mark.parametrize("fps", [8.0, 23.976, 1000.0])
@pytest.mark.parametrize("frames", [1, 2, 3, 17])
def test_the_middle_frame(tmp_path: Path, frames: int, fps: float) -> None:
    written = clip(frames)
    video = write_video(written, tmp_path / "x.mp4", format="mp4", fps=fps, crf=0)
    image = middle_frame(video.path, fps, frames)
    assert (image.size, image.mode) == ((48, 32), "RGB")
    assert np.abs(np.asarray(image).astype(int) - written[frames // 2]).max() <= 3


def test_a_broken_video_has_no_frame(tmp_path: Path) -> None:
    video = write_video(clip(9), tmp_path / "x.mp4", format="mp4", fps=8, crf=0)
    (tmp_path / "torn.mp4").write_bytes(video.path.read_bytes()[:900])
    with pytest.raises(MediaError, match=r"torn\.mp4"):
        middle_frame(tmp_path / "torn.mp4", 8, 9)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((640, 320), (100, 50)), ((50, 200), (25, 100)), ((64, 64), (64, 64)), ((2000, 2), (100, 1))],
)
def test_posters_are_small(tmp_path: Path, size: tuple[int, int], expected: tuple[int, int]) -> None:
    write_poster(Image.new("RGB", size), tmp_path / "x.webp", 100)
    with Image.open(tmp_path / "x.webp") as poster:
        assert (poster.format, poster.size) == ("WEBP", expected)


@pytest.mark.parametrize("format", FORMATS)
def test_a_preview_of_each_format(tmp_path: Path, format: str) -> None:
    source = write_video(clip(5, 64, 96), tmp_path / f"x.{format}", format=format, fps=8, crf=0, tags=TAGS)
    made = write_preview(source.path, format, tmp_path / "preview.mp4", 8, 48)
    assert (made.frames, made.width, made.height, made.fps) == (5, 48, 32, 8)
    assert [frame.size for frame in read_video(made.path)] == [(48, 32)] * 5
    # What a file must say of itself, its copy says, too.
    assert read_tags(made.path, "mp4") == ({} if format == "npy" else TAGS)


def test_a_preview_of_what_does_not_decode(tmp_path: Path) -> None:
    for format, content in (("npy", b"\x93NUMPY"), ("gif", b"GIF89a")):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(MediaError, match=f"its video does not decode as {format}"):
            write_preview(tmp_path / "x", format, tmp_path / "preview.mp4", 8, 48)
