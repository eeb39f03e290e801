"""A run whose processes are killed at random moments, with SIGKILL, until it is done; and what must hold.

The drivers are real; instead of a model, the fast fake engine makes noise, and small real mp4s of it.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.commands import fake_vidgen
from tests.processes import descendants
from vidgen_dist.ledger import PART_TIME
from vidgen_dist.media import read_video
from vidgen_dist.output.ledger_committer import CommitPolicy
from vidgen_dist.runtime.driver.policies import RunPolicies
from vidgen_dist.storage.folder import Storage

SEED = 20260514
KILLS = 12
ROWS = 60
SLEEP_SECONDS = 0.1

PATIENCE = 180.0

QUICK = CommitPolicy(part_seconds=2.0, patience_seconds=2.0, tick_seconds=0.1)

MakeManifest = Callable[..., str]


@dataclass
class Chaos:
    """A run whose processes are killed; it is started again whenever its driver has ended.

    Args:
        flags: Flags of `vidgen render`.
        marks: Where rows leave a mark when their rendering begins.
        log: The drivers' output.
        chance: Decides which processes are killed, and when.
        policies: Policies of the drivers.
        settings: Environment variables of the drivers, added to this process's.
        tree: An ancestor process of the workers; by default the driver.
        killed: Kind -> number of kills.
        failed: Drivers that ended by themselves, with rows left.
    """

    flags: list[str]
    marks: Path
    log: Path
    chance: random.Random
    policies: RunPolicies
    settings: Mapping[str, str] = field(default_factory=dict)
    tree: int | None = None
    killed: Counter[str] = field(default_factory=Counter)
    failed: int = 0

    def __post_init__(self) -> None:
        self.driver = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [*fake_vidgen(self.policies), "render", *self.flags]
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                command,
                cwd=Path(__file__).parents[2],
                env={**os.environ, **self.settings},
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

    def attack(self, kinds: list[str], rows: range) -> None:
        """Kill one process of each kind, in this order, when a random number of rows has begun."""
        moments = sorted(self.chance.sample(rows, len(kinds)))
        for moment, kind in zip(moments, kinds, strict=True):
            self._wait_until(lambda moment=moment: len(self.rows_begun()) >= moment)
            time.sleep(self.chance.uniform(0, 0.5))
            if kind == "driver twice":
                # The second driver has only just begun.
                self._kill("driver")
                time.sleep(self.chance.uniform(0, 3))
            self._kill(kind.partition(" ")[0])

    def attach(self, address: str, tree: int) -> None:
        """Let drivers use a cluster from now on, whose workers descend from the process `tree`."""
        self.flags, self.tree = [*self.flags, "--address", address], tree

    def _kill(self, kind: str) -> None:
        self._restart_if_ended()
        if kind == "worker":
            self._wait_until(self._workers)
        victims = {"worker": self._one_worker, "driver": self._only_driver, "node": self._all}[kind]()
        for pid in victims:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.killed[kind] += 1

    def _workers(self) -> list[int]:
        found = []
        for pid in sorted(descendants(self.tree or self.driver.pid)):
            with suppress(FileNotFoundError, ProcessLookupError):
                if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::WorkerActor"):
                    found.append(pid)
        # A process that a worker has just forked has the worker's name until it executes the encoder.
        forked = {pid for worker in found for pid in descendants(worker)}
        return [pid for pid in found if pid not in forked]

    def _one_worker(self) -> list[int]:
        workers = self._workers()
        return [self.chance.choice(workers)] if workers else []

    def _only_driver(self) -> list[int]:
        return [self.driver.pid]

    def _all(self) -> list[int]:
        return [self.driver.pid, *descendants(self.driver.pid)]

    def _restart_if_ended(self) -> None:
        status = self.driver.poll()
        if status is not None:
            self.failed += status not in (0, -signal.SIGKILL)
            assert self.failed < 10, self.log.read_text()
            self.driver = self._start()

    def _wait_until(self, condition: Callable[[], Any]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, self.log.read_text()
            self._restart_if_ended()
            time.sleep(0.05)

    def finish(self) -> None:
        """Wait until the run is done."""
        while self.driver.wait(PATIENCE):
            self._restart_if_ended()

    def rows_begun(self) -> dict[str, list[datetime]]:
        """Id -> when its rendering began, each time."""
        found: dict[str, list[datetime]] = defaultdict(list)
        for name in os.listdir(self.marks):
            row_id, _, moment = name.partition(",")
            found[row_id].append(datetime.fromtimestamp(int(moment) / 1e9, UTC))
        return found

    def end(self) -> None:
        self.driver.kill()
        self.driver.wait()


def flags_of(manifest: str, output: Storage) -> list[str]:
    """Flags of `vidgen render`, with enough attempts: any kill may happen during the same row."""
    flags = [manifest, output.root, "--model", "fake", "--device", "cpu", "--replicas", "2"]
    return [*flags, "--max-attempts", str(KILLS + 1)]


def manifest_of(make_manifest: MakeManifest, marks: Path) -> tuple[str, list[str]]:
    """A manifest, and its ids."""
    marks.mkdir()
    ids = [f"row-{number:03d}" for number in range(ROWS)]
    return make_manifest(*({"id": i, "prompt": f"stamp:{marks}/{i} sleep:{SLEEP_SECONDS}"} for i in ids)), ids


def entered(output: Storage) -> Iterable[tuple[dict[str, Any], datetime]]:
    """Every ledger entry, and when its part was made."""
    for part in output.list("ledger"):
        moment = datetime.strptime(part.removeprefix("ledger/").partition("-")[0], PART_TIME)
        for entry in pq.read_table(io.BytesIO(output.read_bytes(part))).to_pylist():
            yield entry, moment.replace(tzinfo=UTC)


class Watch:
    """Records when each file was first seen in a folder, until the block ends."""

    def __init__(self, folder: Path) -> None:
        self.seen: dict[str, float] = {}
        self._folder = folder
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._end.wait(0.1):
            for file in self._folder.glob("*/*.mp4"):
                self.seen.setdefault(file.name, time.time())

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def assert_whole(
    output: Storage, ids: list[str], begun: dict[str, list[datetime]], published: Mapping[str, float]
) -> None:
    """Every row was done once, its video agrees with its entry, and no row was rendered again after that.

    Args:
        output: The run's output.
        ids: Ids of all rows.
        begun: Id -> when its rendering began, each time.
        published: Name of a video -> when it was stored, in seconds since 1970.
    """
    done = [(entry, moment) for entry, moment in entered(output) if entry["status"] == "done"]
    assert sorted(entry["id"] for entry, _ in done) == ids
    for entry, moment in done:
        video = output.read_bytes(entry["uri"].removeprefix(f"{output.root}/"))
        stored_at = datetime.fromtimestamp(published[entry["uri"].rpartition("/")[2]], UTC)
        assert (len(video), hashlib.sha256(video).hexdigest()) == (entry["bytes"], entry["sha256"])
        assert len(read_video(video)) == entry["frames"] == 2
        assert max(begun[entry["id"]]) < min(stored_at, moment), entry["id"]
    # There is no other file, complete or torn.
    assert output.list("videos") == sorted(entry["uri"].removeprefix(f"{output.root}/") for entry, _ in done)
