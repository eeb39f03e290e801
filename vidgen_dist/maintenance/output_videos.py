"""The videos of an output: which its ledger has, and their frames."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from vidgen_dist import ledger
from vidgen_dist.errors import Refused
from vidgen_dist.maintenance.status import open_output
from vidgen_dist.media import MediaError
from vidgen_dist.media.contact_sheet import read_frames
from vidgen_dist.output.video_files import fetch_video, path_in_output
from vidgen_dist.storage.names import is_temporary
from vidgen_dist.storage.retries import with_retries
from vidgen_dist.storage.uris import redact


class UnreadableVideo(Exception):
    """A video is missing or torn; the message says which and why."""


class OutputVideos:
    """The videos of an output.

    Args:
        uri: Output of a run.
        name: What messages call it.

    Raises:
        Refused: There is no run's output.
    """

    def __init__(self, uri: str, name: str) -> None:
        self.name = name
        self._output, spec = open_output(uri)
        self._format = spec.output.format

    @property
    def root(self) -> str:
        """The output's URI, the same for all ways to write it."""
        return self._output.root

    def entries(self, columns: Sequence[str]) -> pa.Table:
        """The entry of each id's latest outcome, see `ledger.latest`.

        Raises:
            Refused: The ledger has no entries, or cannot be read.
            OSError: The storage failed.
        """
        entries = ledger.latest(self._output, columns)
        if not len(entries):
            raise Refused(f"{self.name}: {redact(self.root)}: its ledger has no entries")
        return entries

    def frames(self, uri: str, sha256: str | None = None) -> tuple[np.ndarray, str]:
        """A video's frames, uint8 (F, H, W, 3), and the SHA-256 of its file, as the ledger has it.

        Args:
            uri: The video, as the ledger names it; the output may have been moved since.
            sha256: What its SHA-256 must be.

        Raises:
            UnreadableVideo: It is missing or torn.
            OSError: The storage failed, again and again.
        """
        return with_retries(lambda: self._frames_once(uri, sha256), hurry=threading.Event())

    def _frames_once(self, uri: str, sha256: str | None) -> tuple[np.ndarray, str]:
        path = path_in_output(uri)
        with tempfile.TemporaryDirectory(prefix="vidgen-") as folder:
            files, digest = self._fetch(path, Path(folder))
            if sha256 is not None and digest != sha256:
                raise self._unreadable(path, "its SHA-256 is not the one that the ledger has")
            try:
                frames = read_frames(folder if self._format == "png" else files[0], self._format)
            except (MediaError, ValueError, EOFError) as error:
                # Its own name says more than that of the copy, which is another one each time.
                raise self._unreadable(path, str(error).replace(f"{folder}/", "")) from None
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
            raise self._unreadable(path, f"frames are {frames.dtype} {frames.shape}")
        return frames, digest

    def _fetch(self, path: str, folder: Path) -> tuple[list[Path], str]:
        try:
            names = [path]
            if self._format == "png":
                names = [name for name in self._output.list(path) if not is_temporary(name)]
            if not names:
                raise FileNotFoundError
            return fetch_video(list(map(self._output.uri, names)), folder)
        except FileNotFoundError:
            raise self._unreadable(path, "there is no such file") from None

    def _unreadable(self, path: str, why: str) -> UnreadableVideo:
        return UnreadableVideo(f"{self.name}: {path}: {why}")
