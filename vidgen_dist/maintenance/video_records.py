"""Records of videos, as the ledger names them and as they are stored: some fifty bytes each, to be joined.

Videos are `nested` if each is a folder of frames in its row's folder: `videos/ab/NAME/DIGEST/000000.png`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vidgen_dist import ledger
from vidgen_dist.bulk_digests import find_hashes, text_hashes
from vidgen_dist.output_layout import VIDEOS_FOLDER
from vidgen_dist.storage.names import is_temporary

_BATCH = 2**16

VIDEO_RECORD = np.dtype(
    [
        ("high", np.uint64),
        ("low", np.uint64),
        ("digest", np.uint64),
        ("size", np.int64),
        ("finished_at", np.int64),
        ("attempt", np.int32),
        ("frames", np.int32),
        ("lost", np.bool_),
        ("torn", np.bool_),
    ]
)
"""A record of a video: hashes of its path (without the digest, for a folder of frames) and of its content's
digest, and what else is compared; -1 for a number that the entry does not have. `torn` is a finding."""

RECORD_COLUMNS = ("status", "uri", "sha256", "bytes", "frames", "attempt", "finished_at")
"""The ledger's columns that records are made from."""

_DIGITS = 16
"""How many hex digits of a SHA-256 are compared: 64 bits, and the name of a folder of frames."""


class LedgerVideos:
    """The videos that a ledger names, by their folder in `videos/`.

    Args:
        nested: Whether they are folders of frames.

    Attributes:
        entries: How many were added.
    """

    def __init__(self, nested: bool) -> None:
        self._nested = nested
        self.entries = 0
        self._waiting: list[pa.Table] = []
        self._rows = 0
        self._read: dict[str, list[np.ndarray]] = {}

    def add(self, table: pa.Table) -> None:
        """Add entries with the columns `RECORD_COLUMNS`."""
        self.entries += len(table)
        self._waiting.append(table)
        self._rows += len(table)
        # Small parts cost less together.
        if self._rows >= _BATCH:
            self._take()

    def folders(self) -> list[str]:
        """The folders that were not popped yet."""
        self._take()
        return list(self._read)

    def pop(self, folder: str) -> np.ndarray:
        """The records of a folder, sorted by path and time: `VIDEO_RECORD` (N,); they are not kept."""
        self._take()
        return sort_records(self._read.pop(folder, []))

    def _take(self) -> None:
        if not self._waiting:
            return
        entries, folders = records_of(pa.concat_tables(self._waiting), self._nested)
        self._waiting, self._rows = [], 0
        codes = folders.dictionary_encode()
        order = np.argsort(codes.indices.to_numpy(), kind="stable")
        bounds = codes.indices.to_numpy()[order].searchsorted(np.arange(len(codes.dictionary) + 1))
        for number, folder in enumerate(codes.dictionary.to_pylist()):
            chosen = order[bounds[number] : bounds[number + 1]]
            self._read.setdefault(folder, []).append(entries[chosen])


class StoredVideos:
    """The videos in a folder of `videos/`, files or folders of frames.

    Args:
        sizes: Path -> bytes of its files.
        nested: Whether its videos are folders of frames.

    Attributes:
        paths: The videos, by their paths in the output.
        hashes: Their records, in the same order: `VIDEO_RECORD` (N,).
        temporary: How many files are half written.
    """

    def __init__(self, sizes: Mapping[str, int], nested: bool) -> None:
        self.temporary = sum(map(is_temporary, sizes))
        self._members: dict[str, list[str]] = {}
        for path in sorted(sizes):
            if not is_temporary(path):
                # videos/ab/NAME/DIGEST/000000.png
                whole = path.rpartition("/")[0] if nested and path.count("/") == 4 else path
                self._members.setdefault(whole, []).append(path)
        self.paths = list(self._members)
        names = [path.removeprefix(f"{VIDEOS_FOLDER}/") for path in self.paths]
        digests = [name.rpartition("/")[2] if nested else "" for name in names]
        if nested:
            names = [name.rpartition("/")[0] for name in names]
        hashes = np.zeros(len(names), VIDEO_RECORD)
        hashes["high"], hashes["low"] = text_hashes(pa.array(names, pa.string())).T
        hashes["digest"] = digest_hashes(digests)
        hashes["size"] = [sum(map(sizes.__getitem__, members)) for members in self._members.values()]
        hashes["frames"] = list(map(len, self._members.values()))
        hashes["finished_at"] = hashes["attempt"] = -1
        self.hashes = hashes

    def files(self, place: int) -> list[str]:
        """Paths of the files of a video, sorted."""
        return self._members[self.paths[place]]


def records_of(table: pa.Table, nested: bool) -> tuple[np.ndarray, pa.Array]:
    """The records of entries, without failed ones: `VIDEO_RECORD` (N,); and the folder of each video."""
    table = table.filter(pc.not_equal(table.column("status"), ledger.FAILED))
    columns = {name: table.column(name).combine_chunks() for name in RECORD_COLUMNS}
    paths = pc.replace_substring_regex(columns["uri"].fill_null(""), rf"(?s)^.*/{VIDEOS_FOLDER}/", "")
    keys = pc.replace_substring_regex(paths, r"/[^/]*$", "") if nested else paths
    out = np.zeros(len(table), VIDEO_RECORD)
    out["high"], out["low"] = text_hashes(keys).T
    out["digest"] = text_hashes(pc.utf8_slice_codeunits(columns["sha256"].fill_null(""), 0, _DIGITS))[:, 0]
    out["size"] = columns["bytes"].fill_null(-1).to_numpy()
    out["frames"] = columns["frames"].fill_null(-1).to_numpy()
    out["attempt"] = columns["attempt"].to_numpy()
    out["finished_at"] = columns["finished_at"].cast(pa.int64()).to_numpy()
    out["lost"] = pc.equal(columns["status"], ledger.LOST).to_numpy(zero_copy_only=False)
    return out, pc.replace_substring_regex(paths, r"(?s)/.*$", "")


def digest_hashes(digests: Sequence[str]) -> np.ndarray:
    """Hashes of SHA-256 digests in hex: uint64 (N,)."""
    return text_hashes(pa.array([digest[:_DIGITS] for digest in digests], pa.string()))[:, 0]


def sort_records(entries: list[np.ndarray]) -> np.ndarray:
    """The records of all arrays, sorted by path and time."""
    whole = np.concatenate([np.empty(0, VIDEO_RECORD), *entries])
    return whole[np.lexsort([whole[key] for key in ("lost", "attempt", "finished_at", "low", "high")])]


def last_of_each_path(entries: np.ndarray) -> np.ndarray:
    """The indices of each path's latest record, in records sorted by path and time."""
    if not len(entries):
        return np.empty(0, np.int64)
    differs = (entries["high"][1:] != entries["high"][:-1]) | (entries["low"][1:] != entries["low"][:-1])
    return np.append(np.flatnonzero(differs), len(entries) - 1)


def find_records(entries: np.ndarray, wanted: np.ndarray, *, nested: bool) -> np.ndarray:
    """The index of each wanted video in records sorted by path; -1 if it is not there: int64 (N,)."""
    keys = ("low", "digest") if nested else ("low",)
    return find_hashes(entries["high"], wanted["high"], [(entries[key], wanted[key]) for key in keys])


def is_later(entries: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether records are later than others of the same path: bool (N,)."""
    later = entries["lost"] & ~others["lost"]
    for key in ("attempt", "finished_at"):
        later = (entries[key] > others[key]) | ((entries[key] == others[key]) & later)
    return later
