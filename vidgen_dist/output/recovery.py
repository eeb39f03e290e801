"""Recovery: finished videos that no ledger entry names, because the process that stored them was killed.

A video is stored first and entered into the ledger afterwards, see `ledger_committer`. A killed driver leaves
the videos of the last seconds behind, a killed gang the video that it had no time to report. The gang that
gets such a row next checks whether its video is stored, and reports it instead of rendering the row again.
Workers do this, because it means reading and decoding videos. A gang that dies of it is replaced as usual.

Which rows' videos are looked for:

- Rows that a lost gang had, see `supervisor`.
- In a run on an output of an earlier run, the first rows of each shape with the same LoRAs. Among these, rows
  are handed out in an order that does not depend on what is done (`manifest.row_order`). So the rows that the
  earlier run had handed out come first among the rows without an entry, in whatever order they ended or came
  back. There are no more of them than its ledger committer and its gangs had: `max_unrecorded`. It does not
  matter whether that run was killed: a ledger that could not be written at its end leaves such videos, too.

If a manifest was re-ordered since, or other rows were chosen (`--retry`), some videos may be missed. Their
rows are rendered again, as are all rows in `npy`, which has no tags.

A file is a row's video only if its tags have the row's id and fingerprint, and it decodes completely, in the
row's size. A row whose video was marked as `lost` in the ledger is always rendered: that video's fault may
not show in the file.
"""

from __future__ import annotations

import dataclasses
import functools
import tempfile
import threading
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vidgen_dist.media import (
    FOLDER_DIGITS,
    GIF_END,
    MAX_GIF_FPS,
    EncodedVideo,
    MediaError,
    read_tags,
    read_video,
    video_stem,
)
from vidgen_dist.output.ledger_committer import MANY_ENTRIES
from vidgen_dist.output.pending_row import PendingRow
from vidgen_dist.output.video_files import fetch_video
from vidgen_dist.provenance import provenance_tags
from vidgen_dist.quality import Quality, flags, measure
from vidgen_dist.request import Field, ResolvedRequest, shape_of
from vidgen_dist.spec import AUTO, OutputOptions, TopologyOptions
from vidgen_dist.storage.folder import Storage
from vidgen_dist.storage.names import is_temporary, safe_name
from vidgen_dist.storage.retries import with_retries
from vidgen_dist.storage.retry_policy import RetryPolicy
from vidgen_dist.worker_events import OnWorkerEvent

_BESIDE_A_SHARD = 4
"""Rows that a gang may have beside its shard: one ahead, and those that wait to be written or are."""


@dataclass(frozen=True)
class RecoveredVideo:
    """A row's video that was stored already.

    Args:
        video: The video; its local copy is not kept.
        uri: Where it is stored.
        quality: Measured on its decoded frames.
    """

    video: EncodedVideo
    uri: str
    quality: Quality


def max_unrecorded(topology: TopologyOptions) -> int:
    """Roughly how many rows of a shape a killed run can have begun and not entered."""
    gangs = topology.npus or 0 if topology.replicas == AUTO else topology.replicas
    # While a part is written, the entries of another one may come.
    return 2 * MANY_ENTRIES + gangs * (topology.shard_size + _BESIDE_A_SHARD)


def mark_maybe_stored(
    rows: Iterator[PendingRow], most: int, fields: Mapping[str, Field]
) -> Iterator[PendingRow]:
    """Mark the first `most` rows of each shape with the same LoRAs as `maybe_stored`.

    Args:
        rows: All rows.
        most: See `max_unrecorded`.
        fields: The declarations of rows' fields.
    """
    counts: Counter[Hashable] = Counter()
    for row in rows:
        shape = (shape_of(row.request.values(), fields), row.request.loras)
        counts[shape] += 1
        yield dataclasses.replace(row, maybe_stored=True) if counts[shape] <= most else row


def find_recovered(
    output: Storage,
    options: OutputOptions,
    row: PendingRow,
    fingerprint: str,
    hurry: threading.Event,
    on_event: OnWorkerEvent,
    retries: RetryPolicy = RetryPolicy(),
) -> RecoveredVideo | None:
    """The row's finished video, if it is stored already.

    Args:
        output: The run's output.
        options: The video's format, and the flags that are rejected: a video with one of them does not count.
        row: The row.
        fingerprint: The row's fingerprint.
        hurry, on_event: See `with_retries`.
        retries: How often a request to the storage is repeated.

    Raises:
        OSError: The storage does not say.
    """
    format = options.format
    if format == "npy":
        return None
    retry = functools.partial(with_retries, hurry=hurry, on_event=on_event, policy=retries)
    place = video_stem(safe_name(row.id))
    if format == "png":
        videos = _folders(retry(functools.partial(output.sizes, place)))
    else:
        videos = [[f"{place}.{format}"]]
    for files in videos:
        stored = retry(functools.partial(_read, output, files, format, row, fingerprint))
        if stored is not None and not set(flags(stored.quality)) & set(options.reject):
            return stored
    return None


def _folders(files: Iterable[str]) -> list[list[str]]:
    """The frames of each rendering of a row, which have a folder each."""
    folders: dict[str, list[str]] = {}
    for file in sorted(files):
        if not is_temporary(file):
            folders.setdefault(file.rpartition("/")[0], []).append(file)
    return list(folders.values())


def _read(
    output: Storage, files: Sequence[str], format: str, row: PendingRow, fingerprint: str
) -> RecoveredVideo | None:
    """Read a stored video, if it is the row's and complete."""
    with tempfile.TemporaryDirectory(prefix="vidgen-") as folder:
        try:
            local, digest = fetch_video([output.uri(file) for file in files], Path(folder))
            path = Path(folder) if format == "png" else local[0]
            if _is_cut(path, files, digest, format) or not _names_row(
                read_tags(path, format), row, fingerprint
            ):
                return None
            frames = read_video(local if format == "png" else path)
        except (FileNotFoundError, MediaError):
            return None
        size = sum(file.stat().st_size for file in local)
    request = row.request
    if frames[0].size != _size(request, format):
        return None
    fps = request.written_fps
    if format == "gif":
        fps = min(fps, MAX_GIF_FPS)
    uri = output.uri(files[0].rpartition("/")[0] if format == "png" else files[0])
    video = EncodedVideo(path, size, digest, len(frames), float(fps), *frames[0].size)
    return RecoveredVideo(video, uri, measure(np.asarray(frame) for frame in frames))


def _names_row(tags: Mapping[str, str], row: PendingRow, fingerprint: str) -> bool:
    expected = provenance_tags(id=row.id, model="", revision=None, seed=None, fingerprint=fingerprint)
    return all(tags.get(key) == expected[key] for key in ("id", "fingerprint"))


def _is_cut(path: Path, files: Sequence[str], digest: str, format: str) -> bool:
    """Whether a part is missing that a decoder does not need."""
    if format == "png":
        return files[0].split("/")[-2] != digest[:FOLDER_DIGITS]
    if format == "gif":
        # If a file is cut between two frames, the first ones are a valid animation.
        return not path.read_bytes().endswith(GIF_END)
    return False


def _size(request: ResolvedRequest, format: str) -> tuple[int, int]:
    """The width and height that the file must have."""
    odd = (request.width % 2, request.height % 2) if format == "mp4" else (0, 0)
    return request.width + odd[0], request.height + odd[1]
