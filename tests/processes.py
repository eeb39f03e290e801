"""Processes that a test or a benchmark has started, and what they have started."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path


def descendants(pid: int) -> dict[int, str]:
    """Process id -> start time, of all that a process has started; the two together are never used again."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents[int(folder.name)] = (int(stat[1]), stat[19])
    found: dict[int, str] = {}
    level = {pid}
    while level:
        level = {child for child, (parent, _) in parents.items() if parent in level}
        found |= {child: parents[child][1] for child in level}
    return found


class Usage:
    """What a process and all that it has started take while the block runs.

    Attributes:
        cpu_seconds: Of processor time.
        megabytes: The most memory that one of them had; of pages that several share each has its part.
    """

    def __init__(self, interval: float = 0.1) -> None:
        self._interval = interval
        self._over = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self.cpu_seconds = 0.0
        self.megabytes = 0.0

    def __enter__(self) -> Usage:
        self._cpu = sum(_of_each(_cpu_seconds))
        self._sampler.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._sampler.join()
        self.cpu_seconds = sum(_of_each(_cpu_seconds)) - self._cpu

    def _sample(self) -> None:
        while not self._over.wait(self._interval):
            self.megabytes = max(self.megabytes, *_of_each(_megabytes))


def _of_each(measure: Callable[[Path], float]) -> Iterator[float]:
    for pid in (os.getpid(), *descendants(os.getpid())):
        # Processes end while they are looked at.
        with suppress(FileNotFoundError, ProcessLookupError):
            yield measure(Path(f"/proc/{pid}"))


def _megabytes(process: Path) -> float:
    lines = (process / "smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 1e6


def _cpu_seconds(process: Path) -> float:
    """Of a process, and of those that it has started and that have ended."""
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
