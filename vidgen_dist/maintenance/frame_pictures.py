"""Pictures of frames that differ: A, B and their difference side by side."""

from __future__ import annotations

import math
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw

from vidgen_dist.errors import Refused, shortened
from vidgen_dist.maintenance.comparison import Comparison
from vidgen_dist.maintenance.output_videos import OutputVideos, UnreadableVideo
from vidgen_dist.storage.folder import Storage
from vidgen_dist.storage.names import safe_name

AMPLIFIED = 8
"""By how much a picture multiplies the difference."""

_MARGIN, _LINE = 4, 18


def write_worst_frames(a: str, b: str, found: Comparison, place: Storage, count: int) -> int:
    """Write a PNG for each of the worst rows that differ: its worst frame in A, in B, and the difference.

    Args:
        a, b: The outputs that were compared.
        found: Their comparison.
        place: The folder for the files, `0001-ID.png` and so on, the worst first.
        count: For how many rows.

    Returns:
        How many files were written.

    Raises:
        Refused: A storage failed, or a video is gone, torn or replaced since.
    """
    sides = OutputVideos(a, "A"), OutputVideos(b, "B")
    worst = found.different.slice(0, count).to_pylist()
    try:
        for number, row in enumerate(worst, 1):
            shape = (row["frames"], row["height"], row["width"], 3)
            videos = [
                side.frames(uri)[0] for side, uri in zip(sides, (row["uri_a"], row["uri_b"]), strict=True)
            ]
            if any(frames.shape != shape for frames in videos):
                raise UnreadableVideo(f"id {shortened(row['id'])!r}: a video was replaced since; try again")
            index = row["worst_frame"]
            data = BytesIO()
            side_by_side(row["id"], index, *(frames[index] for frames in videos)).save(data, "PNG")
            place.write_bytes(f"{number:04d}-{safe_name(row['id'])}.png", data.getvalue())
    except (OSError, UnreadableVideo) as error:
        raise Refused(f"--frames: {error}") from None
    return len(worst)


def side_by_side(id: str, index: int, one: np.ndarray, other: np.ndarray) -> Image.Image:
    """A frame of A, of B, and their absolute difference, amplified, under a line that names the row.

    Args:
        id: The row's id.
        index: The frame's index.
        one, other: uint8 (H, W, 3).
    """
    picture = np.concatenate([one, other, amplified_difference(one, other)], axis=1)
    label = f"{shortened(id)!r}, frame {index}: A | B | difference x{AMPLIFIED}"
    # The font has no other letters.
    text = label.encode("ascii", "backslashreplace").decode()
    length = ImageDraw.Draw(Image.new("RGB", (1, 1))).textlength(text)
    width = max(picture.shape[1], math.ceil(length) + 2 * _MARGIN)
    sheet = Image.new("RGB", (width, picture.shape[0] + _LINE), "white")
    ImageDraw.Draw(sheet).text((_MARGIN, _MARGIN - 1), text, fill="black")
    sheet.paste(Image.fromarray(picture), (0, _LINE))
    return sheet


def amplified_difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """`AMPLIFIED` times the absolute difference of two frames, at most 255: uint8 (H, W, 3).

    Args:
        one, other: uint8 (H, W, 3).
    """
    return np.minimum(np.abs(one.astype(np.int16) - other) * AMPLIFIED, 255).astype(np.uint8)
