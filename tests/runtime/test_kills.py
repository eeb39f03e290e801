"""Runs whose processes are killed at random moments, with SIGKILL, until they are through.

The drivers are real ones; instead of a model the fast fake engine makes noise, and small real mp4s of it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray

from tests.processes import descendants
from tests.s3_traffic import HANG_SECONDS, Traffic
from vidgen_dist.ledger import PART_TIME
from vidgen_dist.media import read_video
from vidgen_dist.storage import Storage, open_storage

SEED = 20260514
KILLS = 10
ROWS = 240
SLEEP_SECONDS = 0.1

PATIENCE = 180.0

QUICK = {"books.WAIT_SECONDS": 1.0, "books.PATIENCE_SECONDS": 1.0, "books.TICK_SECONDS": 0.1}

MakeManifest = Callable[..., str]


@dataclass
class Siege:
    """A run whose processes are killed; it is started again whenever its driver has ended.

    Args:
        flags: Of `vidgen render`.
        marks: Where rows leave a mark when their rendering begins.
        log: What the drivers say.
        chance: Decides when and whom.
        settings: Environment of the drivers.
        tree: Process below which the workers are; by default the driver.
        killed: How many were, by kind.
        failed: Drivers that ended by themselves, with rows left.
    """

    flags: list[str]
    marks: Path
    log: Path
    chance: random.Random
    settings: dict[str, str]
    tree: int | None = None
    killed: Counter[str] = field(default_factory=Counter)
    failed: int = 0

    def __post_init__(self) -> None:
        self.driver = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.runtime.vidgen_with_fake_engine", "render", *self.flags]
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                command,
                cwd=Path(__file__).parents[2],
                env={**os.environ, **self.settings},
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

    def attack(self, kinds: list[str]) -> None:
        """Kill one of each of these kinds, in this order, spread over the run."""
        moments = sorted(self.chance.sample(range(5, ROWS - 40), len(kinds)))
        for moment, kind in zip(moments, kinds, strict=True):
            self._wait_until(lambda moment=moment: len(self.rows_begun()) >= moment)
            time.sleep(self.chance.uniform(0, 0.5))
            if kind != "worker" and self.chance.random() < 0.5:
                # Also one that has only just begun.
                self._kill(kind)
                time.sleep(self.chance.uniform(0, 5))
            self._kill(kind)

    def _kill(self, kind: str) -> None:
        self._go_on()
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
        return found

    def _one_worker(self) -> list[int]:
        there = self._workers()
        return [self.chance.choice(there)] if there else []

    def _only_driver(self) -> list[int]:
        return [self.driver.pid]

    def _all(self) -> list[int]:
        return [self.driver.pid, *descendants(self.driver.pid)]

    def _go_on(self) -> None:
        status = self.driver.poll()
        if status is not None:
            self.failed += status not in (0, -signal.SIGKILL)
            assert self.failed < 10, self.log.read_text()
            self.driver = self._start()

    def _wait_until(self, is_so: Callable[[], Any]) -> None:
        end = time.monotonic() + PATIENCE
        while not is_so():
            assert time.monotonic() < end, self.log.read_text()
            self._go_on()
            time.sleep(0.05)

    def finish(self) -> None:
        """Let the run come to its end."""
        while self.driver.wait(PATIENCE):
            self._go_on()

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


def manifest_of(make_manifest: MakeManifest, marks: Path) -> tuple[str, list[str]]:
    """A manifest, and its ids."""
    marks.mkdir()
    ids = [f"row-{number:03d}" for number in range(ROWS)]
    return make_manifest(*({"id": i, "prompt": f"stamp:{marks}/{i} sleep:{SLEEP_SECONDS}"} for i in ids)), ids


def entered(output: Storage) -> Iterable[tuple[dict[str, Any], datetime]]:
    """Every ledger entry as it stands, and when its part was made."""
    for part in output.list("ledger"):
        moment = datetime.strptime(part.removeprefix("ledger/").partition("-")[0], PART_TIME)
        for entry in pq.read_table(io.BytesIO(output.read_bytes(part))).to_pylist():
            yield entry, moment.replace(tzinfo=UTC)


def assert_whole(output: Storage, ids: list[str], begun: dict[str, list[datetime]]) -> None:
    """Every row was done once, its video is as its entry says, and it was not rendered again after that."""
    done = [(entry, moment) for entry, moment in entered(output) if entry["status"] == "done"]
    assert sorted(entry["id"] for entry, _ in done) == ids
    for entry, moment in done:
        video = output.read_bytes(entry["uri"].removeprefix(f"{output.root}/"))
        assert (len(video), hashlib.sha256(video).hexdigest()) == (entry["bytes"], entry["sha256"])
        assert len(read_video(video)) == entry["frames"] == 2
        assert max(begun[entry["id"]]) < moment
    # Nothing else is to be seen, whole or torn.
    assert output.list("videos") == sorted(entry["uri"].removeprefix(f"{output.root}/") for entry, _ in done)


@pytest.mark.usefixtures("local_ray")
def test_on_a_cluster_that_runs_on_into_a_folder(make_manifest: MakeManifest, tmp_path: Path) -> None:
    """Killed are workers, and drivers whose workers Ray has to end."""
    print(f"seed {SEED}")
    marks, output = tmp_path / "marks", open_storage(tmp_path / "out")
    manifest, ids = manifest_of(make_manifest, marks)
    flags = [manifest, output.root, "--model", "fake", "--device", "cpu", "--replicas", "2"]
    flags += ["--address", ray.get_runtime_context().gcs_address]
    chance = random.Random(SEED)
    # Ray was seen to end such workers within 0.1 s.
    settings = {"VIDGEN_TEST_CONSTANTS": json.dumps({**QUICK, "lease.ORPHAN_SECONDS": 1.0})}
    siege = Siege(flags, marks, tmp_path / "log", chance, settings, tree=os.getpid())
    try:
        siege.attack(chance.sample(["worker"] * (KILLS - 4) + ["driver"] * 4, KILLS))
        siege.finish()
    finally:
        siege.end()
    print(siege.killed, siege.log.read_text())
    assert siege.killed.total() >= KILLS
    begun = siege.rows_begun()
    assert sum(map(len, begun.values())) > ROWS, "nobody was killed while it rendered"
    assert_whole(output, ids, begun)


def test_with_a_ray_of_its_own_to_a_storage_that_fails(
    make_manifest: MakeManifest, tmp_path: Path, s3_bucket: str, s3_traffic: Traffic
) -> None:
    """One request in ten fails. Killed are workers, drivers, and drivers with all of Ray."""
    print(f"seed {SEED}")
    marks, output = tmp_path / "marks", open_storage(f"s3://{s3_bucket}/out")
    manifest, ids = manifest_of(make_manifest, marks)
    flags = [manifest, output.root, "--model", "fake", "--device", "cpu", "--replicas", "2"]
    chance = random.Random(SEED)
    settings = {
        "VIDGEN_TEST_CONSTANTS": json.dumps({**QUICK, "lease.INTERVAL_SECONDS": 0.5}),
        "FSSPEC_S3": json.dumps({"config_kwargs": {"read_timeout": HANG_SECONDS / 3}}),
    }
    s3_traffic.share = 0.1
    siege = Siege(flags, marks, tmp_path / "log", chance, settings)
    try:
        siege.attack(chance.sample(["worker"] * (KILLS - 3) + ["driver", "node", "driver"], KILLS))
        siege.finish()
    finally:
        siege.end()
        s3_traffic.share = 0.0
    print(siege.killed, s3_traffic.spoiled, siege.log.read_text())
    assert siege.killed.total() >= KILLS
    assert set(s3_traffic.spoiled) == {"refused", "obeyed", "cut", "hanging"}
    begun = siege.rows_begun()
    assert sum(map(len, begun.values())) > ROWS, "nobody was killed while it rendered"
    assert_whole(output, ids, begun)
