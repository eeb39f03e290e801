"""`vidgen verify`: comparing the ledger with the stored videos.

The ledger is read by columns; some fifty bytes are kept per video. Then every folder of `videos/` is listed
once, and records and files are joined folder by folder. Whatever seems wrong is looked up in the ledger again
before it is reported: a run may be at work, and what it has entered meanwhile is in order.

`repair` corrects the ledger: it writes a `lost` entry for each video that is missing or torn, so that the
next run renders the row again. No file is touched.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vidgen_dist import ledger
from vidgen_dist.errors import Refused
from vidgen_dist.ledger import LedgerEntry, LedgerWriter
from vidgen_dist.maintenance.status import open_output
from vidgen_dist.maintenance.video_records import (
    RECORD_COLUMNS,
    VIDEO_RECORD,
    LedgerVideos,
    StoredVideos,
    digest_hashes,
    find_records,
    is_later,
    last_of_each_path,
    records_of,
    sort_records,
)
from vidgen_dist.media import MediaError, count_frames
from vidgen_dist.output import lease as leases
from vidgen_dist.output.status_file import forget_counts
from vidgen_dist.output.video_files import fetch_video, path_in_output
from vidgen_dist.output_layout import LEASE_FILE, LEDGER_FOLDER, VIDEOS_FOLDER
from vidgen_dist.storage.folder import Storage
from vidgen_dist.storage.retries import with_retries
from vidgen_dist.storage.uris import redact
from vidgen_dist.threads import map_ahead

MISSING, TORN, ORPHANED = "missing", "torn", "orphaned"
LOST_CLASSES = {MISSING: "VideoMissing", TORN: "VideoTorn"}
"""Error class of the `lost` entry of a video."""

_LISTERS = 16
_LISTED = 2**20
"""Files that are listed at the same time, roughly: each takes about 1 kB until its folder is listed."""

_READERS = 8

_CANDIDATES = 100
"""How many names of orphaned files are kept for each one that is reported."""

_IDENTITY = ("id", "fingerprint", "seed", "model", "revision")


@dataclass(frozen=True)
class Finding:
    """A difference between ledger and storage.

    Args:
        kind: `missing`, `torn` or `orphaned`.
        path: The file's path in the output.
        id: The row's id; None for an orphaned file.
        message: What is wrong.
    """

    kind: str
    path: str
    id: str | None
    message: str


@dataclass(frozen=True)
class Verification:
    """What a comparison of a ledger with its videos found.

    Args:
        videos: Videos that are there, according to the ledger.
        missing: Videos among them without a file.
        torn: Videos among them whose file has another size or, if it was read, other content.
        orphaned: Files (folders of frames) that no entry names.
        superseded: Folders of frames of earlier renderings; each rendering has its own.
        temporary: Files whose writer is at work or died.
        lost: `lost` entries that were written: these videos are rendered again.
        deep: Whether files were read and decoded.
        run: The run that holds the output's lease.
        findings: The first findings.
    """

    videos: int
    missing: int
    torn: int
    orphaned: int
    superseded: int
    temporary: int
    lost: int
    deep: bool
    run: str | None
    findings: tuple[Finding, ...]

    @property
    def whole(self) -> int:
        """The number of videos that are as the ledger says."""
        return self.videos - self.missing - self.torn

    @property
    def ok(self) -> bool:
        """Whether all videos are. Orphaned files do no harm."""
        return not (self.missing or self.torn)


def verify(
    uri: str,
    *,
    deep: bool = False,
    repair: bool = False,
    limit: int = 20,
    policy: leases.LeasePolicy = leases.LeasePolicy(),
    print_line: Callable[[str], None] = lambda _: None,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Verification:
    """Compare an output's ledger with its videos.

    Args:
        uri: Output of a run.
        deep: Read every video: its SHA-256, and whether it decodes to as many frames as the ledger says.
        repair: Let the next run render missing and torn videos again. Holds the output's lease.
        limit: How many missing and torn videos, and how many orphaned files, to name.
        policy: The lease's policy.
        print_line: Called with a line about what takes time.
        progress: Called with the number of folders that are done and of all folders.

    Raises:
        Refused: There is no run's output, it cannot be read, or with `repair` a run holds it.
    """
    output, spec = open_output(uri)
    check = _Comparison(output, spec.output.format, deep, limit, progress)
    try:
        if not repair:
            return check.run(_lease_holder(output))
        name = f"verify-{uuid.uuid4().hex[:12]}"
        with leases.acquire(output, name, print_line=print_line, policy=policy) as lease:
            return check.run(None, lease)
    except OSError as error:
        raise Refused(str(error)) from None


def _lease_holder(output: Storage) -> str | None:
    """The run that holds the lease, or held it when it died; finding out writes nothing."""
    try:
        return str(leases.read_holder(output.read_bytes(LEASE_FILE)))
    except FileNotFoundError:
        return None


class _Comparison:
    """One comparison, from the first reading of the ledger to the last."""

    def __init__(
        self, output: Storage, format: str, deep: bool, limit: int, progress: Callable[[int, int], None]
    ) -> None:
        self._output = output
        self._format = format
        self._nested = format == "png"
        self._deep = deep
        self._limit = limit
        self._progress = progress
        self._videos = self._superseded = self._temporary = self._files = 0
        self._wrong: list[np.ndarray] = []
        self._torn: dict[tuple[int, int], str] = {}
        self._orphans: list[np.ndarray] = []
        # The first orphans; some may turn out to be in order.
        self._orphan_paths: list[str] = []
        self._with_paths: list[np.ndarray] = []

    def run(self, holder: str | None, lease: leases.Lease | None = None) -> Verification:
        """Compare; with a lease, also write `lost` entries."""
        named = LedgerVideos(self._nested)
        # The ledger first: a video is stored before its entry is written.
        ledger.read_parts(self._output, RECORD_COLUMNS, lambda _name, table: named.add(table))
        self._compare(named)
        wrong, orphans = sort_records(self._wrong), sort_records(self._orphans)
        if len(wrong) or len(orphans):
            wrong, orphans = self._drop_explained(wrong, orphans)
        if lease is not None and len(wrong) and not self._files:
            raise Refused(
                f"{redact(self._output.uri(VIDEOS_FOLDER))}: there is no file in it, and the ledger names "
                f"{self._videos:,}: is it the right place? Nothing was changed; if all are gone for good, "
                f"remove {redact(self._output.uri(LEDGER_FOLDER))} to render them again"
            )
        findings = self._describe_wrong(wrong) if len(wrong) else []
        lost = self._repair(wrong, lease) if len(wrong) and lease is not None else 0
        torn = int(np.count_nonzero(wrong["torn"]))
        return Verification(
            videos=self._videos,
            missing=len(wrong) - torn,
            torn=torn,
            orphaned=len(orphans),
            superseded=self._superseded,
            temporary=self._temporary,
            lost=lost,
            deep=self._deep,
            run=holder,
            findings=(*findings, *self._describe_orphans(orphans)),
        )

    def _compare(self, named: LedgerVideos) -> None:
        strays, folders = self._output.entries(VIDEOS_FOLDER)
        self._join(np.empty(0, VIDEO_RECORD), StoredVideos(strays, self._nested))
        # There are many frames: one folder's at a time.
        threads = 1 if self._nested else _listers(named.entries, len(folders))
        listings = map_ahead(lambda folder: (folder, self._output.sizes(folder)), folders, threads=threads)
        for done, (folder, sizes) in enumerate(listings):
            self._join(named.pop(folder.rpartition("/")[2]), StoredVideos(sizes, self._nested))
            self._progress(done + 1, len(folders))
        for folder in named.folders():
            self._join(named.pop(folder), StoredVideos({}, self._nested))

    def _join(self, entries: np.ndarray, stored: StoredVideos) -> None:
        """Compare the entries of a folder, sorted by path and time, with its files."""
        latest = entries[last_of_each_path(entries)]
        there = latest[~latest["lost"]]
        at = find_records(there, stored.hashes, nested=self._nested)
        seen = np.zeros(len(there), np.bool_)
        seen[at[at >= 0]] = True
        self._videos += len(there)
        self._files += len(stored.paths)
        self._temporary += stored.temporary
        self._wrong.append(there[~seen])
        torn = there[at[self._find_torn(there, at, stored)]]
        torn["torn"] = True
        self._wrong.append(torn)

        orphaned = at < 0
        if self._nested:
            known = find_records(entries, stored.hashes, nested=True) >= 0
            self._superseded += int(np.count_nonzero(orphaned & known))
            orphaned &= ~known
        orphans = stored.hashes[orphaned]
        before = find_records(latest, orphans, nested=False)
        for name in ("finished_at", "attempt", "lost"):
            # The ledger's entries so far do not explain these files; later ones may.
            orphans[name][before >= 0] = latest[name][before[before >= 0]]
        self._orphans.append(orphans)
        room = _CANDIDATES * self._limit - len(self._orphan_paths)
        self._orphan_paths += [stored.paths[place] for place in np.flatnonzero(orphaned)[:room]]
        self._with_paths.append(orphans[:room])

    def _find_torn(self, there: np.ndarray, at: np.ndarray, stored: StoredVideos) -> np.ndarray:
        """Places of the stored files that are not what their entries say: int64 (n,)."""
        torn: dict[int, str] = {}
        if not len(there):
            return np.empty(0, np.int64)
        for name, what in (("size", "bytes"), ("frames", "frames")):
            if name == "size" or self._nested:
                expected, found = there[name][at], stored.hashes[name]
                for place in np.flatnonzero((at >= 0) & (expected >= 0) & (expected != found)).tolist():
                    torn[place] = _differ(what, found[place], expected[place])
        if self._deep:
            whole = [place for place in np.flatnonzero(at >= 0).tolist() if place not in torn]
            read = map_ahead(
                lambda place: self._read(stored.files(place), there[at[place]]), whole, threads=_READERS
            )
            torn |= {place: said for place, said in zip(whole, read, strict=True) if said is not None}
        for place, message in torn.items():
            video = there[at[place]]
            self._torn[int(video["high"]), int(video["low"])] = message
        return np.array(list(torn), np.int64)

    def _read(self, files: Sequence[str], video: np.void) -> str | None:
        """What is wrong with a video's content; reading is repeated if the storage fails."""
        return with_retries(lambda: self._read_once(files, video), hurry=threading.Event())

    def _read_once(self, files: Sequence[str], video: np.void) -> str | None:
        with tempfile.TemporaryDirectory(prefix="vidgen-") as folder:
            try:
                local, digest = fetch_video(list(map(self._output.uri, files)), Path(folder))
            except FileNotFoundError:
                return "it vanished while it was read"
            if digest_hashes([digest])[0] != video["digest"]:
                return "its SHA-256 is not the one that the ledger has"
            try:
                frames = count_frames(Path(folder) if self._nested else local[0], self._format)
            except MediaError as error:
                return str(error)
        return None if frames == video["frames"] else _differ("frames", frames, video["frames"])

    def _drop_explained(self, wrong: np.ndarray, orphans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The records without those that newer entries explain."""
        kept = [np.ones(len(wrong), np.bool_), np.ones(len(orphans), np.bool_)]

        def look(_name: str, table: pa.Table) -> None:
            entries, _ = records_of(table, self._nested)
            for held, keep, nested in ((wrong, kept[0], False), (orphans, kept[1], self._nested)):
                at = find_records(held, entries, nested=nested)
                newer = at >= 0
                newer[newer] = is_later(entries[newer], held[at[newer]])
                keep[at[newer]] = False

        ledger.read_parts(self._output, RECORD_COLUMNS, look)
        return wrong[kept[0]], orphans[kept[1]]

    def _for_each_wrong(self, wrong: np.ndarray, use: Callable[[Mapping[str, Any], str, str], None]) -> None:
        """Call a function with the entry of each wrong video, the kind of finding and what is wrong."""
        done = np.zeros(len(wrong), np.bool_)

        def look(_name: str, table: pa.Table) -> None:
            table = table.filter(pc.equal(table.column("status"), ledger.DONE))
            entries, _ = records_of(table, self._nested)
            at = find_records(wrong, entries, nested=False)
            same = [wrong[key][at] == entries[key] for key in ("finished_at", "attempt", "digest")]
            places = np.flatnonzero((at >= 0) & np.logical_and.reduce(same))
            for place, row in zip(at[places], table.take(pa.array(places)).to_pylist(), strict=True):
                # A part that is compacted while it is read comes twice.
                if done[place]:
                    continue
                done[place] = True
                video = wrong[place]
                message = self._torn.get((int(video["high"]), int(video["low"])), "there is no such file")
                use(row, TORN if video["torn"] else MISSING, message)

        ledger.read_parts(self._output, (*RECORD_COLUMNS, *_IDENTITY), look)

    def _repair(self, wrong: np.ndarray, lease: leases.Lease) -> int:
        """Write `lost` entries; returns how many."""
        # After a compaction nobody could see that something was entered after the run.
        with_retries(lambda: forget_counts(self._output), hurry=threading.Event())
        lost = 0
        passthrough = ledger.read_passthrough_schema(self._output)
        writer = LedgerWriter(self._output, lease.run, passthrough, max_entries=10_000)

        def take_back(row: Mapping[str, Any], kind: str, message: str) -> None:
            nonlocal lost
            lost += 1
            # The entry is kept even if the storage fails; `flush` tries again.
            with contextlib.suppress(OSError):
                writer.append(_lost_entry(row, lease.run, kind, message))

        self._for_each_wrong(wrong, take_back)
        with_retries(writer.flush, hurry=threading.Event())
        if lease.lost:
            raise Refused(f"{redact(self._output.root)}: {lease.lost} took this output over; verify it again")
        return lost

    def _describe_wrong(self, wrong: np.ndarray) -> list[Finding]:
        """The first of the missing and torn videos."""
        findings: list[Finding] = []

        def name(row: Mapping[str, Any], kind: str, message: str) -> None:
            findings.append(Finding(kind, path_in_output(row["uri"]), row["id"], message))

        self._for_each_wrong(wrong[: self._limit], name)
        return findings

    def _describe_orphans(self, orphans: np.ndarray) -> Iterator[Finding]:
        named = np.concatenate([np.empty(0, VIDEO_RECORD), *self._with_paths])
        still = np.flatnonzero(find_records(orphans, named, nested=self._nested) >= 0)
        for place in still[: self._limit]:
            message = "its row was marked as lost" if named["lost"][place] else "no ledger entry names it"
            yield Finding(ORPHANED, self._orphan_paths[place], None, message)


def _listers(files: int, folders: int) -> int:
    """How many folders to list at the same time, given all files; twice as many are taken ahead."""
    return min(_LISTERS, max(1, _LISTED * folders // (2 * max(1, files))))


def _differ(what: str, found: int, expected: int) -> str:
    return f"{found:,} {what}, where the ledger says {expected:,}"


def _lost_entry(row: Mapping[str, Any], worker: str, kind: str, message: str) -> LedgerEntry:
    """The entry that revokes the `done` entry of a video."""
    kept = {name: row[name] for name in ("uri", "attempt", "finished_at", *_IDENTITY)}
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
    return LedgerEntry(
        status=ledger.LOST,
        worker=worker,
        error_class=LOST_CLASSES[kind],
        error_message=f"{message}; found {now}",
        **kept,
    )
