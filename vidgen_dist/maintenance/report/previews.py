"""Posters and videos of a sample, beside the pages.

Their names come from the videos' digests, so that a file that is there needs not be made again, and pages of
an earlier report go on showing theirs.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vidgen_dist.errors import Refused
from vidgen_dist.maintenance.report import COPY, LINK, NONE
from vidgen_dist.media import MediaError
from vidgen_dist.media.poster import middle_frame, write_poster, write_preview
from vidgen_dist.output.video_files import fetch_video, path_in_output
from vidgen_dist.storage.folder import Storage
from vidgen_dist.storage.listing import expand
from vidgen_dist.storage.names import is_temporary
from vidgen_dist.storage.retries import with_retries
from vidgen_dist.storage.uris import redact
from vidgen_dist.threads import map_ahead

MEDIA_FOLDER = "media"

NO_VIDEO = "its video is not there"
OTHER_CONTENT = "its video is not the one that the ledger names: it was changed, or is being rendered again"
NO_DIGEST = "its video was not looked at: its ledger entry has no SHA-256"
NO_ROOM = "its video was not copied: the report has no room for more"


@dataclass(frozen=True)
class PreviewPolicy:
    """How previews are made.

    Args:
        poster_side: Longer side of a poster, in pixels: twice what a card shows, for fine screens.
        preview_side: Longer side of videos that are made of other formats than mp4, in pixels.
        readers: Videos that are read at the same time; each takes a process of ffmpeg.
        frame_readers: The same for formats whose frames are all held in memory.
    """

    poster_side: int = 560
    preview_side: int = 560
    readers: int = 8
    frame_readers: int = 2


@dataclass(frozen=True)
class Preview:
    """What is shown of a video.

    Args:
        poster: Path of its poster in the report; None without one.
        video: Path or relative URL of a file that plays; None without one.
        note: Why one of them is missing; empty if none is, or if it was not wanted.
        files: Paths in the report of the files that belong to it.
    """

    poster: str | None = None
    video: str | None = None
    note: str = ""

    @property
    def files(self) -> list[str]:
        return [path for path in (self.poster, self.video) if path and path.startswith(f"{MEDIA_FOLDER}/")]


def find_room(sizes: Iterable[int], room: int) -> list[bool]:
    """Which files to copy, the first ones first, so that all together they are no larger than the room.

    Args:
        sizes: Their sizes.
        room: In the same unit.
    """
    left, chosen = room, []
    for size in sizes:
        chosen.append(size <= left)
        left -= size if chosen[-1] else 0
    return chosen


class PreviewMaker:
    """Makes previews of an output's videos.

    Args:
        output: The output.
        place: The report's folder.
        format: The format of the output's videos.
        videos: One of `VIDEOS`.
        policy: How they are made.

    Raises:
        Refused: Videos cannot be referred to: the report is not inside the output.
    """

    def __init__(
        self, output: Storage, place: Storage, format: str, videos: str, policy: PreviewPolicy
    ) -> None:
        self._output = output
        self._place = place
        self._format = format
        self._videos = videos
        self._policy = policy
        self._up = _way_up(output, place) if videos == LINK else ""
        sizes = place.sizes(MEDIA_FOLDER)
        self._there = {path: size for path, size in sizes.items() if not is_temporary(path)}

    def size(self, row: Mapping[str, Any]) -> int:
        """Bytes of a row's video that the report copies; 0 where it makes a small one, or none."""
        return (row["bytes"] or 0) if self._videos == COPY and self._format == "mp4" else 0

    def make(self, rows: Sequence[Mapping[str, Any]], has_room: Sequence[bool]) -> Iterator[Preview]:
        """The previews of some done rows, in their order.

        Args:
            rows: Entries of the ledger.
            has_room: Which of them have room for their video, see `find_room`.

        Raises:
            OSError: The storage failed.
        """
        threads = self._policy.readers if self._format == "mp4" else self._policy.frame_readers
        return map_ahead(
            lambda job: with_retries(lambda: self._make(*job), hurry=threading.Event()),
            zip(rows, has_room, strict=True),
            threads=threads,
        )

    def _make(self, row: Mapping[str, Any], has_room: bool) -> Preview:
        if not row["sha256"]:
            return Preview(note=NO_DIGEST)
        key = f"{MEDIA_FOLDER}/{row['sha256'][:32]}"
        poster, video = f"{key}.webp", self._video_of(row, f"{key}.mp4", has_room)
        note = "" if has_room else NO_ROOM
        is_own = video is not None and not video.startswith("../")
        if poster in self._there and (not is_own or self._is_there(video, row)):
            return Preview(poster, video, note)
        with tempfile.TemporaryDirectory(prefix="vidgen-") as scratch:
            try:
                self._write(row, poster, video if is_own else None, Path(scratch))
            except FileNotFoundError:
                return Preview(note=NO_VIDEO)
            except MediaError as error:
                return Preview(note=str(error))
        return Preview(poster, video, note)

    def _video_of(self, row: Mapping[str, Any], own: str, has_room: bool) -> str | None:
        """Where the row's video will be, from the report's folder."""
        if self._videos == NONE or not has_room:
            return None
        if self._videos == LINK and self._format == "mp4":
            return self._up + quote(path_in_output(row["uri"]))
        return own

    def _is_there(self, path: str | None, row: Mapping[str, Any]) -> bool:
        found = self._there.get(path or "")
        return found is not None and (self._format != "mp4" or found == row["bytes"])

    def _write(self, row: Mapping[str, Any], poster: str, video: str | None, scratch: Path) -> None:
        """Write a poster and, where it is wanted, a video.

        Raises:
            FileNotFoundError: There is no such video.
            MediaError: It is another one than the ledger names, or does not decode.
        """
        whole = self._output.uri(path_in_output(row["uri"]))
        source = scratch / "source"
        source.mkdir()
        files, digest = fetch_video(expand(whole) if self._format == "png" else [whole], source)
        if not files:
            raise FileNotFoundError(whole)
        if digest != row["sha256"]:
            raise MediaError(OTHER_CONTENT)
        path, fps = files[0], row["fps"] or 8.0
        frames = row["frames"] or 1
        if self._format != "mp4":
            frames_of = source if self._format == "png" else path
            made = write_preview(
                frames_of, self._format, scratch / "preview.mp4", fps, self._policy.preview_side
            )
            path, frames = made.path, made.frames
        write_poster(middle_frame(path, fps, frames), scratch / "poster.webp", self._policy.poster_side)
        if video is not None:
            self._place.put_file(path, video)
        self._place.put_file(scratch / "poster.webp", poster)


def _way_up(output: Storage, place: Storage) -> str:
    root = f"{output.root.rstrip('/')}/"
    if not place.root.startswith(root):
        raise Refused(
            f"{redact(place.root)}: --videos {LINK} refers to the videos of the output, so the report must "
            f"be in a folder below it; give one, or --videos {COPY}"
        )
    return "../" * len(place.root[len(root) :].strip("/").split("/"))
