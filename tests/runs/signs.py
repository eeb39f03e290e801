"""Files that the fake engine creates for `sign:`: which process rendered, on which NPUs and cores."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True)
class Sign:
    """The parts of such a file's name, and when it was created."""

    rank: int
    pid: int
    npu: str
    cores: str
    at: datetime


def signs_in(folder: Path) -> list[Sign]:
    """The signs in a folder, in the order in which they were created."""
    found = []
    for file in folder.iterdir():
        rank, pid, npu, cores = file.name.split(",")
        at = datetime.fromtimestamp(file.stat().st_mtime, UTC)
        found.append(Sign(int(rank), int(pid), npu, cores, at))
    return sorted(found, key=lambda sign: sign.at)
