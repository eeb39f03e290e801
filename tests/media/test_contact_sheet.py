"""The contact sheet."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from tests.media.clips import smooth
from vidgen_dist import media
from vidgen_dist.media.contact_sheet import contact_sheet, read_frames, write_contact_sheet
from vidgen_dist.storage.folder import open_storage


def test_contact_sheet_shows_first_to_last() -> None:
    greys = np.repeat(np.arange(0, 250, 25, dtype=np.uint8), 8 * 16 * 3).reshape(10, 8, 16, 3)
    sheet = contact_sheet([("", greys)], columns=4, cell=32)
    top = sheet.height - 8 - 8 - 16
    shown = [sheet.getpixel((8 + column * 40 + 16, top + 8))[0] for column in range(4)]
    assert shown == [0, 75, 150, 225]
    assert sheet.width == 8 + 4 * 40


def test_contact_sheet_of_many_shapes_and_labels() -> None:
    rows = [
        ("A panda plays a guitar. " * 20, smooth(9, 30, 50)),
        ("熊猫\n\t弹吉他 🐼", smooth(1, 60, 20)),
        ("x" * 500, smooth(2, 7, 7)),
    ]
    sheet = contact_sheet(rows, columns=3, cell=64)
    assert sheet.mode == "RGB"
    ink = np.asarray(sheet).min(axis=2) < 128
    right = 8 + 3 * 72
    assert ink[:40].any()
    assert not ink[:, right - 8 :].any()
    alone = [contact_sheet([row], columns=3, cell=64).height - 8 for row in rows]
    assert sheet.height == 8 + sum(alone)


def test_contact_sheet_needs_rows() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        contact_sheet([])


@pytest.mark.parametrize("format", ["mp4", "png", "npy"])
def test_contact_sheet_of_videos_on_s3(
    s3_bucket: str, tmp_path: Path, format: Literal["mp4", "png", "npy"]
) -> None:
    output = open_storage(f"s3://{s3_bucket}/out")
    frames = smooth(3, 16, 16)
    video = media.write_video(frames, tmp_path / f"video.{format}", format=format, fps=8.0, crf=18)
    uri = media.commit_video(output, video, "row")
    assert read_frames(uri, format).shape == frames.shape
    assert write_contact_sheet(output, [("a fox", uri)], format) == output.uri("contact-sheet.png")
    assert media.read_image(output.read_bytes("contact-sheet.png")).height > 16
