"""What a kill costs: the same small job with `vidgen render` and with Ray Data, with and without checkpoints.

    pip install "pandas<3"    # for Ray Data; later versions need a NumPy that MindSpore does not accept
    python -m tests.benchmarks.ray_data [--rows 60] [--seconds 0.2] [--block-rows 1] [--systems …] [--cases …]

The job: two workers render the rows of a manifest to small mp4s. The engine is the tests' fake engine: it
sleeps, then makes noise, so that everything but the model is compared. Ray Data runs as in its guide for
batch inference: `read_parquet`, `map_batches` of one row with a pool of two actors that render and write the
file, `write_parquet` for the results. A block has one row: actors take blocks, and blocks are written and
checkpointed, so larger blocks lose more rows to a kill and make fewer files. `CheckpointConfig` uses the
column `id`, and keeps its checkpoints when the job succeeds: by default they are deleted then, and the next
run renders all rows.

Each system runs four times: undisturbed; with a worker killed half way (SIGKILL); with the driver and all of
its descendants killed half way, and then started again; and to its end, then again with a manifest in which
some rows have another prompt, some one more step, and some are new. Seconds are from the start of the process
to its end, including Ray's start. Renderings that were begun are counted.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests import fake_engine
from tests.processes import descendants
from vidgen_dist import media
from vidgen_dist.request import RenderRequest
from vidgen_dist.spec import ModelOptions
from vidgen_dist.storage.folder import open_storage
from vidgen_dist.storage.names import safe_name

PATIENCE = 900.0
CHANGED = 5
"""Rows of each kind of change."""


@dataclass(frozen=True)
class Job:
    """A job: where its files are, and how long its rows take."""

    folder: Path
    rows: int
    seconds: float
    block_rows: int

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.parquet"

    @property
    def output(self) -> Path:
        return self.folder / "output"

    @property
    def begun(self) -> Path:
        """The folder where every rendering leaves a stamp: the row's number, a comma, nanoseconds."""
        return self.folder / "begun"

    @property
    def signs(self) -> Path:
        """The folder where every worker leaves its process id."""
        return self.folder / "signs"


def _vidgen(job: Job) -> list[str]:
    flags = ["--model", "fake", "--device", "cpu", "--replicas", "2", "--format", "mp4"]
    return ["tests.vidgen_with_fake_engine", "render", str(job.manifest), str(job.output), *flags]


def _ray_data(job: Job) -> list[str]:
    module = "tests.benchmarks.ray_data"
    return [module, "--block-rows", str(job.block_rows), "--peer", str(job.manifest), str(job.output)]


def _ray_data_with_checkpoints(job: Job) -> list[str]:
    return [*_ray_data(job), "--checkpoints", str(job.folder / "checkpoints")]


SYSTEMS: dict[str, Callable[[Job], list[str]]] = {
    "vidgen": _vidgen,
    "Ray Data": _ray_data,
    "Ray Data, checkpoints": _ray_data_with_checkpoints,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=0.2, help="Seconds that a row's rendering takes.")
    parser.add_argument("--block-rows", type=int, default=1, help="Rows of Ray Data's blocks.")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--peer", nargs=2, metavar=("MANIFEST", "OUTPUT"), help=argparse.SUPPRESS)
    parser.add_argument("--checkpoints", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peer:
        _render_with_ray_data(*given.peer, given.checkpoints, given.block_rows)
        return
    for case in given.cases:
        for name in given.systems:
            with tempfile.TemporaryDirectory() as folder:
                job = Job(Path(folder), given.rows, given.seconds, given.block_rows)
                print(f"{case:14} {name:22}", end="", flush=True)
                print(CASES[case](job, SYSTEMS[name](job)), flush=True)


def _render_with_ray_data(manifest: str, output: str, checkpoints: str | None, block_rows: int) -> None:
    import ray
    from ray.data.checkpoint import CheckpointConfig

    # The actors use two; reading, the checkpoints' filter and writing share the others.
    ray.init("local", include_dashboard=False, log_to_driver=False, num_cpus=4)
    if checkpoints:
        ray.data.DataContext.get_current().checkpoint_config = CheckpointConfig(
            id_column="id", checkpoint_path=checkpoints, delete_checkpoint_on_success=False
        )
    rows = ray.data.read_parquet(manifest).repartition(target_num_rows_per_block=block_rows, strict=True)
    pool = ray.data.ActorPoolStrategy(size=2)
    results = rows.map_batches(_Render, fn_constructor_args=(output,), batch_size=1, compute=pool)
    results.write_parquet(f"{output}/ledger")


class _Render:
    """One of Ray Data's actors."""

    def __init__(self, output: str) -> None:
        self._pipeline = fake_engine.load(ModelOptions(id="fake"), "cpu", None, None)
        self._output = open_storage(output)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        uris = []
        for i in range(len(batch["id"])):
            row = {name: column[i] for name, column in batch.items()}
            row = {name: value.item() if hasattr(value, "item") else value for name, value in row.items()}
            frames = media.to_uint8(self._pipeline.render(RenderRequest(**row)).frames)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "video.mp4"
                video = media.write_video(frames, path, format="mp4", fps=8.0, crf=18)
                uris.append(media.commit_video(self._output, video, safe_name(row["id"])))
        return {"id": batch["id"], "uri": uris}


def _undisturbed(job: Job, command: Sequence[str]) -> str:
    write_manifest(job)
    watch = time.monotonic()
    status = _start(command).wait(PATIENCE)
    return _summary(job, time.monotonic() - watch, status)


def _killed_worker(job: Job, command: Sequence[str]) -> str:
    write_manifest(job)
    watch = time.monotonic()
    process = _start(command)
    _wait_until(lambda: len(list(job.begun.iterdir())) >= job.rows // 2)
    there, then = videos(job), time.time_ns()
    _kill(max(int(sign.name.split(",")[1]) for sign in job.signs.iterdir()))
    status = process.wait(PATIENCE)
    return _summary(job, time.monotonic() - watch, status, there, then)


def _killed_driver(job: Job, command: Sequence[str]) -> str:
    write_manifest(job)
    watch = time.monotonic()
    process = _start(command)
    _wait_until(lambda: len(list(job.begun.iterdir())) >= job.rows // 2)
    for pid in (process.pid, *descendants(process.pid)):
        _kill(pid)
    process.wait()
    there, then = videos(job), time.time_ns()
    status = _start(command).wait(PATIENCE)
    return _summary(job, time.monotonic() - watch, status, there, then)


def _changed_rows(job: Job, command: Sequence[str]) -> str:
    write_manifest(job)
    _start(command).wait(PATIENCE)
    then = time.time_ns()
    write_manifest(job, changed=True)
    watch = time.monotonic()
    status = _start(command).wait(PATIENCE)
    took = time.monotonic() - watch
    again = renderings(job, since=then)
    counts = {
        kind: f"{sum(again[number] for number in numbers)} renderings of {len(numbers)} {kind}"
        for kind, numbers in changes(job).items()
    }
    return f" {took:6.1f} s, exit status {status}; second run: {', '.join(counts.values())}"


CASES: dict[str, Callable[[Job, Sequence[str]], str]] = {
    "undisturbed": _undisturbed,
    "killed worker": _killed_worker,
    "killed driver": _killed_driver,
    "changed rows": _changed_rows,
}


def changes(job: Job) -> dict[str, range]:
    """Numbers of rows, by the change in the second manifest."""
    return {
        "other prompts": range(CHANGED),
        "other steps": range(CHANGED, 2 * CHANGED),
        "unchanged": range(2 * CHANGED, job.rows),
        "new": range(job.rows, job.rows + CHANGED),
    }


def write_manifest(job: Job, *, changed: bool = False) -> None:
    job.begun.mkdir(exist_ok=True)
    job.signs.mkdir(exist_ok=True)
    other = changes(job)
    numbers = range(job.rows + CHANGED if changed else job.rows)
    table = {
        "id": [_row_id(number) for number in numbers],
        "prompt": [
            f"stamp:{job.begun / str(number)} sign:{job.signs} sleep:{job.seconds}"
            + (" again" if changed and number in other["other prompts"] else "")
            for number in numbers
        ],
        "num_inference_steps": [3 if changed and number in other["other steps"] else 2 for number in numbers],
        "num_frames": [9] * len(numbers),
        "height": [64] * len(numbers),
        "width": [64] * len(numbers),
    }
    pq.write_table(pa.table(table), job.manifest)


def renderings(job: Job, *, since: int = 0) -> Counter[int]:
    """How often each row's rendering was begun, since a time in nanoseconds after 1970."""
    stamps = [stamp.name.split(",") for stamp in job.begun.iterdir()]
    return Counter(int(number) for number, at in stamps if int(at) >= since)


def videos(job: Job) -> set[int]:
    """Numbers of the rows whose video is stored."""
    stems = {path.stem for path in (job.output / "videos").rglob("*.mp4")}
    return {number for number in range(job.rows + CHANGED) if safe_name(_row_id(number)) in stems}


def _row_id(number: int) -> str:
    return f"row-{number}"


def _summary(job: Job, took: float, status: int, there: set[int] = frozenset(), then: int = 0) -> str:
    """The result of a run as text; `there` are the rows whose video was stored at the time `then`."""
    ledger = job.output / "ledger"
    known = set(pq.read_table(ledger)["id"].to_pylist()) if any(ledger.rglob("*.parquet")) else set()
    wasted = len(there & set(renderings(job, since=then)))
    return (
        f" {took:6.1f} s, exit status {status}; {renderings(job).total()} renderings of {job.rows} rows "
        f"({wasted} of rows that had their video), {len(videos(job))} videos, {len(known)} in the results"
    )


def _start(module_and_arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", *module_and_arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _wait_until(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not is_so():
        if time.monotonic() > until:
            raise TimeoutError
        time.sleep(0.05)


if __name__ == "__main__":
    main()
