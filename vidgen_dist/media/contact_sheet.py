"""The contact sheet: some frames of some videos side by side, to look at."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vidgen_dist.media import Frames, read_image, read_video
from vidgen_dist.output_layout import CONTACT_SHEET
from vidgen_dist.storage.files import read_bytes
from vidgen_dist.storage.folder import Storage
from vidgen_dist.storage.listing import expand


def write_contact_sheet(output: Storage, videos: Sequence[tuple[str, str]], format: str) -> str:
    """Put some frames of some videos into one PNG and return its URI.

    Args:
        output: The folder for the PNG.
        videos: Label and path or URI of each video.
        format: Format of the videos.
    """
    sheet = contact_sheet([(label, read_frames(path, format)) for label, path in videos])
    data = io.BytesIO()
    # Smaller files take many times as long.
    sheet.save(data, "PNG", compress_level=1)
    output.write_bytes(CONTACT_SHEET, data.getvalue())
    return output.uri(CONTACT_SHEET)


def read_frames(path: str | os.PathLike[str], format: str) -> Frames:
    """Reads back what `media.write_video` wrote, from a path or URI.

    Returns:
        (F, H, W, 3) uint8; for "png" and "npy" exactly the written frames.

    Raises:
        MediaError: It does not decode.
        OSError: There is no such file.
    """
    uri = os.fspath(path)
    if format == "npy":
        return np.load(io.BytesIO(read_bytes(uri)), allow_pickle=False)
    if format == "png":
        files = [file for file in expand(uri) if file.endswith(".png")]
        return np.stack([np.asarray(read_image(file)) for file in files])
    return np.stack([np.asarray(frame) for frame in read_video(uri)])


def contact_sheet(rows: Sequence[tuple[str, Frames]], *, columns: int = 4, cell: int = 192) -> Image.Image:
    """Draws one band per video: its label, and below it some of its frames, first to last.

    Args:
        rows: Label (usually the prompt) and frames (F, H, W, 3) uint8 of each video; sizes may differ.
        columns: Frames per band, evenly spread over the video; fewer if the video has fewer.
        cell: Longer side of a frame on the sheet, in pixels.

    Returns:
        An image of mode "RGB".

    Raises:
        ValueError: No rows, or `columns` or `cell` below 1.
    """
    if not rows or columns < 1 or cell < 1:
        raise ValueError(f"{len(rows)} rows, columns {columns}, cell {cell}; allowed: at least 1 of each")
    gap = 8
    font = ImageFont.load_default(14)
    line = math.ceil(sum(font.getmetrics())) + 2  # type: ignore[union-attr]
    width = gap + columns * (cell + gap)
    bands = [
        (_wrap(label, font.getlength, width - 2 * gap), _thumbnails(frames, columns, cell))
        for label, frames in rows
    ]
    height = gap + sum(len(lines) * line + pictures[0].height + 2 * gap for lines, pictures in bands)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    top = gap
    for lines, pictures in bands:
        for text in lines:
            draw.text((gap, top), text, fill="black", font=font)
            top += line
        for column, picture in enumerate(pictures):
            sheet.paste(picture, (gap + column * (cell + gap), top))
        top += pictures[0].height + 2 * gap
    return sheet


def _thumbnails(frames: Frames, columns: int, cell: int) -> list[Image.Image]:
    count, height, width, _ = frames.shape
    scale = cell / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    chosen = np.linspace(0, count - 1, min(columns, count)).round().astype(int)
    return [Image.fromarray(frames[index]).resize(size, Image.Resampling.LANCZOS) for index in chosen]


def _wrap(text: str, length: Callable[[str], float], width: int, most: int = 2) -> list[str]:
    """Breaks a text into at most `most` lines of `width` pixels, between words where it can."""
    rest = " ".join(text.split())
    lines: list[str] = []
    while rest and len(lines) < most:
        last = len(lines) == most - 1
        if length(rest) <= width:
            lines.append(rest)
            break
        room = width - (length("...") if last else 0)
        end = _longest(rest, length, room)
        if not last and " " in rest[: end + 1]:
            end = rest[: end + 1].rindex(" ")
        lines.append(rest[:end] + ("..." if last else ""))
        rest = rest[end:].lstrip()
    return lines or [""]


def _longest(text: str, length: Callable[[str], float], width: float) -> int:
    """The number of leading characters that fit, at least 1."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if length(text[:middle]) <= width:
            low = middle
        else:
            high = middle - 1
    return low
