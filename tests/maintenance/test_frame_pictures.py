"""Pictures of `vidgen compare`: A, B and their difference side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.maintenance.outputs import path_in_output, put_clips, smooth
from vidgen_dist.errors import Refused
from vidgen_dist.maintenance.comparison import compare_outputs
from vidgen_dist.maintenance.frame_pictures import side_by_side, write_worst_frames
from vidgen_dist.storage.folder import open_writable


def test_side_by_side() -> None:
    one = np.full((20, 200, 3), 100, np.uint8)
    other = one.copy()
    other[:, :100] = 110
    other[:, 100:] = 0
    pixels = np.asarray(side_by_side("a", 3, one, other))[-20:]
    assert (pixels[:, :200] == one).all()
    assert (pixels[:, 200:400] == other).all()
    assert (pixels[:, 400:500] == 80).all()
    assert (pixels[:, 500:600] == 255).all()


def test_small_frames_and_any_id_have_room_for_their_line() -> None:
    frame = np.zeros((8, 8, 3), np.uint8)
    for id in ("a", "line\nbreak", "熊猫 🐼", "x" * 1000):
        sheet = side_by_side(id, 0, frame, frame)
        assert sheet.height == 8 + 18
        text = np.asarray(sheet.convert("L"))[:18]
        assert (text < 128).any()
        assert (text[:, -3:] == 255).all()


def test_the_worst_rows_have_pictures(tmp_path: Path) -> None:
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    base = {row: smooth(0) for row in ("same", "slight", "../strong")}
    put_clips(a, base)
    slight, strong = smooth(0), smooth(0)
    slight[1, 0, 0] ^= 1
    strong[2] = 255 - strong[2]
    output = put_clips(b, {**base, "slight": slight, "../strong": strong})
    found = compare_outputs(a, b)
    place = open_writable(tmp_path / "pictures")
    assert write_worst_frames(a, b, found, place, 10) == 2
    names = sorted(place.list())
    assert [name[:5] for name in names] == ["0001-", "0002-"]
    pixels = np.asarray(Image.open(tmp_path / "pictures" / names[0]))[-32:]
    assert (pixels[:, :48] == base["same"][2]).all()
    assert (pixels[:, 48:96] == strong[2]).all()
    assert write_worst_frames(a, b, found, open_writable(tmp_path / "one"), 1) == 1
    Path(output.uri(path_in_output(output, "slight"))).unlink()
    with pytest.raises(Refused, match=r"--frames: B: videos/.*there is no such file"):
        write_worst_frames(a, b, found, place, 10)


def test_a_video_that_was_replaced_since(tmp_path: Path) -> None:
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    put_clips(a, {"x": smooth(0)})
    put_clips(b, {"x": smooth(1)})
    found = compare_outputs(a, b)
    put_clips(b, {"x": smooth(1, frames=1)})
    with pytest.raises(Refused, match="'x': a video was replaced since"):
        write_worst_frames(a, b, found, open_writable(tmp_path / "pictures"), 1)
