"""Pictures of the difference of two outputs' frames, beside the pages.

Like those of posters, their names come from the videos' digests.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from vidgen_dist.maintenance.frame_pictures import AMPLIFIED, amplified_difference
from vidgen_dist.maintenance.output_videos import OutputVideos, UnreadableVideo
from vidgen_dist.maintenance.report.pairs import DifferencePoster
from vidgen_dist.maintenance.report.previews import MEDIA_FOLDER
from vidgen_dist.media.poster import write_poster
from vidgen_dist.storage.folder import Storage
from vidgen_dist.threads import map_ahead

# Each holds two videos, decoded.
_THREADS = 2

_Entries = tuple[Mapping[str, Any], Mapping[str, Any]]


class DifferenceMaker:
    """Makes pictures of the frames that differ most.

    Args:
        a, b: The outputs.
        place: The report's folder.
        side: Longer side of a picture, in pixels.

    Raises:
        Refused: There is no run's output.
    """

    def __init__(self, a: str, b: str, place: Storage, side: int) -> None:
        self._sides = OutputVideos(a, "A"), OutputVideos(b, "B")
        self._place = place
        self._side = side
        self._there = set(place.sizes(MEDIA_FOLDER))

    def make(self, rows: Sequence[tuple[Mapping[str, Any], _Entries]]) -> Iterator[DifferencePoster | None]:
        """Pictures of some rows; None for a video that was replaced, or is gone since it was compared.

        Args:
            rows: For each a row of a comparison that differs, and A's and B's entries of the ledger.

        Raises:
            OSError: The storage failed.
        """
        return map_ahead(self._make, rows, threads=_THREADS)

    def _make(self, job: tuple[Mapping[str, Any], _Entries]) -> DifferencePoster | None:
        row, entries = job
        index = row["worst_frame"]
        digests = [entry["sha256"] or "" for entry in entries]
        name = hashlib.sha256("/".join([*digests, str(index), str(AMPLIFIED)]).encode()).hexdigest()
        poster = f"{MEDIA_FOLDER}/{name[:32]}.webp"
        if not all(digests) or not (poster in self._there or self._write(row, entries, poster)):
            return None
        return DifferencePoster(
            poster=poster,
            size=(row["width"], row["height"]),
            title=f"difference × {AMPLIFIED}, frame {index}",
            alt=f"The difference of frame {index} of A and B, {AMPLIFIED} times as bright",
        )

    def _write(self, row: Mapping[str, Any], entries: _Entries, poster: str) -> bool:
        shape = (row["frames"], row["height"], row["width"], 3)
        frames = []
        for side, entry in zip(self._sides, entries, strict=True):
            try:
                video, _ = side.frames(entry["uri"], entry["sha256"])
            except UnreadableVideo:
                return False
            if video.shape != shape:
                return False
            # A copy: a view would keep the whole video.
            frames.append(video[row["worst_frame"]].copy())
        with tempfile.TemporaryDirectory(prefix="vidgen-") as scratch:
            path = Path(scratch, "difference.webp")
            write_poster(Image.fromarray(amplified_difference(*frames)), path, self._side)
            self._place.put_file(path, poster)
        return True
