"""An export to tar shards for WebDataset."""

from __future__ import annotations

import base64
import io
import json
import math
import tarfile
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time
from pathlib import Path
from typing import Any, BinaryIO

from vidgen_dist.maintenance.export_writer import NO_VIDEO, ExportWriter, OmittedRow, row_key
from vidgen_dist.maintenance.manifest_join import ROW, URI, ManifestJoin
from vidgen_dist.output.video_files import fetch_video, path_in_output
from vidgen_dist.storage.folder import Storage
from vidgen_dist.storage.retries import with_retries
from vidgen_dist.threads import map_ahead

_TAR_BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class _Sample:
    """A row in a shard: its number, its JSON, and its video's files."""

    key: str
    id: str
    text: bytes
    uris: tuple[str, ...]
    suffixes: tuple[str, ...]
    sha256: str
    size: int

    @property
    def tar_bytes(self) -> int:
        """Its bytes in a tar; for frames, whose single sizes are not in the ledger, only roughly."""
        return _tar_bytes(len(self.text)) + _tar_bytes(self.size) + _TAR_BLOCK * (len(self.suffixes) - 1)


class ShardExport(ExportWriter):
    """Writes rows and their videos to tars of limited size."""

    def write(self, join: ManifestJoin, there: Mapping[str, int], most_bytes: int, most_rows: int) -> None:
        """Write `00000.tar` and so on; existing ones of the right size are kept.

        Args:
            join: The rows.
            there: Path -> bytes of what an earlier export has written.
            most_bytes: Bytes of a shard, at most, unless it has only one row.
            most_rows: Rows of a shard, at most.
        """

        def pack(shard: tuple[str, list[_Sample]]) -> tuple[int, bool, list[OmittedRow]]:
            name, samples = shard
            whole = there.get(name) == _shard_bytes(samples) or (name in there and self._format == "png")
            # A shard that lacks rows may by chance have the size of a complete one.
            lacking = _omissions_file(name) in there
            if whole and not lacking:
                return len(samples), True, []
            left = with_retries(lambda: self._pack(name, samples), hurry=threading.Event())
            if lacking and not left:
                self._place.delete(_omissions_file(name))
            return len(samples), False, left

        shards = _shards(_samples(join, self._output, self._format), most_bytes, most_rows)
        for rows, kept, left in map_ahead(pack, shards, threads=self._policy.packers):
            self._files += 1
            self._kept += kept
            self._add_rows(rows, left)

    def _pack(self, name: str, samples: Sequence[_Sample]) -> list[OmittedRow]:
        """Write a shard; returns the rows that are not in it."""
        left = []
        with (
            self._place.create(name) as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for sample in samples:
                with tempfile.TemporaryDirectory(prefix="vidgen-") as folder:
                    try:
                        files, digest = fetch_video(sample.uris, Path(folder))
                    except FileNotFoundError:
                        left.append(OmittedRow(sample.id, NO_VIDEO))
                        continue
                    if digest != sample.sha256:
                        left.append(
                            OmittedRow(sample.id, "its video's SHA-256 is not the one that the ledger has")
                        )
                        continue
                    _add(tar, f"{sample.key}.json", io.BytesIO(sample.text), len(sample.text))
                    for local, suffix in zip(files, sample.suffixes, strict=True):
                        with local.open("rb") as video:
                            _add(tar, f"{sample.key}.{suffix}", video, local.stat().st_size)
            if left:
                # Written before the shard appears: one that lacks rows is never without this file.
                messages = {row.id: row.message for row in left}
                self._place.write_bytes(_omissions_file(name), json.dumps(messages, indent=1).encode())
        return left


def _samples(join: ManifestJoin, output: Storage, format: str) -> Iterator[_Sample]:
    for table in join.tables():
        for row in table.to_pylist():
            number, video = row.pop(ROW), output.uri(path_in_output(row.pop(URI)))
            text = json.dumps(_plain(row), ensure_ascii=False, allow_nan=False).encode()
            frames = [f"{frame:06d}.png" for frame in range(row["frames"])] if format == "png" else []
            yield _Sample(
                key=row_key(number),
                id=row["id"],
                text=text,
                uris=tuple(f"{video}/{frame}" for frame in frames) or (video,),
                suffixes=tuple(frames) or (format,),
                sha256=row["sha256"],
                size=row["bytes"],
            )


def _shards(
    samples: Iterable[_Sample], most_bytes: int, most_rows: int
) -> Iterator[tuple[str, list[_Sample]]]:
    """The shards: name and samples."""
    shard: list[_Sample] = []
    count = total = 0
    for sample in samples:
        total += sample.tar_bytes
        if shard and (len(shard) == most_rows or _in_records(total) > most_bytes):
            yield f"{count:05d}.tar", shard
            count, total, shard = count + 1, sample.tar_bytes, []
        shard.append(sample)
    if shard:
        yield f"{count:05d}.tar", shard


def _omissions_file(shard: str) -> str:
    """The file that names the rows that a shard lacks."""
    return f".{shard}.left.json"


def _shard_bytes(samples: Sequence[_Sample]) -> int:
    """The size of a tar with all these samples; not exact for frames."""
    return _in_records(sum(sample.tar_bytes for sample in samples))


def _in_records(size: int) -> int:
    """The size of a tar with members of this size: it ends with two empty blocks and has whole records."""
    return -(-(size + 2 * _TAR_BLOCK) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE


def _tar_bytes(size: int) -> int:
    """The size of a member in a tar, with its header."""
    return _TAR_BLOCK + -(-size // _TAR_BLOCK) * _TAR_BLOCK


def _add(tar: tarfile.TarFile, name: str, file: BinaryIO, size: int) -> None:
    # The header has no more than this: no time, no owner.
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = 0o644
    tar.addfile(member, file)


def _plain(value: Any) -> Any:
    """A value for JSON: times in ISO 8601, bytes in base64, no NaN."""
    if isinstance(value, dict):
        return {str(name): _plain(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, date | time):
        return value.isoformat()
    return value if value is None or isinstance(value, str | int | bool) else str(value)
